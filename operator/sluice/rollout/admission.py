"""From a wanted source to a candidate: resolve, refuse what may not run, start the rollout."""

from __future__ import annotations

from sluice.rollout import ledger
from sluice.rollout.desired import Desired
from sluice.rollout.draft import Draft
from sluice.rollout.identity import identity, short_hash
from sluice.rollout.model import NewRevision, Outcome, RolloutProgress
from sluice.rollout.plan import analysis_plan
from sluice.rollout.trust import admitted, refusal

RESOLVE_BACKOFF = 15.0


def admit(draft: Draft, want: Desired) -> None:
    """Starts, continues or refuses the way of the wanted source to users."""
    outcome = draft.progress.outcome
    if outcome is not None and outcome.source != want.source:
        draft.set_progress(outcome=None)
    if want.package is None:
        _resolve(draft, want)
        return
    if _refused(draft, want):
        return
    if want.revision == draft.roles.stable:
        draft.set_progress(outcome=None)
        return
    if draft.rollout is not None and draft.rollout.revision == want.revision:
        return
    if _withdrawn_waits(draft, want):
        return
    _start(draft, want)


def _resolve(draft: Draft, want: Desired) -> None:
    view = draft.i.resolve
    if draft.rollout is None:
        rollout_id = short_hash([draft.i.namespace, draft.i.name, want.source, draft.i.now])
        draft.set_progress(
            rollout=RolloutProgress(id=rollout_id, source=want.source, since=draft.i.now),
            outcome=draft.progress.outcome,
        )
    if view.state != "Failed":
        draft.resolve = True
        if draft.progress.outcome is not None and view.state == "Running":
            return
        draft.wait(view.message or f"Fetching {draft.i.spec.model.uri} to look at its manifest.")
        return
    attempts = draft.progress.outcome.attempts if draft.progress.outcome else 0
    retry_at = draft.progress.outcome.retry_at if draft.progress.outcome else 0.0
    if view.retryable and retry_at and draft.i.now >= retry_at:
        draft.drop_resolve = True
        draft.set_progress(
            outcome=draft.progress.outcome.model_copy(update={"retry_at": 0.0})
            if draft.progress.outcome
            else None
        )
        draft.come_back(1.0)
        return
    if not retry_at:
        attempts += 1
        retry_at = draft.i.now + min(600.0, RESOLVE_BACKOFF * 2 ** min(attempts - 1, 6))
        draft.note(view.reason, view.message, warning=True)
    draft.set_progress(
        outcome=Outcome(
            source=want.source,
            reason=view.reason or "FetchFailed",
            message=view.message,
            terminal=not view.retryable,
            retry_at=retry_at,
            attempts=attempts,
        )
    )
    if view.retryable:
        draft.come_back(max(1.0, retry_at - draft.i.now))


def _refused(draft: Draft, want: Desired) -> bool:
    """Quarantined, or code that nobody admitted: says so and stays on stable."""
    assert want.package is not None
    bad = ledger.quarantine(
        want.package.digest,
        want.revision,
        [*draft.i.revisions.values(), *draft.i.quarantined],
    )
    if bad is not None and draft.verdict(bad.hash).phase == "Failed":
        if draft.rollout is not None and draft.rollout.failure is not None:
            return False
        message = ledger.quarantine_message(draft.i.name, bad)
        _stop_with(draft, want, "RevisionQuarantined", message)
        return True
    if admitted(want.package, draft.i.namespace, draft.i.policies) is None:
        reason, message = refusal(want.package, draft.i.namespace, draft.i.policies_readable)
        _stop_with(draft, want, reason, message[:512])
        return True
    if draft.progress.outcome is not None and draft.progress.outcome.reason in (
        "RevisionQuarantined",
        "NotTrusted",
        "TrustUnreadable",
    ):
        draft.set_progress(outcome=None)
    return False


def _stop_with(draft: Draft, want: Desired, reason: str, message: str) -> None:
    rollout = draft.rollout
    if rollout is not None and rollout.phase in ("Stepping", "Promoting", "RollingBack"):
        return
    outcome = draft.progress.outcome
    if outcome is None or (outcome.reason, outcome.message) != (reason, message):
        draft.note(reason, message, warning=True)
    draft.end_rollout(
        Outcome(source=want.source, revision=want.revision, reason=reason, message=message)
    )


def _withdrawn_waits(draft: Draft, want: Desired) -> bool:
    outcome = draft.progress.outcome
    if outcome is None or outcome.revision != want.revision or outcome.reason != "Withdrawn":
        return False
    if outcome.terminal:
        return True
    if draft.i.now < outcome.retry_at:
        draft.come_back(outcome.retry_at - draft.i.now)
        return True
    return False


def _start(draft: Draft, want: Desired) -> None:
    """A new candidate.  One in flight before it is superseded first (interrupts.py)."""
    if draft.rollout is not None and draft.rollout.revision is not None:
        return
    assert want.package is not None
    assert want.revision is not None
    since = draft.rollout.since if draft.rollout is not None else draft.i.now
    if want.known is None:
        draft.new_revision = NewRevision(
            hash=want.revision,
            source=want.source,
            uri=draft.i.spec.model.uri,
            package=want.package,
            runtime_image=want.image,
            identity=identity(want.package.digest, want.image, draft.i.spec.serving),
        )
    verdict = draft.verdict(want.revision)
    gated = verdict.phase in ("Validated", "Passed")
    draft.set_progress(
        outcome=None,
        rollout=RolloutProgress(
            id=short_hash([draft.i.namespace, draft.i.name, want.revision, since]),
            source=want.source,
            revision=want.revision,
            phase="Provisioning" if gated else "Validating",
            since=draft.i.now,
            plan=analysis_plan(draft.i.spec).to_json(),
        ),
    )
    draft.note("CandidateFound", f"Revision {want.revision} of {draft.i.spec.model.uri}.")
