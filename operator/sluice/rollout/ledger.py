"""The ledger: which digests and revisions passed, failed or may be tried again.

A Fail turns into anything else only by ``retry`` (commands.py).  What is quarantined is matched by
namespace, deployment name and package digest, so that deleting and applying a ModelDeployment does
not launder a bad model.
"""

from __future__ import annotations

from collections.abc import Iterable

from sluice.api.duration import human
from sluice.api.modelrevision import Verdict
from sluice.rollout.messages import annotate, short, with_way_out
from sluice.rollout.model import Failure, Outcome, Revision
from sluice.rollout.times import rfc3339

MAX_WITHDRAWN = 3
WITHDRAWN_BACKOFF = 60.0


def quarantine(digest: str, revision: str | None, revisions: Iterable[Revision]) -> Revision | None:
    """The failed revision that forbids ``digest`` (or this very ``revision``), if any."""
    for known in revisions:
        if known.verdict.phase != "Failed":
            continue
        if known.hash == revision:
            return known
        if known.verdict.scope == "Package" and known.package.digest == digest:
            return known
    return None


def failed(failure: Failure, before: Verdict, now: float) -> Verdict:
    """The verdict that quarantines a revision or its package."""
    return before.model_copy(
        update={
            "phase": "Failed",
            "scope": failure.scope,
            "check": failure.check[:128],
            "reason": failure.reason[:128],
            "message": failure.message[:512],
            "at": rfc3339(now),
        }
    )


def validated(before: Verdict, now: float) -> Verdict:
    """The verdict after every gate passed.  Never weakens Passed or Failed."""
    if before.phase in ("Passed", "Failed"):
        return before
    return before.model_copy(
        update={"phase": "Validated", "reason": "GatesPassed", "at": rfc3339(now)}
    )


def passed(before: Verdict, now: float) -> Verdict:
    """The verdict after promotion.  A Failed revision stays failed."""
    if before.phase == "Failed":
        return before
    return before.model_copy(
        update={
            "phase": "Passed",
            "reason": "Promoted",
            "message": "",
            "attempts": 0,
            "at": rfc3339(now),
        }
    )


def withdrawn(before: Verdict, message: str, now: float) -> Verdict:
    """No verdict: the environment is suspected.  Counts the attempt."""
    if before.phase == "Failed":
        return before
    return before.model_copy(
        update={
            "phase": "Withdrawn",
            "reason": "Withdrawn",
            "message": message[:512],
            "attempts": before.attempts + 1,
            "at": rfc3339(now),
        }
    )


def retried(before: Verdict, now: float) -> Verdict:
    """The verdict after ``retry``: as if new."""
    return before.model_copy(
        update={
            "phase": "New",
            "scope": None,
            "check": "",
            "reason": "Retried",
            "message": "",
            "attempts": 0,
            "retries": before.retries + 1,
            "at": rfc3339(now),
        }
    )


def withdrawn_wait(attempts: int) -> float:
    """Seconds before a withdrawn revision is tried again; doubles each time."""
    return float(WITHDRAWN_BACKOFF * 2 ** max(0, attempts - 1))


def quarantine_message(name: str, known: Revision) -> str:
    """One plain sentence: which digest, which check, why, and the line to retry."""
    verdict = known.verdict
    digest = short(known.package.digest)
    return with_way_out(
        f"Package {digest} is quarantined: {verdict.message or verdict.reason}",
        f"To try it again: {annotate(name, 'retry', digest)}",
    )


def withdrawn_outcome(name: str, source: str, known: Revision, now: float) -> Outcome:
    """How an attempt without a verdict ends: tried again by itself, at most three times."""
    wait = withdrawn_wait(known.verdict.attempts)
    return Outcome(
        source=source,
        revision=known.hash,
        reason="Withdrawn",
        message=withdrawn_message(name, known, wait),
        terminal=known.verdict.attempts >= MAX_WITHDRAWN,
        retry_at=now + wait,
        attempts=known.verdict.attempts,
    )


def withdrawn_message(name: str, known: Revision, wait: float) -> str:
    """What a withdrawn candidate waits for: a while, or after the last attempt a person."""
    verdict = known.verdict
    if verdict.attempts >= MAX_WITHDRAWN:
        again = f"try it again: {annotate(name, 'retry', short(known.package.digest))}"
    else:
        again = f"tried again in {human(wait)}."
    return with_way_out(
        verdict.message, f"Withdrawn without a verdict, attempt {verdict.attempts}; {again}"
    )
