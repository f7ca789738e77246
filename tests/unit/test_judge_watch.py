"""The judge in the watch: the candidate is the promoted revision, stable its predecessor."""

from __future__ import annotations

import numpy as np
from tests.unit.looks import Behaviour, look, plan_of

from sluice.rollout import judge as judging
from sluice.rollout.judge_results import CheckResult

FINE = Behaviour(errors=0.002)


def watch(
    bad: Behaviour,
    *,
    change: int,
    planned: int,
    rate: float = 100.0,
    seed: int = 0,
    before: Behaviour = FINE,
    holdback: Behaviour = FINE,
) -> tuple[int, CheckResult | None]:
    """Looks from the change to the alarm."""
    plan, rng = plan_of(), np.random.default_rng(seed)
    state = judging.new_state(plan, "watch", planned_looks=planned)
    for number in range(planned):
        how = bad if number >= change else before
        seen = look(rng, number, weight=90, stable=holdback, candidate=how, rate=rate)
        state = judging.absorb(plan, state, seen)
        alarm = judging.judge(plan, state).alarm
        if alarm is not None:
            return number - change + 1, alarm
    return planned - change, None


def test_a_revision_that_breaks_after_promotion_is_found_in_seconds() -> None:
    for seed in range(3):
        looks, alarm = watch(Behaviour(errors=0.3), change=60, planned=120, seed=seed)
        assert alarm is not None and alarm.type == "ErrorRate" and looks <= 15
        assert "lately" in alarm.message


def test_a_revision_that_becomes_slow_is_found_although_it_carries_more_load() -> None:
    for seed in range(3):
        looks, alarm = watch(Behaviour(median=0.1), change=60, planned=120, seed=seed)
        assert alarm is not None and alarm.type == "Latency" and looks <= 10
        assert alarm.candidate_value is not None and alarm.stable_value is not None
        assert alarm.candidate_value > 1.2 * alarm.stable_value


def test_the_heavier_arm_may_be_somewhat_slower() -> None:
    slower = Behaviour(median=0.018)
    assert watch(slower, change=0, planned=60, before=slower)[1] is None


def test_no_alarm_without_a_change_or_with_one_in_both_arms() -> None:
    for seed in range(4):
        assert watch(FINE, change=0, planned=60, seed=seed)[1] is None
    outage = Behaviour(errors=0.4)
    assert watch(outage, change=0, planned=60, before=outage, holdback=outage)[1] is None


def test_the_watch_says_what_it_could_have_found() -> None:
    plan, rng = plan_of(), np.random.default_rng(0)
    state = judging.new_state(plan, "watch", planned_looks=60)
    ratios = []
    for number in range(60):
        seen = look(rng, number, weight=90, stable=FINE, candidate=FINE, seconds=60.0)
        state = judging.absorb(plan, state, seen)
        if number % 20 == 19:
            ratios.append(judging.judge(plan, state).detectable)
    assert None not in ratios and ratios == sorted(ratios, reverse=True)  # type: ignore[type-var]
    verdict = judging.judge(plan, state)
    assert verdict.promotion == "Wait" and verdict.missing == []
    assert verdict.checks[0].verdict == "Pass" and verdict.candidate_n > 200_000


def test_planned_looks_default_to_the_watchs_duration() -> None:
    assert judging.new_state(plan_of(), "watch")["planned"] == 360


def test_an_outage_is_found_before_the_holdback_has_said_much() -> None:
    """1 request a second, a tenth of it on the holdback."""
    failures = []
    for seed in range(5):
        plan, rng = plan_of(), np.random.default_rng(seed)
        state = judging.new_state(plan, "watch", planned_looks=360)
        for number in range(160):
            how = Behaviour(errors=1.0 if number >= 100 else 0.001)
            seen = look(rng, number, weight=90, stable=FINE, candidate=how, rate=1.0, seconds=10.0)
            state = judging.absorb(plan, state, seen)
            if judging.judge(plan, state).alarm is not None:
                break
        failures.append(state["total"]["candidate"][2])
    assert np.median(failures) <= 90


def test_the_net_stays_still_when_both_arms_go_down() -> None:
    plan = plan_of()
    for seed in range(8):
        rng, state = np.random.default_rng(seed), judging.new_state(plan, "watch", 200)
        for number in range(120):
            how = Behaviour(errors=0.6 if 80 <= number < 100 else 0.001)
            seen = look(rng, number, weight=90, stable=how, candidate=how, rate=2.0, seconds=10.0)
            state = judging.absorb(plan, state, seen)
            assert judging.judge(plan, state).alarm is None
