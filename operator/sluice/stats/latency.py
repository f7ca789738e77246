"""Latency: is the candidate slower than stable by more than a margin?

Engine C on the share of requests slower than a threshold, at stable's p50, p90 and p99, and the
mean of the three e-values (reference/statistics.md, section 3).  The margin is a shift of the
bucket: the candidate's requests above ``tolerated(edge)`` are compared with stable's above
``edge``, so the null hypothesis is "at most the margin slower", in both directions of the test.
Thresholds come from the looks before, so they cannot fit the data they judge, and follow stable.

Load changes latency by itself.  Per-pod loads within 25 % of each other are comparable and get the
margin; otherwise only gross differences count: a factor 2 when the candidate carries less load, 3
when it carries more.  Differences below a millisecond (5 ms when loads differ) are nobody's harm.

``thresholds``, ``slower`` and ``faded`` work on arrays of histograms with any leading axes; the
states here and the thousand runs of a simulation go through the same lines.

Called by sluice.rollout.judge.  The state is plain JSON.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sluice.stats import combine, counts, dispersion
from sluice.stats.look import LATENCY_BASE, LATENCY_BINS, LATENCY_RATIO, ArmLook, latency_edge

State = dict[str, Any]
Histogram = Mapping[int, int]
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

QUANTILES = (0.5, 0.9, 0.99)
SAMPLES_FOR_EDGE = (50, 50, 300)
UNIT = 16
"""Recent histograms count sixteenths, lose a fifth per look (about five looks), and stay whole."""

MOST_A_LOOK = 3.0
"""Nats that one look may add: a pod that stalls once is no slow model, however slow it was.  Less
evidence than there is keeps the mean below 1; a slow model shows again in the next looks."""

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
        return int(candidate_edges(self)[index])


@lru_cache(maxsize=64)
def candidate_edges(tolerance: Tolerance) -> Ints:
    """The candidate's threshold bin for each of stable's, as an array."""
    base = LATENCY_BASE * LATENCY_RATIO ** np.arange(LATENCY_BINS + 1.0)
    limit = np.maximum(base * tolerance.margin, base + tolerance.floor_seconds)
    position = np.log(limit / LATENCY_BASE) / math.log(LATENCY_RATIO)
    return np.minimum(LATENCY_BINS, np.ceil(position - 1e-9)).astype(np.int64)


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
        "past": [[], []],
        "recent": [[], []],
        "parts": [counts.new(1.0, planned_starts) for _ in QUANTILES],
        "jumps": [dispersion.new_jumps() for _ in QUANTILES],
        "judged": 0,
        "unequal": 0,
    }


def start(state: State) -> State:
    """Begin one more of the planned starts."""
    return {**state, "parts": [counts.start(p) for p in state["parts"]]}


def seen(state: State) -> tuple[int, int]:
    """Requests of both arms in all looks."""
    stable, candidate = (
        sum(p[1:]) if isinstance(p, list) else sum(p.values()) for p in state["past"]
    )
    return stable, candidate


def thresholds(recent: Ints, past: Ints | None) -> Ints:
    """Stable's threshold bins, -1 for none: histograms (..., bins) give (..., quantiles).

    A threshold is the upper edge of the quantile's bin; the lower one when nothing is slower.
    ``recent`` counts sixteenths; ``past`` is asked where it holds too few.
    """
    chosen = np.full((*recent.shape[:-1], len(QUANTILES)), -1)
    need = np.array(SAMPLES_FOR_EDGE)
    for histogram, unit in ((past, 1), (recent, UNIT)):
        if histogram is None:
            continue
        seen = histogram.cumsum(axis=-1)
        total = seen[..., -1:]
        wanted = (np.array(QUANTILES) * total)[..., None]
        index = (seen[..., None, :] < wanted).sum(axis=-1)
        last = (seen < total).sum(axis=-1, keepdims=True)
        chosen = np.where(total >= unit * need, index + (index < last), chosen)
    return chosen


def slower(stable: Ints, candidate: Ints, edge: Ints, limit: Ints) -> tuple[Ints, ...]:
    """Requests and slow ones of stable and of the candidate: (..., bins) give (..., thresholds).

    Stable's are slow from bin ``edge`` on, the candidate's from ``limit`` on.
    """
    found = []
    for histogram, index in ((stable, edge), (candidate, limit)):
        below = np.zeros((*histogram.shape[:-1], LATENCY_BINS + 1), dtype=np.int64)
        np.cumsum(histogram, axis=-1, out=below[..., 1:])
        total = below[..., -1:]
        found += [np.broadcast_to(total, index.shape), total - np.take_along_axis(below, index, -1)]
    return tuple(found)


def faded(recent: Ints, look: Ints) -> Ints:
    """Recent histograms after a look: a fifth is forgotten."""
    return recent * 4 // 5 + UNIT * look


@dataclass(frozen=True)
class Measured:
    """A look of both arms on stable's thresholds, as ``absorbed`` and ``absorb_promotion`` need it.

    ``known`` are the places of the quantiles that have a threshold; ``edges`` and ``counts`` are
    of those.
    """

    arms: list[Ints]
    past: list[Ints]
    recent: list[Ints]
    known: list[int]
    edges: Ints
    counts: list[counts.Counts]
    unequal: bool


def absorb(state: State, stable: Histogram, candidate: Histogram, tolerance: Tolerance) -> State:
    """The state after one more look of both arms' warm pods."""
    if not stable and not candidate:
        return state
    seen = measured(state, stable, candidate, tolerance)
    return absorbed(state, seen, counts.absorb_each(parts(state, seen), seen.counts, MOST_A_LOOK))


def measured(
    state: State, stable: Histogram, candidate: Histogram, tolerance: Tolerance
) -> Measured:
    """Requests and slow ones of a look, at the thresholds of the looks before it."""
    arms = [_dense(stable), _dense(candidate)]
    past, recent = ([_dense(arm) for arm in state[kind]] for kind in ("past", "recent"))
    # Its last looks may be too few for a threshold; all of them are asked then.
    few = recent[0].sum() < UNIT * max(SAMPLES_FOR_EDGE)
    found = thresholds(recent[0], past[0] if few else None)
    known = np.flatnonzero(found >= 0)
    edges = found[known]
    looks = _counts(arms, edges, tolerance)
    unequal = tolerance.floor_seconds > FLOOR_SECONDS
    return Measured(arms, past, recent, known.tolist(), edges, looks, unequal)


def parts(state: State, seen: Measured) -> list[State]:
    """The processes that the look's counts are for."""
    return [state["parts"][i] for i in seen.known]


def absorbed(state: State, seen: Measured, after: Sequence[State]) -> State:
    """The state with its look; ``after`` are its ``parts`` with the look's counts."""
    processes, jumps = list(state["parts"]), list(state["jumps"])
    for i, part, look in zip(seen.known, after, seen.counts, strict=True):
        processes[i], jumps[i] = part, dispersion.absorb_jumps(jumps[i], look)
    return {
        **state,
        "parts": processes,
        "jumps": jumps,
        "past": [_packed(had + look) for had, look in zip(seen.past, seen.arms, strict=True)],
        "recent": [_packed(faded(*pair)) for pair in zip(seen.recent, seen.arms, strict=True)],
        "judged": state["judged"] + 1,
        "unequal": state["unequal"] + seen.unequal,
    }


def log_e(state: State, phi: float = 1.0) -> float:
    """log of the e-value against "at most the margin slower": the mean over the quantiles."""
    return combine.log_mean(log_e_each(state, phi))


def worst(log_e_values: Sequence[float]) -> int:
    """Index of the quantile with most evidence."""
    return max(range(len(log_e_values)), key=lambda i: (log_e_values[i], -i))


def log_e_each(state: State, phi: float = 1.0) -> list[float]:
    """log e-value of each quantile, at ``phi`` or at its jumps' dispersion if that is larger."""
    phis = [
        max(phi, dispersion.phi_of_jumps(jumps, part["n"], part["x"]))
        for jumps, part in zip(state["jumps"], state["parts"], strict=True)
    ]
    return counts.log_e_each(state["parts"], phis)


def new_promotion(quantiles: int = 2) -> State:
    """Evidence that p50 and p90 are *not* slower by the step's margin: one row for each.

    Neither dispersions nor a confidence sequence are asked of it, so neither is kept.
    """
    return {"up": [[0.0] * len(counts.UPWARD)] * quantiles, "n": 0, "unequal": 0}


def swapped(state: State, seen: Measured, tolerance: Tolerance) -> list[counts.Counts]:
    """A look's counts for promotion, with the arms swapped: evidence grows when stable is slower.

    ``tolerance`` is the step's, which may differ from the one that ``seen`` was counted with.
    """
    known = [i for i in seen.known if i < len(_lean(state)["up"])]
    found = _counts(seen.arms, seen.edges[: len(known)], tolerance)
    return [counts.Counts(c.candidate_n, c.candidate_x, c.stable_n, c.stable_x) for c in found]


def absorb_promotion(state: State, seen: Measured, tolerance: Tolerance) -> State:
    """The state of a step after one more look."""
    looks = swapped(state, seen, tolerance)
    gained = counts.absorb_all([], [], math.inf, looks)[1]
    return absorbed_promotion(state, seen, tolerance, looks, gained)


def absorbed_promotion(
    state: State,
    seen: Measured,
    tolerance: Tolerance,
    looks: Sequence[counts.Counts],
    gained: Floats,
) -> State:
    """The same; ``looks`` is what ``swapped`` says, ``gained`` are their gains at margin 1."""
    had = _lean(state)
    unequal = had["unequal"] + (tolerance.floor_seconds > FLOOR_SECONDS)
    if not looks:
        return {**had, "unequal": unequal}
    rows = np.array(had["up"])
    known = seen.known[: len(looks)]
    rows[known] = counts.grown(rows[known], gained)
    n = had["n"] + looks[0].stable_n
    return {"up": np.round(rows, 5).tolist(), "n": n, "unequal": unequal}


def log_e_promotion(state: State) -> list[float]:
    """log e-value of each quantile; both must pass."""
    values: list[float] = counts.log_mixture(np.array(_lean(state)["up"]), 1, 1).tolist()
    return values


def seen_in_promotion(state: State) -> int:
    """Candidate requests that the evidence of a step rests on."""
    return int(_lean(state)["n"])


def _lean(state: State) -> State:
    """A state of the version before kept every dispersion: its first row is this state's."""
    if "up" in state:
        return state
    nothing = [0.0] * len(counts.UPWARD)
    rows = [part["up"][0] if part["started"] else nothing for part in state["parts"]]
    n = max(part["n"][0] for part in state["parts"])
    return {"up": rows, "n": n, "unequal": state["unequal"]}


def values(state: State, quantile_index: int) -> tuple[float | None, float | None]:
    """Both arms' recent value of one quantile, in seconds."""
    stable, candidate = state["recent"]
    q = QUANTILES[quantile_index]
    return quantile(stable, q), quantile(candidate, q)


def quantile(histogram: Mapping[Any, int] | Packed, q: float) -> float | None:
    """A quantile in seconds, 2 % exact; None without data."""
    seen = _dense(histogram).cumsum()
    if seen[-1] == 0:
        return None
    return latency_edge(int((seen < q * seen[-1]).sum())) * math.sqrt(LATENCY_RATIO)


def _counts(arms: list[Ints], edge: Ints, tolerance: Tolerance) -> list[counts.Counts]:
    found = slower(arms[0], arms[1], edge, candidate_edges(tolerance)[edge])
    return [counts.Counts(*row) for row in zip(*(v.tolist() for v in found), strict=True)]


Packed = list[int]
"""A state's histogram: the first bin that holds something, and the counts from there on."""


def _dense(histogram: Mapping[Any, int] | Packed) -> Ints:
    """A histogram of a look or of a state as an array.

    A state of the version before had bins as keys, as a look has.
    """
    dense = np.zeros(LATENCY_BINS, dtype=np.int64)
    if isinstance(histogram, list):
        first, counted = (histogram[0], histogram[1:]) if histogram else (0, [])
        dense[first : first + len(counted)] = counted
    elif histogram:
        dense[list(map(int, histogram))] = list(histogram.values())
    return dense


def _packed(dense: Ints) -> Packed:
    filled = np.flatnonzero(dense)
    if len(filled) == 0:
        return []
    first = int(filled[0])
    return [first, *dense[first : filled[-1] + 1].tolist()]
