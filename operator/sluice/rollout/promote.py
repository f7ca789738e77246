"""Promoting: everyone but the holdback to the candidate, then the roles flip in place.

Nothing restarts: the candidate's pods become stable's pods, and stable's stay as previous.
"""

from __future__ import annotations

from sluice.rollout import ledger, running_total
from sluice.rollout.draft import Draft
from sluice.rollout.plan import Plan
from sluice.rollout.provision import candidate_pods
from sluice.rollout.waiting import paused
from sluice.rollout.watch import asked, begin


def promote(draft: Draft) -> None:
    """Raises the weight to everyone but the holdback and flips the roles once that is observed."""
    rollout = draft.rollout
    assert rollout is not None
    if paused(draft):
        return
    if not candidate_pods(draft, 100):
        return
    draft.set_rollout(fetched=0.0)
    if draft.roles.stable is None:
        _first(draft)
        return
    if running_total.asks(draft, Plan.from_json(rollout.plan)):
        return
    target = 100 - asked(draft).holdback
    if draft.roles.weight != target:
        draft.set_roles(weight=target)
        draft.wait(f"Setting the weight to {target} %.", reason="Promoting")
        draft.come_back(0.5)
        return
    router = draft.i.router
    if not (router.complete and router.weight_low == router.weight_high == target):
        draft.wait(router.message or "Waiting for every router to confirm.", reason="Promoting")
        draft.come_back(1.0)
        return
    _flip(draft)


def _first(draft: Draft) -> None:
    """The first revision: nothing to compare with, the gates have spoken."""
    rollout = draft.rollout
    assert rollout is not None
    assert rollout.revision is not None
    revision = rollout.revision
    draft.set_roles(stable=revision, candidate=None, weight=0, previous=None, holdback=0)
    draft.set_verdict(revision, ledger.passed(draft.verdict(revision), draft.i.now))
    draft.set_progress(event="it is the first revision", rollout=None, outcome=None)
    draft.note("Promoted", f"Revision {revision} is the first to serve.")


def _flip(draft: Draft) -> None:
    rollout = draft.rollout
    assert rollout is not None
    assert rollout.revision is not None
    revision, before = rollout.revision, draft.roles.stable
    assert before is not None
    draft.set_roles(
        stable=revision,
        candidate=None,
        weight=0,
        previous=before,
        holdback=asked(draft).holdback,
        holdback_salt=draft.roles.salt,
    )
    draft.set_verdict(revision, ledger.passed(draft.verdict(revision), draft.i.now))
    plan = Plan.from_json(rollout.plan)
    total = running_total.after(draft, plan)
    begin(draft, revision, before, plan)
    draft.set_roles(since_anchor=total)
    draft.set_progress(event="routers confirm", rollout=None, outcome=None)
    by_gates = f" By gates alone in {rollout.by_gates} of its steps." if rollout.by_gates else ""
    draft.note(
        "Promoted", f"Revision {revision} serves; {before} stays warm for the watch.{by_gates}"
    )
