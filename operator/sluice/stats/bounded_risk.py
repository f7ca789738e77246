"""Promotion by bounded risk: is the candidate worse by less than tau, whenever one looks?

One stratified betting e-process per step and metric (reference/promotion.md, section 1).  With
r = n_B / n_A of the look and fixed bets g_j,

    G_m[j] += x_A log(1 + m r g_j),   N += n_B,   X += x_B
    log E_j(tau, m) = G_m[j] + X log(1 + g_j (tau - 1)) + (N - X) log(1 + g_j tau).

log(1 + z) <= z gives E[factor | past] <= g n_B (tau - (q - m p)): a nonnegative supermartingale
while "failures of the candidate exceed m times what stable would have had at the same times by tau
or more per candidate request".  Nothing is assumed about drift, weights or look times.

``growth``, ``log_e_line`` and ``both_lines`` work on arrays with any leading axes; the states here
and the thousand runs of a simulation go through the same lines.

Called by sluice.rollout.judge.  The state is plain JSON and holds neither alpha nor phi.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sluice.stats.counts import Counts
from sluice.stats.logs import Numbers, log_sum

Floats = NDArray[np.float64]
State = dict[str, Any]

VERSION = 1
BETS: Floats = np.geomspace(0.002, 0.98, 20)
EARLY_RATIO = 1.5
LAST_RATIO = 1.2
"""A step also tolerates failures up to this multiple of stable's: where one request in ten is a
client's mistake, two points are noise, and the last step decides."""

NOTHING = 1e-300
ROUNDS, POINTS = 3, 64
"""The bound is found to 2 / 32^4, two millionths."""

MARGINS = (0.001, 0.002, 0.003, 0.005)
"""Excess failures per request tolerated at the last step: the smallest affordable one is taken."""


def prior(tau: Numbers, multiple: float, p0: Numbers | None, share: Numbers) -> Floats:
    """Weights over the bets, most of them near the bet that grows fastest for an equal candidate.

    ``p0`` is stable's failure rate from before the step (past data keeps the process exact);
    without it the prior is broad.  ``share`` is the candidate's share of traffic.  Arrays give one
    prior each: shape (..., bets).
    """
    broad = np.sqrt(BETS)
    broad /= broad.sum()
    if p0 is None:
        return broad
    p = np.maximum(p0, 1e-6)
    gap = tau + (multiple - 1.0) * p
    best = np.clip(gap / (p * (1.0 + multiple * multiple * odds(share))), BETS[0], 0.98)
    bump = np.exp(-0.5 * (np.log(BETS / best[..., None]) / 0.5) ** 2)
    mixed: Floats = 0.3 * broad + 0.7 * bump / bump.sum(axis=-1, keepdims=True)
    return mixed


def odds(share: Numbers) -> Floats:
    """Candidate requests for each of stable's."""
    part = np.asarray(share, dtype=np.float64)
    return part / np.maximum(1.0 - part, 1e-6)


def growth(stable_x: Numbers, factor: Numbers) -> Floats:
    """What a look adds to G: stable's events bet on at ``factor`` = m r.  Shape (..., bets)."""
    events, scale = np.asarray(stable_x, dtype=np.float64), np.asarray(factor, dtype=np.float64)
    return events[..., None] * np.log1p(scale[..., None] * BETS)


def log_e_line(
    g: Floats,
    prior: Floats,
    n: Numbers,
    x: Numbers,
    tau: Numbers,
    phi: Numbers,
    bets: Floats = BETS,
) -> Floats:
    """log E(tau, m) of one line: ``g`` and ``prior`` of shape (..., bets), the others (...).

    Bets below 0 test the other side: "worse by tau or less".
    """
    n, x, tau, phi = (np.asarray(v, dtype=np.float64)[..., None] for v in (n, x, tau, phi))
    # A bet that has lost everything is worth nothing; log 0 would make NaN of no event at all.
    lost = np.log(np.maximum(1.0 + bets * (tau - 1.0), NOTHING))
    kept = np.log(np.maximum(1.0 + bets * tau, NOTHING))
    return log_sum(np.log(prior) + (g + x * lost + (n - x) * kept) / phi)


def new(tau: float, ratio: float, *, p0: float | None, share: float) -> State:
    """A process for one step: "worse by max(tau, (ratio - 1) x stable's rate)" is to be refuted.

    That is the intersection of two lines; both are tested, weighted by which binds at ``p0``.
    """
    return {
        "v": VERSION,
        "tau": tau,
        "ratio": ratio,
        "a": float(first_share(tau, ratio, 0.0 if p0 is None else p0)),
        "prior1": np.round(prior(tau, 1.0, p0, share), 9).tolist(),
        "prior2": np.round(prior(0.0, ratio, p0, share), 9).tolist(),
        "g1": [0.0] * len(BETS),
        "g2": [0.0] * len(BETS),
        "n": 0,
        "x": 0,
        "stable": [0, 0],
    }


def first_share(tau: Numbers, ratio: float, p0: Numbers) -> Floats:
    """Weight of the first line: most of it on the one that binds."""
    return np.where(np.asarray(tau) >= (ratio - 1.0) * np.asarray(p0), 0.9, 0.1)


def absorb(state: State, counts: Counts) -> State:
    """The state after one more look; a look without requests in both arms is skipped."""
    if counts.stable_n == 0 or counts.candidate_n == 0:
        return state
    r = counts.candidate_n / counts.stable_n
    more = growth(counts.stable_x, np.array([r, state["ratio"] * r]))
    first, second = np.round(np.array([state["g1"], state["g2"]]) + more, 6).tolist()
    n_stable, x_stable = state["stable"]
    return {
        **state,
        "g1": first,
        "g2": second,
        "n": state["n"] + counts.candidate_n,
        "x": state["x"] + counts.candidate_x,
        "stable": [n_stable + counts.stable_n, x_stable + counts.stable_x],
    }


def log_e(state: State, phi: float = 1.0) -> float:
    """log of the e-value against "worse by the step's margin or more"."""
    return log_e_each([state], [phi])[0]


def log_e_each(states: Sequence[State], phis: Sequence[float]) -> list[float]:
    """log e-value of each state at its dispersion, as in ``log_e``."""
    if not states:
        return []
    g = np.array([[s["g1"], s["g2"]] for s in states])
    weights = np.array([[s["prior1"], s["prior2"]] for s in states])
    n, x, phi = (np.array(v)[:, None] for v in _sums(states, phis))
    lines = log_e_line(g, weights, n, x, np.array([[s["tau"], 0.0] for s in states]), phi)
    values: list[float] = both_lines(lines, np.array([s["a"] for s in states])).tolist()
    return values


def both_lines(lines: Floats, a: Numbers) -> Floats:
    """log e-value against both lines being crossed: (..., 2) weighted by ``a`` and 1 - a."""
    share = np.asarray(a)
    return log_sum(lines + np.log(np.stack((share, 1.0 - share), axis=-1)))


def _sums(states: Sequence[State], phis: Sequence[float]) -> tuple[Any, Any, Any]:
    return [s["n"] for s in states], [s["x"] for s in states], list(phis)


def bound(state: State, alpha: float, phi: float = 1.0) -> float | None:
    """The smallest excess failure rate that is excluded at ``alpha``; None when none below 1 is.

    For people: "not worse by more than this".
    """
    return bound_each([state], alpha, [phi])[0]


def bound_each(states: Sequence[State], alpha: float, phis: Sequence[float]) -> list[float | None]:
    """The bound of each state, as in ``bound``; found together, 64 points at a time."""
    if not states:
        return []
    need = math.log(1.0 / alpha)
    g = np.array([s["g1"] for s in states])[:, None, :]
    weights = np.array([s["prior1"] for s in states])[:, None, :]
    n, x, phi = (np.array(v)[:, None] for v in _sums(states, phis))
    low, width = np.full((len(states), 1), -1.0), 2.0
    for _ in range(ROUNDS):
        width /= POINTS
        tried = low + width * np.arange(1, POINTS + 1)
        excluded = log_e_line(g, weights, n, x, tried, phi) >= need
        # E grows with tau: the first excluded point ends the interval that is searched next.
        low = low + width * np.minimum((~excluded).sum(axis=1, keepdims=True), POINTS - 1)
    # Only where not even 1 is excluded does the search end at an upper end that is not.
    return [
        float(edge + width) if able and state["n"] > 0 else None
        for edge, able, state in zip(low[:, 0], excluded[:, -1], states, strict=True)
    ]


def requests_needed(tau: float, ratio: float, p: float, share: float, alpha: float) -> float:
    """Median of the candidate requests that an equal candidate needs, from no evidence."""
    gap = max(tau, (ratio - 1.0) * p)
    multiple = ratio if gap > tau else 1.0
    scale = 2.0 * p * (1.0 + multiple * multiple * float(odds(share))) / (gap * gap) + 1.0 / gap
    nats = math.log(1.0 / alpha)
    return max(1.08 * nats * scale, nats / -math.log1p(-min(gap, 0.98)))


def requests_left(state: State, share: float, so_far: float, *, alpha: float, phi: float) -> float:
    """Candidate requests an equal candidate still needs, when its log e-value is ``so_far``."""
    n, x = state["stable"]
    p = (x + 0.5) / (n + 1.0)
    nats = math.log(1.0 / alpha)
    missing = max(0.0, nats - so_far)
    return phi * requests_needed(state["tau"], state["ratio"], p, share, alpha) * missing / nats


def last_margin(p0: float | None, share: float, requests_per_second: float, time: float) -> float:
    """tau of the last step: the smallest margin affordable in ``time`` seconds at this traffic."""
    if p0 is None or share <= 0 or share >= 1:
        return MARGINS[-1]
    return float(last_margins(p0, share, requests_per_second * share * time))


def last_margins(p0: Numbers, share: float, budget: Numbers) -> Floats:
    """tau of the last step for each stable rate and number of affordable candidate requests."""
    rate, most = np.asarray(p0, dtype=np.float64), np.asarray(budget, dtype=np.float64)
    margins: Floats = np.full(np.broadcast(rate, most).shape, MARGINS[-1])
    for tau in reversed(MARGINS):
        needed = 6.5 * (2.0 * rate / ((1.0 - share) * tau * tau) + 1.0 / tau)
        margins = np.where(needed <= most, tau, margins)
    return margins
