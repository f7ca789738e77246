"""From a wanted source to a candidate: resolve, refuse what may not run, start the rollout."""

from __future__ import annotations

from sluice.rollout import ledger
from sluice.rollout.desired import Desired, to_remember
from sluice.rollout.draft import Draft
from sluice.rollout.identity import identity, short_hash
from sluice.rollout.model import NewRevision, Outcome, Resolved, RolloutProgress
from sluice.rollout.plan import analysis_plan
from sluice.rollout.trust import admitted, refusal, signature_may_help

RESOLVE_BACKOFF = 15.0
LOOK_AGAIN = 3600.0
"""Seconds after which trust that ends some day is looked at again, at the latest."""

FETCH_FAILED = "fetching fails"
MAY_APPEAR = "Missing"
"""A person must look, and yet somebody may still upload what is missing."""
REFUSALS = ("RevisionQuarantined", "NotTrusted", "Denied", "TrustUnreadable")


def admit(draft: Draft, want: Desired) -> None:
    """Starts, continues or refuses the way of the wanted source to users."""
    draft.set_progress(resolved=_to_remember(draft, want))
    outcome = draft.progress.outcome
    if outcome is not None and want.source != outcome.source and not _same(outcome, want):
        draft.set_progress(event="the spec moved on", outcome=None)
    if want.package is None:
        _resolve(draft, want)
        return
    if _refused(draft, want):
        return
    if want.revision == draft.roles.stable:
        draft.set_progress(event="the spec is back at stable", outcome=None)
        return
    if draft.rollout is not None and draft.rollout.revision == want.revision:
        return
    if _withdrawn_waits(draft, want):
        return
    _start(draft, want)


def _to_remember(draft: Draft, want: Desired) -> Resolved | None:
    """Not a package that a signature would admit: it may be signed by the time its fetching job is
    gone, so it is then fetched again."""
    i = draft.i
    if want.package is None:
        return None
    question = (want.package, i.namespace, i.policies, i.now)
    if admitted(*question) is None and signature_may_help(*question):
        return None
    return to_remember(i, want)


def _same(outcome: Outcome, want: Desired) -> bool:
    """The same revision, under another address."""
    return want.revision is not None and outcome.revision == want.revision


def _resolve(draft: Draft, want: Desired) -> None:
    view = draft.i.resolve
    if view.state == "Failed" or _given_up(draft):
        _not_resolved(draft, want)
        return
    if draft.rollout is None:
        rollout_id = short_hash([draft.i.namespace, draft.i.name, want.source, draft.i.now])
        draft.set_progress(
            event="the package is not known yet",
            rollout=RolloutProgress(id=rollout_id, source=want.source, since=draft.i.now),
            outcome=draft.progress.outcome,
        )
    draft.resolve = True
    if draft.progress.outcome is not None and view.state == "Running":
        return
    draft.wait(view.message or f"Fetching {draft.i.spec.model.uri} to look at its manifest.")


def _given_up(draft: Draft) -> bool:
    """Fetching failed for good and its job has expired: another one would find the same.

    After a refusal it is looked at again: the job is what names the package.
    """
    outcome = draft.progress.outcome
    return (
        outcome is not None
        and outcome.terminal
        and outcome.revision is None
        and outcome.reason not in (MAY_APPEAR, *REFUSALS)
        and draft.i.resolve.state == "Absent"
    )


def _not_resolved(draft: Draft, want: Desired) -> None:
    """Says why, and tries again where that can help; nothing is in flight meanwhile."""
    view = draft.i.resolve
    if draft.rollout is not None and draft.rollout.revision is None:
        draft.set_progress(event=FETCH_FAILED, rollout=None)
    if view.state != "Failed":
        return
    again = view.retryable or view.reason == MAY_APPEAR
    attempts = draft.progress.outcome.attempts if draft.progress.outcome else 0
    retry_at = draft.progress.outcome.retry_at if draft.progress.outcome else 0.0
    if again and retry_at and draft.i.now >= retry_at:
        draft.drop_resolve = True
        draft.set_progress(
            event=FETCH_FAILED,
            outcome=draft.progress.outcome.model_copy(update={"retry_at": 0.0})
            if draft.progress.outcome
            else None,
        )
        draft.come_back(1.0)
        return
    if not retry_at:
        attempts += 1
        retry_at = draft.i.now + min(600.0, RESOLVE_BACKOFF * 2 ** min(attempts - 1, 6))
        draft.note(view.reason, view.message, warning=True)
    draft.set_progress(
        event=FETCH_FAILED,
        outcome=Outcome(
            source=want.source,
            reason=view.reason or "FetchFailed",
            message=view.message,
            terminal=not view.retryable,
            retry_at=retry_at,
            attempts=attempts,
        ),
    )
    if again:
        draft.come_back(max(1.0, retry_at - draft.i.now))


def _refused(draft: Draft, want: Desired) -> bool:
    """Quarantined, or code that nobody admitted: says so and stays on stable."""
    assert want.package is not None
    bad = ledger.quarantine(want.package.digest, want.revision, draft.records())
    if bad is not None and want.revision != draft.roles.stable:
        if draft.rollout is not None and draft.rollout.failure is not None:
            return False
        message = ledger.quarantine_message(draft.i.name, bad)
        _stop_with(draft, want, "RevisionQuarantined", message)
        return True
    i = draft.i
    trust = admitted(want.package, i.namespace, i.policies, i.now)
    if trust is None:
        reason, message = refusal(want.package, i.namespace, i.policies, i.policies_readable, i.now)
        _stop_with(draft, want, reason, message)
        return True
    if trust.until is not None:
        draft.come_back(min(trust.until - i.now, LOOK_AGAIN))
    if draft.progress.outcome is not None and draft.progress.outcome.reason in REFUSALS:
        draft.set_progress(event="no longer refused", outcome=None)
    return False


def _stop_with(draft: Draft, want: Desired, reason: str, message: str) -> None:
    rollout = draft.rollout
    if rollout is not None and rollout.phase == "RollingBack":
        return
    outcome = draft.progress.outcome
    if outcome is None or (outcome.reason, outcome.message) != (reason, message):
        draft.note(reason, message, warning=True)
    draft.end_rollout(
        Outcome(source=want.source, revision=want.revision, reason=reason, message=message),
        "refused",
    )


def _withdrawn_waits(draft: Draft, want: Desired) -> bool:
    outcome = draft.progress.outcome
    if outcome is None and want.known is not None:
        outcome = _withdrawn_for_good(draft, want, want.known.hash)
    if outcome is None or outcome.revision != want.revision or outcome.reason != "Withdrawn":
        return False
    if outcome.terminal:
        return True
    if draft.i.now < outcome.retry_at:
        draft.come_back(outcome.retry_at - draft.i.now)
        return True
    return False


def _withdrawn_for_good(draft: Draft, want: Desired, revision: str) -> Outcome | None:
    """The record remembers what an edit of the spec forgets: three attempts are enough."""
    known = draft.revision(revision)
    if known is None or known.verdict.phase != "Withdrawn":
        return None
    if known.verdict.attempts < ledger.MAX_WITHDRAWN:
        return None
    outcome = ledger.withdrawn_outcome(draft.i.name, want.source, known, draft.i.now)
    draft.end_rollout(outcome, "withdrawn three times")
    return outcome


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
        event="its gates have passed before" if gated else "the package is known",
        outcome=None,
        last_checks=[],
        last_evidence=None,
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
