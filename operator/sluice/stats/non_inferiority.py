"""Promotion by non-inferiority: are the candidate's odds of failing within a margin of stable's?

Engine C with the arms swapped (sluice.stats.counts): "stable's odds are above 1 / m times the
candidate's" is what has to be shown.  Exact whenever one looks, as Engine C is.  Only failures are
evidence: where nothing fails, a ratio is never shown.

Called by sluice.rollout.judge_risks; calls sluice.stats.counts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from sluice.stats import counts
from sluice.stats.counts import Counts

State = dict[str, Any]

MEDIAN = 0.77
"""Median of the sample over the sample at which evidence suffices on average: 0.71 to 0.83 in
fourteen simulated cells (margins 1.2 to 2, shares 5 to 50 %, alpha 0.025 and 0.05)."""

MOST = 1e12
"""Failures beyond which nobody waits."""


def new(margin: float) -> State:
    """A process without evidence that the odds ratio is at most ``margin``, which is above 0.

    Raises ValueError for any other margin.
    """
    if not 0.0 < margin < math.inf:
        raise ValueError(f"margin {margin} must be a number above 0, for example 1.2")
    return counts.start(counts.new(1.0 / margin, 1))


def absorb_each(states: Sequence[State], looks: Sequence[Counts]) -> list[State]:
    """Each state after its look, given with the arms as they are."""
    return counts.absorb_each(states, [_swapped(look) for look in looks])


def log_e(state: State, phi: float = 1.0) -> float:
    """log of the e-value against "the candidate's odds are more than the margin times stable's"."""
    return counts.log_e(state, phi)


def requests_left(state: State, share: float, *, alpha: float, phi: float = 1.0) -> float:
    """Median of the candidate requests that an equal candidate still needs at its ``share``.

    At the failure rate of both arms so far; infinite while nothing has failed.
    """
    n, x = sum(state["n"]), sum(state["x"])
    if x == 0:
        return math.inf
    up = np.array(state["up"][counts.phi_index(phi)])
    return _requests(up, 1.0 / state["margin"], x / n, share, alpha, phi)


def requests_needed(margin: float, p: float, share: float, alpha: float) -> float:
    """The same from no evidence, at failure rate ``p``; infinite at 0."""
    if p <= 0:
        return math.inf
    return _requests(np.zeros(len(counts.UPWARD)), margin, p, share, alpha, 1.0)


def _requests(
    up: counts.Floats, margin: float, p: float, share: float, alpha: float, phi: float
) -> float:
    """The failures of both arms after which evidence suffices on average, as candidate requests."""
    stable = 1.0 - share
    each = counts.rare_gain(share, stable, stable, -math.log(margin)) / phi
    need = math.log(1.0 / alpha)

    def enough(failures: float) -> bool:
        return float(counts.log_mixture(up + failures * each, 1, 1)) >= need

    if enough(0.0):
        return 0.0
    if p >= 1.0 or not enough(MOST):
        return math.inf
    low, high = 0.0, MOST
    for _ in range(18):
        # By ratio: an answer of 10 and one of 10^9 are both found to a thousandth.
        middle = math.sqrt((low + 1.0) * (high + 1.0)) - 1.0
        low, high = (low, middle) if enough(middle) else (middle, high)
    # Common failures scatter less than rare ones, by 1 - p: so much less does each of them say.
    return MEDIAN * share * high / (p * (1.0 - p))


def _swapped(look: Counts) -> Counts:
    return Counts(look.candidate_n, look.candidate_x, look.stable_n, look.stable_x)
