"""Prediction shift: do the candidate's live scores look like its own reference profile?

Training-serving skew moves a model's live scores away from the profile that was made at training
time; season moves stable's too, so stable's same figure is the control (DESIGN, section 6).

    PSI = sum (p_i - q_i) log(p_i / q_i),      live shares p, reference shares q.

While the true PSI is d, n m / (n + m) PSI is about non-central chi-square with k - 1 degrees of
freedom and non-centrality n m / (n + m) d (a second-order expansion).  Its lower bound is looked at
again and again, so the error is spent over doublings of the sample: level / (j (j + 1)) at the j-th
doubling.  Approximate, not proven: it holds for a person and never rolls back by itself.

Called by sluice.rollout.judge.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import chndtr

LEVEL = 0.001
MIN_SCORES = 50
NO_CONTROL_FACTOR = 2.0
"""Without stable's figure the season cannot be told apart: twice the limit is asked for."""


@dataclass(frozen=True)
class Shift:
    """Scores of one arm against its own profile."""

    n: int
    psi: float | None
    low: float


@dataclass(frozen=True)
class Verdict:
    """Both arms' figures, and whether the candidate's is surely too large."""

    stable: Shift
    candidate: Shift
    fires: bool


def measure(live: Sequence[int], reference: Sequence[int]) -> Shift:
    """PSI of ``live`` against ``reference`` counts on the same bins, and its lower bound."""
    n, m = sum(live), sum(reference)
    if len(live) != len(reference) or len(live) < 2 or n == 0 or m == 0:
        return Shift(n, None, 0.0)
    # Half a count in each bin: an empty bin is rare, not impossible.
    p = (np.array(live, dtype=np.float64) + 0.5) / (n + 0.5 * len(live))
    q = (np.array(reference, dtype=np.float64) + 0.5) / (m + 0.5 * len(reference))
    psi = float(((p - q) * np.log(p / q)).sum())
    if n < MIN_SCORES:
        return Shift(n, psi, 0.0)
    doubling = 1 + int(math.log2(n / MIN_SCORES))
    return Shift(n, psi, _lower(psi, n * m / (n + m), len(live) - 1, doubling))


def judge(stable: Shift, candidate: Shift, limit: float) -> Verdict:
    """Fires when the candidate's PSI is surely above ``limit`` and above stable's."""
    control = limit * NO_CONTROL_FACTOR
    if stable.psi is not None and stable.n >= MIN_SCORES:
        control = max(limit, stable.psi)
    return Verdict(stable, candidate, candidate.psi is not None and candidate.low > control)


def _lower(psi: float, size: float, free: int, doubling: int) -> float:
    """The smallest true PSI that is not refuted by the observed one."""
    level = LEVEL / (doubling * (doubling + 1))
    observed = size * psi

    def refuted(true: float) -> bool:
        # Half-counts make log finite; beyond a PSI the chi-square tail underflows to refuted.
        return float(1.0 - chndtr(observed, free, size * true)) < level

    if not refuted(0.0):
        return 0.0
    low, high = 0.0, psi
    for _ in range(40):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if refuted(middle) else (low, middle)
    return low
