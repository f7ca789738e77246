"""Watching: the promoted revision against the holdback, until time and requests suffice."""

from __future__ import annotations

from sluice.api.duration import human, seconds
from sluice.api.modelrevision import Verdict
from sluice.api.rollout import Watch
from sluice.api.status import LastRollback
from sluice.rollout import judge as judging
from sluice.rollout import ledger
from sluice.rollout.draft import Draft
from sluice.rollout.model import Failure, Outcome, WatchProgress
from sluice.rollout.plan import Plan
from sluice.rollout.times import rfc3339_milli


def asked(draft: Draft) -> Watch:
    """The watch that the spec asks for."""
    return draft.i.spec.rollout.watch or Watch()


def begin(draft: Draft, revision: str, previous: str, plan: Plan, *, event: str = "") -> None:
    """Begins the watch of ``revision``, from no evidence."""
    duration = seconds(asked(draft).duration)
    looks = max(1, int(duration / draft.interval))
    draft.set_progress(
        event=event,
        watch=WatchProgress(
            revision=revision,
            previous=previous,
            since=draft.i.now,
            plan=plan.to_json(),
            duration=duration,
            min_requests=asked(draft).min_requests,
            since_anchor=draft.roles.since_anchor,
        ),
        judge=judging.new_state(plan, "watch", planned_looks=looks),
        snapshot={},
        metrics={},
        pod_minutes={},
    )


def watch(draft: Draft) -> None:
    """One look at the watch; ends it when its duration and its request count are reached."""
    watching = draft.watch
    assert watching is not None
    draft.set_watch(observed=watching.observed + draft.elapsed)
    observed = watching.observed + draft.elapsed
    seen = _requests(draft)
    comparable = draft.roles.holdback > 0
    if observed >= watching.duration and (seen >= watching.min_requests or not comparable):
        unread = [s.check for s in draft.judgement.silent] if draft.judgement else []
        end(draft, event="time and requests suffice")
        blind = f" Not read at its end: {', '.join(unread)}." if unread else ""
        draft.note("WatchPassed", f"Watched for {human(observed)}, {seen} requests.{blind}")


def end(draft: Draft, *, event: str) -> None:
    """Gives the previous revision's share to stable; its pods go once routers confirm."""
    draft.set_roles(previous=None, holdback=0)
    draft.set_progress(event=event, watch=None, judge={}, snapshot={}, metrics={}, pod_minutes={})
    draft.judgement = None


def take_back(draft: Draft, failure: Failure, *, event: str, withdrawn: bool = False) -> None:
    """The promoted revision fails inside its watch: previous serves everyone, at once.

    A candidate that waits for the watch goes too: it starts again against who serves then.
    """
    watching = draft.watch
    assert watching is not None
    revision, previous = watching.revision, watching.previous
    draft.drop_rollout(event)
    draft.set_verdict(revision, _verdict(draft, revision, failure, withdrawn))
    draft.set_roles(
        stable=previous,
        previous=None,
        holdback=0,
        candidate=None,
        weight=0,
        since_anchor=watching.since_anchor,
    )
    draft.set_progress(
        event=event,
        watch=None,
        judge={},
        snapshot={},
        metrics={},
        pod_minutes={},
        outcome=_outcome(draft, revision, withdrawn),
        last_rollback=LastRollback(
            from_=revision,
            to=previous,
            check=failure.check,
            reason=failure.message[:512],
            detected_at=rfc3339_milli(failure.detected),
        ),
    )
    draft.judgement = None
    draft.note("RolledBack", f"{revision} in its watch: {failure.message}", warning=True)
    draft.come_back(0.2)


def _verdict(draft: Draft, revision: str, failure: Failure, withdrawn: bool) -> Verdict:
    before, now = draft.verdict(revision), draft.i.now
    if withdrawn:
        return ledger.withdrawn(before, failure.message, now)
    return ledger.failed(failure, before, now)


def _outcome(draft: Draft, revision: str, withdrawn: bool) -> Outcome | None:
    record = draft.revision(revision)
    if record is None:
        return None
    if withdrawn:
        return ledger.withdrawn_outcome(draft.i.name, record.source, record, draft.i.now)
    return Outcome(
        source=record.source,
        revision=revision,
        reason="RevisionQuarantined",
        message=ledger.quarantine_message(draft.i.name, record),
    )


def _requests(draft: Draft) -> int:
    verdict = draft.judgement
    if verdict is None or not verdict.checks:
        return 0
    # Minutes of pods are no requests.
    return max(c.candidate_n for c in verdict.checks if c.type != "PodHealth")
