"""Engine C: are the candidate's events more frequent than stable's, whenever one looks?

The conditional odds-ratio e-process (reference/statistics.md, section 5).  In a look with n_A and
n_B requests and s = x_A + x_B events, x_B is Fisher's non-central hypergeometric given s, whatever
the base rate, its drift or the weight.  So, for an odds ratio theta,

    l(theta) += x_B log theta - log M(theta),    M(theta) = E[theta^X],  X hypergeometric,

and exp(l(theta) - l(theta0)) has mean at most 1 while the true odds ratio is at most theta0 (the
likelihood ratio is monotone).  Ville's inequality makes a mean of such processes valid at every
look.  Over-dispersion is divided out of the log-likelihood: quasi-likelihood, simulated and not
proven.

Called by sluice.stats.latency and sluice.rollout.judge.  The state is plain JSON.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

from sluice.stats.logs import log_sum

Floats = NDArray[np.float64]
State = dict[str, Any]

VERSION = 1
EXACT_SUPPORT = 200
"""Supports up to this size are summed term by term, larger ones by a saddlepoint."""

NOTHING = -700.0
"""Floor of a log-likelihood ratio: e^-700 is nothing, and JSON knows no infinity."""

PHIS: Floats = np.array([1.0, 1.5, 2.0, 3.0, 5.0, 10.0])
"""Dispersions for which a state is kept, so that phi may be measured after the fact."""

UPWARD: Floats = np.linspace(0.05, 4.0, 41)
"""Log odds ratios above the tolerated one."""

_u = np.linspace(-1.0, 1.0, 41)
BOTH_WAYS: Floats = 4.0 * np.sinh(3.0 * _u) / math.sinh(3.0)
"""Log odds ratios of the confidence sequence, dense around no difference."""


def _log_prior(grid: Floats) -> Floats:
    log_weights = -0.5 * grid * grid
    normalised: Floats = log_weights - log_sum(log_weights)
    return normalised


_UPWARD_PRIOR = _log_prior(UPWARD)
_BOTH_PRIOR = _log_prior(BOTH_WAYS)


@dataclass(frozen=True)
class Counts:
    """Events among requests in both arms of one look."""

    stable_n: int
    stable_x: int
    candidate_n: int
    candidate_x: int

    def __post_init__(self) -> None:
        for name, n, x in (
            ("stable", self.stable_n, self.stable_x),
            ("candidate", self.candidate_n, self.candidate_x),
        ):
            if not 0 <= x <= n:
                raise ValueError(f"{name}: {x} events of {n} requests")

    @property
    def informative(self) -> bool:
        """Whether the split of the events between the arms could have been different."""
        events = self.stable_x + self.candidate_x
        total = self.stable_n + self.candidate_n
        return self.stable_n > 0 and self.candidate_n > 0 and 0 < events < total


def log_moment(counts: Counts, log_theta: Floats) -> Floats:
    """log M(theta): the log of the mean of theta^X, X the candidate's share of the events.

    Exact to rounding for small supports; for larger ones a second-order saddlepoint, relative error
    below 1e-5, whose cost does not depend on the counts.
    """
    s = counts.stable_x + counts.candidate_x
    low = max(0, s - counts.stable_n)
    high = min(s, counts.candidate_n)
    if high - low <= EXACT_SUPPORT:
        return _log_moment_sum(counts.stable_n, counts.candidate_n, s, low, high, log_theta)
    at_one = _log_coefficient(counts.stable_n, counts.candidate_n, s, np.zeros(1))
    moment: Floats = _log_coefficient(counts.stable_n, counts.candidate_n, s, log_theta) - at_one[0]
    return moment


def _log_moment_sum(
    stable_n: int, candidate_n: int, s: int, low: int, high: int, log_theta: Floats
) -> Floats:
    i = np.arange(low, high + 1, dtype=np.float64)
    # Steps of log pmf are ratios of small numbers: no large log-gammas cancel, at any count.
    steps = np.log(
        ((candidate_n - i[:-1]) * (s - i[:-1])) / ((i[:-1] + 1.0) * (stable_n - s + i[:-1] + 1.0))
    )
    log_pmf = np.concatenate(([0.0], np.cumsum(steps)))
    log_pmf -= log_sum(log_pmf)
    terms = log_pmf[None, :] + log_theta[:, None] * i[None, :]
    top = terms.max(axis=1)
    moment: Floats = top + np.log(np.exp(terms - top[:, None]).sum(axis=1))
    return moment


def _log_coefficient(stable_n: int, candidate_n: int, s: int, log_theta: Floats) -> Floats:
    """log of the coefficient of z^s in (1 + z)^n_A (1 + theta z)^n_B, by saddlepoint."""
    theta = np.exp(log_theta)
    # z solves n_A z/(1+z) + n_B theta z/(1+theta z) = s: a quadratic with one positive root.
    a = theta * (stable_n + candidate_n - s)
    b = stable_n + theta * candidate_n - s * (1.0 + theta)
    root = np.sqrt(b * b + 4.0 * a * s)
    z = np.where(b >= 0, 2.0 * s / np.where(b >= 0, b + root, 1.0), (root - b) / (2.0 * a))
    p, q = z / (1.0 + z), theta * z / (1.0 + theta * z)
    vp, vq = stable_n * p * (1.0 - p), candidate_n * q * (1.0 - q)
    k2 = vp + vq
    k3 = vp * (1.0 - 2.0 * p) + vq * (1.0 - 2.0 * q)
    k4 = vp * (1.0 - 6.0 * p * (1.0 - p)) + vq * (1.0 - 6.0 * q * (1.0 - q))
    second_order = k4 / (8.0 * k2**2) - 5.0 * k3**2 / (24.0 * k2**3)
    exponent = stable_n * np.log1p(z) + candidate_n * np.log1p(theta * z) - s * np.log(z)
    coefficient: Floats = exponent - 0.5 * np.log(2.0 * math.pi * k2) + np.log1p(second_order)
    return coefficient


def log_pmf(counts: Counts, log_theta: float) -> float:
    """log P(X = candidate_x) at odds ratio theta, given the total: for oracles and files."""
    s = counts.stable_x + counts.candidate_x

    def log_choose(n: int, k: int) -> float:
        return float(gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1))

    base = (
        log_choose(counts.candidate_n, counts.candidate_x)
        + log_choose(counts.stable_n, counts.stable_x)
        - log_choose(counts.stable_n + counts.candidate_n, s)
    )
    moment = float(log_moment(counts, np.array([log_theta]))[0])
    return base + counts.candidate_x * log_theta - moment


def new(margin: float, planned_starts: int) -> State:
    """A process that tests "the odds ratio is above ``margin``", from up to H planned starts.

    One start per step finds a late regression faster (canary); one per look is the Shiryaev-Roberts
    mixture (watch).  Starts that have not happened count 1 each, so the mean stays an e-process.
    """
    if margin <= 0 or planned_starts < 1:
        raise ValueError(f"margin {margin} must be above 0 and starts {planned_starts} at least 1")
    return {
        "v": VERSION,
        "margin": margin,
        "planned": planned_starts,
        "started": 0,
        "up": [[NOTHING] * len(UPWARD) for _ in PHIS],
        "both": [0.0] * len(BOTH_WAYS),
        "mh": [0.0, 0.0],
        "n": [0, 0],
        "x": [0, 0],
    }


def start(state: State) -> State:
    """Begin one more of the planned starts; none is left after the last."""
    if state["started"] >= state["planned"]:
        return state
    up = np.logaddexp(np.array(state["up"]), 0.0)
    return {**state, "started": state["started"] + 1, "up": _rounded(up)}


def absorb(state: State, counts: Counts) -> State:
    """The state after one more look.  A look that could not tell the arms apart changes no odds."""
    n = [state["n"][0] + counts.stable_n, state["n"][1] + counts.candidate_n]
    x = [state["x"][0] + counts.stable_x, state["x"][1] + counts.candidate_x]
    if not counts.informative:
        return {**state, "n": n, "x": x}
    log_margin = math.log(state["margin"])
    grid = np.concatenate((BOTH_WAYS, UPWARD + log_margin, [log_margin]))
    moment = log_moment(counts, grid)
    size = len(BOTH_WAYS)
    both = np.array(state["both"]) + counts.candidate_x * BOTH_WAYS - moment[:size]
    gain = counts.candidate_x * UPWARD - moment[size:-1] + moment[-1]
    up = np.array(state["up"]) + gain[None, :] / PHIS[:, None]
    total = counts.stable_n + counts.candidate_n
    mh = [
        state["mh"][0] + counts.candidate_x * (counts.stable_n - counts.stable_x) / total,
        state["mh"][1] + counts.stable_x * (counts.candidate_n - counts.candidate_x) / total,
    ]
    return {
        **state,
        "n": n,
        "x": x,
        "mh": mh,
        "up": _rounded(np.maximum(up, NOTHING)),
        "both": _rounded(both),
    }


def log_e(state: State, phi: float = 1.0, without: Floats | None = None) -> float:
    """log of the e-value against "the odds ratio is at most the margin".

    ``without`` takes a part of the evidence away (one log gain per grid point), to ask whether an
    alarm survives leaving out the largest unit bucket.
    """
    up = np.array(state["up"][phi_index(phi)])
    if without is not None:
        up = up - without / PHIS[phi_index(phi)]
    waiting = state["planned"] - state["started"]
    parts = log_sum(_UPWARD_PRIOR + up)
    if waiting > 0:
        parts = np.logaddexp(parts, math.log(waiting))
    return float(parts) - math.log(state["planned"])


def log_e_difference(state: State, phi: float = 1.0) -> float:
    """log of the e-value against "the odds ratio is 1", in either direction, from the beginning."""
    return log_sum(_BOTH_PRIOR + np.array(state["both"]) / phi)


def phi_index(phi: float) -> int:
    """Index of the smallest kept dispersion that is at least ``phi`` (the largest beyond)."""
    # A hair of tolerance: 1.0000001 is rounding, not dispersion.
    return min(int(np.searchsorted(PHIS, phi - 1e-6)), len(PHIS) - 1)


def gain_of(state: State, stable_x: int, candidate_x: int, share: float) -> Floats:
    """Log gain per grid point that some events brought, in the limit of rare events.

    ``share`` is the candidate's share of requests; given their number, rare events fall to the
    candidate as a binomial with odds theta.
    """
    low = math.log(state["margin"])
    moment = np.log1p(share * np.expm1(UPWARD + low)) - math.log1p(share * math.expm1(low))
    gain: Floats = candidate_x * UPWARD - (stable_x + candidate_x) * moment
    return gain


def odds_ratio(state: State) -> float | None:
    """Mantel-Haenszel estimate, stratified by look; None while it has no finite value."""
    above, below = state["mh"]
    return above / below if below > 0 else None


def confidence(state: State, alpha: float, phi: float = 1.0) -> tuple[float | None, float | None]:
    """Confidence sequence of the odds ratio: all theta0 that the mixture has not refuted.

    None stands for a bound beyond the grid (a factor of 54 either way).
    """
    curve = np.array(state["both"]) / phi
    threshold = log_sum(_BOTH_PRIOR + curve) + math.log(alpha)
    inside = np.flatnonzero(curve > threshold)
    if len(inside) == 0:
        # Cannot happen on a fine grid; the most likely point stands for the sliver between.
        inside = np.array([int(np.argmax(curve))])
    first, last = int(inside[0]), int(inside[-1])
    low = _crossing(curve, threshold, first, first - 1) if first > 0 else None
    high = _crossing(curve, threshold, last, last + 1) if last < len(curve) - 1 else None
    return low, high


def _crossing(curve: Floats, threshold: float, inside: int, outside: int) -> float:
    span = curve[inside] - curve[outside]
    part = float((curve[inside] - threshold) / span) if span > 0 else 1.0
    point = BOTH_WAYS[inside] + min(1.0, max(0.0, part)) * (BOTH_WAYS[outside] - BOTH_WAYS[inside])
    return math.exp(float(point))


def _rounded(values: Floats) -> list[Any]:
    result: list[Any] = np.round(values, 5).tolist()
    return result
