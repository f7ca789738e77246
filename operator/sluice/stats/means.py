"""Engine M: do the means of two arms differ, or by more than a margin, whenever one looks?

A stratified asymptotic confidence sequence (reference/statistics.md, section 5).  Each look is a
stratum: with h = n_A n_B / (n_A + n_B) and c = 1 + margin,

    S += h (mean_B - c mean_A),    V = c^2 var_A sum h^2 / n_A + var_B sum h^2 / n_B,

where the variances are those within looks, pooled over looks.  Weights use counts only, so a drift
of the mean together with the traffic weight cannot show as a difference.  The evidence is a normal
mixture of variance r over S:

    two-sided    log E = log(r / (V + r)) / 2 + S^2 / (2 (V + r))
    one-sided    the same + log 2 + log Phi(S / sqrt(V + r)),

so |S| >= sqrt((V + r) log((V + r) / (r alpha^2))) is two-sided evidence of 1 / alpha.  r is V at a
planned horizon over -2 log a + log(1 - 2 log a), a = alpha (2 alpha one-sided).  It scales with the
variances as they are known today, as in Waudby-Smith et al., *Time-uniform central limit theory and
asymptotic confidence sequences*.  Asymptotic: hence no verdict before FEWEST_UNITS.

Called by sluice.cli.judge; sluice.stats.units makes moments of what is not one row per unit.  The
state is plain JSON.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from typing import Any, Literal

from scipy.special import erfcx, log_ndtr

State = dict[str, Any]
Sided = Literal["two", "higher", "lower"]

VERSION = 1
FEWEST_UNITS = 2000
FEWEST_IN_ARM = 50
"""Below either number the sums are not yet normal, and nothing is claimed."""

FEWEST_IN_ONE = 1000
"""The same for an arm that is compared with a limit and not with the other."""

LIMIT_ALPHA = 0.001
"""Where the evidence about a limit is strongest: limits share a small part of alpha."""

PLANNED_UNITS = 20_000.0
"""Where the band is tightest, if nothing is planned; half of the most units is a good plan."""

BORROWED = 100.0
"""Each arm's variance counts this many units of both arms' together: fifty candidate units without
a single sale have shown no variance, and a verdict must not rest on that."""

MOST_UNITS = 10**15
LARGEST = 1e100
"""Sums beyond this would overflow when squared."""

SMALLEST = 1e-200
"""Squares below this vanish when multiplied: they are no variance."""

ROUNDING = 8 * sys.float_info.epsilon


@dataclass(frozen=True)
class Moments:
    """Units of one arm in one look: how many, the sum of their outcomes, and of the squares."""

    n: int = 0
    total: float = 0.0
    squares: float = 0.0

    def check(self, arm: str) -> None:
        """Raise ValueError, naming ``arm``, when no outcomes have such moments."""
        if isinstance(self.n, bool) or not isinstance(self.n, int) or not 0 <= self.n <= MOST_UNITS:
            raise ValueError(f"{arm}: {self.n!r} is not a number of units")
        for name, value in (("sum", self.total), ("sum of squares", self.squares)):
            if not math.isfinite(value) or abs(value) > LARGEST:
                raise ValueError(f"{arm}: the {name} {value!r} is not a number below {LARGEST:g}")
        if self.n == 0 and (self.total != 0 or self.squares != 0):
            raise ValueError(f"{arm}: sums of no units must be 0")
        # Decimal files are rounded: a millionth less than possible is rounding, not a lie.
        if self.n > 0 and self.squares * (1 + 1e-6) < self.total * self.total / self.n:
            raise ValueError(
                f"{arm}: the sum of squares {self.squares:g} is below sum^2 / n, "
                f"{self.total * self.total / self.n:g}"
            )

    def __add__(self, other: Moments) -> Moments:
        """Both sets of units together, as pods of one arm are."""
        return Moments(self.n + other.n, self.total + other.total, self.squares + other.squares)

    @property
    def mean(self) -> float:
        """Mean outcome of at least one unit."""
        return self.total / self.n

    @property
    def residual(self) -> float:
        """Sum of squares about the mean; what is only rounding counts as none."""
        if self.n < 2:
            return 0.0
        inside = self.squares - self.total * self.total / self.n
        return inside if inside > ROUNDING * self.squares else 0.0


def new(planned_units: float = PLANNED_UNITS, share: float = 0.5, alpha: float = 0.05) -> State:
    """No looks yet.

    Horizon, candidate's share of units and ``alpha`` only say where the band is tightest.  It is
    valid at every number of units, every share and for every level asked for later.
    """
    if not 1 <= planned_units <= MOST_UNITS or not 0 < share < 1 or not 0 < alpha < 1:
        raise ValueError(
            f"planned units {planned_units} must be at least 1, share {share} and alpha {alpha} "
            "between 0 and 1"
        )
    return {
        "v": VERSION,
        "planned": planned_units,
        "share": share,
        "alpha": alpha,
        "n": [0, 0],
        "h": 0.0,
        "stable": 0.0,
        "difference": 0.0,
        "spread": [0.0, 0.0],
        "residual": [0.0, 0.0],
        "free": [0, 0],
    }


def absorb(state: State, stable: Moments, candidate: Moments) -> State:
    """The state after one more look.  A look without units in one arm changes nothing.

    ValueError when moments cannot be.
    """
    stable.check("stable")
    candidate.check("candidate")
    if stable.n == 0 or candidate.n == 0:
        return state
    arms = (stable, candidate)
    # Both factors stay near 1: the product of two large counts need not be representable.
    h = stable.n * (candidate.n / (stable.n + candidate.n))
    return {
        **state,
        "n": [n + arm.n for n, arm in zip(state["n"], arms, strict=True)],
        "h": state["h"] + h,
        "stable": state["stable"] + h * stable.mean,
        "difference": state["difference"] + h * (candidate.mean - stable.mean),
        "spread": [s + h * (h / arm.n) for s, arm in zip(state["spread"], arms, strict=True)],
        "residual": [s + arm.residual for s, arm in zip(state["residual"], arms, strict=True)],
        "free": [f + arm.n - 1 for f, arm in zip(state["free"], arms, strict=True)],
    }


def estimate(state: State) -> float | None:
    """Candidate's mean minus stable's, compared within looks; None before both arms had units."""
    return float(state["difference"] / state["h"]) if state["h"] > 0 else None


def stable_mean(state: State) -> float | None:
    """Stable's mean with the weights of ``estimate``: a lift is relative to this."""
    return float(state["stable"] / state["h"]) if state["h"] > 0 else None


def decisive(state: State) -> bool:
    """Whether there are enough units, and enough variance, for any claim at all."""
    enough = sum(state["n"]) >= FEWEST_UNITS and min(state["n"]) >= FEWEST_IN_ARM
    return enough and sum(state["residual"]) > SMALLEST


def confidence(state: State, alpha: float) -> tuple[float | None, float | None]:
    """Two-sided confidence sequence of the difference of means; None while nothing is claimed."""
    if not decisive(state):
        return None, None
    variance, r = _variance_and_scale(state, 1.0, state["alpha"])
    # log1p: r may be far larger than the variance, or far smaller.
    width = math.sqrt((variance + r) * (math.log1p(variance / r) - 2.0 * math.log(alpha)))
    middle, h = float(state["difference"]), float(state["h"])
    return (middle - width) / h, (middle + width) / h


def log_e(state: State, sided: Sided = "two", margin: float = 0.0) -> float:
    """log of the evidence against a hypothesis on (1 + margin) times stable's mean.

    =========  =====================================  ==========================================
    ``sided``  evidence against                       with a metric of which more is better
    =========  =====================================  ==========================================
    higher     candidate <= (1 + margin) stable       margin 0: superior; -m: not worse by m
    lower      candidate >= (1 + margin) stable       margin -m: worse by more than m
    two        candidate == (1 + margin) stable       margin 0: a difference
    =========  =====================================  ==========================================

    Where less is better, "lower" and "higher" change places and so does the sign: worse by more
    than m is "higher" with margin m.  Margins are relative and so mean what they say only for a
    metric whose mean is above 0.  0 (no evidence) while nothing is claimed.  ValueError for a
    margin of -1 or less.
    """
    if not -1.0 < margin < 1e6:
        raise ValueError(f"margin {margin} must be above -1: it is relative to stable's mean")
    if not decisive(state):
        return 0.0
    level = state["alpha"] if sided == "two" else min(0.5, 2.0 * state["alpha"])
    variance, r = _variance_and_scale(state, 1.0 + margin, level)
    z = _score(state, margin) / math.sqrt(variance + r)
    shrunk = -0.5 * math.log1p(variance / r)
    if sided == "two":
        return shrunk + 0.5 * z * z
    return shrunk + math.log(2.0) + _log_half_mixture(z if sided == "higher" else -z)


def log_e_beyond(arm: Moments, limit: float, sided: Literal["higher", "lower"]) -> float:
    """log of the evidence that one arm's mean is above (below) ``limit``.

    The same mixture for one arm's sum of x - limit; 0 while nothing is claimed, which takes
    FEWEST_IN_ONE units that differ.
    """
    if arm.n < FEWEST_IN_ONE or arm.residual <= SMALLEST:
        return 0.0
    level = 2.0 * LIMIT_ALPHA
    variance = arm.residual / (arm.n - 1)
    r = variance * PLANNED_UNITS / (-2.0 * math.log(level) + math.log1p(-2.0 * math.log(level)))
    total = arm.n * variance
    z = (arm.total - arm.n * limit) / math.sqrt(total + r)
    shrunk = -0.5 * math.log1p(total / r)
    return shrunk + math.log(2.0) + _log_half_mixture(z if sided == "higher" else -z)


def standard_error(state: State) -> float | None:
    """Of ``estimate``; None while nothing is claimed."""
    if not decisive(state):
        return None
    variance, _ = _variance_and_scale(state, 1.0, state["alpha"])
    return math.sqrt(variance) / float(state["h"])


def standardised(state: State, margin: float = 0.0) -> float | None:
    """S / sqrt(V), for a look declared beforehand (sluice.stats.group_sequential); None while
    nothing is claimed."""
    if not decisive(state):
        return None
    variance, _ = _variance_and_scale(state, 1.0 + margin, state["alpha"])
    return _score(state, margin) / math.sqrt(variance)


def _score(state: State, margin: float) -> float:
    """S for candidate against (1 + margin) times stable."""
    return float(state["difference"] - margin * state["stable"])


def _log_half_mixture(z: float) -> float:
    """z^2 / 2 + log Phi(z), without taking two large numbers apart when z is far below 0."""
    if z < 0:
        return math.log(0.5 * float(erfcx(-z / math.sqrt(2.0))))
    return 0.5 * z * z + float(log_ndtr(z))


def _variance_and_scale(state: State, multiple: float, level: float) -> tuple[float, float]:
    """V, and the r at which a test of ``level`` is tightest at the planned horizon."""
    together = sum(state["residual"]) / sum(state["free"])
    stable, candidate = (
        (residual + BORROWED * together) / (free + BORROWED)
        for residual, free in zip(state["residual"], state["free"], strict=True)
    )
    stable *= multiple * multiple
    variance = stable * state["spread"][0] + candidate * state["spread"][1]
    share = state["share"]
    planned = stable * share + candidate * (1.0 - share)
    planned *= state["planned"] * share * (1.0 - share)
    log_level = math.log(level)
    return variance, planned / (-2.0 * log_level + math.log1p(-2.0 * log_level))
