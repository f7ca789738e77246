"""Promotion by bounded risk: is the candidate worse by less than tau, whenever one looks?

One stratified betting e-process per step and metric (reference/promotion.md, section 1).  With
r = n_B / n_A of the look and fixed bets g_j,

    G_m[j] += x_A log(1 + m r g_j),   N += n_B,   X += x_B
    log E_j(tau, m) = G_m[j] + X log(1 + g_j (tau - 1)) + (N - X) log(1 + g_j tau).

log(1 + z) <= z gives E[factor | past] <= g n_B (tau - (q - m p)): a nonnegative supermartingale
while "failures of the candidate exceed m times what stable would have had at the same times by tau
or more per candidate request".  Nothing is assumed about drift, weights or look times.

Called by sluice.rollout.judge.  The state is plain JSON and holds neither alpha, phi nor tau.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sluice.stats.counts import Counts
from sluice.stats.logs import log_sum

Floats = NDArray[np.float64]
State = dict[str, Any]

VERSION = 1
BETS: Floats = np.geomspace(0.002, 0.98, 20)
EARLY_RATIO = 1.5
LAST_RATIO = 1.2
"""A step also tolerates failures up to this multiple of stable's: where one request in ten is a
client's mistake, two points are noise, and the last step decides."""

MARGINS = (0.001, 0.002, 0.003, 0.005)
"""Excess failures per request tolerated at the last step: the smallest affordable one is taken."""


def prior(tau: float, multiple: float, p0: float | None, share: float) -> Floats:
    """Weights over the bets, most of them near the bet that grows fastest for an equal candidate.

    ``p0`` is stable's failure rate from before the step (past data keeps the process exact);
    without it the prior is broad.  ``share`` is the candidate's share of traffic.
    """
    broad = np.sqrt(BETS)
    broad /= broad.sum()
    if p0 is None:
        return broad
    p = max(p0, 1e-6)
    odds = share / (1.0 - share) if share < 1.0 else 1e6
    gap = tau + (multiple - 1.0) * p
    best = min(0.98, max(BETS[0], gap / (p * (1.0 + multiple * multiple * odds))))
    bump = np.exp(-0.5 * (np.log(BETS / best) / 0.5) ** 2)
    mixed: Floats = 0.3 * broad + 0.7 * bump / bump.sum()
    return mixed


def new(tau: float, ratio: float, *, p0: float | None, share: float) -> State:
    """A process for one step: "worse by max(tau, (ratio - 1) x stable's rate)" is to be refuted.

    That is the intersection of two lines; both are tested, weighted by which binds at ``p0``.
    """
    binds = p0 is None or tau >= (ratio - 1.0) * p0
    return {
        "v": VERSION,
        "tau": tau,
        "ratio": ratio,
        "a": 0.9 if binds else 0.1,
        "prior1": np.round(prior(tau, 1.0, p0, share), 9).tolist(),
        "prior2": np.round(prior(0.0, ratio, p0, share), 9).tolist(),
        "g1": [0.0] * len(BETS),
        "g2": [0.0] * len(BETS),
        "n": 0,
        "x": 0,
        "stable": [0, 0],
    }


def absorb(state: State, counts: Counts) -> State:
    """The state after one more look; a look without requests in both arms is skipped."""
    if counts.stable_n == 0 or counts.candidate_n == 0:
        return state
    r = counts.candidate_n / counts.stable_n
    n_stable, x_stable = state["stable"]
    return {
        **state,
        "g1": _grown(state["g1"], counts.stable_x, r),
        "g2": _grown(state["g2"], counts.stable_x, state["ratio"] * r),
        "n": state["n"] + counts.candidate_n,
        "x": state["x"] + counts.candidate_x,
        "stable": [n_stable + counts.stable_n, x_stable + counts.stable_x],
    }


def _grown(values: list[float], events: int, factor: float) -> list[float]:
    grown: list[float] = np.round(np.array(values) + events * np.log1p(factor * BETS), 6).tolist()
    return grown


def log_e(state: State, phi: float = 1.0) -> float:
    """log of the e-value against "worse by the step's margin or more"."""
    a = state["a"]
    first = _log_e_line(state, "g1", "prior1", state["tau"], phi)
    second = _log_e_line(state, "g2", "prior2", 0.0, phi)
    return float(np.logaddexp(math.log(a) + first, math.log1p(-a) + second))


def _log_e_line(state: State, g: str, weights: str, tau: float, phi: float) -> float:
    with np.errstate(divide="ignore", invalid="ignore"):
        lost = np.where(1.0 + BETS * (tau - 1.0) > 0, 1.0 + BETS * (tau - 1.0), 0.0)
        kept = np.where(1.0 + BETS * tau > 0, 1.0 + BETS * tau, 0.0)
        x, ok = state["x"], state["n"] - state["x"]
        # 0 events times log 0 is nothing lost, not NaN.
        log_each = np.array(state[g])
        log_each = log_each + (x * np.log(lost) if x else 0.0) + (ok * np.log(kept) if ok else 0.0)
        value = log_sum(np.log(np.array(state[weights])) + log_each / phi)
    return value if math.isfinite(value) else -1e9


def bound(state: State, alpha: float, phi: float = 1.0) -> float | None:
    """The smallest excess failure rate that is excluded at ``alpha``; None when none below 1 is.

    For people: "not worse by more than this".
    """
    need = math.log(1.0 / alpha)

    def excluded(tau: float) -> bool:
        return _log_e_line(state, "g1", "prior1", tau, phi) >= need

    low, high = -1.0, 1.0
    if state["n"] == 0 or not excluded(high):
        return None
    for _ in range(20):
        middle = 0.5 * (low + high)
        low, high = (low, middle) if excluded(middle) else (middle, high)
    return high


def requests_needed(tau: float, ratio: float, p: float, share: float, alpha: float) -> float:
    """Median of the candidate requests that an equal candidate needs, from no evidence."""
    gap = max(tau, (ratio - 1.0) * p)
    multiple = ratio if gap > tau else 1.0
    odds = share / (1.0 - share) if share < 1.0 else 1e6
    scale = 2.0 * p * (1.0 + multiple * multiple * odds) / (gap * gap) + 1.0 / gap
    nats = math.log(1.0 / alpha)
    return max(1.08 * nats * scale, nats / -math.log1p(-min(gap, 0.98)))


def requests_left(state: State, share: float, *, alpha: float, phi: float) -> float:
    """Candidate requests an equal candidate still needs, going on from its present evidence."""
    n, x = state["stable"]
    p = (x + 0.5) / (n + 1.0)
    nats = math.log(1.0 / alpha)
    missing = max(0.0, nats - log_e(state, phi))
    return phi * requests_needed(state["tau"], state["ratio"], p, share, alpha) * missing / nats


def last_margin(p0: float | None, share: float, requests_per_second: float, time: float) -> float:
    """tau of the last step: the smallest margin affordable in ``time`` seconds at this traffic."""
    if p0 is None or share <= 0 or share >= 1:
        return MARGINS[-1]
    budget = requests_per_second * share * time
    for tau in MARGINS:
        if 6.5 * (2.0 * p0 / ((1.0 - share) * tau * tau) + 1.0 / tau) <= budget:
            return tau
    return MARGINS[-1]
