"""PodHealth: pods that crash are a failure of the model, one pod that crashes is not."""

from __future__ import annotations

import numpy as np
import pytest
from tests.unit.looks import Behaviour, look, plan_of

from sluice.rollout import judge as judging
from sluice.rollout import judge_pods
from sluice.rollout.judge import Judgement
from sluice.stats.look import ArmLook, Look, PodMinutes

CHECKS = [
    {"name": "errors", "type": "ErrorRate"},
    {"name": "pods", "type": "PodHealth"},
]
PLAN = plan_of(analysis={"checks": CHECKS})


def minutes(*chances: float, rng: np.random.Generator) -> ArmLook:
    rows = (PodMinutes(f"pod-{i}", 1, int(rng.random() < p)) for i, p in enumerate(chances))
    return ArmLook(n=100, minutes=tuple(rows))


def run(
    stable: tuple[float, ...], candidate: tuple[float, ...], looks: int, *, seed: int = 1
) -> Judgement:
    rng = np.random.default_rng(seed)
    state = judging.begin_step(PLAN, judging.new_state(PLAN, "canary"), 0)
    verdict = judging.judge(PLAN, state)
    for number in range(looks):
        arms = (minutes(*stable, rng=rng), minutes(*candidate, rng=rng))
        state = judging.absorb(PLAN, state, Look(number, 60.0, 50, *arms))
        verdict = judging.judge(PLAN, state)
        if verdict.alarm is not None:
            break
    return verdict


def pods_of(verdict: Judgement) -> judging.CheckResult:
    return next(c for c in verdict.checks if c.name == "pods")


def test_pods_that_all_crash_take_the_candidate_back() -> None:
    verdict = run((0, 0), (1, 1), 12)
    assert verdict.alarm is not None and verdict.alarm.name == "pods"
    assert verdict.alarm.scope == "Revision"
    assert verdict.alarm.message.startswith("Pods crashed, ran out of memory or were not ready in ")
    assert "pod-minutes, stable's in 0 of" in verdict.alarm.message


@pytest.mark.parametrize("others", [1, 4])
def test_one_pod_that_crashes_is_named_and_holds(others: int) -> None:
    verdict = run((0,) * (others + 1), (0,) * others + (1,), 60)
    assert verdict.alarm is None and verdict.promotion == "Wait"
    assert verdict.hold is not None and verdict.hold.verdict == "Inconclusive"
    assert f"Pod pod-{others} has 100.0 % of them" in verdict.hold.message
    assert len(verdict.hold.message) <= 512
    assert pods_of(verdict) == verdict.hold


def test_two_bad_pods_of_five_are_the_models() -> None:
    verdict = run((0,) * 5, (0, 0, 0, 1, 1), 60)
    assert verdict.alarm is not None and verdict.alarm.name == "pods"


def test_a_pod_without_siblings_is_judged_by_itself() -> None:
    verdict = run((0,), (1,), 60)
    assert verdict.alarm is not None and verdict.alarm.name == "pods"


@pytest.mark.parametrize("share", [0.0, 0.05, 1.0])
def test_pods_that_fail_alike_alarm_nobody(share: float) -> None:
    for seed in range(10):
        verdict = run((share,) * 3, (share,) * 3, 60, seed=seed)
        assert verdict.alarm is None and verdict.hold is None


def test_no_minute_is_no_data_and_takes_nothing_away() -> None:
    rng = np.random.default_rng(0)
    state = judging.begin_step(PLAN, judging.new_state(PLAN, "canary"), 0)
    how = Behaviour()
    for number in range(60):
        seen = look(rng, number, weight=5, stable=how, candidate=how, rate=100.0, seconds=10.0)
        state = judging.absorb(PLAN, state, seen)
    verdict = judging.judge(PLAN, state)
    assert pods_of(verdict).verdict == "NoData"
    assert verdict.promotion == "Pass"


def test_a_state_from_before_pods_had_names_goes_on() -> None:
    state = judging.begin_step(PLAN, judging.new_state(PLAN, "canary"), 0)
    del state["by_pod"]
    rng = np.random.default_rng(0)
    arms = (minutes(0, rng=rng), minutes(1, rng=rng))
    state = judging.absorb(PLAN, state, Look(1, 60.0, 50, *arms))
    assert state["by_pod"]["PodHealth"]["candidate"] == {"pod-0": [1, 1]}


def test_of_very_many_pods_those_that_fail_are_remembered() -> None:
    rows = [(f"pod-{i:04}", 1, int(i == 500)) for i in range(1000)]
    state = judge_pods.absorb(judge_pods.new(), [], rows)
    assert len(state["candidate"]) == judge_pods.MOST_PODS
    assert state["candidate"]["pod-0500"] == [1, 1]


@pytest.mark.parametrize(("observed", "failed"), [(1, 2), (-1, 0), (1.5, 0), (True, 0)])
def test_minutes_that_cannot_be_are_refused(observed: int, failed: int) -> None:
    arm = ArmLook(minutes=(PodMinutes("pod-0", observed, failed),))
    with pytest.raises(ValueError, match="pod-0"):
        Look(1, 1.0, 5, ArmLook(), arm)
