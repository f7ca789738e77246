"""RollingBack: weight 0, observed 0, then the verdict's consequences."""

from __future__ import annotations

from sluice.api.status import LastRollback
from sluice.rollout import ledger
from sluice.rollout.draft import Draft
from sluice.rollout.model import Failure, Outcome, RolloutProgress
from sluice.rollout.times import rfc3339_milli

ZERO = "no router sends it traffic"


def roll_back(draft: Draft) -> None:
    """Takes the candidate's traffic away, records why, and ends once routers show 0."""
    rollout = draft.rollout
    assert rollout is not None
    assert rollout.failure is not None
    assert rollout.revision is not None
    draft.set_roles(weight=0)
    _record(draft, rollout, rollout.failure)
    if not _traffic_is_zero(draft):
        draft.wait(
            draft.i.router.message or "Waiting for every router to confirm weight 0.",
            reason="RollingBack",
        )
        draft.come_back(0.5)
        return
    _finish(draft, rollout, rollout.failure)


def _record(draft: Draft, rollout: RolloutProgress, failure: Failure) -> None:
    revision = rollout.revision
    assert revision is not None
    before = draft.verdict(revision)
    if rollout.withdrawn:
        return
    draft.set_verdict(revision, ledger.failed(failure, before, draft.i.now))
    detected = rfc3339_milli(failure.detected)
    last = draft.progress.last_rollback
    told = last is not None and (last.from_, last.detected_at) == (revision, detected)
    if not told and draft.roles.stable is not None:
        draft.set_progress(
            last_rollback=LastRollback(
                from_=revision,
                to=draft.roles.stable,
                check=failure.check,
                reason=failure.message[:512],
                detected_at=detected,
            )
        )


def _traffic_is_zero(draft: Draft) -> bool:
    revision = draft.rollout.revision if draft.rollout else None
    router = draft.i.router
    if router.pods == 0:
        return True
    return router.complete and router.weight_high == 0 and revision not in router.carrying


def _finish(draft: Draft, rollout: RolloutProgress, failure: Failure) -> None:
    revision = rollout.revision
    assert revision is not None
    if rollout.withdrawn:
        _withdraw(draft, rollout, failure)
        return
    record = draft.revision(revision)
    message = failure.message
    if record is not None:
        message = ledger.quarantine_message(draft.i.name, record)
    draft.end_rollout(
        Outcome(
            source=rollout.source,
            revision=revision,
            reason="RevisionQuarantined",
            message=message,
        ),
        ZERO,
    )
    draft.note("RolledBack", f"{revision}: {failure.message}", warning=True)


def _withdraw(draft: Draft, rollout: RolloutProgress, failure: Failure) -> None:
    revision = rollout.revision
    assert revision is not None
    verdict = ledger.withdrawn(draft.verdict(revision), failure.message, draft.i.now)
    draft.set_verdict(revision, verdict)
    record = draft.revision(revision)
    assert record is not None
    outcome = ledger.withdrawn_outcome(draft.i.name, rollout.source, record, draft.i.now)
    draft.end_rollout(outcome, ZERO)
    draft.note("Withdrawn", failure.message, warning=True)
