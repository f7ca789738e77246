"""Non-inferiority: exact by enumeration, and as fast as the estimate says."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
from scipy.stats import binom

from sluice.stats import non_inferiority as ni
from sluice.stats.counts import Counts

ALPHA = 0.025


def absorbed(state: ni.State, *looks: Counts) -> ni.State:
    for look in looks:
        (state,) = ni.absorb_each([state], [look])
    return state


@pytest.mark.parametrize("p", [0.05, 0.4, 0.8])
@pytest.mark.parametrize("margin", [1.0, 1.2, 2.0])
@pytest.mark.parametrize("looks", [[(3, 2)], [(4, 1), (2, 5)], [(1, 3), (5, 5)]])
def test_mean_is_at_most_one_when_the_candidate_is_worse_by_the_margin(
    p: float, margin: float, looks: list[tuple[int, int]]
) -> None:
    odds = margin * p / (1 - p)
    q = odds / (1 + odds)
    total = 0.0
    splits = [list(itertools.product(range(a + 1), range(b + 1))) for a, b in looks]
    for xs in itertools.product(*splits):
        state, chance = ni.new(margin), 1.0
        for (a, b), (x_a, x_b) in zip(looks, xs, strict=True):
            chance *= float(binom.pmf(x_a, a, p) * binom.pmf(x_b, b, q))
            state = absorbed(state, Counts(a, x_a, b, x_b))
        total += chance * math.exp(ni.log_e(state))
    assert total <= 1.0 + 1e-4


@pytest.mark.parametrize(
    ("p", "margin", "share", "total"),
    [
        (0.01, 1.25, 0.5, 52_000),
        (0.01, 1.5, 0.5, 16_000),
        (0.01, 2.0, 0.1, 12_000),
        (0.005, 2.0, 0.1, 22_000),
    ],
)
def test_estimate_is_what_simulations_took(
    p: float, margin: float, share: float, total: float
) -> None:
    """Requests of both arms at alpha 0.05 (median), from simulations of the same engine."""
    assert ni.requests_needed(margin, p, share, 0.05) / share == pytest.approx(total, rel=0.25)


def test_an_equal_candidate_passes_about_when_it_was_said() -> None:
    rng, taken = np.random.default_rng(5), []
    for _ in range(20):
        state, n = ni.new(2.0), 0
        while ni.log_e(state) < math.log(1 / ALPHA):
            n += 500
            state = absorbed(
                state, Counts(500, int(rng.binomial(500, 0.02)), 500, int(rng.binomial(500, 0.02)))
            )
        taken.append(n)
    assert ni.requests_needed(2.0, 0.02, 0.5, ALPHA) == pytest.approx(np.median(taken), rel=0.5)


def test_what_is_left_shrinks_to_nothing_as_evidence_comes() -> None:
    state, left = ni.new(1.5), [math.inf]
    for _ in range(40):
        state = absorbed(state, Counts(1000, 20, 1000, 20))
        left.append(ni.requests_left(state, 0.5, alpha=ALPHA))
    assert left == sorted(left, reverse=True) and left[1] > 0
    assert left[-1] == 0.0 and ni.log_e(state) >= math.log(1 / ALPHA)
    assert ni.requests_left(state, 0.5, alpha=ALPHA, phi=25.0) > 0


def test_where_nothing_fails_no_ratio_is_ever_shown() -> None:
    state = absorbed(ni.new(1.2), Counts(10**6, 0, 10**6, 0))
    assert ni.log_e(state) == pytest.approx(0.0, abs=1e-6)
    assert ni.requests_left(state, 0.5, alpha=ALPHA) == math.inf
    assert ni.requests_needed(1.2, 0.0, 0.5, ALPHA) == math.inf


def test_a_margin_of_one_is_out_of_reach_of_an_equal_candidate() -> None:
    assert ni.requests_needed(1.0, 0.01, 0.5, ALPHA) == math.inf


def test_everything_fails_in_both_arms() -> None:
    state = absorbed(ni.new(1.2), Counts(50, 50, 50, 50))
    assert ni.requests_left(state, 0.5, alpha=ALPHA) == math.inf


def test_the_state_is_json_and_is_not_changed() -> None:
    before = ni.new(1.2)
    kept = json.loads(json.dumps(before))
    assert absorbed(before, Counts(100, 3, 100, 1)) != before == kept


@pytest.mark.parametrize("margin", [0.0, -1.0, math.inf, math.nan])
def test_margins_that_are_none_are_refused(margin: float) -> None:
    with pytest.raises(ValueError, match="must be a number above 0"):
        ni.new(margin)
