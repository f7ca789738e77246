"""What metric sources hand to the statistics, and how totals become counts.

Pure; used by ``evidence.prometheus``, ``evidence.sql`` and the controller.

Counts of a time-series database are taken as *running totals since an anchor*, and the difference
of successive totals is a look's count: ``increase(x[{{interval}}])`` with the interval from the
anchor (the first reading after the weights changed) to now.  Two simpler rules are wrong:

- ``increase`` over each look alone.  It sees only the scrapes inside the look, loses what happened
  between two looks' scrapes, and extrapolates to make up for it: a look with 4 scrapes claims a
  third more requests than were seen, in every look, and the test is sure too early.  A look
  shorter than the scrape interval sees nothing at all.
- Differences of ``sum(x)``.  A pod that restarts or leaves takes its total along: the sum falls.

With an anchor the looks add up to one ``increase``: a restarted counter is handled by Prometheus,
and the extrapolation is at most about one scrape interval for the whole comparison, not one a look.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

from sluice.evidence.counters import MAX_COUNT, EvidenceError

VERSION = 1

T = TypeVar("T")


class MetricError(EvidenceError):
    """A metric cannot be read (``onProviderError`` decides).  No data is not an error."""

    reason = "MetricUnreadable"


UNREACHABLE = "MetricUnreachable"
"""The source does not answer, or not in time."""
REFUSED = "MetricQueryRefused"
"""The source answers that the query, or who asks, is wrong."""
INVALID = "MetricAnswerInvalid"
"""The answer is not one that evidence can be made of."""


@dataclass(frozen=True)
class Pair(Generic[T]):
    """One thing of each arm."""

    stable: T
    candidate: T


@dataclass(frozen=True)
class Subject:
    """Whose metrics are asked for; ``revisions`` are the names the arms have in the data."""

    namespace: str
    name: str
    revisions: Pair[str]


@dataclass(frozen=True)
class Counts:
    """Of ``n`` things, ``events`` were so: for Engine C."""

    n: int = 0
    events: int = 0


@dataclass(frozen=True)
class Totals:
    """Running totals since the anchor, as Prometheus extrapolates them: not whole numbers."""

    total: float
    events: float


class Counted(NamedTuple):
    """A look's counts, and the state to commit with them."""

    counts: Pair[Counts]
    state: dict[str, Any]


def begin(at: float) -> dict[str, Any]:
    """The state of a comparison that begins at ``at`` (seconds since 1970): nothing counted."""
    return {"version": VERSION, "since": at, "stable": [0, 0], "candidate": [0, 0]}


def count(state: Mapping[str, Any], totals: Pair[Totals | None]) -> Counted:
    """What the totals have that was not counted yet; an arm without data adds nothing.

    A total that fell is an extrapolation that was corrected: the arm waits until it is passed.
    Events wait for the things they are events of.  So counts are never negative, never more events
    than things, and their sum is the largest total seen.  MetricError for a state that is not ours.
    """
    since, stable, candidate = _opened(state)
    arms = [_counts(stable, totals.stable), _counts(candidate, totals.candidate)]
    names = zip(("stable", "candidate"), (stable, candidate), arms, strict=True)
    after = {name: [was.n + new.n, was.events + new.events] for name, was, new in names}
    return Counted(Pair(*arms), {"version": VERSION, "since": since, **after})


def _counts(was: Counts, now: Totals | None) -> Counts:
    if now is None:
        return Counts()
    n = max(0, int(now.total) - was.n)
    return Counts(n, max(0, min(int(now.events) - was.events, n)))


def _opened(state: Mapping[str, Any]) -> tuple[float, Counts, Counts]:
    try:
        if state["version"] != VERSION:
            raise ValueError(f"version {state['version']!r}")
        (n, events), (m, others) = state["stable"], state["candidate"]
        arms = [Counts(n, events), Counts(m, others)]
        if not all(type(n) is int and 0 <= n <= MAX_COUNT for a in arms for n in (a.n, a.events)):
            raise ValueError("counts that are none")
        return float(state["since"]), arms[0], arms[1]
    except (KeyError, TypeError, ValueError) as error:
        raise MetricError(
            f"The state of a metric cannot be read ({error}).",
            hint="Begin a new comparison; what was counted before is not used again.",
        ) from error
