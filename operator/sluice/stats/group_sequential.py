"""A test with a declared end: fewer looks and more power than a confidence sequence.

Lan-DeMets bounds for looks at any information fractions (reference/statistics.md, section 2): the
chance of a false alarm that is spent up to fraction t of the horizon is alpha*(t), and the bound
of look k spends exactly alpha*(t_k) - alpha*(t_{k-1}).  The density of the score on the paths that
have crossed no bound yet is carried from look to look by numerical integration (Armitage, McPherson
and Rowe, *Repeated Significance Tests on Accumulating Data*; Lan and DeMets, *Discrete Sequential
Boundaries for Clinical Trials*).

Valid only for the looks that were declared and up to the declared horizon; sluice.stats.means is
for everything else.  z is sluice.stats.means.standardised, and t is the part of the planned units
that has been seen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from sluice.stats.crossing import crossing

Floats = NDArray[np.float64]
Spending = Literal["obrien-fleming", "pocock"]

NEVER = 9.0
"""A bound no z reaches: an early look that may spend less than this tail spends nothing."""

CLOSEST = 0.005
"""Looks nearer to each other than this part of the horizon would need a finer grid."""


def spent(fraction: float, alpha: float, spending: Spending) -> float:
    """alpha*(t): the chance of a false alarm that may be used up to ``fraction`` of the horizon."""
    t = min(1.0, fraction)
    if t <= 0:
        return 0.0
    if spending == "pocock":
        return alpha * math.log1p((math.e - 1.0) * t)
    return 2.0 * float(ndtr(ndtri(alpha / 2.0) / math.sqrt(t)))


def bounds(
    fractions: Sequence[float],
    alpha: float,
    spending: Spending = "obrien-fleming",
    *,
    two_sided: bool = False,
) -> list[float]:
    """The z that each look must reach, for looks at rising ``fractions`` of the horizon.

    The last fraction need not be 1; what lies beyond 1 adds no spending.  Two-sided bounds hold
    for |z|: half of ``alpha`` is spent on each side.  ValueError for fractions that do not rise by
    at least CLOSEST, from 0, or an ``alpha`` outside (0, .5).
    """
    steps = np.diff([0.0, *fractions])
    if len(steps) == 0 or not bool((steps >= CLOSEST * (1 - 1e-9)).all()) or fractions[-1] > 10:
        raise ValueError(f"fractions must rise by at least {CLOSEST} from 0 and stay below 10")
    if not 0.0 < alpha < 0.5:
        raise ValueError(f"alpha {alpha} must be above 0 and below .5")
    sides = 2.0 if two_sided else 1.0
    nodes, mass = np.zeros(1), np.ones(1)
    result, before = [], 0.0
    for t, step in zip(fractions, steps, strict=True):
        # The score is a Brownian motion: variance t, and independent steps.
        root, until = math.sqrt(step), spent(t, alpha / sides, spending)
        bound = _bound(nodes, mass, root, math.sqrt(t), until - before)
        before = until if bound < NEVER else before
        result.append(bound)
        lowest = -bound if two_sided else -NEVER
        nodes, mass = _carried(nodes, mass, root, lowest * math.sqrt(t), bound * math.sqrt(t))
    return result


def _bound(nodes: Floats, mass: Floats, root: float, scale: float, spend: float) -> float:
    """The z above which paths that have not crossed yet arrive with probability ``spend``."""

    def excess(z: float) -> float:
        return float(mass @ ndtr((nodes - z * scale) / root)) - spend

    return NEVER if excess(NEVER) >= 0 else crossing(excess, -NEVER, NEVER)


def _carried(
    nodes: Floats, mass: Floats, root: float, low: float, high: float
) -> tuple[Floats, Floats]:
    """Nodes between the bounds and the probability that the next score is near each of them."""
    # Four nodes per standard deviation of the step: Gauss-Legendre is then exact to 1e-6.
    size = max(64, math.ceil(4.0 * (high - low) / root))
    points, weights = np.polynomial.legendre.leggauss(size)
    half = 0.5 * (high - low)
    arrived = low + half * (points + 1.0)
    z = (arrived[:, None] - nodes[None, :]) / root
    density = np.exp(-0.5 * z * z) @ mass / (root * math.sqrt(2.0 * math.pi))
    carried: Floats = half * weights * density
    return arrived, carried
