"""RollingBack: weight 0, observed 0, then the verdict's consequences."""

from __future__ import annotations

from dataclasses import replace

from sluice.api.status import LastRollback
from sluice.rollout import ledger
from sluice.rollout.draft import Draft
from sluice.rollout.model import Failure, Outcome, RolloutProgress
from sluice.rollout.times import rfc3339_milli


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
    if before.phase != "Failed" and draft.roles.stable is not None:
        draft.set_progress(
            last_rollback=LastRollback(
                from_=revision,
                to=draft.roles.stable,
                check=failure.check,
                reason=failure.message[:512],
                detected_at=rfc3339_milli(failure.detected),
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
        renewed = ledger.failed(failure, draft.verdict(revision), draft.i.now)
        message = ledger.quarantine_message(draft.i.name, replace(record, verdict=renewed))
    draft.end_rollout(
        Outcome(
            source=rollout.source,
            revision=revision,
            reason="RevisionQuarantined",
            message=message,
        )
    )
    draft.note("RolledBack", f"{revision}: {failure.message}", warning=True)


def _withdraw(draft: Draft, rollout: RolloutProgress, failure: Failure) -> None:
    revision = rollout.revision
    assert revision is not None
    verdict = ledger.withdrawn(draft.verdict(revision), failure.message, draft.i.now)
    draft.set_verdict(revision, verdict)
    wait = ledger.withdrawn_wait(verdict.attempts)
    final = verdict.attempts >= ledger.MAX_WITHDRAWN
    draft.end_rollout(
        Outcome(
            source=rollout.source,
            revision=revision,
            reason="Withdrawn",
            message=f"{failure.message} {ledger.withdrawn_message(verdict.attempts, wait)}"[:512],
            terminal=final,
            retry_at=draft.i.now + wait,
            attempts=verdict.attempts,
        )
    )
    draft.note("Withdrawn", failure.message, warning=True)
    draft.come_back(wait)
