"""Watching: the promoted revision against the holdback, until time and requests suffice."""

from __future__ import annotations

from sluice.api.duration import human
from sluice.api.status import LastRollback
from sluice.rollout import ledger
from sluice.rollout.draft import Draft
from sluice.rollout.model import Failure, Outcome
from sluice.rollout.times import rfc3339_milli


def watch(draft: Draft) -> None:
    """One look at the watch; ends it when its duration and its request count are reached."""
    watching = draft.watch
    assert watching is not None
    draft.set_watch(observed=watching.observed + draft.elapsed)
    observed = watching.observed + draft.elapsed
    seen = _requests(draft)
    comparable = draft.roles.holdback > 0
    if observed >= watching.duration and (seen >= watching.min_requests or not comparable):
        end(draft)
        draft.note("WatchPassed", f"Watched for {human(observed)}, {seen} requests.")


def end(draft: Draft) -> None:
    """Gives the previous revision's share to stable; its pods go once routers confirm."""
    draft.set_roles(previous=None, holdback=0)
    draft.set_progress(watch=None, judge={}, snapshot={})


def take_back(draft: Draft, failure: Failure) -> None:
    """The promoted revision fails inside its watch: previous serves everyone, at once."""
    watching = draft.watch
    assert watching is not None
    revision, previous = watching.revision, watching.previous
    draft.set_verdict(revision, ledger.failed(failure, draft.verdict(revision), draft.i.now))
    draft.set_roles(stable=previous, previous=None, holdback=0, candidate=None, weight=0)
    record = draft.revision(revision)
    source = record.source if record else ""
    draft.set_progress(
        watch=None,
        judge={},
        snapshot={},
        outcome=Outcome(
            source=source,
            revision=revision,
            reason="RevisionQuarantined",
            message=failure.message,
        ),
        last_rollback=LastRollback(
            from_=revision,
            to=previous,
            check=failure.check,
            reason=failure.message[:512],
            detected_at=rfc3339_milli(failure.detected),
        ),
    )
    if draft.rollout is not None:
        draft.set_progress(rollout=None)
    draft.note("RolledBack", f"{revision} in its watch: {failure.message}", warning=True)
    draft.come_back(0.2)


def _requests(draft: Draft) -> int:
    verdict = draft.judgement
    if verdict is None or not verdict.checks:
        return 0
    return max(c.candidate_n for c in verdict.checks)
