"""Sample ratio: the likelihood against an oracle, exactness, speed, and changes of weight."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.special import betaln, expit
from scipy.stats import binom, norm

from sluice.stats import sample_ratio as sr

LEVEL = -math.log(sr.ALPHA)


def after(*looks: tuple[int, int, float]) -> sr.State:
    state = sr.new()
    for look in looks:
        state = sr.absorb(state, *look)
    return state


def likelihood(shift: float, a: int, b: int, w: float) -> float:
    share = expit(math.log(w / (1 - w)) + shift)
    return math.exp(b * math.log(share / w) + a * math.log((1 - share) / (1 - w)))


def beta_mixture(a: int, b: int, w: float, k: float) -> float:
    odds = -b * math.log(w) - a * math.log1p(-w)
    return float(betaln(k * w + b, k * (1 - w) + a) - betaln(k * w, k * (1 - w))) + odds


def test_evidence_is_the_likelihood_ratio_mixed_over_the_prior() -> None:
    """The likelihood under a Beta(50, 50) share is 274.133, as other implementations say."""
    a, b, w = 4800, 5200, 0.5

    def of_beta(share: float) -> float:
        log_density = 49 * math.log(share * (1 - share)) - float(betaln(50, 50))
        return likelihood(math.log(share / (1 - share)), a, b, w) * math.exp(log_density)

    integral, _ = quad(of_beta, 0.3, 0.7, points=[0.52], limit=200)
    assert integral == pytest.approx(274.133, abs=1e-3)
    assert math.exp(beta_mixture(a, b, w, 100)) == pytest.approx(274.133, abs=1e-3)

    def of_prior(shift: float) -> float:
        density = 0.9 * norm.pdf(shift, scale=0.1) + 0.1 * norm.pdf(shift, scale=1.0)
        return likelihood(shift, a, b, w) * density

    mine, _ = quad(of_prior, -1.0, 1.0, points=[0.08], limit=200)
    assert math.exp(sr.log_e(after((a, b, w)))) == pytest.approx(mine, rel=1e-3)


@pytest.mark.parametrize("weight", [0.01, 0.1, 0.5, 0.9])
def test_mean_of_the_evidence_is_one_while_the_weights_are_true(weight: float) -> None:
    total = 0.0
    for first in range(13):
        chance = float(binom.pmf(first, 12, weight))
        # The next weight may depend on what was seen.
        then = 0.3 if first > 3 else weight
        for second in range(9):
            state = after((12 - first, first, weight), (8 - second, second, then))
            total += chance * float(binom.pmf(second, 8, then)) * math.exp(sr.log_e(state))
    assert total == pytest.approx(1.0, rel=1e-9)


def test_false_alarms_through_a_ramp_and_a_mismatch_in_it() -> None:
    rng, alarms, found = np.random.default_rng(1), 0, 0
    for _ in range(100):
        for bias in (1.0, 0.9):
            state, crossed = sr.new(), False
            for weight in np.repeat([0.05, 0.1, 0.25, 0.5], 10):
                b = int(rng.binomial(1000, weight * bias))
                state = sr.absorb(state, 1000 - b, b, float(weight))
                crossed = crossed or sr.log_e(state) >= LEVEL
            if bias == 1.0:
                alarms += crossed
            else:
                found += crossed
    assert alarms <= 1 and found >= 99


@pytest.mark.parametrize(("weight", "real", "reference"), [(0.5, 0.52, 9_900), (0.1, 0.09, 13_900)])
def test_mismatches_are_found_within_the_reference_time(
    weight: float, real: float, reference: int
) -> None:
    """reference/statistics.md, section 5: the same speed as a Beta mixture with k = 1000."""
    rng, needed = np.random.default_rng(2), []
    for _ in range(41):
        state, n = sr.new(), 0
        while sr.log_e(state) < LEVEL:
            n += 200
            b = int(rng.binomial(200, real))
            state = sr.absorb(state, 200 - b, b, weight)
        needed.append(n)
    assert 0.6 * reference <= float(np.median(needed)) <= 1.5 * reference


def test_an_arm_without_any_units_is_found_after_dozens() -> None:
    """A Beta mixture with k = 1000 needs more than a hundred."""
    assert sr.log_e(after((25, 0, 0.5))) > LEVEL
    assert beta_mixture(100, 0, 0.5, 1000) < LEVEL


def test_looks_of_one_weight_add_up_and_swapping_the_arms_mirrors() -> None:
    split = after((100, 30, 0.25), (10, 10, 0.5), (200, 70, 0.25))
    assert sr.log_e(split) == sr.log_e(after((300, 100, 0.25), (10, 10, 0.5)))
    here, there = after((4100, 1000, 0.25)), after((1000, 4100, 0.75))
    assert sr.log_e(here) == pytest.approx(sr.log_e(there))
    low, high = sr.confidence(here)
    assert sr.confidence(there) == (pytest.approx(1 - high), pytest.approx(1 - low))


def test_confidence_leaves_the_plan_out_exactly_when_the_evidence_suffices() -> None:
    for candidate in (480, 450, 420, 400, 390, 380, 370):
        state = after((1000 - candidate, candidate, 0.5), (900, 100, 0.1))
        low, high = sr.confidence(state)
        observed, planned = sr.shares(state)
        assert low < observed < high and planned == pytest.approx(0.3)
        assert (not low <= planned <= high) == (sr.log_e(state) >= LEVEL)


def test_edges() -> None:
    assert sr.log_e(sr.new()) == pytest.approx(0.0, abs=1e-9)
    assert sr.shares(sr.new()) == (None, None) and sr.confidence(sr.new()) == (None, None)
    nobody = sr.confidence(after((500, 0, 0.1)))
    assert nobody[0] == 0.0 and 0.0 < nobody[1] < 0.1
    everybody = sr.confidence(after((0, 500, 0.1)))
    assert everybody[1] == 1.0 and 0.1 < everybody[0] < 1.0
    state = after((5, 5, 0.5))
    before = json.dumps(state)
    sr.absorb(state, 1, 1, 0.5)
    assert json.dumps(state) == before and sr.log_e(json.loads(before)) == sr.log_e(state)


def test_what_cannot_be_is_refused() -> None:
    for a, b in ((-1, 0), (True, 0), (1.5, 0), (10**13, 0)):
        with pytest.raises(ValueError, match="stable"):
            sr.absorb(sr.new(), a, b, 0.5)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="candidate"):
            sr.absorb(sr.new(), b, a, 0.5)  # type: ignore[arg-type]
    for weight in (0.0, 1.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="weight"):
            sr.absorb(sr.new(), 1, 1, weight)
    for spread in (0.0, math.nan, 9.0):
        with pytest.raises(ValueError, match="spread"):
            sr.new(spread)
    full = {**sr.new(), "units": [[0.1 + k / 1000, 1, 1] for k in range(sr.MOST_WEIGHTS)]}
    with pytest.raises(ValueError, match="different weights"):
        sr.absorb(full, 1, 1, 0.9)


@settings(max_examples=150)
@given(
    st.lists(
        st.tuples(st.integers(0, 10**9), st.integers(0, 10**9), st.floats(1e-6, 1 - 1e-6)),
        min_size=1,
        max_size=5,
    ),
    st.floats(1e-6, 0.5),
)
def test_no_counts_give_nan(looks: list[tuple[int, int, float]], alpha: float) -> None:
    state = after(*looks)
    assert math.isfinite(sr.log_e(state))
    low, high = sr.confidence(state, alpha)
    observed, _ = sr.shares(state)
    if observed is not None:
        assert 0.0 <= low <= observed <= high <= 1.0
