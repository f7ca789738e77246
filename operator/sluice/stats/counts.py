"""Engine C: are the candidate's events more frequent than stable's, whenever one looks?

The conditional odds-ratio e-process (reference/statistics.md, section 5).  In a look with n_A and
n_B requests and s = x_A + x_B events, x_B is Fisher's non-central hypergeometric given s, whatever
the base rate, its drift or the weight.  So, for an odds ratio theta,

    l(theta) += x_B log theta - log M(theta),    M(theta) = E[theta^X],  X hypergeometric,

and exp(l(theta) - l(theta0)) has mean at most 1 while the true odds ratio is at most theta0 (the
likelihood ratio is monotone).  Ville's inequality makes a mean of such processes valid at every
look.  Over-dispersion is divided out of the log-likelihood: quasi-likelihood, simulated and not
proven.

``gains``, ``begun``, ``grown`` and ``log_mixture`` work on arrays with any leading axes: the
states here, which are plain JSON, and the thousand runs of a simulation go through the same lines.

Called by sluice.stats.latency and sluice.rollout.judge; calls sluice.stats.moments.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

from sluice.stats.logs import Numbers, log_sum
from sluice.stats.moments import Grid, Test, log_moments

Floats = NDArray[np.float64]
State = dict[str, Any]

VERSION = 1
NOTHING = -700.0
"""Floor of a log-likelihood ratio: e^-700 is nothing, and JSON knows no infinity."""

_PHIS = [1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 25.0, 60.0]
PHIS: Floats = np.array(_PHIS)
"""Dispersions for which a state is kept, so that phi may be measured after the fact.  A pod that
fails half of its requests for one look in a hundred takes phi to 20 and more."""

UPWARD: Floats = np.linspace(0.05, 4.0, 41)
"""Log odds ratios above the tolerated one."""

_u = np.linspace(-1.0, 1.0, 41)
BOTH_WAYS: Floats = 4.0 * np.sinh(3.0 * _u) / math.sinh(3.0)
"""Log odds ratios of the confidence sequence, dense around no difference."""


def _log_prior(grid: Floats) -> Floats:
    log_weights = -0.5 * grid * grid
    normalised: Floats = log_weights - log_sum(log_weights)
    return normalised


UP_GRID, BOTH_GRID = Grid(UPWARD), Grid(BOTH_WAYS)
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


def gains(
    stable_n: Numbers,
    stable_x: Numbers,
    candidate_n: Numbers,
    candidate_x: Numbers,
    tests: Sequence[Test],
) -> list[Floats]:
    """Log likelihood ratios of a look, of each test's odds ratios against e^tilt: (..., grid) each.

    Arrays of looks give arrays of gains; a look that cannot tell the arms apart gains nothing.
    """
    x = np.asarray(candidate_x, dtype=np.float64)
    moments = log_moments(stable_n, candidate_n, np.add(stable_x, x), tests)
    return [
        x[..., None] * grid.log_theta - moment
        for (grid, _), moment in zip(tests, moments, strict=True)
    ]


def begun(up: Floats) -> Floats:
    """Evidence sums (any shape) after one more start: R <- 1 + R, in logs."""
    more: Floats = np.logaddexp(up, 0.0)
    return more


def grown(up: Floats, gain: Floats, phi: Numbers = 1.0) -> Floats:
    """Evidence sums after a look: R <- R L^(1/phi), in logs and never below NOTHING."""
    more: Floats = np.maximum(up + gain / phi, NOTHING)
    return more


def log_mixture(up: Floats, planned: Numbers, started: Numbers) -> Floats:
    """log e-value of evidence sums of shape (..., 41): the mean over odds ratios and starts.

    Starts that have not happened count 1 each, so the mean stays an e-process.
    """
    # e^NOTHING stands for "none is waiting": log 0 is no number.
    waiting = np.maximum(np.subtract(planned, started, dtype=np.float64), math.exp(NOTHING))
    mixture: Floats = np.logaddexp(log_sum(_UPWARD_PRIOR + up), np.log(waiting)) - np.log(planned)
    return mixture


def log_moment(counts: Counts, log_theta: Floats) -> Floats:
    """log of the mean of theta^X at odds ratio 1, X the candidate's share of the events."""
    s = counts.stable_x + counts.candidate_x
    return log_moments(counts.stable_n, counts.candidate_n, s, [(Grid(log_theta), 0.0)])[0]


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
    up = begun(np.array(_kept(state)))
    return {**state, "started": state["started"] + 1, "up": _rounded(up)}


def absorb(state: State, counts: Counts) -> State:
    """The state after one more look.  A look that could not tell the arms apart changes no odds."""
    return absorb_each([state], [counts])[0]


def absorb_each(
    states: Sequence[State], looks: Sequence[Counts], most: float | Sequence[float] = math.inf
) -> list[State]:
    """Each state after its look; all of them are computed at once, which costs little more.

    A look adds at most ``most`` nats (one number, or one for each state): evidence that is left out
    keeps an e-process one.
    """
    return absorb_all(states, looks, most, [])[0]


def absorb_all(
    states: Sequence[State],
    looks: Sequence[Counts],
    most: float | Sequence[float],
    also: Sequence[Counts],
) -> tuple[list[State], Floats]:
    """The same, and beside it the gains of other counts at margin 1, shape (also, 41): computed
    with the rest, they cost next to nothing."""
    after = [_counted(state, counts) for state, counts in zip(states, looks, strict=True)]
    telling = [i for i, counts in enumerate(looks) if counts.informative]
    rows = [_row(counts) for counts in (*(looks[i] for i in telling), *also)]
    if not rows:
        return after, np.zeros((0, len(UPWARD)))
    n_a, x_a, n_b, x_b = np.array(rows, dtype=np.float64).T
    log_margins = np.log([*(states[i]["margin"] for i in telling), *[1.0] * len(also)])
    gain, gain_both = gains(n_a, x_a, n_b, x_b, [(UP_GRID, log_margins), (BOTH_GRID, 0.0)])
    gain, gained = gain[: len(telling)], gain[len(telling) :]
    if not telling:
        return after, gained
    both = np.array([states[i]["both"] for i in telling]) + gain_both[: len(telling)]
    limits = np.broadcast_to(np.asarray(most, dtype=np.float64), len(looks))[telling]
    gain = np.minimum(gain, limits[:, None])
    up = grown(np.array([_kept(states[i]) for i in telling]), gain[:, None, :], PHIS[:, None])
    for i, up_now, both_now in zip(telling, _rounded(up), _rounded(both), strict=True):
        after[i] |= {"up": up_now, "both": both_now}
    return after, gained


def _kept(state: State) -> list[list[float]]:
    """Evidence sums for each of PHIS.

    A state of the version before has fewer: the larger dispersions begin there, without evidence.
    """
    rows: list[list[float]] = state["up"]
    missing = len(_PHIS) - len(rows)
    if missing <= 0:
        return rows
    nothing = math.log(state["started"]) if state["started"] else NOTHING
    return rows + [[nothing] * len(UPWARD)] * missing


def _row(counts: Counts) -> tuple[int, int, int, int]:
    return counts.stable_n, counts.stable_x, counts.candidate_n, counts.candidate_x


def _counted(state: State, counts: Counts) -> State:
    """The sums that need no evidence: requests, events and the odds ratio's two halves."""
    n, x, mh = state["n"], state["x"], state["mh"]
    total = max(1, counts.stable_n + counts.candidate_n)
    stable_good = counts.stable_n - counts.stable_x
    candidate_good = counts.candidate_n - counts.candidate_x
    return {
        **state,
        "n": [n[0] + counts.stable_n, n[1] + counts.candidate_n],
        "x": [x[0] + counts.stable_x, x[1] + counts.candidate_x],
        "mh": [
            mh[0] + counts.candidate_x * stable_good / total,
            mh[1] + counts.stable_x * candidate_good / total,
        ],
    }


def log_e(state: State, phi: float = 1.0, without: Floats | None = None) -> float:
    """log of the e-value against "the odds ratio is at most the margin".

    ``without`` takes a part of the evidence away (one log gain per grid point), to ask whether an
    alarm survives leaving out the largest unit bucket.
    """
    return log_e_each([state], [phi], without)[0]


def log_e_each(
    states: Sequence[State], phis: Sequence[float], without: Floats | None = None
) -> list[float]:
    """log e-value of each state at its dispersion, as in ``log_e``."""
    kept = [phi_index(phi) for phi in phis]
    up = np.array([_kept(state)[k] for state, k in zip(states, kept, strict=True)])
    if without is not None:
        up = up - without / PHIS[kept][:, None]
    planned = np.array([state["planned"] for state in states])
    started = np.array([state["started"] for state in states])
    values: list[float] = log_mixture(up, planned, started).tolist()
    return values


def log_e_difference(state: State, phi: float = 1.0) -> float:
    """log of the e-value against "the odds ratio is 1", in either direction, from the beginning."""
    return float(log_sum(_BOTH_PRIOR + np.array(state["both"]) / phi))


def phi_index(phi: float) -> int:
    """Index of the smallest kept dispersion that is at least ``phi`` (the largest beyond)."""
    # A hair of tolerance: 1.0000001 is rounding, not dispersion.
    return min(bisect_left(_PHIS, phi - 1e-6), len(_PHIS) - 1)


def gain_of(state: State, stable_x: int, candidate_x: int, share: float) -> Floats:
    """Log gain per grid point that some events brought, in the limit of rare events.

    ``share`` is the candidate's share of requests; given their number, rare events fall to the
    candidate as a binomial with odds theta.
    """
    return rare_gain(stable_x, candidate_x, share, math.log(state["margin"]))


def rare_gain(
    stable_x: Numbers, candidate_x: Numbers, share: Numbers, log_margin: Numbers
) -> Floats:
    """The same for arrays of any leading axes: (..., 41)."""
    a, b, w, low = (
        np.asarray(v, dtype=np.float64)[..., None]
        for v in (stable_x, candidate_x, share, log_margin)
    )
    moment = np.log1p(w * np.expm1(UPWARD + low)) - np.log1p(w * np.expm1(low))
    gain: Floats = b * UPWARD - (a + b) * moment
    return gain


def odds_ratio(state: State) -> float | None:
    """Mantel-Haenszel estimate, stratified by look; None while it has no finite value."""
    above, below = state["mh"]
    return above / below if below > 0 else None


def shrunk_log_odds(state: State, log_margin: float, phi: float = 1.0) -> float:
    """Estimate of the log odds ratio, drawn towards no change as far as it is uncertain.

    The posterior's peak under a normal prior around 0 with standard deviation ``log_margin``: a
    handful of events says little either way, thousands speak for themselves.
    """
    log_posterior = np.array(state["both"]) / phi - 0.5 * (BOTH_WAYS / log_margin) ** 2
    middle = min(max(int(log_posterior.argmax()), 1), len(BOTH_WAYS) - 2)
    near = slice(middle - 1, middle + 2)
    # Between three points of the grid the log-likelihood is all but a parabola.
    square, linear, _ = np.polyfit(BOTH_WAYS[near], log_posterior[near], 2)
    return float(np.clip(-0.5 * linear / square, BOTH_WAYS[middle - 1], BOTH_WAYS[middle + 1]))


def confidence(state: State, alpha: float, phi: float = 1.0) -> tuple[float | None, float | None]:
    """Confidence sequence of the odds ratio: all theta0 that the mixture has not refuted.

    None stands for a bound beyond the grid (a factor of 54 either way).
    """
    return confidence_each([state], alpha, [phi])[0]


def confidence_each(
    states: Sequence[State], alpha: float, phis: Sequence[float]
) -> list[tuple[float | None, float | None]]:
    """The confidence sequence of each state, as in ``confidence``; computed together."""
    if not states:
        return []
    curves = np.array([state["both"] for state in states]) / np.array(phis)[:, None]
    thresholds = log_sum(_BOTH_PRIOR + curves) + math.log(alpha)
    rows = zip(curves.tolist(), thresholds.tolist(), strict=True)
    return [_interval(curve, threshold) for curve, threshold in rows]


def _interval(curve: list[float], threshold: float) -> tuple[float | None, float | None]:
    # On a fine grid some point is inside; the most likely one stands for a sliver between two.
    inside = [i for i, value in enumerate(curve) if value > threshold] or [curve.index(max(curve))]
    first, last = inside[0], inside[-1]
    low = _crossing(curve, threshold, first, first - 1) if first > 0 else None
    high = _crossing(curve, threshold, last, last + 1) if last < len(curve) - 1 else None
    return low, high


def _crossing(curve: list[float], threshold: float, inside: int, outside: int) -> float:
    span = curve[inside] - curve[outside]
    part = (curve[inside] - threshold) / span if span > 0 else 1.0
    there, beyond = float(BOTH_WAYS[inside]), float(BOTH_WAYS[outside])
    return math.exp(there + min(1.0, max(0.0, part)) * (beyond - there))


def _rounded(values: Floats) -> list[Any]:
    result: list[Any] = np.round(values, 5).tolist()
    return result
