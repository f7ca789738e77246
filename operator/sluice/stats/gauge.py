"""One number a look: is its long-run mean above 0, whenever one looks, however it is correlated?

For values that come as they are (a mean, a quantile, a ratio from somebody's Prometheus): their
noise is known only from how they move, and successive ones share a window of time.  The variance of
their mean is taken from batches of 1, 2, 4, ... looks, each corrected for the correlation rho that
is left between neighbouring batches, and the largest one counts:

    L = max over b of  var(batch sums of b looks) / b * (1 + rho) / (1 - rho),

rho with its small-sample bias added back and at least 0.  With n looks, S their sum, m batches in
the chosen size, nu = m - 1, t^2 = S^2 / (n L) and s = r / (n + r), the evidence is that of a t test
with a normal prior on the effect,

    log E = log(s) / 2 - (nu + 1) / 2 * (log(1 + s t^2 / nu) - log(1 + t^2 / nu)),   0 unless S > 0,

which for many batches is Engine M's mixture.  Asymptotic and simulated, not proven.  Nothing is
said before FEWEST_LOOKS, and before as many *independent* looks as that: n var / L.

Thirty keep false alarms below alpha down to an alpha of 0.1 %; twenty did not.

Called by sluice.rollout.judge_metrics.  The state is plain JSON.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

State = dict[str, Any]

VERSION = 1
FEWEST_LOOKS = 30
FEWEST_BATCHES = 16
PLANNED_LOOKS = 60.0
"""Independent looks at which the evidence is strongest: ten minutes at ten seconds."""

LEVEL = 0.005
CLOSEST = 0.95
"""Correlation of neighbouring batches beyond this cannot be told from a drift."""

NOISE = 1e-3
"""A thousandth of the values counts as their noise at least: a constant has none of its own."""

LARGEST = 1e100
MOST_CERTAIN = 1e100
NOTHING = -700.0

_PRIOR = PLANNED_LOOKS / (-2.0 * math.log(2 * LEVEL) + math.log1p(-2.0 * math.log(2 * LEVEL)))


def new() -> State:
    """No looks yet."""
    return {"v": VERSION, "n": 0, "sum": 0.0, "size": 0.0, "levels": []}


def absorb(state: State, value: float, size: float) -> State:
    """The state after one more look.

    ``size``: how large the numbers are that ``value`` is a difference of.  ValueError for what is
    no finite number.
    """
    if not all(math.isfinite(v) and abs(v) <= LARGEST for v in (value, size)):
        raise ValueError(f"a look's value {value!r} of size {size!r} is not a number")
    return {
        **state,
        "n": state["n"] + 1,
        "sum": state["sum"] + value,
        "size": state["size"] + abs(size),
        "levels": _batched(state["levels"], value),
    }


def mean(state: State) -> float | None:
    """Mean of the looks; None for none."""
    return float(state["sum"] / state["n"]) if state["n"] else None


def log_e(state: State) -> float:
    """log of the evidence that the long-run mean is above 0; 0 while nothing is claimed."""
    noise = _noise(state)
    n = state["n"]
    if noise is None or n < FEWEST_LOOKS or n / noise.ratio < FEWEST_LOOKS:
        return 0.0
    if state["sum"] <= 0:
        return NOTHING
    prior = _PRIOR * noise.ratio
    shrunk = prior / (n + prior)
    # The square of a large sum need not be representable.
    t2 = min(MOST_CERTAIN, state["sum"] / math.sqrt(n * noise.variance)) ** 2
    gain = math.log1p(t2 / noise.free) - math.log1p(shrunk * t2 / noise.free)
    return max(NOTHING, 0.5 * math.log(shrunk) + 0.5 * (noise.free + 1) * gain)


class _Noise(NamedTuple):
    """Long-run variance of a look, how many looks one independent one is, free batches."""

    variance: float
    ratio: float
    free: int


def _noise(state: State) -> _Noise | None:
    levels = [row for row in state["levels"] if row[0] >= FEWEST_BATCHES]
    if not levels:
        return None
    sizes = enumerate(levels)
    variance, free = max((_long_run(row, 2.0**level), row[0] - 1) for level, row in sizes)
    own = levels[0][2] / (levels[0][0] - 1)
    least = (NOISE * state["size"] / state["n"]) ** 2
    if max(variance, least) <= 0:
        return None
    if variance <= least:
        return _Noise(least, 1.0, state["n"] - 1)
    return _Noise(variance, max(1.0, variance / own) if own > 0 else 1.0, free)


def _long_run(row: list[Any], looks: float) -> float:
    """Variance that a look adds to a long sum, from batch sums of so many ``looks``."""
    count, _, squares, jumps, *_ = row
    if squares <= 0:
        return 0.0
    rho = 1.0 - jumps / (2.0 * squares) * count / (count - 1)
    rho = min(CLOSEST, max(0.0, rho + (1.0 + 4.0 * rho) / count))
    return float(squares / (count - 1) / looks * (1.0 + rho) / (1.0 - rho))


def _batched(levels: list[list[Any]], value: float) -> list[list[Any]]:
    """Batch sums of 1, 2, 4, ... looks with one more look.

    A row: batches, their mean, squares about it, squared jumps between neighbours, the last one,
    and one that waits for its partner.
    """
    after, level, batch = [list(row) for row in levels], 0, value
    while True:
        if level == len(after):
            after.append([0, 0.0, 0.0, 0.0, None, None])
        row = after[level]
        row[0] += 1
        off = batch - row[1]
        row[1] += off / row[0]
        row[2] += off * (batch - row[1])
        if row[4] is not None:
            row[3] += (batch - row[4]) ** 2
        row[4] = batch
        if row[5] is None:
            row[5] = batch
            return after
        batch, row[5] = row[5] + batch, None
        level += 1
