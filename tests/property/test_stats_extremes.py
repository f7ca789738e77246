"""Whatever the counts: no exception, no NaN, and evidence that points the right way."""

from __future__ import annotations

import json
import math
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.looks import plan_of

from sluice.rollout import judge as judging
from sluice.stats import bounded_risk, counts, hard_limit, means, sample_ratio, shift
from sluice.stats.counts import Counts
from sluice.stats.look import ArmLook, Cell, Look

LARGE = st.one_of(st.integers(0, 40), st.integers(0, 10**9))


@st.composite
def count_pairs(draw: st.DrawFn) -> Counts:
    stable_n, candidate_n = draw(LARGE), draw(LARGE)
    return Counts(
        stable_n,
        draw(st.one_of(st.integers(0, min(stable_n, 20)), st.integers(0, stable_n))),
        candidate_n,
        draw(st.one_of(st.integers(0, min(candidate_n, 20)), st.integers(0, candidate_n))),
    )


@settings(max_examples=150)
@given(st.lists(count_pairs(), max_size=5), st.floats(1.0, 50.0))
def test_engine_c_is_finite_at_any_counts(looks: list[Counts], phi: float) -> None:
    state = counts.start(counts.new(1.2, 2))
    for look in looks:
        state = counts.absorb(state, look)
    assert math.isfinite(counts.log_e(state, phi))
    low, high = counts.confidence(state, 0.05, phi)
    assert low is None or high is None or low <= high
    assert all(math.isfinite(v) for v in (low, high, counts.odds_ratio(state)) if v is not None)
    assert json.loads(json.dumps(state, allow_nan=False)) == state


@settings(max_examples=150)
@given(count_pairs())
def test_one_more_failure_of_the_candidate_is_never_evidence_for_it(look: Counts) -> None:
    if look.candidate_x == look.candidate_n or look.stable_x == 0:
        return
    worse = Counts(look.stable_n, look.stable_x - 1, look.candidate_n, look.candidate_x + 1)
    start = counts.start(counts.new(1.2, 1))
    before, after = counts.log_e(counts.absorb(start, look)), counts.absorb(start, worse)
    assert counts.log_e(after) >= before - 1e-3


@settings(max_examples=150)
@given(count_pairs(), st.sampled_from([0.05, 0.02, 0.005, 0.001]), st.floats(1.0, 20.0))
def test_bounded_risk_is_finite_and_monotone(look: Counts, tau: float, phi: float) -> None:
    state = bounded_risk.absorb(bounded_risk.new(tau, 1.2, p0=0.01, share=0.5), look)
    evidence = bounded_risk.log_e(state, phi)
    assert not math.isnan(evidence)
    json.dumps(state, allow_nan=False)
    bound = bounded_risk.bound(state, 0.025, phi)
    assert bound is None or -1.0 <= bound <= 1.0
    left = bounded_risk.requests_left(state, 0.5, evidence, alpha=0.025, phi=phi)
    assert math.isfinite(left) and left >= 0
    if look.candidate_x < look.candidate_n and look.stable_n > 0:
        more = Counts(look.stable_n, look.stable_x, look.candidate_n, look.candidate_x + 1)
        worse = bounded_risk.absorb(bounded_risk.new(tau, 1.2, p0=0.01, share=0.5), more)
        assert bounded_risk.log_e(worse, phi) <= evidence + 1e-9


@settings(max_examples=80)
@given(st.lists(LARGE, min_size=20, max_size=20), st.lists(LARGE, min_size=20, max_size=20))
def test_shift_is_finite(live: list[int], reference: list[int]) -> None:
    found = shift.measure(live, reference)
    assert found.psi is None or (math.isfinite(found.psi) and found.psi >= -1e-12)
    assert 0.0 <= found.low <= max(0.0, found.psi or 0.0) + 1e-9


@settings(max_examples=80)
@given(LARGE, st.data(), st.floats(1e-6, 0.5))
def test_rate_bounds_are_ordered(n: int, data: st.DataObject, alpha: float) -> None:
    x = data.draw(st.integers(0, n))
    low, high = hard_limit.rate_bounds(n, x, alpha)
    assert 0.0 <= low <= high <= 1.0


@st.composite
def cells(draw: st.DrawFn, top: int) -> Cell:
    n = draw(st.integers(0, top))
    client = draw(st.integers(0, n))
    return n, client, draw(st.integers(0, n - client))


@st.composite
def arms(draw: st.DrawFn) -> ArmLook:
    top = draw(st.sampled_from([0, 3, 1000, 10**9]))
    n, client, model = draw(cells(top))
    return ArmLook(
        n=n,
        client_errors=client,
        model_errors=model,
        latency=draw(st.dictionaries(st.integers(0, 699), st.integers(0, top), max_size=5)),
        scores=tuple(draw(st.lists(st.integers(0, top), min_size=20, max_size=20))),
        score_reference=tuple(draw(st.lists(st.integers(0, top), min_size=20, max_size=20))),
        non_finite=draw(st.integers(0, 3)),
        pods=tuple(draw(st.lists(cells(top), max_size=3))),
        buckets=draw(st.dictionaries(st.integers(0, 499), cells(top), max_size=4)),
        load_per_pod=draw(st.sampled_from([0.0, 1.0, 1.2, 10.0, 1e9])),
    )


@settings(max_examples=80)
@given(
    st.lists(st.tuples(arms(), arms()), max_size=4),
    st.booleans(),
    st.sampled_from(["canary", "watch"]),
)
def test_the_judge_always_answers(
    pairs: list[tuple[ArmLook, ArmLook]], sticky: bool, phase: judging.Phase
) -> None:
    traffic = {"unit": {"header": "X-User-Id"}} if sticky else {}
    checks = [
        {"name": "e", "type": "ErrorRate", "max": 0.05},
        {"name": "c", "type": "ClientErrorRate", "onFail": "Hold"},
        {"name": "l", "type": "Latency"},
        {"name": "s", "type": "PredictionShift"},
    ]
    plan = plan_of(traffic=traffic, analysis={"checks": checks})
    state = judging.new_state(plan, phase, planned_looks=3)
    if phase == "canary":
        state = judging.begin_step(plan, state, 0)
    for number, (stable, candidate) in enumerate(pairs):
        state = judging.absorb(plan, state, Look(number, 10.0, 5, stable, candidate))
        if phase == "canary" and number == 1:
            state = judging.begin_step(plan, state, 2)
    verdict = judging.judge(plan, state)
    assert len(verdict.checks) == 4
    assert all(len(c.message) <= 512 for c in verdict.checks)
    assert math.isfinite(verdict.evidence_percent)
    json.dumps(state, allow_nan=False)
    if all(candidate.n == 0 for _, candidate in pairs):
        assert verdict.promotion == "Wait"


@st.composite
def outcomes(draw: st.DrawFn) -> means.Moments:
    n = draw(LARGE)
    mean = draw(st.floats(-1e6, 1e6))
    variance = draw(st.sampled_from([0.0, 1e-12, 1.0, 1e12]))
    return means.Moments(n, n * mean, n * mean * mean * (1 + 1e-9) + n * variance if n else 0.0)


@settings(max_examples=150)
@given(st.lists(st.tuples(outcomes(), outcomes()), max_size=5), st.floats(-0.5, 2.0))
def test_means_are_finite_and_swapping_the_arms_mirrors_them(
    looks: list[tuple[means.Moments, means.Moments]], margin: float
) -> None:
    state, mirrored = means.new(), means.new()
    for stable, candidate in looks:
        state = means.absorb(state, stable, candidate)
        mirrored = means.absorb(mirrored, candidate, stable)
    for sided in ("two", "higher", "lower"):
        assert math.isfinite(means.log_e(state, sided, margin))  # type: ignore[arg-type]
    assert math.isclose(means.log_e(state), means.log_e(mirrored), rel_tol=1e-6, abs_tol=1e-6)
    json.dumps(state, allow_nan=False)


@settings(max_examples=150)
@given(st.lists(st.tuples(LARGE, LARGE, st.floats(0.01, 0.99)), max_size=5))
def test_sample_ratios_are_finite_at_any_counts(looks: list[tuple[int, int, float]]) -> None:
    state, mirrored = sample_ratio.new(), sample_ratio.new()
    for stable, candidate, weight in looks:
        state = sample_ratio.absorb(state, stable, candidate, weight)
        mirrored = sample_ratio.absorb(mirrored, candidate, stable, 1.0 - weight)
    value = sample_ratio.log_e(state)
    assert math.isfinite(value)
    assert math.isclose(value, sample_ratio.log_e(mirrored), rel_tol=1e-6, abs_tol=1e-3)


@settings(max_examples=100)
@given(st.lists(count_pairs(), min_size=1, max_size=5))
def test_swapping_the_arms_mirrors_the_evidence(looks: list[Counts]) -> None:
    state, mirrored = counts.new(1.0, 1), counts.new(1.0, 1)
    for look in looks:
        state = counts.absorb(state, look)
        swapped = Counts(look.candidate_n, look.candidate_x, look.stable_n, look.stable_x)
        mirrored = counts.absorb(mirrored, swapped)
    a, b = counts.log_e_difference(state), counts.log_e_difference(mirrored)
    assert math.isclose(a, b, rel_tol=1e-3, abs_tol=1e-3)


@settings(max_examples=60)
@given(arms(), arms(), st.integers(0, 40))
def test_a_replayed_look_and_a_split_over_pods_change_no_evidence(
    stable: ArmLook, candidate: ArmLook, part: int
) -> None:
    plan = plan_of()
    state = judging.begin_step(plan, judging.new_state(plan, "canary"), 0)
    once = judging.absorb(plan, state, Look(0, 10.0, 5, stable, candidate))
    assert judging.absorb(plan, once, Look(0, 10.0, 5, stable, candidate)) == once
    left = min(part, candidate.n - candidate.client_errors - candidate.model_errors)
    pods = ((left, 0, 0), (candidate.n - left, candidate.client_errors, candidate.model_errors))
    split = judging.absorb(plan, state, Look(0, 10.0, 5, stable, replace(candidate, pods=pods)))
    assert split["checks"] == once["checks"]
    assert split["promotion"] == once["promotion"]
