"""Looks, dispersion, latency, shift, hard limits, the watch's schedule."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from scipy.stats import hypergeom

from sluice.stats import dispersion, hard_limit, latency, outage, shift, watch
from sluice.stats.counts import Counts
from sluice.stats.crossing import crossing
from sluice.stats.look import ArmLook, Look, latency_bin, latency_edge


def _look(**candidate: object) -> Look:
    return Look(1, 1.0, 5, ArmLook(n=10), ArmLook(**candidate))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("candidate", "message"),
    [
        ({"n": -1}, "look 1, candidate: requests: -1 is negative"),
        ({"n": 3, "model_errors": 4}, "4 model errors of only 3 requests"),
        ({"n": 3, "client_errors": 2, "model_errors": 2}, "of only 3 requests"),
        ({"n": 3.5}, "3.5 is not a whole number"),
        ({"n": True}, "True is not a whole number"),
        ({"n": 1, "latency": {700: 1}}, "latency bin 700 is outside"),
        ({"n": 1, "latency": {3: -1}}, "latency bin 3: -1 is negative"),
        ({"n": 1, "scores": (1, 2), "score_reference": (1,)}, "2 score bins but 1"),
        ({"n": 1, "buckets": {500: (1, 0, 0)}}, "unit bucket 500 is outside"),
        ({"n": 1, "pods": ((1, 0, 2),)}, "pod 0"),
        ({"n": 1, "non_finite": -2}, "non-finite"),
        ({"n": 1, "load_per_pod": math.nan}, "load per pod is nan"),
    ],
)
def test_impossible_counts_are_refused_by_name(candidate: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        _look(**candidate)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": -1}, "id"),
        ({"seconds": math.inf}, "observed seconds"),
        ({"weight": 101}, "weight 101"),
    ],
)
def test_impossible_looks_are_refused(change: dict[str, object], message: str) -> None:
    fields = {"id": 1, "seconds": 1.0, "weight": 5, "stable": ArmLook(), "candidate": ArmLook()}
    with pytest.raises(ValueError, match=message):
        Look(**{**fields, **change})  # type: ignore[arg-type]


def test_latency_bins_are_two_percent_wide() -> None:
    assert latency_bin(0.0) == 0
    assert latency_bin(1e9) == 699
    assert latency_bin(latency_edge(200) * 1.01) == 200


def test_pods_that_fail_in_bursts_are_dispersed_and_even_ones_are_not() -> None:
    rng = np.random.default_rng(1)
    even, bursts = dispersion.new_pods(), dispersion.new_pods()
    for k in range(30):
        quiet = [(100, int(x)) for x in rng.binomial(100, 0.02, size=3)]
        burst = [(100, 20), (100, 0), (100, 1)] if k % 5 == 0 else quiet
        even = dispersion.absorb_pods(even, (quiet, quiet))
        bursts = dispersion.absorb_pods(bursts, (quiet, burst))
    assert max(dispersion.phi_of_pods(even)) < 1.5
    assert dispersion.phi_of_pods(bursts)[0] < 1.5 < 3.0 < dispersion.phi_of_pods(bursts)[1]
    assert dispersion.phi_of_pods(dispersion.new_pods()) == (1.0, 1.0)


def test_one_burst_shows_after_many_quiet_looks() -> None:
    """It is one look that alarms, so the quiet ones before must not drown it."""
    state = dispersion.new_pods()
    for k in range(50):
        state = dispersion.absorb_pods(state, ([], [(33, k % 2), (33, 0), (34, 0)]))
    assert dispersion.phi_of_pods(state)[1] == 1.0
    state = dispersion.absorb_pods(state, ([], [(33, 7), (33, 0), (34, 0)]))
    assert dispersion.phi_of_pods(state)[1] > 1.5


def test_bursts_on_stable_carry_over_with_the_requests() -> None:
    assert dispersion.phi_of_alarm(10.0, 1.0, 1 / 9) == pytest.approx(2.0)
    assert dispersion.phi_of_alarm(10.0, 3.0, 1 / 9) == pytest.approx(3.0)
    assert dispersion.phi_of_alarm(4.0, 1.0, 9.0) == pytest.approx(4.0)


def test_pods_of_the_version_before_are_measured_anew() -> None:
    before = {"chi": [3.0, 4.0], "free": [2, 2]}
    assert dispersion.phi_of_pods(before) == (1.0, 1.0)
    after = dispersion.absorb_pods(before, ([(10, 1), (10, 1)], [(10, 5), (10, 0)]))
    assert dispersion.phi_of_pods(after)[1] > 1.0


def test_units_with_their_own_failure_rate_are_dispersed() -> None:
    rng = np.random.default_rng(2)
    state = dispersion.new_buckets()
    bad = set(rng.choice(500, size=10, replace=False).tolist())
    for _ in range(4):
        cells = {b: (20, 0, int(rng.binomial(20, 0.25 if b in bad else 0.0))) for b in range(500)}
        state = dispersion.absorb_buckets(state, cells, {})
    assert dispersion.phi_of_buckets(state, 2) > 5.0
    assert dispersion.phi_of_buckets(state, 1) == 1.0
    assert json.loads(json.dumps(state)) == state


def test_largest_bucket_is_the_candidates() -> None:
    state = dispersion.absorb_buckets(
        dispersion.new_buckets(), {3: (9, 0, 9), 4: (5, 0, 1)}, {4: (7, 0, 5), 9: (3, 0, 2)}
    )
    assert dispersion.largest_bucket(state, 2) == (1, 5)
    assert dispersion.distinct_units(state) == 2
    assert dispersion.largest_bucket(dispersion.new_buckets(), 2) == (0, 0)


def _histogram(rng: np.random.Generator, n: int, median: float) -> dict[int, int]:
    bins = [latency_bin(float(v)) for v in median * np.exp(0.5 * rng.normal(size=n))]
    return {b: bins.count(b) for b in set(bins)}


def test_a_latency_state_of_the_version_before_goes_on() -> None:
    look, margin = {300: 900, 310: 90, 320: 10}, latency.tolerance_of("comparable", 1.1)
    state = latency.absorb(latency.start(latency.new(1)), look, look, margin)
    before = {
        **state,
        **{
            kind: [{str(p[0] + i): n for i, n in enumerate(p[1:]) if n} for p in state[kind]]
            for kind in ("past", "recent")
        },
    }
    assert latency.seen(before) == latency.seen(state) == (1000, 1000)
    assert latency.values(before, 0) == latency.values(state, 0)
    after, now = (latency.absorb(s, look, look, margin) for s in (before, state))
    assert after == now


def _latency_run(
    seed: int, slower: float, looks: int = 20, weight: float = 0.5
) -> dict[str, float]:
    rng = np.random.default_rng(seed)
    state = latency.start(latency.new(1))
    margin = latency.tolerance_of("comparable", 1.1)
    promotion = latency.new_promotion()
    for _ in range(looks):
        stable = _histogram(rng, int(300 * (1 - weight)), 0.02)
        candidate = _histogram(rng, int(300 * weight), 0.02 * slower)
        seen = latency.measured(state, stable, candidate, margin)
        promotion = latency.absorb_promotion(promotion, seen, margin)
        state = latency.absorb(state, stable, candidate, margin)
    return {"alarm": latency.log_e(state), "pass": min(latency.log_e_promotion(promotion))}


def test_slower_alarms_and_equal_passes() -> None:
    equal = [_latency_run(s, 1.0) for s in range(10)]
    slow = [_latency_run(s, 1.5) for s in range(5)]
    assert max(r["alarm"] for r in equal) < math.log(200)
    assert min(r["alarm"] for r in slow) > math.log(200)
    assert sorted(r["pass"] for r in equal)[5] > math.log(40)
    assert max(r["pass"] for r in slow) < math.log(40)


def test_loads_that_differ_widen_what_is_tolerated() -> None:
    light = ArmLook(n=10, load_per_pod=1.0)
    heavy = ArmLook(n=10, load_per_pod=10.0)
    assert latency.load_of(light, light) == "comparable"
    assert latency.load_of(heavy, light) == "lighter"
    assert latency.load_of(light, heavy) == "heavier"
    assert latency.load_of(ArmLook(), light) == "unknown"
    edges = [
        latency.tolerance_of(load, 1.1).edge(latency_bin(0.02))
        for load in ("comparable", "lighter", "heavier")
    ]
    assert edges == sorted(edges) and len(set(edges)) == 3


def test_a_fraction_of_a_millisecond_is_no_regression() -> None:
    edge = latency_bin(0.0005)
    assert latency_edge(latency.tolerance_of("comparable", 1.1).edge(edge)) >= 0.0015 * 0.98


def test_quantiles_of_a_histogram() -> None:
    assert latency.quantile({}, 0.5) is None
    value = latency.quantile({"100": 10, "300": 1}, 0.5)
    assert value == pytest.approx(latency_edge(100), rel=0.02)


def test_skew_fires_and_agreement_does_not() -> None:
    rng = np.random.default_rng(4)
    reference = [200] * 20
    good = shift.measure(rng.multinomial(2000, [0.05] * 20).tolist(), reference)
    skewed = shift.measure(rng.multinomial(300, [0.0] * 16 + [0.25] * 4).tolist(), reference)
    assert shift.judge(good, skewed, 0.25).fires
    assert not shift.judge(good, good, 0.25).fires
    # A season that moves both is nobody's fault.
    assert not shift.judge(skewed, skewed, 0.25).fires


def test_small_or_missing_scores_never_fire() -> None:
    assert shift.measure([], []).psi is None
    assert shift.measure([5, 5], [1, 2, 3]).psi is None
    few = shift.measure([40] + [0] * 19, [10] * 20)
    assert few.low == 0.0 and not shift.judge(few, few, 0.25).fires


def test_agreement_at_the_limit_fires_rarely() -> None:
    """Candidates exactly at the limit, looked at each doubling, in at most 1 % of runs."""
    rng = np.random.default_rng(9)
    tilt = np.exp(np.linspace(-0.81, 0.81, 20))
    p = tilt / tilt.sum()
    limit = float(((p - 0.05) * np.log(p / 0.05)).sum())
    fired = 0
    for _ in range(150):
        live = np.zeros(20, dtype=np.int64)
        reference = rng.multinomial(5000, [0.05] * 20).tolist()
        hit = False
        for _ in range(10):
            live += rng.multinomial(100, p)
            measured = shift.measure(live.tolist(), reference)
            calm = shift.Shift(1000, 0.0, 0.0)
            hit = hit or shift.judge(calm, measured, limit).fires
        fired += hit
    assert fired <= 4


def test_rate_bounds_hold_at_any_time() -> None:
    rng = np.random.default_rng(6)
    missed = 0
    for _ in range(150):
        x, wrong = 0, False
        for n in range(20, 1001, 20):
            x += int(rng.binomial(20, 0.03))
            low, high = hard_limit.rate_bounds(n, x, 0.05)
            wrong = wrong or not low <= 0.03 <= high
        missed += wrong
    assert missed / 150 <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 150)


@pytest.mark.parametrize(("n", "x"), [(0, 0), (5, 0), (5, 5), (10**9, 10**6), (10**9, 0)])
def test_rate_bounds_hold_the_rate(n: int, x: int) -> None:
    low, high = hard_limit.rate_bounds(n, x, 0.01)
    assert 0.0 <= low <= (x / n if n else 0.5) <= high <= 1.0


def test_hard_limit_needs_a_healthy_stable() -> None:
    assert hard_limit.exceeded((2000, 0), (300, 60), 0.05, 0.001)
    assert not hard_limit.exceeded((2000, 400), (300, 60), 0.05, 0.001)
    assert not hard_limit.exceeded((2000, 0), (10, 1), 0.05, 0.001)


def test_watch_plans_its_starts() -> None:
    assert watch.planned_starts(360) == 360
    assert watch.planned_starts(8640) <= watch.MAX_STARTS
    for looks in (1, 90, 360, 8640):
        begun = sum(watch.begins(k, looks) for k in range(2 * looks))
        assert begun == watch.planned_starts(looks)


def test_detectable_ratio_shrinks_with_the_sample() -> None:
    need = math.log(200 * 360)
    small = watch.detectable_ratio(1000, 5, 9000, margin=1.2, log_need=need, phi=1.0)
    large = watch.detectable_ratio(50_000, 250, 450_000, margin=1.2, log_need=need, phi=1.0)
    assert small is not None and large is not None and 1.2 < large < 2.0 < small
    assert watch.detectable_ratio(0, 0, 10, margin=1.2, log_need=need, phi=1.0) is None


def _stall_run(seed: int, stalls: bool) -> float:
    """Largest evidence of 60 looks in which pods of both arms, or none, stall for a while."""
    rng = np.random.default_rng(seed)
    state = latency.start(latency.new(1))
    margin = latency.tolerance_of("comparable", 1.1)
    largest = 0.0
    for _ in range(60):
        arms = [_histogram(rng, 100, 0.02) for _ in range(2)]
        for histogram in arms:
            if stalls and rng.random() < 0.1:
                histogram[latency_bin(0.5)] = 12
        state = latency.absorb(state, arms[0], arms[1], margin)
        largest = max(largest, latency.log_e(state))
    return largest


def test_stalls_of_single_pods_are_not_a_slow_model() -> None:
    assert sum(_stall_run(s, True) > math.log(100) for s in range(30)) <= 2
    assert sum(_stall_run(s, False) > math.log(100) for s in range(30)) <= 1


def test_jumps_tell_bursts_from_a_steady_difference() -> None:
    steady, bursts = dispersion.new_jumps(), dispersion.new_jumps()
    for k in range(40):
        steady = dispersion.absorb_jumps(steady, Counts(100, 2, 100, 20 + k % 3))
        bursts = dispersion.absorb_jumps(bursts, Counts(100, 2, 100, 20 if k % 8 == 0 else 2))
    assert dispersion.phi_of_jumps(steady, [4000, 4000], [80, 840]) == 1.0
    assert dispersion.phi_of_jumps(bursts, [4000, 4000], [80, 170]) > 1.5


def test_a_steady_difference_is_no_dispersion_however_rare_the_candidates_events() -> None:
    rng = np.random.default_rng(6)
    steady = dispersion.new_jumps()
    n, x = [0, 0], [0, 0]
    for _ in range(200):
        events = [int(rng.poisson(10)), int(rng.poisson(3))]
        steady = dispersion.absorb_jumps(steady, Counts(900, events[0], 100, events[1]))
        n, x = [n[0] + 900, n[1] + 100], [x[0] + events[0], x[1] + events[1]]
    assert dispersion.phi_of_jumps(steady, n, x) == 1.0
    assert dispersion.phi_of_jumps(steady, n, [900 * x[1] // 100, x[1]]) > 1.5


def test_thresholds_follow_a_stable_that_became_fast() -> None:
    """Slow first answers must not leave a threshold that nobody reaches again."""
    margin = latency.tolerance_of("comparable", 1.1)
    state, promotion = latency.start(latency.new(1)), latency.new_promotion()
    slow, fast = {latency_bin(0.2): 100}, {latency_bin(0.005): 100}
    for k in range(30):
        both = slow if k < 2 else fast
        seen = latency.measured(state, both, both, margin)
        promotion = latency.absorb_promotion(promotion, seen, margin)
        state = latency.absorb(state, both, both, margin)
    assert min(latency.log_e_promotion(promotion)) > math.log(40)


def test_the_chance_of_a_split_is_scipys_hypergeometric_tail() -> None:
    rng = np.random.default_rng(5)
    cases = [(0, 10, 3, 2), (3, 10, 3, 2), (2, 10, 3, 2), (4, 5, 5, 5), (9, 9, 5, 7)]
    for _ in range(2000):
        total = int(rng.integers(1, 10 ** int(rng.integers(1, 7))))
        marked, drawn = (int(v) for v in rng.integers(0, total + 1, 2))
        if drawn > 5000:
            continue
        cases.append((int(rng.integers(0, min(marked, drawn) + 2)), total, marked, drawn))
    for least, total, marked, drawn in cases:
        ours = outage.hypergeometric_tail(least, total, marked, drawn)
        theirs = float(hypergeom.sf(least - 1, total, marked, drawn))
        assert ours == pytest.approx(theirs, rel=1e-6, abs=1e-12), (least, total, marked, drawn)


def test_a_crossing_is_found_to_the_last_place() -> None:
    assert crossing(lambda x: x**3 - 2.0, 0.0, 2.0) == pytest.approx(2 ** (1 / 3), abs=1e-15)
    assert crossing(lambda x: 1.0 - x, -40.0, 40.0) == 1.0
    assert crossing(lambda x: x - 3.0, 3.0, 9.0) == 3.0
    with pytest.raises(ValueError, match="no sign change between 0"):
        crossing(lambda x: x + 1.0, 0.0, 9.0)
