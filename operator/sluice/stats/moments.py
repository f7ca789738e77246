"""Moments of the candidate's share of a look's events: the arithmetic of Engine C.

In a look with n_A and n_B requests and s events, the candidate's events X are Fisher's non-central
hypergeometric at odds ratio e^tilt.  Everything here works on whole arrays of looks at once: one
look, the checks of a look, or the runs of a simulation are the leading axes.

Called by sluice.stats.counts; pure numpy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sluice.stats.logs import Numbers, log_sum

Floats = NDArray[np.float64]

WIDEST = 4.0
BLOCK = 128
"""Terms that are summed without logarithms: e^(4 x 128) and its inverse are still numbers, and what
is too small for a number is less than e^-190 of its sum."""

EXACT_SUPPORT = 3 * BLOCK - 1
"""Supports up to this size are summed term by term, larger ones by a saddlepoint."""

NONE = -1e9
"""Log weight of a term that does not exist."""


class Grid:
    """Log odds ratios within [-4, 4] with their powers, which every look needs again."""

    def __init__(self, log_theta: Floats) -> None:
        if np.abs(log_theta).max() > WIDEST + 1e-9:
            raise ValueError(f"log odds ratios beyond {WIDEST:g} either way cannot be summed")
        self.log_theta = log_theta
        self.powers: Floats = np.exp(np.arange(BLOCK)[:, None] * log_theta)


Test = tuple[Grid, Numbers]
"""Odds ratios of a grid, seen from the odds ratio e^tilt."""


def log_moments(
    stable_n: Numbers, candidate_n: Numbers, events: Numbers, tests: Sequence[Test]
) -> list[Floats]:
    """log E[theta^X] at odds ratio e^tilt, for each theta of each test's grid: shapes (..., grid).

    The counts have one shape, to which the tilts are broadcast.
    Exact to rounding for small supports; for larger ones a second-order saddlepoint whose cost does
    not depend on the counts: within 1e-5 at a tilt of 1.2, 5e-5 at one of 10.
    """
    a, b, s = (np.asarray(v, dtype=np.float64) for v in (stable_n, candidate_n, events))
    tilts = [np.full(a.shape, tilt, dtype=np.float64) for _, tilt in tests]
    grids = [grid for grid, _ in tests]
    small = np.minimum(s, b) - np.maximum(0.0, s - a) <= EXACT_SUPPORT
    if small.all():
        return _by_sum(a, b, s, grids, tilts)
    if not small.any():
        return _by_saddlepoint(a, b, s, grids, tilts)
    moments: list[Floats] = [np.empty((*a.shape, len(grid.log_theta))) for grid in grids]
    for rows, method in ((small, _by_sum), (~small, _by_saddlepoint)):
        parts = method(a[rows], b[rows], s[rows], grids, [tilt[rows] for tilt in tilts])
        for whole, part in zip(moments, parts, strict=True):
            whole[rows] = part
    return moments


def _by_sum(
    a: Floats, b: Floats, s: Floats, grids: list[Grid], tilts: list[Floats]
) -> list[Floats]:
    low = np.maximum(0.0, s - a)
    log_weights = _log_weights(a, b, s, low, np.minimum(s, b) - low)
    offsets = np.arange(float(log_weights.shape[-1]))
    of = _by_block if len(offsets) <= BLOCK else _by_blocks
    return [
        of(log_weights + tilt[..., None] * offsets, grid) + low[..., None] * grid.log_theta
        for grid, tilt in zip(grids, tilts, strict=True)
    ]


def _by_block(log_weights: Floats, grid: Grid) -> Floats:
    weights = np.exp(log_weights - log_weights.max(axis=-1, keepdims=True))
    sums = weights @ grid.powers[: weights.shape[-1]]
    moments: Floats = np.log(sums / weights.sum(axis=-1, keepdims=True))
    return moments


def _log_weights(a: Floats, b: Floats, s: Floats, low: Floats, size: Floats) -> Floats:
    """log pmf of X = low, low + 1, ... but for a constant; NONE beyond the support."""
    offsets = np.arange(float(size.max()) if size.size else 0.0)
    i = low[..., None] + offsets
    inside = offsets < size[..., None]
    above = (b[..., None] - i) * (s[..., None] - i)
    below = (i + 1.0) * ((a - s)[..., None] + i + 1.0)
    # Steps of log pmf are ratios of small numbers: no large log-gammas cancel, at any count.
    steps = np.log(np.where(inside, above / below, 1.0))
    log_weights = np.zeros((*a.shape, len(offsets) + 1))
    np.cumsum(steps, axis=-1, out=log_weights[..., 1:])
    log_weights[..., 1:][~inside] = NONE
    return log_weights


def _by_blocks(log_weights: Floats, grid: Grid) -> Floats:
    """The same sum over more terms than one block holds, each block by its own largest."""
    count = -(-log_weights.shape[-1] // BLOCK)
    padded = np.full((*log_weights.shape[:-1], count * BLOCK), NONE)
    padded[..., : log_weights.shape[-1]] = log_weights
    blocks = padded.reshape(*padded.shape[:-1], count, BLOCK)
    top = blocks.max(axis=-1, keepdims=True)
    shift = (BLOCK * np.arange(count))[:, None] * grid.log_theta
    sums = np.log(np.exp(blocks - top) @ grid.powers) + top + shift
    moments: Floats = log_sum(np.moveaxis(sums, -2, -1)) - log_sum(log_weights)[..., None]
    return moments


def _by_saddlepoint(
    a: Floats, b: Floats, s: Floats, grids: list[Grid], tilts: list[Floats]
) -> list[Floats]:
    points = [
        point
        for grid, tilt in zip(grids, tilts, strict=True)
        for point in (tilt[..., None], grid.log_theta + tilt[..., None])
    ]
    logs = _log_coefficient(a[..., None], b[..., None], s[..., None], np.concatenate(points, -1))
    ends = np.cumsum([point.shape[-1] for point in points])[:-1]
    parts = np.split(logs, ends, axis=-1)
    return [many - one for one, many in zip(parts[::2], parts[1::2], strict=True)]


def _log_coefficient(n_a: Floats, n_b: Floats, s: Floats, log_theta: Floats) -> Floats:
    """log of the coefficient of z^s in (1 + z)^n_A (1 + theta z)^n_B, by saddlepoint."""
    theta = np.exp(log_theta)
    # z solves n_A z/(1+z) + n_B theta z/(1+theta z) = s: a quadratic with one positive root.
    c = theta * (n_a + n_b - s)
    d = n_a + theta * n_b - s * (1.0 + theta)
    root = np.sqrt(d * d + 4.0 * c * s)
    z = np.where(d >= 0, 2.0 * s / np.where(d >= 0, d + root, 1.0), (root - d) / (2.0 * c))
    p, q = z / (1.0 + z), theta * z / (1.0 + theta * z)
    vp, vq = n_a * p * (1.0 - p), n_b * q * (1.0 - q)
    k2 = vp + vq
    k3 = vp * (1.0 - 2.0 * p) + vq * (1.0 - 2.0 * q)
    k4 = vp * (1.0 - 6.0 * p * (1.0 - p)) + vq * (1.0 - 6.0 * q * (1.0 - q))
    second_order = k4 / (8.0 * k2**2) - 5.0 * k3**2 / (24.0 * k2**3)
    exponent = n_a * np.log1p(z) + n_b * np.log1p(theta * z) - s * np.log(z)
    coefficient: Floats = exponent - 0.5 * np.log(2.0 * math.pi * k2) + np.log1p(second_order)
    return coefficient
