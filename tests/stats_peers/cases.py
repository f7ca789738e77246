"""The cases of `make stats-peers`: the data that peers get, our numbers, and what may differ.

Called by tests.stats_peers.__main__; calls sluice.stats.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import numpy as np

from sluice.stats import means, rate_difference, sample_ratio, units
from sluice.stats.counts import Counts
from sluice.stats.means import Moments
from sluice.stats.units import Pairs

ALPHA = 0.05
TUNED_FOR = 5000
SRM_ALPHA = 0.001
CONCENTRATION = 100


@dataclass(frozen=True)
class Row:
    """A number of ours, and how far a right one of theirs may be from it."""

    name: str
    ours: float
    tolerance: float


@cache
def data() -> dict[str, Any]:
    """Sums over units of both arms, as [stable, candidate]; what peers read."""
    rng = np.random.default_rng(2024)
    arms = []
    for lift in (1.0, 1.05):
        x = rng.gamma(4.0, 2.5, 6000)
        y = lift * (0.7 * x + rng.exponential(3.0, 6000))
        arms.append(asdict(_pairs(y, x)))
    return {
        "alpha": ALPHA,
        "tuned_for": TUNED_FOR,
        "concentration": CONCENTRATION,
        "srm_alpha": SRM_ALPHA,
        "pairs": arms,
        "rates": [[8000, 1600], [8000, 1760]],
        "even": [5200, 4800],
        "tenth": [9100, 900],
        "fair": [5030, 4970],
        "skewed": [5400, 4600],
    }


def _pairs(y: np.ndarray, x: np.ndarray) -> Pairs:
    sums = (y.sum(), (y * y).sum(), x.sum(), (x * x).sum(), (x * y).sum())
    return Pairs(len(y), *(float(v) for v in sums))


def _of_means(stable: Moments, candidate: Moments) -> dict[str, Any]:
    return means.absorb(means.new(planned_units=TUNED_FOR, alpha=ALPHA), stable, candidate)


def _band(state: dict[str, Any]) -> tuple[float, float]:
    low, high = means.confidence(state, ALPHA)
    assert low is not None and high is not None
    return low, high


def gbstats() -> list[Row]:
    """Engine M is its sequential t test, but for the units that each arm borrows."""
    stable, candidate = (Pairs(**arm) for arm in data()["pairs"])
    state = _of_means(
        Moments(stable.n, stable.y, stable.yy), Moments(candidate.n, candidate.y, candidate.yy)
    )
    (n_a, x_a), (n_b, x_b) = data()["rates"]
    rates = _of_means(Moments(n_a, x_a, x_a), Moments(n_b, x_b, x_b))
    exact = rate_difference.absorb(rate_difference.new(), Counts(n_a, x_a, n_b, x_b))
    exact_low, exact_high = rate_difference.confidence(exact, ALPHA)
    assert exact_low is not None and exact_high is not None
    low, high = _band(state)
    low_rate, high_rate = _band(rates)
    error, error_rate = means.standard_error(state), means.standard_error(rates)
    assert error is not None and error_rate is not None
    return [
        Row("means: sequential, lower end", low, 0.02 * (high - low)),
        Row("means: sequential, upper end", high, 0.02 * (high - low)),
        Row("means: sequential, log evidence", means.log_e(state), 0.05 * means.log_e(state)),
        Row("means: standard error (t test)", error, 0.02 * error),
        Row("rates: sequential, lower end (Engine M)", low_rate, 0.02 * (high_rate - low_rate)),
        Row("rates: sequential, upper end (Engine M)", high_rate, 0.02 * (high_rate - low_rate)),
        # Exact at every count and not tuned: wider, never shifted.
        Row("rates: sequential, lower end (exact)", exact_low, 0.6 * (high_rate - low_rate)),
        Row("rates: sequential, upper end (exact)", exact_high, 0.6 * (high_rate - low_rate)),
        Row("rates: standard error (t test)", error_rate, 0.02 * error_rate),
        *_mismatches(),
    ]


def tea_tasting() -> list[Row]:
    """Ratios and CUPED: the same delta method and the same adjustment, to first order."""
    stable, candidate = (Pairs(**arm) for arm in data()["pairs"])
    ratio, size = units.ratio_of(stable)
    ratios = _of_means(
        units.linearised(stable, ratio, size), units.linearised(candidate, ratio, size)
    )
    slope = units.slope(units.absorb_slope(units.new_slope(), stable, candidate))
    adjusted = _of_means(*units.adjusted(stable, candidate, slope))
    rows = []
    for name, state in (("ratio", ratios), ("CUPED", adjusted)):
        effect, error = means.estimate(state), means.standard_error(state)
        assert effect is not None and error is not None
        rows += [
            Row(f"{name}: effect", effect, 0.5 * error),
            Row(f"{name}: standard error", error, 0.05 * error),
        ]
    return [*rows, *_mismatches()]


def _mismatches() -> list[Row]:
    """A test at one look and one at every look need not agree on a number, but on what is clear.

    Between the two, at p from 1e-5 to 1e-3, ours asks for more units: that is the price of looking.
    """
    rows = []
    for case in ("fair", "skewed"):
        state = sample_ratio.absorb(sample_ratio.new(), *data()[case], 0.5)
        found = sample_ratio.log_e(state) >= -math.log(SRM_ALPHA)
        name = f"sample ratio {case}: mismatch at {SRM_ALPHA:g} (1 = yes)"
        rows.append(Row(name, float(found), 0.0))
    return rows


def savvi() -> list[Row]:
    """The same mixture in log odds instead of shares, nine tenths of it in the same place."""
    rows = []
    for case, weight in (("even", 0.5), ("tenth", 0.1)):
        spread = 1.0 / math.sqrt(CONCENTRATION * weight * (1.0 - weight))
        state = sample_ratio.absorb(sample_ratio.new(spread), *data()[case], weight)
        low, high = sample_ratio.confidence(state, ALPHA)
        width = 0.05 * (high - low)
        rows += [
            Row(f"sample ratio {case}: log evidence", sample_ratio.log_e(state), 0.3),
            Row(f"sample ratio {case}: lower end of the share", low, width),
            Row(f"sample ratio {case}: upper end of the share", high, width),
        ]
    return rows


PEERS: dict[str, Callable[[], list[Row]]] = {
    "gbstats": gbstats,
    "tea-tasting": tea_tasting,
    "savvi": savvi,
}
