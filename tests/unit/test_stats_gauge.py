"""One number a look: quiet on correlated noise, loud on a shift, and never by accident."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from sluice.stats import gauge

Floats = NDArray[np.float64]

RUNS = 300
LOOKS = 240
ALPHA = 0.05


def noise(rng: np.random.Generator, correlation: float) -> Floats:
    """A stationary AR(1) series of variance 1."""
    fresh = rng.normal(size=LOOKS) * math.sqrt(1.0 - correlation**2)
    values = np.empty(LOOKS)
    values[0] = rng.normal()
    for t in range(1, LOOKS):
        values[t] = correlation * values[t - 1] + fresh[t]
    return values


def window_means(rng: np.random.Generator, looks: int) -> Floats:
    """What a rate over the last ``looks`` looks gives: a moving mean, of variance 1."""
    fresh = rng.normal(size=LOOKS + looks)
    sums = np.cumsum(fresh)
    means: Floats = (sums[looks:] - sums[:-looks]) / math.sqrt(looks)
    return means


def of(values: Sequence[float] | Floats, size: float = 10.0) -> gauge.State:
    state = gauge.new()
    for value in values:
        state = gauge.absorb(state, float(value), size)
    return state


def alarm(values: Floats, alpha: float = ALPHA) -> int | None:
    """The look at which the evidence first suffices."""
    state = gauge.new()
    for number, value in enumerate(values):
        state = gauge.absorb(state, float(value), 10.0)
        if gauge.log_e(state) >= -math.log(alpha):
            return number + 1
    return None


@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.8, 0.9, 0.95])
def test_correlated_noise_raises_no_more_false_alarms_than_claimed(correlation: float) -> None:
    rng = np.random.default_rng(5)
    false = sum(alarm(noise(rng, correlation)) is not None for _ in range(RUNS))
    assert false <= ALPHA * RUNS


@pytest.mark.parametrize("looks", [3, 6, 30])
def test_nor_do_values_that_share_a_window_of_time(looks: int) -> None:
    rng = np.random.default_rng(6)
    false = sum(alarm(window_means(rng, looks)) is not None for _ in range(RUNS))
    assert false <= ALPHA * RUNS


def test_a_shift_is_found_and_later_the_more_correlated_the_noise() -> None:
    rng = np.random.default_rng(7)
    medians = []
    for correlation in (0.0, 0.4, 0.6):
        found = [alarm(noise(rng, correlation) + 2.5) for _ in range(40)]
        assert sum(f is not None for f in found) >= 36
        medians.append(float(np.median([f or LOOKS for f in found])))
    assert medians == sorted(medians)
    assert medians[0] <= 40


def test_better_is_no_evidence() -> None:
    assert gauge.log_e(of(np.full(100, -1.0))) < -math.log(2)


def test_a_constant_difference_counts_as_noise_of_a_thousandth() -> None:
    steady = of([0.5] * 30, size=1.0)
    assert gauge.log_e(steady) > math.log(1000)
    assert gauge.log_e(of([0.0005] * 30, size=1.0)) < math.log(1000)
    assert gauge.log_e(of([0.0] * 40, size=0.0)) == 0.0


@pytest.mark.parametrize("looks", [0, 1, 7, 29])
def test_nothing_is_said_before_thirty_looks(looks: int) -> None:
    assert gauge.log_e(of([5.0] * looks)) == 0.0


def test_looks_that_say_the_same_again_are_not_thirty() -> None:
    """Each value is repeated ten times: 60 looks are 6."""
    rng = np.random.default_rng(8)
    assert gauge.log_e(of(np.repeat(rng.normal(3.0, 1.0, 6), 10))) == 0.0


def test_the_state_is_json_and_grows_with_the_logarithm() -> None:
    rng = np.random.default_rng(9)
    state = of(rng.normal(size=1025))
    again = json.loads(json.dumps(state))
    assert gauge.log_e(again) == gauge.log_e(state)
    assert len(state["levels"]) == 11
    before = json.dumps(state)
    gauge.absorb(state, 1.0, 1.0)
    assert json.dumps(state) == before


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e101])
def test_what_is_no_number_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="is not a number"):
        gauge.absorb(gauge.new(), value, 1.0)
    with pytest.raises(ValueError, match="is not a number"):
        gauge.absorb(gauge.new(), 1.0, value)


def test_large_and_tiny_numbers_are_numbers() -> None:
    rng = np.random.default_rng(10)
    for scale in (1e-90, 1e90):
        state = of(scale * (1.0 + 0.1 * rng.normal(size=256)), size=scale)
        assert math.isfinite(gauge.log_e(state)) and gauge.log_e(state) > 0


def test_the_mean_is_that_of_all_looks() -> None:
    assert gauge.mean(gauge.new()) is None
    assert gauge.mean(of([1.0, 2.0, 6.0])) == pytest.approx(3.0)
