"""PodHealth: pods that crash are a failure of the model, one pod that crashes is not."""

from __future__ import annotations

import numpy as np
import pytest
from tests.unit.looks import Behaviour, look, plan_of

from sluice.rollout import judge as judging
from sluice.rollout import judge_pods
from sluice.rollout.judge import Judgement
from sluice.rollout.judge_results import CheckResult
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


def pods_of(verdict: Judgement) -> CheckResult:
    return next(c for c in verdict.checks if c.name == "pods")


def test_pods_that_all_crash_take_the_candidate_back() -> None:
    verdict = run((0, 0), (1, 1), 12)
    assert verdict.alarm is not None and verdict.alarm.name == "pods"
    assert verdict.alarm.scope == "Revision"
    assert verdict.alarm.message.startswith("Pods crashed, ran out of memory or were not ready in ")
    assert "pod-minutes, stable's in 0 of" in verdict.alarm.message


@pytest.mark.parametrize("others", [1, 4])
def test_one_pod_that_crashes_is_named_and_is_not_the_models_fault(others: int) -> None:
    verdict = run((0,) * (others + 1), (0,) * others + (1,), 60)
    assert verdict.alarm is None and verdict.promotion == "Wait"
    assert verdict.lone is not None and verdict.lone.pod == f"pod-{others}"
    message = f"Pod pod-{others} has 100.0 % of the failures; the others are no worse than stable."
    assert message in verdict.lone.check.message and len(verdict.lone.check.message) <= 512
    assert pods_of(verdict) == verdict.lone.check


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
        assert verdict.alarm is None and verdict.lone is None


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


def arm_of(*rates: float, rng: np.random.Generator, n: int = 500) -> ArmLook:
    """An arm whose pods fail at ``rates``, with as many requests each."""
    each = n // len(rates)
    errors = [int(rng.binomial(each, rate)) for rate in rates]
    return ArmLook(
        n=each * len(rates),
        model_errors=sum(errors),
        pods=tuple((each, 0, x) for x in errors),
        pod_names=tuple(f"pod-{i}" for i in range(len(rates))),
    )


def failing(
    candidate: tuple[float, ...], looks: int, *, phase: judging.Phase = "canary"
) -> Judgement:
    plan, rng = plan_of(), np.random.default_rng(3)
    state = judging.new_state(plan, phase, 60)
    if phase == "canary":
        state = judging.begin_step(plan, state, 2)
    verdict = judging.judge(plan, state)
    for number in range(looks):
        rates = candidate if phase == "canary" or number > 20 else (0.002,) * len(candidate)
        arms = (arm_of(*(0.002,) * 3, rng=rng), arm_of(*rates, rng=rng))
        state = judging.absorb(plan, state, Look(number, 10.0, 50, *arms))
        verdict = judging.judge(plan, state)
        if verdict.alarm is not None:
            break
    return verdict


@pytest.mark.parametrize("phase", ["canary", "watch"])
@pytest.mark.parametrize("pods", [2, 5])
@pytest.mark.parametrize("rate", [0.3, 1.0])
def test_one_pod_that_fails_is_named_and_is_not_the_models_fault(
    pods: int, rate: float, phase: judging.Phase
) -> None:
    verdict = failing((0.002,) * (pods - 1) + (rate,), 60, phase=phase)
    assert verdict.alarm is None and verdict.promotion == "Wait"
    assert verdict.lone is not None and verdict.lone.pod == f"pod-{pods - 1}"
    assert verdict.lone.check.name == "errors"


def test_siblings_that_fail_too_take_the_candidate_back_and_the_worst_pod_is_named() -> None:
    verdict = failing((0.03, 0.03, 0.9), 60)
    assert verdict.alarm is not None and verdict.lone is None
    assert "Pod pod-2 has 9" in verdict.alarm.message
    assert "the others fail too" in verdict.alarm.message


@pytest.mark.parametrize("rate", [0.05, 0.3, 1.0])
def test_pods_that_fail_alike_are_found_as_fast_as_ever(rate: float) -> None:
    verdict = failing((rate,) * 2, 3)
    assert verdict.alarm is not None and "Pod" not in verdict.alarm.message


def test_names_that_do_not_match_the_pods_are_refused() -> None:
    with pytest.raises(ValueError, match="1 names of 2 pods"):
        Look(1, 1.0, 5, ArmLook(), ArmLook(n=2, pods=((1, 0, 0), (1, 0, 0)), pod_names=("a",)))


def test_pods_without_names_are_never_singled_out() -> None:
    pods = ArmLook(n=1000, model_errors=500, pods=((500, 0, 0), (500, 0, 500)))
    state = judge_pods.absorb(judge_pods.new(), [], judge_pods.rows("ErrorRate", pods))
    assert judge_pods.worst(state, 1.2, 5.0) is None
