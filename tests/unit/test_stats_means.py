"""Engine M: its boundary in closed form, false alarms while everything drifts, and hostile sums."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import norm

from sluice.stats import means
from sluice.stats.means import Moments

ALPHA = 0.05
Arms = tuple[Moments, Moments]


def moments(values: np.ndarray) -> Moments:
    return Moments(len(values), float(values.sum()), float((values * values).sum()))


def looks(
    rng: np.random.Generator, mean: float, ratio: float = 1.0, number: int = 10
) -> list[Arms]:
    return [
        (moments(rng.gamma(1.0, mean, 300)), moments(rng.gamma(1.0, mean * ratio, 200)))
        for _ in range(number)
    ]


def absorbed(arms: list[Arms], state: means.State | None = None) -> means.State:
    state = means.new() if state is None else state
    for stable, candidate in arms:
        state = means.absorb(state, stable, candidate)
    return state


def by_hand(arms: list[Arms], margin: float, level: float) -> tuple[float, float, float]:
    """S, V and r straight from reference/statistics.md, section 5, with the borrowed variance."""
    free = [sum(look[a].n - 1 for look in arms) for a in (0, 1)]
    residual = [
        sum(m.squares - m.total**2 / m.n for m in (look[a] for look in arms)) for a in (0, 1)
    ]
    pooled = sum(residual) / sum(free)
    var = [(r + 100 * pooled) / (f + 100) for r, f in zip(residual, free, strict=True)]
    var[0] *= (1 + margin) ** 2
    h = [a.n * b.n / (a.n + b.n) for a, b in arms]
    s = sum(w * (b.mean - (1 + margin) * a.mean) for w, (a, b) in zip(h, arms, strict=True))
    v = sum(w * w * (var[0] / a.n + var[1] / b.n) for w, (a, b) in zip(h, arms, strict=True))
    horizon = 20_000 * 0.25 * (var[0] + var[1]) / 2
    return s, v, horizon / (-2 * math.log(level) + math.log(1 - 2 * math.log(level)))


@pytest.mark.parametrize("margin", [0.0, -0.1, 0.25])
def test_evidence_is_the_normal_mixture_over_the_stratified_sum(margin: float) -> None:
    arms = looks(np.random.default_rng(1), 7.0)
    state = absorbed(arms)
    s, v, r = by_hand(arms, margin, ALPHA)
    expected = 0.5 * math.log(r / (v + r)) + s * s / (2 * (v + r))
    assert means.log_e(state, "two", margin) == pytest.approx(expected, rel=1e-9)
    assert means.standardised(state, margin) == pytest.approx(s / math.sqrt(v), rel=1e-9)
    s, v, r = by_hand(arms, margin, 2 * ALPHA)
    for sided, sign in (("higher", 1.0), ("lower", -1.0)):
        # The likelihood ratio of drift u / sqrt(V), mixed over a half-normal of variance 1 / r.
        z, width = sign * s / math.sqrt(v), math.sqrt(v / r)
        integral, _ = quad(
            lambda u, z=z, width=width: (
                2.0 * norm.pdf(u, scale=width) * math.exp(u * z - u * u / 2.0)
            ),
            0.0,
            max(0.0, z) + 12.0,
        )
        evidence = means.log_e(state, sided, margin)  # type: ignore[arg-type]
        assert evidence == pytest.approx(math.log(integral), rel=1e-6, abs=1e-9)


def test_the_band_leaves_zero_exactly_when_the_evidence_suffices() -> None:
    """|S| >= sqrt((V + r) log((V + r) / (r alpha^2))) is log E >= log 1 / alpha."""
    arms = looks(np.random.default_rng(2), 5.0, 1.04, 30)
    state = absorbed(arms)
    s, v, r = by_hand(arms, 0.0, ALPHA)
    for alpha in (0.3, 0.05, 0.001):
        low, high = means.confidence(state, alpha)
        assert low is not None and high is not None
        boundary = math.sqrt((v + r) * math.log((v + r) / (r * alpha * alpha)))
        h = state["h"]
        assert (low, high) == (
            pytest.approx((s - boundary) / h, rel=1e-9),
            pytest.approx((s + boundary) / h, rel=1e-9),
        )
        assert (low > 0 or high < 0) == (means.log_e(state) >= -math.log(alpha))


def test_one_sided_evidence_crosses_just_before_its_closed_form_boundary() -> None:
    """S >= sqrt(2 (V + r) log(1 + sqrt((V + r) / r) / (2 alpha))) is up to 1.6 % wider."""
    arms = looks(np.random.default_rng(3), 5.0, 1.0, 20)
    _, v, r = by_hand(arms, 0.0, 2 * ALPHA)
    state = absorbed(arms)
    boundary = math.sqrt(2 * (v + r) * math.log(1 + math.sqrt((v + r) / r) / (2 * ALPHA)))
    at = means.log_e({**state, "difference": boundary}, "higher")
    below = means.log_e({**state, "difference": boundary * 0.98}, "higher")
    assert below < -math.log(ALPHA) <= at


def test_swapping_the_arms_mirrors_everything() -> None:
    arms = looks(np.random.default_rng(4), 5.0, 1.03)
    here, there = absorbed(arms), absorbed([(b, a) for a, b in arms])
    low, high = means.confidence(here, ALPHA)
    assert means.confidence(there, ALPHA) == (pytest.approx(-high), pytest.approx(-low))
    assert means.estimate(there) == pytest.approx(-means.estimate(here))
    assert means.log_e(there) == pytest.approx(means.log_e(here))
    assert means.log_e(there, "lower") == pytest.approx(means.log_e(here, "higher"))


def test_pods_may_be_added_up_and_units_of_measure_do_not_matter() -> None:
    rng = np.random.default_rng(5)
    a, b = rng.gamma(1.0, 5.0, 2000), rng.gamma(1.0, 5.4, 1000)
    whole = means.absorb(means.new(), moments(a), moments(b))
    split = means.absorb(
        means.new(), moments(a[:700]) + moments(a[700:]), moments(b[:1]) + moments(b[1:])
    )
    cents = means.absorb(means.new(), moments(a * 100), moments(b * 100))
    for sided in ("two", "higher", "lower"):
        assert means.log_e(split, sided, -0.02) == pytest.approx(means.log_e(whole, sided, -0.02))
        assert means.log_e(cents, sided, -0.02) == pytest.approx(means.log_e(whole, sided, -0.02))


def test_directions_of_the_margin() -> None:
    """2 % worse is within a margin of 5 %; 10 % worse is beyond it, whichever way is better."""
    arms = looks(np.random.default_rng(6), 10.0, 0.9, 80)
    state = absorbed(arms)
    assert means.log_e(state, "lower", -0.05) > 3.0
    assert means.log_e(state, "higher", -0.05) < 0.0
    near = absorbed(looks(np.random.default_rng(6), 10.0, 0.99, 300))
    assert means.log_e(near, "higher", -0.05) > 3.0, "not worse by 5 %"
    assert means.log_e(near, "lower", -0.05) < 0.0
    slower = absorbed(looks(np.random.default_rng(6), 10.0, 1.2, 80))
    assert means.log_e(slower, "higher", 0.1) > 3.0, "less is better: worse by more than 10 %"
    with pytest.raises(ValueError, match="margin"):
        means.log_e(state, "two", -1.0)


def test_nothing_is_claimed_before_enough_units_or_without_variance() -> None:
    few = absorbed(looks(np.random.default_rng(7), 5.0, 9.0, 3))
    assert means.log_e(few) == 0.0 and means.confidence(few, ALPHA) == (None, None)
    assert means.standardised(few) is None
    assert means.estimate(few) is not None
    lopsided = means.absorb(means.new(), Moments(9000, 9000.0, 18000.0), Moments(49, 0.0, 0.0))
    assert means.log_e(lopsided) == 0.0
    constant = means.absorb(means.new(), Moments(5000, 500.0, 50.0), Moments(5000, 1500.0, 450.0))
    assert means.log_e(constant) == 0.0 and means.confidence(constant, ALPHA) == (None, None)
    assert means.estimate(means.new()) is None and means.stable_mean(means.new()) is None


def test_a_look_without_units_in_one_arm_changes_nothing() -> None:
    state = absorbed(looks(np.random.default_rng(8), 5.0))
    assert means.absorb(state, Moments(100, 900.0, 9000.0), Moments(0, 0.0, 0.0)) == state
    assert means.absorb(state, Moments(0, 0.0, 0.0), Moments(100, 900.0, 9000.0)) == state


def test_absorbing_never_changes_the_old_state_and_states_survive_json() -> None:
    state = absorbed(looks(np.random.default_rng(9), 5.0))
    before = json.dumps(state)
    after = means.absorb(state, Moments(10, 5.0, 5.0), Moments(10, 5.0, 5.0))
    assert json.dumps(state) == before != json.dumps(after)
    assert means.log_e(json.loads(before)) == means.log_e(state)


RUNS, LOOKS = 300, 40


def drifting(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Units (runs x looks x 3 sums) of both arms: weight 5 % to 50 % while the mean rises 30 %."""
    sums = []
    weights = np.repeat([0.05, 0.1, 0.25, 0.5], LOOKS // 4)
    level = np.linspace(1.0, 1.3, LOOKS)
    for share in (1 - weights, weights):
        n = np.round(1000 * share)
        # Exponential outcomes: their sums are gamma; the variance within is taken as known.
        total = rng.gamma(n, level, (RUNS, LOOKS))
        squares = total * total / n + (n - 1) * level**2
        sums.append(np.stack([np.broadcast_to(n, total.shape), total, squares], 2))
    return sums[0], sums[1]


def test_equal_arms_stay_equal_while_weight_and_mean_rise_together() -> None:
    """A pooled test alarms in every one of these runs."""
    stable, candidate = drifting(np.random.default_rng(10))
    alarms = dict.fromkeys(("two", "higher", "lower"), 0)
    for a, b in zip(stable, candidate, strict=True):
        state, crossed = means.new(), set()
        for x, y in zip(a, b, strict=True):
            state = means.absorb(state, *(Moments(int(m[0]), m[1], m[2]) for m in (x, y)))
            crossed |= {s for s in alarms if means.log_e(state, s) >= -math.log(ALPHA)}  # type: ignore[arg-type]
        for sided in crossed:
            alarms[sided] += 1
    tolerated = RUNS * ALPHA + 3 * math.sqrt(RUNS * ALPHA * (1 - ALPHA))
    assert max(alarms.values()) <= tolerated, alarms
    last = [arm.sum(axis=1) for arm in (stable, candidate)]
    pooled = [
        means.log_e(means.absorb(means.new(), *(Moments(int(m[0]), m[1], m[2]) for m in run)))
        for run in zip(*last, strict=True)
    ]
    assert np.mean(np.array(pooled) >= -math.log(ALPHA)) > 0.9, "the simulation has lost its point"


def test_rare_buyers_and_a_small_candidate_do_not_raise_alarms() -> None:
    """Fifty candidate units without a sale show no variance; that is no evidence."""
    rng, alarms = np.random.default_rng(11), 0
    for _ in range(RUNS):
        state, crossed = means.new(), False
        for _ in range(20):
            buyers = rng.random(2000) < 0.03
            y = np.where(buyers, rng.lognormal(3.0, 1.0, 2000), 0.0)
            state = means.absorb(state, moments(y[100:]), moments(y[:100]))
            crossed = crossed or means.log_e(state) >= -math.log(ALPHA)
        alarms += crossed
    assert alarms <= RUNS * ALPHA + 3 * math.sqrt(RUNS * ALPHA * (1 - ALPHA))


def test_five_percent_more_is_found_within_the_reference_time() -> None:
    """reference/statistics.md, section 2: +5 % at cv 1, 50/50, takes a median of 14.0k units."""
    rng, needed = np.random.default_rng(12), []
    for _ in range(61):
        state, units = means.new(), 0
        while means.log_e(state) < -math.log(ALPHA) and units < 100_000:
            units += 1000
            state = means.absorb(
                state, moments(rng.gamma(1.0, 1.0, 500)), moments(rng.gamma(1.0, 1.05, 500))
            )
        needed.append(units)
    assert 8_000 <= float(np.median(needed)) <= 20_000


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (Moments(-1, 0.0, 0.0), "units"),
        (Moments(True, 1.0, 1.0), "units"),
        (Moments(10**16, 0.0, 0.0), "units"),
        (Moments(1.5, 1.0, 1.0), "units"),  # type: ignore[arg-type]
        (Moments(5, math.nan, 1.0), "sum nan"),
        (Moments(5, 1.0, math.inf), "squares inf"),
        (Moments(5, 1e101, 1e300), "below"),
        (Moments(0, 1.0, 1.0), "no units"),
        (Moments(5, 10.0, 19.0), "below sum"),
        (Moments(5, 0.0, -1.0), "below sum"),
    ],
)
def test_moments_that_cannot_be_are_named_with_their_arm(bad: Moments, message: str) -> None:
    good = Moments(5, 5.0, 9.0)
    for arm, pair in (("stable", (bad, good)), ("candidate", (good, bad))):
        with pytest.raises(ValueError, match=f"^{arm}.*{message}"):
            means.absorb(means.new(), *pair)


def test_plans_that_cannot_be_are_refused() -> None:
    for planned, share, alpha in (
        (0, 0.5, 0.05),
        (math.nan, 0.5, 0.05),
        (9, 1.0, 0.05),
        (9, 0.5, 0),
    ):
        with pytest.raises(ValueError, match="planned"):
            means.new(planned, share, alpha)


@st.composite
def extreme(draw: st.DrawFn) -> Moments:
    n = draw(st.integers(0, 10**9))
    if n == 0:
        return Moments(0, 0.0, 0.0)
    total = draw(st.floats(-1e15, 1e15))
    return Moments(n, total, total * total / n * draw(st.floats(1.0, 1e9)))


@settings(max_examples=300)
@given(
    st.lists(st.tuples(extreme(), extreme()), max_size=5),
    st.sampled_from(["two", "higher", "lower"]),
    st.floats(-0.99, 100.0),
    st.floats(1e-9, 0.999),
)
def test_no_sums_give_nan(
    arms: list[Arms], sided: means.Sided, margin: float, alpha: float
) -> None:
    state = absorbed(arms, means.new(alpha=alpha))
    assert math.isfinite(means.log_e(state, sided, margin))
    low, high = means.confidence(state, alpha)
    assert low is None or high is None or (low <= high and math.isfinite(low + high))
    json.dumps(state, allow_nan=False)
