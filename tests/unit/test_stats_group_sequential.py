"""Group-sequential bounds: published values, the error they promise, and uneven looks."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from sluice.stats import group_sequential as gs

FIFTHS = [0.2, 0.4, 0.6, 0.8, 1.0]


def test_one_look_is_the_fixed_test() -> None:
    for spending in ("obrien-fleming", "pocock"):
        assert gs.bounds([1.0], 0.025, spending) == [pytest.approx(norm.isf(0.025), abs=1e-6)]  # type: ignore[arg-type]
    assert gs.bounds([1.0], 0.05, two_sided=True) == [pytest.approx(norm.isf(0.025), abs=1e-6)]


def test_five_even_looks_give_the_published_bounds() -> None:
    """Bounds of the Lan-DeMets spending functions at a one-sided level of .025."""
    fleming = gs.bounds(FIFTHS, 0.025)
    assert fleming == pytest.approx([4.8769, 3.3569, 2.6803, 2.2898, 2.0310], abs=2e-4)
    pocock = gs.bounds(FIFTHS, 0.025, "pocock")
    assert pocock == pytest.approx([2.4380, 2.4268, 2.4101, 2.3966, 2.3860], abs=2e-4)


def test_two_sided_bounds_are_one_sided_ones_at_half_the_level() -> None:
    two, one = gs.bounds(FIFTHS, 0.05, two_sided=True), gs.bounds(FIFTHS, 0.025)
    assert two == pytest.approx(one, abs=1e-4)


UNEVEN = [[0.05, 0.3, 0.31, 0.6, 1.0], [0.01, 0.5, 0.9], [0.1, 0.7, 1.0, 1.3]]


@pytest.mark.parametrize("spending", ["obrien-fleming", "pocock"])
@pytest.mark.parametrize("fractions", UNEVEN)
def test_uneven_looks_spend_what_they_may_and_no_more(
    fractions: list[float], spending: gs.Spending
) -> None:
    rng, runs = np.random.default_rng(1), 200_000
    steps = np.sqrt(np.diff([0.0, *fractions]))
    z = np.cumsum(rng.normal(size=(runs, len(steps))) * steps, axis=1) / np.sqrt(fractions)
    for two_sided, alpha in ((False, 0.025), (True, 0.1)):
        bounds = np.array(gs.bounds(fractions, alpha, spending, two_sided=two_sided))
        crossed = ((np.abs(z) if two_sided else z) >= bounds).any(axis=1).mean()
        sides = 2 if two_sided else 1
        may = sides * gs.spent(fractions[-1], alpha / sides, spending)
        assert abs(crossed - may) <= 4 * math.sqrt(may / runs)


def test_more_is_spent_as_information_grows() -> None:
    for spending in ("obrien-fleming", "pocock"):
        spent = [gs.spent(t / 10, 0.05, spending) for t in range(13)]  # type: ignore[arg-type]
        assert spent == sorted(spent) and spent[0] == 0.0
        assert spent[10] == pytest.approx(0.05) and spent[12] == spent[10]


def test_a_look_too_early_to_spend_anything_never_stops() -> None:
    assert gs.bounds([0.01, 1.0], 0.025)[0] == gs.NEVER
    # Beyond the horizon there is nothing left to spend.
    assert gs.bounds([1.0, 1.2], 0.025)[1] == gs.NEVER


def test_power_of_a_declared_end() -> None:
    """The last bound is close to the fixed test's: looking ten times costs little power."""
    fractions = [k / 10 for k in range(1, 11)]
    rng = np.random.default_rng(2)
    drift = norm.isf(0.025) + norm.isf(0.1)
    steps = rng.normal(size=(20_000, 10)) * math.sqrt(0.1) + drift * 0.1
    z = np.cumsum(steps, axis=1) / np.sqrt(fractions)
    assert (z >= np.array(gs.bounds(fractions, 0.025))).any(axis=1).mean() > 0.87


@pytest.mark.parametrize(
    ("fractions", "alpha", "message"),
    [
        ([], 0.05, "fractions"),
        ([0.5, 0.5], 0.05, "fractions"),
        ([0.5, 0.4], 0.05, "fractions"),
        ([0.5, 0.503], 0.05, "fractions"),
        ([-0.5, 1.0], 0.05, "fractions"),
        ([0.5, math.nan], 0.05, "fractions"),
        ([0.5, math.inf], 0.05, "fractions"),
        ([0.5, 1.0], 0.0, "alpha"),
        ([0.5, 1.0], 0.5, "alpha"),
        ([0.5, 1.0], math.nan, "alpha"),
    ],
)
def test_plans_that_cannot_be_are_refused(
    fractions: list[float], alpha: float, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        gs.bounds(fractions, alpha)


@settings(max_examples=40)
@given(
    st.lists(st.floats(0.01, 0.5), min_size=1, max_size=6),
    st.floats(1e-5, 0.4),
    st.sampled_from(["obrien-fleming", "pocock"]),
    st.booleans(),
)
def test_bounds_are_numbers_no_wider_than_a_single_look_allows(
    steps: list[float], alpha: float, spending: gs.Spending, two_sided: bool
) -> None:
    bounds = gs.bounds(np.cumsum(steps).tolist(), alpha, spending, two_sided=two_sided)
    least = norm.isf(alpha / 2 if two_sided else alpha)
    assert all(least - 1e-6 <= b <= gs.NEVER for b in bounds)
