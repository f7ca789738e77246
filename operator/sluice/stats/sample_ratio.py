"""Sample ratio: do the arms get the share of units that the weight says, whenever one looks?

Against "each unit falls to the candidate with chance w", the alternative is one shift d of the log
odds, the same at every weight (reference/statistics.md, section 5):

    l(d) = sum over weights of  n_B d - n log(1 - w + w e^d),    E = sum_j pi_j e^l(d_j).

Given its weight a unit's factor has mean 1 for every d, so E is a nonnegative martingale through
any change of weights known before the look, and Ville's inequality holds.  With one weight this is
the Beta(k w, k (1 - w)) mixture up to the shape of the prior: a tenth of the prior is ten times
wider, so that a total mismatch needs dozens of units, not hundreds.

Count units, never requests.  A mismatch makes every comparison untrusted; it is no verdict on the
candidate.  Called by sluice.cli.judge and sluice.rollout.  The state is plain JSON.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sluice.stats.crossing import crossing
from sluice.stats.logs import log_sum

Floats = NDArray[np.float64]
State = dict[str, Any]

VERSION = 1
ALPHA = 0.001
SPREAD = 0.1
"""Standard deviation of the log odds that a mismatch is expected to shift."""

MOST_WEIGHTS = 100
MOST_UNITS = 10**12
FARTHEST = 40.0
"""A shift of the log odds beyond which a share is 0 or 1."""

_u = np.linspace(-1.0, 1.0, 801)
SHIFTS: Floats = 8.0 * np.sinh(9.0 * _u) / math.sinh(9.0)
"""Shifts of the log odds, dense around none."""


def _log_prior(spread: float) -> Floats:
    width = np.gradient(SHIFTS)
    near, far = (
        np.log(part * width / scale) - 0.5 * (SHIFTS / scale) ** 2
        for part, scale in ((0.9, spread), (0.1, 10.0 * spread))
    )
    both = np.logaddexp(near, far)
    normalised: Floats = both - log_sum(both)
    return normalised


def new(spread: float = SPREAD) -> State:
    """No units yet; ``spread`` (log odds) is the size of mismatch that is found fastest."""
    if not 0.001 <= spread <= 2.0:
        raise ValueError(f"spread {spread} must be between 0.001 and 2")
    return {"v": VERSION, "spread": spread, "units": []}


def absorb(state: State, stable_units: int, candidate_units: int, weight: float) -> State:
    """The state after one more look at ``weight``, the candidate's planned share of units.

    Looks at the same weight add up.  ValueError for counts or a weight that cannot be: at 0 and 1
    there is no split to test.
    """
    for arm, units in (("stable", stable_units), ("candidate", candidate_units)):
        if isinstance(units, bool) or not isinstance(units, int) or not 0 <= units <= MOST_UNITS:
            raise ValueError(f"{arm}: {units!r} is not a number of units")
    if not 1e-6 <= weight <= 1.0 - 1e-6:
        raise ValueError(f"weight {weight} must be above 0 and below 1")
    rows = {w: (a, b) for w, a, b in state["units"]}
    if weight not in rows and len(rows) >= MOST_WEIGHTS:
        raise ValueError(f"more than {MOST_WEIGHTS} different weights")
    a, b = rows.get(weight, (0, 0))
    rows[weight] = (a + stable_units, b + candidate_units)
    return {**state, "units": [[w, a, b] for w, (a, b) in rows.items()]}


def log_e(state: State) -> float:
    """log of the e-value against "units are split by the weights"; 0 before there are any."""
    return float(log_sum(_log_prior(state["spread"]) + _log_likelihood(state, SHIFTS)))


def shares(state: State) -> tuple[float | None, float | None]:
    """The candidate's (observed, expected) share of all units; None before there are any."""
    total = sum(a + b for _, a, b in state["units"])
    if total == 0:
        return None, None
    return sum(b for _, _, b in state["units"]) / total, _share(state, 0.0)


def confidence(state: State, alpha: float = ALPHA) -> tuple[float | None, float | None]:
    """Confidence sequence of the candidate's share over the units so far."""
    observed, _ = shares(state)
    if observed is None:
        return None, None
    floor = log_e(state) + math.log(alpha)

    def above(shift: float) -> float:
        return float(_log_likelihood(state, np.array([shift]))[0]) - floor

    # The score is 0 where the modelled share is the observed one: there the likelihood is largest.
    peak = _shift_of(state, observed)
    low = -FARTHEST if above(-FARTHEST) >= 0 else crossing(above, -FARTHEST, peak)
    high = FARTHEST if above(FARTHEST) >= 0 else crossing(above, peak, FARTHEST)
    return min(observed, _share(state, low)), max(observed, _share(state, high))


def _log_likelihood(state: State, shifts: Floats) -> Floats:
    weight, a, b = _columns(state)
    gains = np.log1p(weight[:, None] * np.expm1(shifts)[None, :])
    result: Floats = b.sum() * shifts - (a + b) @ gains
    return result


def _share(state: State, shift: float) -> float:
    """Candidate's expected share of all units if the log odds of each weight are shifted."""
    weight, a, b = _columns(state)
    odds = weight * math.exp(shift)
    return float((a + b) @ (odds / (1.0 - weight + odds)) / (a + b).sum())


def _columns(state: State) -> tuple[Floats, Floats, Floats]:
    """Weights, and units of stable and of the candidate at each of them."""
    table = np.array(state["units"], dtype=np.float64).reshape(-1, 3)
    return table[:, 0], table[:, 1], table[:, 2]


def _shift_of(state: State, share: float) -> float:
    if share <= _share(state, -FARTHEST):
        return -FARTHEST
    if share >= _share(state, FARTHEST):
        return FARTHEST
    return crossing(lambda shift: _share(state, shift) - share, -FARTHEST, FARTHEST)
