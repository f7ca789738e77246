"""Promoting: everyone but the holdback to the candidate, then the roles flip in place.

Nothing restarts: the candidate's pods become stable's pods, and stable's stay as previous.
"""

from __future__ import annotations

from sluice.api.duration import seconds
from sluice.api.modeldeployment import Watch
from sluice.rollout import judge as judging
from sluice.rollout import ledger
from sluice.rollout.draft import Draft
from sluice.rollout.model import WatchProgress
from sluice.rollout.plan import Plan
from sluice.rollout.provision import candidate_pods


def promote(draft: Draft) -> None:
    """Raises the weight to everyone but the holdback and flips the roles once that is observed."""
    rollout = draft.rollout
    assert rollout is not None
    if rollout.paused:
        draft.wait(f"Paused {rollout.paused} before promotion.", reason="Paused")
        return
    if not candidate_pods(draft, 100):
        return
    if draft.roles.stable is None:
        _first(draft)
        return
    target = 100 - _watch(draft).holdback
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


def _watch(draft: Draft) -> Watch:
    return draft.i.spec.rollout.watch or Watch()


def _first(draft: Draft) -> None:
    """The first revision: nothing to compare with, the gates have spoken."""
    rollout = draft.rollout
    assert rollout is not None
    assert rollout.revision is not None
    revision = rollout.revision
    draft.set_roles(stable=revision, candidate=None, weight=0, previous=None, holdback=0)
    draft.set_verdict(revision, ledger.passed(draft.verdict(revision), draft.i.now))
    draft.set_progress(rollout=None, outcome=None)
    draft.note("Promoted", f"Revision {revision} is the first to serve.")


def _flip(draft: Draft) -> None:
    rollout = draft.rollout
    assert rollout is not None
    assert rollout.revision is not None
    revision, before = rollout.revision, draft.roles.stable
    assert before is not None
    watch = _watch(draft)
    draft.set_roles(
        stable=revision,
        candidate=None,
        weight=0,
        previous=before,
        holdback=watch.holdback,
        holdback_salt=draft.roles.salt,
    )
    draft.set_verdict(revision, ledger.passed(draft.verdict(revision), draft.i.now))
    plan = Plan.from_json(rollout.plan)
    duration = seconds(watch.duration)
    looks = max(1, int(duration / draft.interval))
    draft.set_progress(
        rollout=None,
        outcome=None,
        watch=WatchProgress(
            revision=revision,
            previous=before,
            since=draft.i.now,
            plan=rollout.plan,
            duration=duration,
            min_requests=watch.min_requests,
        ),
        judge=judging.new_state(plan, "watch", planned_looks=looks),
        snapshot={},
    )
    draft.note("Promoted", f"Revision {revision} serves; {before} stays warm for the watch.")
