"""By how much do two rates differ, whenever one looks?  The candidate's minus stable's.

Two bounded-risk processes, one for each end (reference/promotion.md, section 1, and its mirror):
sluice.stats.bounded_risk refutes "worse by tau or more" with bets g_j, and the same lines with bets
-g_j refute "worse by tau or less".  With r = n_B / n_A of the look,

    G[j] += x_A log(1 + r g_j),   G'[j] += x_A log(1 - r g_j).

What is bounded is the excess of events per candidate request over what stable would have had at
the same times: sum n_B (q - p) / sum n_B.  Exact at every sample size, drift and weight, for
independent events.  The price: variance enters as p and not as p (1 - p), which widens the band of
rates beyond a few percent, by a factor 1.4 at one half.

Called by sluice.cli.judge.  The state is plain JSON.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sluice.stats.bounded_risk import BETS, log_e_line, prior
from sluice.stats.counts import Counts
from sluice.stats.logs import Numbers

Floats = NDArray[np.float64]
State = dict[str, Any]

VERSION = 1
MOST_RATIO = 100.0
"""A look with more candidate requests for each of stable's is left out: it would leave no bet that
stable's next event cannot ruin.  Counts of requests may choose looks, counts of events may not."""

RUINED = -1e30
"""log of a bet that is given up: no number of requests wins it back, and JSON knows no infinity."""

HALVINGS = 20
"""Each end is found to two millionths."""

_PRIOR = prior(0.0, 1.0, None, 0.5)


def usable(stable_n: Numbers, candidate_n: Numbers) -> NDArray[np.bool_]:
    """Whether a look counts; arrays give arrays."""
    inside: NDArray[np.bool_] = np.greater(candidate_n, 0) & (
        np.asarray(candidate_n) <= MOST_RATIO * np.asarray(stable_n)
    )
    return inside


def growth(stable_x: Numbers, ratio: Numbers) -> Floats:
    """What a usable look adds to G and G': shape (..., 2, bets)."""
    events = np.asarray(stable_x, dtype=np.float64)[..., None]
    r = np.asarray(ratio, dtype=np.float64)[..., None]
    # A bet beyond 1 / r is given up by the number of requests alone, also when nothing failed.
    kept = r * BETS < 1.0
    down = np.where(kept, events * np.log1p(-np.where(kept, r * BETS, 0.0)), RUINED)
    return np.stack((events * np.log1p(r * BETS), down), axis=-2)


def log_es(sums: Floats, n: Numbers, x: Numbers, tau: Numbers) -> tuple[Floats, Floats]:
    """log e-values against "the difference is at least tau" and "at most tau".

    ``sums`` have shape (..., 2, bets); ``n`` and ``x`` are the candidate's, the others (...).
    """
    above = log_e_line(sums[..., 0, :], _PRIOR, n, x, tau, 1.0)
    below = log_e_line(sums[..., 1, :], _PRIOR, n, x, tau, 1.0, bets=-BETS)
    return above, below


def new() -> State:
    """No looks yet."""
    return {"v": VERSION, "sums": np.zeros((2, len(BETS))).tolist(), "n": 0, "x": 0, "like": 0.0}


def absorb(state: State, counts: Counts) -> State:
    """The state after one more look; a look that is not usable changes nothing."""
    if not usable(counts.stable_n, counts.candidate_n):
        return state
    r = counts.candidate_n / counts.stable_n
    sums = np.array(state["sums"]) + growth(counts.stable_x, r)
    return {
        **state,
        "sums": sums.tolist(),
        "n": state["n"] + counts.candidate_n,
        "x": state["x"] + counts.candidate_x,
        "like": state["like"] + r * counts.stable_x,
    }


def estimate(state: State) -> float | None:
    """The excess that was seen; None before both arms had requests."""
    return (state["x"] - state["like"]) / state["n"] if state["n"] else None


def confidence(state: State, alpha: float) -> tuple[float | None, float | None]:
    """Confidence sequence of the difference; None for an end that nothing is known of."""
    need = math.log(2.0 / alpha)
    sums, n, x = np.array(state["sums"]), state["n"], state["x"]
    high = _first(lambda tau: log_es(sums, n, x, tau)[0], need)
    low = _first(lambda tau: log_es(sums, n, x, -tau)[1], need)
    return None if low is None else -low, high


def _first(log_e: Callable[[float], Floats], need: float) -> float | None:
    """The smallest difference with evidence of ``need`` against it; all above it have more."""
    low, high = -1.0, 1.0
    if float(log_e(high)) < need:
        return None
    for _ in range(HALVINGS):
        middle = 0.5 * (low + high)
        low, high = (low, middle) if float(log_e(middle)) >= need else (middle, high)
    return high
