"""Moments for Engine M of what is not one independent row per unit.

Ratios (revenue per session) are linearised, units that return are compared by hash bucket, and
what was known about a unit before is taken off (CUPED).  Each function returns moments that
sluice.stats.means absorbs like any others; reference/statistics.md, section 5, has the formulas.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any

from sluice.stats.means import LARGEST, Moments

State = dict[str, Any]
VERSION = 1


@dataclass(frozen=True)
class Pairs:
    """Units of one arm in one look, each with an outcome y and a companion x; sums over units."""

    n: int
    y: float
    yy: float
    x: float
    xx: float
    xy: float

    def check(self, arm: str) -> None:
        """Raise ValueError, naming ``arm``, when no units have such sums."""
        for field in fields(self)[1:]:
            value = getattr(self, field.name)
            if not math.isfinite(value) or abs(value) > LARGEST:
                raise ValueError(f"{arm}: the sum {field.name} {value!r} is not a usable number")
        Moments(self.n, self.y, self.yy).check(f"{arm}, y")
        Moments(self.n, self.x, self.xx).check(f"{arm}, x")
        if self.xy * self.xy > self.xx * self.yy * (1 + 1e-6):
            raise ValueError(f"{arm}: the sum xy {self.xy:g} is larger than xx and yy allow")

    def __add__(self, other: Pairs) -> Pairs:
        """Both sets of units together, as pods of one arm are."""
        sums = (getattr(self, f.name) + getattr(other, f.name) for f in fields(self)[1:])
        return Pairs(self.n + other.n, *sums)

    def about(self, first: float, second: float, cross: float) -> float:
        """A sum of products about the means of its factors."""
        return cross - first * (second / self.n) if self.n > 0 else 0.0


def linearised(arm: Pairs, ratio: float, size: float) -> Moments:
    """Moments of ``ratio + (y - ratio x) / size``: a ratio of sums as a mean over units.

    Take stable's own ratio and its mean x (``ratio_of``) from before the look: any fixed values
    leave equal arms equal, and these make differences of the means differences of the ratios (to
    first order: the delta method).  ValueError when the sums or the reference cannot be.
    """
    arm.check("arm")
    if not math.isfinite(ratio) or abs(ratio) > 1e15 or not 1e-15 < size < 1e15:
        raise ValueError(f"reference ratio {ratio!r} of size {size!r} is not usable")
    slope, level = 1.0 / size, ratio
    y, yy = arm.y - ratio * arm.x, arm.yy - 2.0 * ratio * arm.xy + ratio * ratio * arm.xx
    total = arm.n * level + slope * y
    squares = arm.n * level * level + 2.0 * level * slope * y + slope * slope * yy
    return _moments(arm.n, total, squares)


def ratio_of(stable: Pairs) -> tuple[float, float]:
    """(sum y / sum x, mean x): a reference for ``linearised``; ValueError while x sums to 0."""
    stable.check("stable")
    if stable.n == 0 or stable.x <= 0:
        raise ValueError(
            f"stable: a ratio needs units with x above 0, not {stable.n} with {stable.x}"
        )
    return stable.y / stable.x, stable.x / stable.n


def of_buckets(buckets: Iterable[tuple[int, float]]) -> Moments:
    """Moments with the variance of returning units, from (rows, sum of y) per hash bucket.

    v = B / (B - 1) sum_b (y_b - r n_b)^2 / (sum n)^2 is the variance of r = sum y / sum n, however
    the rows of one unit hang together; B counts the buckets that have rows.  Sum the buckets over
    all looks of a step and absorb them into the state from before the step, anew at each look: the
    same units come back, so looks inside a step are not independent.  ValueError for fewer than two
    buckets with rows.
    """
    cells = [(n, y) for n, y in buckets if n != 0 or y != 0]
    for n, y in cells:
        Moments(n, y, y * y / n if n > 0 else 0.0).check("bucket")
    if len(cells) < 2:
        raise ValueError(f"{len(cells)} buckets with rows tell no variance; two are the fewest")
    n = sum(cell[0] for cell in cells)
    total = math.fsum(cell[1] for cell in cells)
    rate = total / n
    squares = math.fsum((y - rate * rows) ** 2 for rows, y in cells)
    variance = squares * len(cells) / (len(cells) - 1) / n / n
    return _moments(n, total, total * rate + (n - 1) * n * variance)


def new_slope() -> State:
    """What CUPED knows of how y goes with x: sums of products inside looks and arms."""
    return {"v": VERSION, "xy": 0.0, "xx": 0.0}


def absorb_slope(state: State, stable: Pairs, candidate: Pairs) -> State:
    """One more look.  x must not depend on the arm; ValueError when the sums cannot be."""
    stable.check("stable")
    candidate.check("candidate")
    xy = sum(arm.about(arm.x, arm.y, arm.xy) for arm in (stable, candidate))
    xx = sum(max(0.0, arm.about(arm.x, arm.x, arm.xx)) for arm in (stable, candidate))
    return {**state, "xy": state["xy"] + xy, "xx": state["xx"] + xx}


def slope(state: State) -> float:
    """The estimated coefficient of x, pooled within looks and arms; 0 while x has not varied."""
    return float(state["xy"] / state["xx"]) if state["xx"] > 0 else 0.0


def adjusted(stable: Pairs, candidate: Pairs, coefficient: float) -> tuple[Moments, Moments]:
    """Moments of y - b (x - mean x of the look's both arms): less variance, the same difference."""
    stable.check("stable")
    candidate.check("candidate")
    units = stable.n + candidate.n
    middle = (stable.x + candidate.x) / units if units > 0 else 0.0
    first, second = (_adjusted(arm, coefficient, middle) for arm in (stable, candidate))
    return first, second


def _adjusted(arm: Pairs, b: float, middle: float) -> Moments:
    if arm.n == 0:
        return Moments(0, 0.0, 0.0)
    total = arm.y - b * (arm.x - arm.n * middle)
    yy, xx, xy = (
        arm.about(arm.y, arm.y, arm.yy),
        arm.about(arm.x, arm.x, arm.xx),
        arm.about(arm.x, arm.y, arm.xy),
    )
    return _moments(arm.n, total, total * total / arm.n + yy - 2.0 * b * xy + b * b * xx)


def _moments(n: int, total: float, squares: float) -> Moments:
    """Moments whose squares rounding cannot have pushed below what is possible."""
    return Moments(n, total, max(squares, total * total / n if n > 0 else 0.0))
