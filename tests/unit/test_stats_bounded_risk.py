"""Promotion: the bound is exact by enumeration, and as fast as reference/promotion.md says."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
from scipy.stats import binom

from sluice.stats import bounded_risk as br
from sluice.stats.counts import Counts

ALPHA = 0.025


@pytest.mark.parametrize("p", [0.0, 0.05, 0.4, 0.79])
@pytest.mark.parametrize("looks", [[(3, 2)], [(4, 1), (2, 5)], [(1, 3), (5, 5)]])
def test_mean_is_at_most_one_when_the_candidate_is_worse_by_the_margin(
    p: float, looks: list[tuple[int, int]]
) -> None:
    tau = 0.2
    q = max(p + tau, 1.2 * p)
    total = 0.0
    splits = [list(itertools.product(range(a + 1), range(b + 1))) for a, b in looks]
    for xs in itertools.product(*splits):
        state = br.new(tau, 1.2, p0=0.3, share=0.4)
        chance = 1.0
        for (a, b), (x_a, x_b) in zip(looks, xs, strict=True):
            chance *= float(binom.pmf(x_a, a, p) * binom.pmf(x_b, b, min(1.0, q)))
            state = br.absorb(state, Counts(a, x_a, b, x_b))
        total += chance * math.exp(br.log_e(state))
    assert total <= 1.0 + 1e-5


@pytest.mark.parametrize(
    ("tau", "share", "reference"), [(0.05, 0.05, 95), (0.02, 0.25, 233), (0.005, 0.5, 946)]
)
def test_zero_errors_pass_after_the_rule_of_three(tau: float, share: float, reference: int) -> None:
    state, n = br.new(tau, 1.2, p0=1e-6, share=share), 0
    while br.log_e(state) < math.log(1 / ALPHA):
        n += round(100 * share)
        state = br.absorb(state, Counts(round(100 * (1 - share)), 0, round(100 * share), 0))
    assert reference * 0.9 <= n <= reference * 1.15


def test_nothing_is_claimed_before_there_is_evidence() -> None:
    state = br.new(0.005, 1.2, p0=None, share=0.5)
    assert br.log_e(state) == pytest.approx(0.0, abs=1e-6)
    assert br.bound(state, ALPHA) is None
    assert br.absorb(state, Counts(0, 0, 10, 3)) is state
    assert br.absorb(state, Counts(10, 3, 0, 0)) is state


def test_bound_is_where_the_test_turns() -> None:
    state = br.new(0.02, 1.2, p0=0.005, share=0.25)
    for _ in range(10):
        state = br.absorb(state, Counts(300, 2, 100, 1))
    bound = br.bound(state, ALPHA)
    assert bound is not None
    first = np.array(state["g1"]), np.array(state["prior1"])
    at = br.log_e_line(*first, state["n"], state["x"], bound, 1.0)
    assert at == pytest.approx(math.log(1 / ALPHA), abs=0.01)
    assert br.bound(state, ALPHA, phi=2.0) > bound  # type: ignore[operator]


def test_a_worse_candidate_passes_no_oftener_than_allowed() -> None:
    """False pass at delta = tau, drifting base rate: at most alpha + 3 standard errors."""
    rng = np.random.default_rng(11)
    runs, passed = 150, 0
    for _ in range(runs):
        state = br.new(0.02, 1.5, p0=0.005, share=0.25)
        for k in range(60):
            p = 0.005 * (1 + 0.8 * math.sin(k / 10))
            stable, candidate = int(rng.binomial(150, p)), int(rng.binomial(50, p + 0.02))
            state = br.absorb(state, Counts(150, stable, 50, candidate))
            if br.log_e(state) >= math.log(1 / ALPHA):
                passed += 1
                break
    assert passed / runs <= ALPHA + 3 * math.sqrt(ALPHA * (1 - ALPHA) / runs)


def test_an_equal_candidate_passes_in_the_estimated_time() -> None:
    rng = np.random.default_rng(2)
    needed = []
    for _ in range(40):
        state, n = br.new(0.005, 1.2, p0=0.005, share=0.5), 0
        while br.log_e(state) < math.log(1 / ALPHA) and n < 50_000:
            n += 100
            stable, candidate = int(rng.binomial(100, 0.005)), int(rng.binomial(100, 0.005))
            state = br.absorb(state, Counts(100, stable, 100, candidate))
        needed.append(n)
    estimate = br.requests_needed(0.005, 1.2, 0.005, 0.5, ALPHA)
    assert estimate * 0.6 <= float(np.median(needed)) <= estimate * 1.6


def test_remaining_requests_shrink_with_evidence() -> None:
    state = br.new(0.02, 1.5, p0=0.001, share=0.25)
    left = []
    for _ in range(8):
        state = br.absorb(state, Counts(300, 0, 100, 0))
        left.append(br.requests_left(state, 0.25, br.log_e(state), alpha=ALPHA, phi=1.0))
    assert left == sorted(left, reverse=True) and left[-1] == 0.0


def test_a_tenth_of_client_errors_does_not_need_hours_in_an_early_step() -> None:
    early = br.requests_needed(0.02, 1.5, 0.1, 0.25, ALPHA)
    assert early < 0.3 * br.requests_needed(0.02, 1.0, 0.1, 0.25, ALPHA)


def test_last_margin_follows_traffic() -> None:
    """reference/promotion.md, section 3 A, base .5 % and .1 %."""
    assert br.last_margin(0.005, 0.5, 10.0, 1200.0) == 0.005
    assert br.last_margin(0.005, 0.5, 100.0, 1200.0) == 0.002
    assert br.last_margin(0.001, 0.5, 10.0, 1200.0) == 0.003
    assert br.last_margin(0.001, 0.5, 100.0, 1200.0) == 0.001
    assert br.last_margin(None, 0.5, 100.0, 1200.0) == 0.005


def test_state_survives_json() -> None:
    state = br.absorb(br.new(0.005, 1.2, p0=0.01, share=0.5), Counts(500, 3, 500, 4))
    again = json.loads(json.dumps(state))
    assert again == state
    assert br.log_e(again) == br.log_e(state)
