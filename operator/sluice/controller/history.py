"""Which records of revisions may be forgotten.  Called by apply and reconcile.  Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import datetime

from sluice.rollout.model import Revision

KEEP_FAILED_SECONDS = 30 * 86400.0
"""A quarantine lasts this long, also beyond its ModelDeployment."""


def forgettable(
    revisions: Iterable[Revision],
    *,
    kept: Collection[str],
    source: str,
    history: int,
    now: float,
) -> list[str]:
    """Revisions beyond ``history``, oldest first, and failures of long ago.

    Never one in ``kept`` (it has a role or pods), never one of the ``source`` that the spec names:
    it would only be fetched again.  Passed ones and those that never served are counted apart, so
    that a row of broken builds does not push out what can be gone back to.
    """
    free = [r for r in revisions if r.hash not in kept and r.source != source]
    gone = [r for r in free if r.verdict.phase == "Failed" and left(r, now) <= 0]
    for phases in (("Passed",), ("New", "Validated", "Withdrawn")):
        same = sorted((r for r in free if r.verdict.phase in phases), key=_since, reverse=True)
        gone += same[history:]
    return [r.hash for r in sorted(gone, key=_since)]


def left(revision: Revision, now: float) -> float:
    """Seconds that a failed revision must still be remembered."""
    return KEEP_FAILED_SECONDS - (now - _since(revision))


def _since(revision: Revision) -> float:
    """When it got its verdict, else when it was made; for ever when neither can be read."""
    for text in (revision.verdict.at, revision.created):
        try:
            return datetime.fromisoformat(text).timestamp()
        except ValueError:
            continue
    return float("inf")
