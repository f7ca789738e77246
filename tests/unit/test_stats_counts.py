"""Engine C: exactness by enumeration and against scipy; false alarms and speed by simulation."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from scipy.special import logsumexp
from scipy.stats import hypergeom, nchypergeom_fisher

from sluice.stats import combine, counts
from sluice.stats.counts import Counts

SMALL = [(19, 5, 7), (5, 19, 7), (3, 3, 3), (1, 10, 4), (40, 2, 41)]


@pytest.mark.parametrize(("stable_n", "candidate_n", "s"), SMALL)
def test_moment_equals_scipys_hypergeometric_sum(stable_n: int, candidate_n: int, s: int) -> None:
    theta = np.array([-3.0, 0.0, 0.4, 4.0])
    support = np.arange(max(0, s - stable_n), min(s, candidate_n) + 1)
    log_pmf = hypergeom.logpmf(support, stable_n + candidate_n, candidate_n, s)
    oracle = [logsumexp(log_pmf + t * support) for t in theta]
    x = int(support[0])
    mine = counts.log_moment(Counts(stable_n, s - x, candidate_n, x), theta)
    assert mine == pytest.approx(oracle, abs=1e-11)


@pytest.mark.parametrize(
    ("stable_n", "candidate_n", "s"), [(5000, 1000, 900), (1000, 1000, 1000), (90_000, 900, 5000)]
)
def test_saddlepoint_of_large_counts_equals_the_exact_sum(
    stable_n: int, candidate_n: int, s: int
) -> None:
    theta = np.array([-2.0, 0.05, 1.0, 4.0])
    support = np.arange(max(0, s - stable_n), min(s, candidate_n) + 1)
    log_pmf = hypergeom.logpmf(support, stable_n + candidate_n, candidate_n, s)
    oracle = [logsumexp(log_pmf + t * support) for t in theta]
    x = min(s, candidate_n) // 2
    mine = counts.log_moment(Counts(stable_n, s - x, candidate_n, x), theta)
    assert mine == pytest.approx(oracle, abs=1e-5)


def test_pmf_equals_scipys_noncentral_hypergeometric() -> None:
    for x in range(6):
        mine = counts.log_pmf(Counts(19, 7 - x, 5, x), math.log(2.5))
        oracle = nchypergeom_fisher.logpmf(x, 24, 5, 7, 2.5)
        assert mine == pytest.approx(oracle, abs=1e-9)


def _expectation(
    state: counts.State, stable_n: int, candidate_n: int, s: int, odds: float
) -> float:
    """E[exp(log_e)] after one more look, over every possible split of its events."""
    total = 0.0
    for x in range(max(0, s - stable_n), min(s, candidate_n) + 1):
        look = Counts(stable_n, s - x, candidate_n, x)
        p = float(nchypergeom_fisher.pmf(x, stable_n + candidate_n, candidate_n, s, odds))
        total += p * math.exp(counts.log_e(counts.absorb(state, look)))
    return total


@pytest.mark.parametrize("odds", [0.3, 1.0, 1.2])
@pytest.mark.parametrize(("stable_n", "candidate_n", "s"), SMALL)
def test_e_value_never_grows_on_average_while_the_margin_is_kept(
    stable_n: int, candidate_n: int, s: int, odds: float
) -> None:
    state = counts.start(counts.new(1.2, planned_starts=3))
    for look in (Counts(19, 1, 3, 1), Counts(40, 0, 10, 2)):
        before = math.exp(counts.log_e(state))
        assert _expectation(state, stable_n, candidate_n, s, odds) <= before * (1 + 1e-4)
        state = counts.start(counts.absorb(state, look))


def test_two_looks_enumerated_have_mean_at_most_one() -> None:
    total = 0.0
    first_start = counts.start(counts.new(1.2, planned_starts=2))
    for x in range(4):
        first = counts.absorb(first_start, Counts(10, 3 - x, 4, x))
        p = float(nchypergeom_fisher.pmf(x, 14, 4, 3, 1.2))
        total += p * _expectation(counts.start(first), 12, 6, 4, 1.2)
    assert total <= 1.0 + 1e-4
    # At the margin itself the mean is exactly 1: nothing is given away.
    assert total == pytest.approx(1.0, abs=1e-4)


def test_swapping_the_arms_mirrors_the_confidence_sequence() -> None:
    here, there = counts.new(1.2, 1), counts.new(1.2, 1)
    for look in (Counts(100, 5, 50, 9), Counts(80, 2, 60, 4)):
        here = counts.absorb(here, look)
        mirror = Counts(look.candidate_n, look.candidate_x, look.stable_n, look.stable_x)
        there = counts.absorb(there, mirror)
    low, high = counts.confidence(here, 0.05)
    low_there, high_there = counts.confidence(there, 0.05)
    assert low is not None and high is not None and high_there is not None
    assert low * high_there == pytest.approx(1.0, rel=1e-3)
    assert low_there == pytest.approx(1 / high, rel=1e-3)
    assert counts.odds_ratio(here) == pytest.approx(1 / (counts.odds_ratio(there) or 0.0))


def test_total_outage_alarms_after_four_or_five_failures_at_a_tenth() -> None:
    """reference/statistics.md, section 1: 4 at alpha .05 and 5 at .01 (margin 1)."""
    state = counts.start(counts.new(1.0, 1))
    reached = {}
    for failures in range(1, 8):
        state = counts.absorb(state, Counts(9, 0, 1, 1))
        for alpha in (0.05, 0.01):
            if counts.log_e(state) >= math.log(1 / alpha):
                reached.setdefault(alpha, failures)
    assert reached == {0.05: 4, 0.01: 5}


def test_false_alarms_under_a_ramp_with_a_drifting_base_rate() -> None:
    """Pooled tests alarm in 99.6 % of these runs; here at most alpha + 3 standard errors."""
    rng = np.random.default_rng(7)
    runs, alpha, alarms = 200, 0.05, 0
    for _ in range(runs):
        state = counts.new(1.0, planned_starts=4)
        crossed = False
        for step, weight in enumerate((0.05, 0.1, 0.25, 0.5)):
            state = counts.start(state)
            for k in range(6):
                rate = 0.003 + 0.017 * (step * 6 + k) / 24
                n_candidate = int(rng.binomial(1000, weight))
                n_stable = 1000 - n_candidate
                state = counts.absorb(
                    state,
                    Counts(
                        n_stable,
                        int(rng.binomial(n_stable, rate)),
                        n_candidate,
                        int(rng.binomial(n_candidate, rate)),
                    ),
                )
                crossed = crossed or counts.log_e(state) >= math.log(1 / alpha)
        alarms += crossed
    assert alarms / runs <= alpha + 3 * math.sqrt(alpha * (1 - alpha) / runs)


def test_a_doubled_rate_is_found_within_the_reference_time() -> None:
    """reference/statistics.md, section 1: .5 -> 1 % at w = .5 takes a median of 7.0k requests."""
    rng = np.random.default_rng(3)
    needed = []
    for _ in range(41):
        state, seen = counts.start(counts.new(1.0, 1)), 0
        while counts.log_e(state) < math.log(20) and seen < 100_000:
            seen += 200
            bad, good = int(rng.binomial(100, 0.01)), int(rng.binomial(100, 0.005))
            state = counts.absorb(state, Counts(100, good, 100, bad))
        needed.append(seen)
    assert 7000 * 0.6 <= float(np.median(needed)) <= 7000 * 1.5


def test_confidence_sequence_covers_the_truth() -> None:
    rng = np.random.default_rng(5)
    missed = 0
    for _ in range(100):
        state = counts.new(1.2, 1)
        for _ in range(20):
            state = counts.absorb(
                state,
                Counts(300, int(rng.binomial(300, 0.02)), 100, int(rng.binomial(100, 0.0392))),
            )
        low, high = counts.confidence(state, 0.05)
        odds = (0.0392 / 0.9608) / (0.02 / 0.98)
        missed += (low or 0.0) > odds or (high or math.inf) < odds
    assert missed <= 5 + 3 * math.sqrt(100 * 0.05 * 0.95)


def test_splitting_the_largest_bucket_off_takes_its_evidence_away() -> None:
    state = counts.start(counts.new(1.2, 1))
    for _ in range(10):
        state = counts.absorb(state, Counts(900, 1, 100, 3))
    gain = counts.gain_of(state, stable_x=0, candidate_x=25, share=0.1)
    assert counts.log_e(state, without=gain) < math.log(20) < counts.log_e(state)


def test_state_survives_json_and_a_dispersion_divides_evidence() -> None:
    state = counts.start(counts.new(1.2, 4))
    for _ in range(6):
        state = counts.absorb(state, Counts(95, 0, 5, 3))
    again = json.loads(json.dumps(state))
    assert counts.log_e(again) == counts.log_e(state)
    evidence = [counts.log_e(state, phi) for phi in (1.0, 1.4, 2.0, 7.0, 1000.0)]
    assert evidence == sorted(evidence, reverse=True)


def test_mean_of_e_values() -> None:
    assert combine.log_mean([]) == 0.0
    assert combine.log_mean([math.log(30.0), 0.0, 0.0]) == pytest.approx(math.log(32 / 3))
    assert combine.log_mean([1000.0, -1000.0], [1.0, 3.0]) == pytest.approx(1000 - math.log(4))
    with pytest.raises(ValueError, match="weight"):
        combine.log_mean([1.0, 2.0], [1.0])


def test_a_state_of_fewer_dispersions_is_measured_anew_beyond_them() -> None:
    look = Counts(900, 3, 900, 60)
    whole = counts.absorb(counts.start(counts.new(1.0, 2)), look)
    old = {**whole, "up": whole["up"][:6]}
    assert counts.log_e(old, 10.0) == counts.log_e(whole, 10.0)
    assert counts.log_e(old, 60.0) == pytest.approx(0.0, abs=1e-4)
    more, both = counts.absorb(old, look), counts.absorb(whole, look)
    assert counts.log_e(more, 10.0) == counts.log_e(both, 10.0)
    assert 0.0 < counts.log_e(more, 60.0) < counts.log_e(both, 60.0)
    assert len(counts.start(old)["up"]) == len(whole["up"])
    assert counts.log_e({**counts.new(1.0, 1), "up": old["up"]}, 60.0) == pytest.approx(0.0)
