"""The ledger: which digests and revisions passed, failed or may be tried again.

A Fail turns into anything else only by ``retry`` (commands.py).  What is quarantined is matched by
namespace, deployment name and package digest, so that deleting and applying a ModelDeployment does
not launder a bad model.
"""

from __future__ import annotations

from collections.abc import Iterable

from sluice.api.duration import human
from sluice.api.modelrevision import Verdict
from sluice.rollout.model import Failure, Revision
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
        update={"phase": "Passed", "reason": "Promoted", "message": "", "at": rfc3339(now)}
    )


def withdrawn(before: Verdict, message: str, now: float) -> Verdict:
    """No verdict: the environment is suspected.  Counts the attempt."""
    if before.phase == "Failed":
        return before
    return before.model_copy(
        update={
            "phase": "Withdrawn" if before.phase != "Passed" else "Passed",
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
    digest = known.package.digest.removeprefix("sha256:")[:12]
    return (
        f"Package {digest} is quarantined: {verdict.message or verdict.reason} "
        f"To try it again: kubectl annotate mdep/{name} sluice.dev/retry={digest}"
    )[:512]


def withdrawn_message(attempts: int, wait: float) -> str:
    """What a withdrawn candidate waits for."""
    return f"Withdrawn without a verdict, attempt {attempts}; tried again in {human(wait)}."
