"""Moments of ratios, of returning units and with what was known before, against plain arrays."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sluice.stats import means, units
from sluice.stats.means import Moments
from sluice.stats.units import Pairs

LEVEL = -math.log(0.05)


def pairs(y: np.ndarray, x: np.ndarray) -> Pairs:
    sums = (y.sum(), (y * y).sum(), x.sum(), (x * x).sum(), (x * y).sum())
    return Pairs(len(y), *(float(s) for s in sums))


def test_linearised_ratio_has_the_moments_of_the_linearised_units() -> None:
    rng = np.random.default_rng(1)
    sessions = rng.poisson(3.0, 500) + 1.0
    revenue = sessions * rng.gamma(1.0, 2.0, 500)
    ratio, size = units.ratio_of(pairs(revenue, sessions))
    z = ratio + (revenue - ratio * sessions) / size
    mine = units.linearised(pairs(revenue, sessions), ratio, size)
    assert (mine.n, mine.total, mine.squares) == (
        500,
        pytest.approx(z.sum()),
        pytest.approx((z * z).sum()),
    )
    assert mine.mean == pytest.approx(revenue.sum() / sessions.sum()), "the ratio itself"
    # The delta method's variance of a ratio of means.
    residual = revenue - ratio * sessions
    delta = residual.var() / 500 / sessions.mean() ** 2
    assert mine.residual / 500 / 500 == pytest.approx(delta)


def test_ratio_of_a_larger_candidate_is_found_and_of_an_equal_one_is_not() -> None:
    rng = np.random.default_rng(2)

    def arm(n: int, rate: float) -> Pairs:
        sessions = rng.poisson(3.0, n) + 1.0
        return pairs(sessions * rng.gamma(1.0, rate, n), sessions)

    evidence = {}
    for rate in (2.0, 2.3):
        state, reference = means.new(), units.ratio_of(arm(500, 2.0))
        for _ in range(15):
            stable, candidate = arm(400, 2.0), arm(300, rate)
            state = means.absorb(
                state,
                units.linearised(stable, *reference),
                units.linearised(candidate, *reference),
            )
        evidence[rate] = means.log_e(state)
        assert means.estimate(state) == pytest.approx(rate - 2.0, abs=0.15)
    assert evidence[2.0] < LEVEL < evidence[2.3]


def test_bucket_variance_is_the_reference_formula() -> None:
    cells = [(3, 6.0), (1, 0.5), (4, 5.0), (2, 7.5), (0, 0.0)]
    mine = units.of_buckets(cells)
    n, total = 10, 19.0
    by_hand = 4 / 3 * sum((y - 1.9 * k) ** 2 for k, y in cells) / n**2
    assert (mine.n, mine.total) == (n, total)
    assert mine.residual / (n - 1) / n == pytest.approx(by_hand)


def test_returning_units_need_their_buckets() -> None:
    """reference/statistics.md, section 4: rows as independent 54 %, by bucket 1 % false alarms."""
    rng, runs = np.random.default_rng(3), 150
    alarms = {"rows": 0, "buckets": 0}
    for _ in range(runs):
        level = rng.gamma(1.0, 1.0, 400)
        of_candidate = rng.random(400) < 0.5
        bucket = rng.integers(0, 100, 400)
        y = level[:, None] * rng.gamma(4.0, 0.25, (400, 20))
        crossed = set()
        rows, base = means.new(), means.new()
        for k in range(20):
            arms = [y[mask, k] for mask in (~of_candidate, of_candidate)]
            rows = means.absorb(
                rows, *(Moments(len(a), a.sum(), float((a * a).sum())) for a in arms)
            )
            so_far = y[:, : k + 1].sum(axis=1)
            cells = []
            for mask in (~of_candidate, of_candidate):
                n = np.bincount(bucket[mask], minlength=100) * (k + 1)
                sums = np.bincount(bucket[mask], so_far[mask], minlength=100)
                cells.append([(int(a), float(b)) for a, b in zip(n, sums, strict=True)])
            # The same units come back: the step's buckets replace, they are not added.
            buckets = means.absorb(base, *(units.of_buckets(c) for c in cells))
            crossed |= {"rows"} if means.log_e(rows) >= LEVEL else set()
            crossed |= {"buckets"} if means.log_e(buckets) >= LEVEL else set()
        for name in crossed:
            alarms[name] += 1
    assert alarms["buckets"] <= runs * 0.05 + 3 * math.sqrt(runs * 0.05 * 0.95)
    assert alarms["rows"] > 0.3 * runs, "the simulation has lost its point"


def test_adjusting_takes_the_explained_variance_away_and_leaves_the_difference() -> None:
    rng = np.random.default_rng(4)

    def arm(n: int, effect: float) -> Pairs:
        x = rng.gamma(2.0, 3.0, n)
        return pairs(effect + 2.0 * x + rng.normal(0.0, 2.0, n), x)

    known, plain, adjusted = units.new_slope(), means.new(), means.new()
    for _ in range(20):
        stable, candidate = arm(300, 0.0), arm(200, 0.4)
        known = units.absorb_slope(known, stable, candidate)
        plain = means.absorb(plain, *(Moments(a.n, a.y, a.yy) for a in (stable, candidate)))
        adjusted = means.absorb(adjusted, *units.adjusted(stable, candidate, units.slope(known)))
    assert units.slope(known) == pytest.approx(2.0, abs=0.05)
    low, high = means.confidence(adjusted, 0.05)
    wide_low, wide_high = means.confidence(plain, 0.05)
    assert low < 0.4 < high and (high - low) < 0.35 * (wide_high - wide_low)
    assert means.log_e(adjusted) > LEVEL


def test_without_a_coefficient_or_units_adjusting_changes_nothing() -> None:
    rng = np.random.default_rng(5)
    y, x = rng.normal(5.0, 1.0, 50), np.ones(50)
    arm, nobody = pairs(y, x), Pairs(0, 0.0, 0.0, 0.0, 0.0, 0.0)
    known = units.absorb_slope(units.new_slope(), arm, nobody)
    assert units.slope(known) == 0.0, "x has not varied"
    same, empty = units.adjusted(arm, nobody, units.slope(known))
    assert (same.n, same.total, same.squares) == (50, arm.y, pytest.approx(arm.yy))
    assert empty == Moments(0, 0.0, 0.0)
    assert units.adjusted(nobody, nobody, 3.0) == (empty, empty)


def test_pods_may_be_added_up() -> None:
    rng = np.random.default_rng(6)
    y, x = rng.normal(5.0, 1.0, 50), rng.normal(1.0, 1.0, 50)
    split = pairs(y[:20], x[:20]) + pairs(y[20:], x[20:])
    whole = pairs(y, x)
    assert split.n == whole.n
    assert split.xy == pytest.approx(whole.xy) and split.yy == pytest.approx(whole.yy)


@pytest.mark.parametrize(
    "bad",
    [
        Pairs(-1, 0.0, 0.0, 0.0, 0.0, 0.0),
        Pairs(2, math.nan, 1.0, 1.0, 1.0, 1.0),
        Pairs(2, 1.0, 1.0, math.inf, 1.0, 1.0),
        Pairs(2, 4.0, 1.0, 1.0, 1.0, 1.0),
        Pairs(2, 1.0, 1.0, 4.0, 1.0, 1.0),
        Pairs(2, 1.0, 1.0, 1.0, 1.0, 5.0),
        Pairs(0, 0.0, 0.0, 1.0, 1.0, 0.0),
    ],
)
def test_sums_that_cannot_be_are_refused_everywhere(bad: Pairs) -> None:
    good = Pairs(2, 1.0, 1.0, 1.0, 1.0, 0.5)
    with pytest.raises(ValueError, match="candidate"):
        units.absorb_slope(units.new_slope(), good, bad)
    with pytest.raises(ValueError, match="stable"):
        units.adjusted(bad, good, 1.0)
    with pytest.raises(ValueError, match="arm"):
        units.linearised(bad, 1.0, 1.0)
    with pytest.raises(ValueError, match="stable"):
        units.ratio_of(bad)


def test_references_and_buckets_that_cannot_be_are_refused() -> None:
    good = Pairs(2, 1.0, 1.0, 1.0, 1.0, 0.5)
    for ratio, size in ((math.nan, 1.0), (1e16, 1.0), (1.0, 0.0), (1.0, math.inf)):
        with pytest.raises(ValueError, match="reference"):
            units.linearised(good, ratio, size)
    with pytest.raises(ValueError, match="x above 0"):
        units.ratio_of(Pairs(2, 1.0, 1.0, 0.0, 0.0, 0.0))
    for cells in ([], [(3, 1.0)], [(3, 1.0), (0, 0.0)]):
        with pytest.raises(ValueError, match="buckets"):
            units.of_buckets(cells)
    for cell in ((-1, 1.0), (0, 1.0), (2, math.nan), (2, math.inf)):
        with pytest.raises(ValueError, match="bucket"):
            units.of_buckets([cell, (3, 1.0), (3, 2.0)])


@settings(max_examples=200)
@given(
    st.lists(st.tuples(st.integers(0, 10**9), st.floats(-1e15, 1e15)), min_size=2, max_size=8),
    st.floats(-1e6, 1e6),
)
def test_extreme_sums_make_moments_that_engine_m_takes(
    cells: list[tuple[int, float]], coefficient: float
) -> None:
    cells = [(n, y) for n, y in cells if n > 0] + [(5, 1.0), (7, -2.0)]
    arm = units.of_buckets(cells)
    n, x = arm.n, 1e12
    pair = Pairs(n, arm.total, arm.squares, x, max(x * x / n, x) * 2, 0.0)
    first, second = units.adjusted(pair, pair, coefficient)
    linear = units.linearised(pair, *units.ratio_of(pair))
    for moments in (arm, first, second, linear):
        state = means.absorb(means.new(), moments, arm)
        assert math.isfinite(means.log_e(state))
