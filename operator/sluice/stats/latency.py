"""Latency: is the candidate slower than stable by more than a margin?

Engine C on the share of requests slower than a threshold, at stable's p50, p90 and p99, and the
mean of the three e-values (reference/statistics.md, section 3).  The margin is a shift of the
bucket: the candidate's requests above ``tolerated(edge)`` are compared with stable's above
``edge``, so the null hypothesis is "at most the margin slower", in both directions of the test.
Thresholds come from the looks before, so they cannot fit the data they judge, and follow stable.

Load changes latency by itself.  Per-pod loads within 25 % of each other are comparable and get the
margin; otherwise only gross differences count: a factor 2 when the candidate carries less load, 3
when it carries more.  Differences below a millisecond (5 ms when loads differ) are nobody's harm.

Called by sluice.rollout.judge.  The state is plain JSON.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Literal

from sluice.stats import combine, counts, dispersion
from sluice.stats.look import LATENCY_BASE, LATENCY_BINS, LATENCY_RATIO, ArmLook, latency_edge

State = dict[str, Any]
Histogram = Mapping[int, int]

QUANTILES = (0.5, 0.9, 0.99)
SAMPLES_FOR_EDGE = (50, 50, 300)
UNIT = 16
"""Recent histograms count sixteenths, lose a fifth per look (about five looks), and stay whole."""

COMPARABLE = 0.25
LIGHTER_MARGIN = 2.0
HEAVIER_MARGIN = 3.0
FLOOR_SECONDS = 0.001
FLOOR_SECONDS_UNEQUAL = 0.005

Load = Literal["comparable", "lighter", "heavier", "unknown"]


@dataclass(frozen=True)
class Tolerance:
    """How much slower is tolerated, for one look."""

    margin: float
    floor_seconds: float

    def edge(self, index: int) -> int:
        """The candidate's threshold bin for stable's threshold bin ``index``."""
        base = latency_edge(index)
        limit = max(base * self.margin, base + self.floor_seconds)
        return min(LATENCY_BINS, math.ceil(_position(limit) - 1e-9))


def load_of(stable: ArmLook, candidate: ArmLook) -> Load:
    """How the candidate's requests per pod compare with stable's."""
    if stable.load_per_pod <= 0 or candidate.load_per_pod <= 0:
        return "unknown"
    ratio = candidate.load_per_pod / stable.load_per_pod
    if ratio < 1.0 - COMPARABLE:
        return "lighter"
    return "heavier" if ratio > 1.0 + COMPARABLE else "comparable"


def tolerance_of(load: Load, margin: float) -> Tolerance:
    """What is tolerated at this load; the user's margin when it is the wider one."""
    if load == "comparable":
        return Tolerance(margin, FLOOR_SECONDS)
    wide = LIGHTER_MARGIN if load == "lighter" else HEAVIER_MARGIN
    return Tolerance(max(margin, wide), FLOOR_SECONDS_UNEQUAL)


def new(planned_starts: int) -> State:
    """A process for a whole canary or watch."""
    return {
        "past": [{}, {}],
        "recent": [{}, {}],
        "parts": [counts.new(1.0, planned_starts) for _ in QUANTILES],
        "jumps": [dispersion.new_jumps() for _ in QUANTILES],
        "judged": 0,
        "unequal": 0,
    }


def start(state: State) -> State:
    """Begin one more of the planned starts."""
    return {**state, "parts": [counts.start(p) for p in state["parts"]]}


def edges(state: State) -> list[int | None]:
    """Stable's threshold bins, from its last looks, or from all of them while those are few.

    A threshold is the upper edge of the quantile's bin; the lower one when nothing is slower.
    """
    recent, past = _Sorted(state["recent"][0], UNIT), _Sorted(state["past"][0])
    found: list[int | None] = []
    for q, need in zip(QUANTILES, SAMPLES_FOR_EDGE, strict=True):
        known = next((h for h in (recent, past) if h.total >= need), None)
        index = known.quantile_bin(q) if known is not None else None
        slower = known is not None and index is not None and index < known.indexes[-1]
        found.append(index + 1 if index is not None and slower else index)
    return found


class _Sorted:
    """A histogram that is asked for several quantiles."""

    def __init__(self, histogram: Mapping[Any, int], unit: int = 1) -> None:
        pairs = sorted((int(index), count) for index, count in histogram.items() if count > 0)
        self.indexes = [index for index, _ in pairs]
        self.seen = list(accumulate(count for _, count in pairs))
        self.total = self.seen[-1] / unit if self.seen else 0.0

    def quantile_bin(self, q: float) -> int | None:
        """The bin that holds the quantile; None without data."""
        if not self.seen:
            return None
        return self.indexes[min(bisect_left(self.seen, q * self.seen[-1]), len(self.seen) - 1)]


def absorb(state: State, stable: Histogram, candidate: Histogram, tolerance: Tolerance) -> State:
    """The state after one more look of both arms' warm pods."""
    if not stable and not candidate:
        return state
    parts, jumps = list(state["parts"]), list(state["jumps"])
    for i, edge in enumerate(edges(state)):
        if edge is not None:
            seen = _slower(stable, candidate, edge, tolerance)
            parts[i] = counts.absorb(parts[i], seen)
            jumps[i] = dispersion.absorb_jumps(jumps[i], seen)
    past = [_added(state["past"][0], stable), _added(state["past"][1], candidate)]
    recent = [
        _faded(state["recent"][0], stable),
        _faded(state["recent"][1], candidate),
    ]
    return {
        **state,
        "parts": parts,
        "jumps": jumps,
        "past": past,
        "recent": recent,
        "judged": state["judged"] + 1,
        "unequal": state["unequal"] + (tolerance.floor_seconds > FLOOR_SECONDS),
    }


def log_e(state: State, phi: float = 1.0) -> float:
    """log of the e-value against "at most the margin slower": the mean over the quantiles."""
    return combine.log_mean(_log_e_each(state, phi))


def worst(state: State, phi: float = 1.0) -> int:
    """Index of the quantile with most evidence."""
    values = _log_e_each(state, phi)
    return max(range(len(values)), key=lambda i: (values[i], -i))


def _log_e_each(state: State, phi: float) -> list[float]:
    return [
        counts.log_e(part, max(phi, dispersion.phi_of_jumps(jumps)))
        for part, jumps in zip(state["parts"], state["jumps"], strict=True)
    ]


def new_promotion(quantiles: int = 2) -> State:
    """Evidence that p50 and p90 are *not* slower by the step's margin: one process for each."""
    return {"parts": [counts.new(1.0, 1) for _ in range(quantiles)], "unequal": 0}


def absorb_promotion(
    state: State,
    thresholds: list[int | None],
    stable: Histogram,
    candidate: Histogram,
    tolerance: Tolerance,
) -> State:
    """One more look.  The arms are swapped: evidence grows when stable is the slower one."""
    parts = []
    for part, edge in zip(state["parts"], thresholds, strict=False):
        if edge is None:
            parts.append(part)
            continue
        seen = _slower(stable, candidate, edge, tolerance)
        swapped = counts.Counts(seen.candidate_n, seen.candidate_x, seen.stable_n, seen.stable_x)
        begun = part if part["started"] else counts.start(part)
        parts.append(counts.absorb(begun, swapped))
    unequal = state["unequal"] + (tolerance.floor_seconds > FLOOR_SECONDS)
    return {"parts": parts, "unequal": unequal}


def log_e_promotion(state: State) -> list[float]:
    """log e-value of each quantile; both must pass."""
    return [counts.log_e(part) for part in state["parts"]]


def quantile(histogram: Mapping[Any, int], q: float) -> float | None:
    """A quantile in seconds, 2 % exact; None without data."""
    index = _Sorted(histogram).quantile_bin(q)
    return None if index is None else latency_edge(index) * math.sqrt(LATENCY_RATIO)


def _position(seconds: float) -> float:
    return math.log(max(seconds, LATENCY_BASE) / LATENCY_BASE) / math.log(LATENCY_RATIO)


def _slower(
    stable: Histogram, candidate: Histogram, edge: int, tolerance: Tolerance
) -> counts.Counts:
    limit = tolerance.edge(edge)
    return counts.Counts(
        sum(stable.values()),
        sum(c for i, c in stable.items() if i >= edge),
        sum(candidate.values()),
        sum(c for i, c in candidate.items() if i >= limit),
    )


def _added(past: Mapping[str, int], look: Histogram) -> dict[str, int]:
    sums = dict(past)
    for index, count in look.items():
        sums[str(index)] = sums.get(str(index), 0) + count
    return sums


def _faded(past: Mapping[str, int], look: Histogram) -> dict[str, int]:
    sums = {index: left for index, count in past.items() if (left := count * 4 // 5)}
    for index, count in look.items():
        sums[str(index)] = sums.get(str(index), 0) + UNIT * count
    return sums
