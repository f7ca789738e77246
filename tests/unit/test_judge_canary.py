"""The judge in the canary: fast on real regressions, quiet on everything else."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from tests.unit.looks import Behaviour, look, plan_of

from sluice.rollout import judge as judging
from sluice.rollout.judge import Judgement, State
from sluice.rollout.plan import Plan
from sluice.rollout.waiting import explain
from sluice.stats.look import ArmLook, Look

EQUAL = Behaviour(errors=0.005, client_errors=0.01)


def canary(plan: Plan, step: int = 0) -> State:
    return judging.begin_step(plan, judging.new_state(plan, "canary"), step)


def run(
    plan: Plan,
    *,
    stable: Behaviour,
    candidate: Behaviour,
    looks: int,
    step: int = 0,
    rate: float = 100.0,
    seconds: float = 1.0,
    seed: int = 0,
) -> tuple[State, Judgement, int]:
    """Looks until an alarm or until there are ``looks`` of them."""
    rng, state = np.random.default_rng(seed), canary(plan, step)
    verdict = judging.judge(plan, state)
    for number in range(looks):
        state = judging.absorb(
            plan,
            state,
            look(
                rng,
                number,
                weight=plan.steps[step].weight,
                stable=stable,
                candidate=candidate,
                rate=rate,
                seconds=seconds,
            ),
        )
        verdict = judging.judge(plan, state)
        if verdict.alarm is not None:
            return state, verdict, number + 1
    return state, verdict, looks


@pytest.mark.parametrize(
    ("step", "failures"), [(0, 10), (1, 20), (2, 40)], ids=["5 %", "25 %", "50 %"]
)
@pytest.mark.parametrize("seed", range(5))
def test_a_hard_regression_is_found_within_a_few_failures(
    step: int, failures: int, seed: int
) -> None:
    state, verdict, looks = run(
        plan_of(),
        stable=Behaviour(),
        candidate=Behaviour(errors=0.3),
        looks=40,
        step=step,
        rate=100.0,
        seed=seed,
    )
    assert verdict.alarm is not None and verdict.alarm.type == "ErrorRate"
    assert verdict.alarm.verdict == "Fail" and verdict.promotion == "Wait"
    # The look in which it happens may bring more than were needed.
    before = state["total"]["candidate"][2] - plan_of().steps[step].weight * 0.3 * 2
    assert before <= failures
    assert looks <= 8


def test_latency_is_shown_beside_cpu_seconds_that_are_not_judged() -> None:
    plan, rng = plan_of(), np.random.default_rng(0)
    state = canary(plan, 2)
    for number in range(40):
        seen = look(rng, number, weight=50, stable=EQUAL, candidate=EQUAL)
        arms = (replace(seen.stable, cpu=(50, 0.02)), replace(seen.candidate, cpu=(50, 0.8)))
        seen = replace(seen, stable=arms[0], candidate=arms[1])
        state = json.loads(json.dumps(judging.absorb(plan, state, seen)))
    verdict = judging.judge(plan, state)
    latency = next(c for c in verdict.checks if c.type == "Latency")
    assert "CPU per request 16 ms, stable 400 µs (not judged)." in latency.message
    assert len(latency.message) <= 512
    assert verdict.alarm is None and verdict.hold is None
    assert all("CPU" not in c.message for c in verdict.checks if c.type != "Latency")
    begun = judging.judge(plan, canary(plan, 2))
    assert all("CPU" not in c.message for c in begun.checks), "nothing is said before it is known"


@pytest.mark.parametrize("cpu", [(1, float("nan")), (1, -1.0), (-1, 0.0), (1.5, 0.0)])
def test_cpu_seconds_that_cannot_be_are_refused(cpu: tuple[int, float]) -> None:
    with pytest.raises(ValueError, match="CPU seconds"):
        Look(1, 1.0, 5, ArmLook(), ArmLook(cpu=cpu))


def test_look_length_does_not_matter() -> None:
    bad = Behaviour(client_errors=0.3)
    for seconds in (1.0, 10.0):
        _, verdict, looks = run(
            plan_of(), stable=Behaviour(), candidate=bad, looks=30, seconds=seconds
        )
        assert verdict.alarm is not None and verdict.alarm.name == "client-errors"
        assert looks * seconds <= 20


def test_the_alarm_says_both_values_the_limit_and_the_evidence() -> None:
    _, verdict, _ = run(
        plan_of(), stable=Behaviour(), candidate=Behaviour(errors=0.3), looks=40, seed=1
    )
    assert verdict.alarm is not None
    message = verdict.alarm.message
    assert message.startswith("Error rate ") and len(message) <= 512
    assert "Not worse" not in message
    for part in ("stable 0.0 % of", "tolerated 1.2", "evidence", "of 600"):
        assert part in message


@pytest.mark.parametrize(
    ("stable", "candidate"),
    [
        (Behaviour(client_errors=0.1), Behaviour(client_errors=0.1)),
        (Behaviour(errors=0.5), Behaviour(errors=0.5)),
        (Behaviour(errors=0.05), Behaviour(errors=0.01)),
        (Behaviour(median=0.05), Behaviour(median=0.01)),
        (EQUAL, EQUAL),
    ],
    ids=["malformed in both arms", "shared outage", "better", "faster", "equal"],
)
def test_no_alarm_without_a_worse_candidate(stable: Behaviour, candidate: Behaviour) -> None:
    for seed in range(3):
        for step in (0, 2):
            _, verdict, _ = run(
                plan_of(), stable=stable, candidate=candidate, looks=60, step=step, seed=seed
            )
            assert verdict.alarm is None
            assert verdict.evidence_percent < 100


def test_false_alarms_of_the_whole_judge_are_rare() -> None:
    """70 canaries of 40 looks with all guardrails and a shared drift; alpha is .005."""
    plan = plan_of()
    alarms = 0
    for seed in range(70):
        rng, state, alarmed = np.random.default_rng(seed), canary(plan), False
        for number in range(40):
            if number in (10, 20):
                state = judging.begin_step(plan, state, number // 10)
            drift = 1 + number / 20
            how = Behaviour(errors=0.005 * drift, client_errors=0.02 * drift)
            weight = plan.steps[min(2, number // 10)].weight
            seen = look(rng, number, weight=weight, stable=how, candidate=how, seconds=2.0)
            state = judging.absorb(plan, state, seen)
            if number % 4 == 3:
                alarmed = alarmed or judging.judge(plan, state).alarm is not None
        alarms += alarmed
    assert alarms <= 2


def test_an_equal_candidate_passes_and_a_doubled_one_does_not() -> None:
    plan = plan_of(rollout={"steps": [{"weight": 50, "minRequests": 1000, "minDuration": "1m"}]})
    passed = {
        name: run(plan, stable=EQUAL, candidate=how, looks=60, seconds=5.0, seed=4)[1]
        for name, how in (("equal", EQUAL), ("doubled", replace(EQUAL, errors=0.012)))
    }
    assert passed["equal"].promotion == "Pass" and passed["equal"].missing == []
    assert passed["equal"].eta_seconds == 0.0
    assert passed["equal"].excess_bound is not None and passed["equal"].excess_bound < 0.005
    assert {c.verdict for c in passed["equal"].checks[:3]} == {"Pass"}
    assert "Not worse by more than 0." in passed["equal"].checks[0].message
    assert passed["doubled"].promotion == "Wait"


def test_a_candidate_without_requests_is_never_promoted() -> None:
    plan = plan_of(rollout={"steps": [{"weight": 5, "minRequests": 0, "minDuration": "1s"}]})
    state = canary(plan)
    for number in range(30):
        seen = Look(number, 10.0, 5, ArmLook(n=100, load_per_pod=50.0), ArmLook())
        state = judging.absorb(plan, state, seen)
    verdict = judging.judge(plan, state)
    assert verdict.promotion == "Wait" and verdict.eta_seconds is None
    assert "no request has reached the candidate in this step" in verdict.missing
    assert verdict.checks[0].verdict == "NoData"


def test_a_step_waits_for_its_requests_and_its_time() -> None:
    plan = plan_of()
    _, verdict, _ = run(plan, stable=Behaviour(), candidate=Behaviour(), looks=10)
    assert any("of 100 candidate requests" in m for m in verdict.missing)
    assert any("of 2 min observed" in m for m in verdict.missing)
    assert verdict.eta_seconds is not None and 60 <= verdict.eta_seconds <= 600
    text, eta = explain(
        name="iris",
        digest="0123456789ab",
        step=plan.steps[0],
        index=0,
        count=3,
        observed=10.0,
        judgement=verdict,
    )
    assert eta == verdict.eta_seconds and len(text) <= 512
    assert text.startswith("Step 1 of 3 at 5 % waits. Missing: ")
    assert text.endswith("kubectl annotate mdep/iris sluice.dev/promote=0123456789ab")
    assert "an equal candidate needs about" in text


def test_waiting_is_explained_before_and_after_the_evidence() -> None:
    plan = plan_of()
    common = {"name": "iris", "digest": "0" * 12, "step": plan.steps[0], "index": 0, "count": 3}
    text, eta = explain(**common, observed=30.0, judgement=None)  # type: ignore[arg-type]
    assert "first evidence" in text and eta == 90.0
    done = Judgement(promotion="Pass")
    text, eta = explain(**common, observed=30.0, judgement=done)  # type: ignore[arg-type]
    assert "30 s of 2 min observed" in text and eta == 90.0
    stuck = Judgement(missing=["x" * 300, "y" * 300], eta_seconds=None)
    text, eta = explain(**common, observed=30.0, judgement=stuck)  # type: ignore[arg-type]
    assert len(text) <= 512 and "sluice.dev/promote=" in text and "and 1 more" in text
    assert eta is None and "send requests" in text


def test_a_tiny_difference_never_rolls_back() -> None:
    plan, state = plan_of(), canary(plan_of(), 2)
    for number in range(20):
        seen = Look(
            number,
            10.0,
            50,
            ArmLook(n=1_000_000, model_errors=10, load_per_pod=1.0),
            ArmLook(n=1_000_000, model_errors=100, load_per_pod=1.0),
        )
        state = judging.absorb(plan, state, seen)
    verdict = judging.judge(plan, state)
    assert verdict.alarm is None
    errors = verdict.checks[0]
    assert errors.low is not None and errors.low > 5
    assert errors.log10_evidence is not None and errors.log10_evidence > 3


def test_a_replayed_look_changes_nothing_and_a_restart_neither() -> None:
    plan = plan_of(traffic={"unit": {"header": "X-User-Id"}})
    rng, state = np.random.default_rng(8), canary(plan)
    for number in range(6):
        seen = look(rng, number, weight=5, stable=EQUAL, candidate=EQUAL, rate=500)
        after = judging.absorb(plan, state, seen)
        assert judging.absorb(plan, after, seen) is after
        assert judging.absorb(plan, json.loads(json.dumps(state)), seen) == after
        state = json.loads(json.dumps(after))
        assert state == after
    assert judging.begin_step(plan, state, 0) is state
    assert len(json.dumps(state)) < 60_000


def test_a_new_step_starts_promotion_from_nothing_and_keeps_the_alarm() -> None:
    plan = plan_of()
    state, _, _ = run(plan, stable=EQUAL, candidate=EQUAL, looks=60)
    before = judging.judge(plan, state)
    after = judging.judge(plan, judging.begin_step(plan, state, 1))
    assert after.promotion == "Wait" and after.excess_bound is None
    assert after.checks[0].log10_evidence == pytest.approx(before.checks[0].log10_evidence, abs=0.2)


def test_scores_that_are_no_numbers_fail_at_three() -> None:
    plan = plan_of()
    for seen, alarm in ((2, False), (3, True)):
        candidate = ArmLook(n=50, model_errors=seen, non_finite=seen)
        state = judging.absorb(plan, canary(plan), Look(0, 1.0, 5, ArmLook(n=950), candidate))
        found = judging.judge(plan, state).alarm
        assert (found is not None and found.name == "non-finite") == alarm
    both = Look(0, 1.0, 5, ArmLook(n=950, non_finite=1), ArmLook(n=50, non_finite=3))
    assert judging.judge(plan, judging.absorb(plan, canary(plan), both)).alarm is None


def test_a_hard_limit_fires_only_while_stable_is_below_it() -> None:
    checks = [{"name": "e", "type": "ErrorRate", "margin": 10, "max": 0.02}]
    plan = plan_of(analysis={"checks": checks})
    _, verdict, _ = run(
        plan, stable=Behaviour(errors=0.005), candidate=Behaviour(errors=0.04), looks=200, step=2
    )
    assert verdict.alarm is not None and "hard limit 2.0 % exceeded" in verdict.alarm.message
    _, verdict, _ = run(
        plan, stable=Behaviour(errors=0.06), candidate=Behaviour(errors=0.06), looks=100, step=2
    )
    assert verdict.alarm is None


UNIFORM = (0.05,) * 20
SKEWED = (0.0,) * 15 + (0.2,) * 5


@pytest.mark.parametrize(("action", "field"), [(None, "hold"), ("Rollback", "alarm")])
def test_a_shifted_candidate_is_held_for_a_person(action: str | None, field: str) -> None:
    check = {"name": "shift", "type": "PredictionShift"} | ({"onFail": action} if action else {})
    plan = plan_of(analysis={"checks": [check]})
    _, verdict, _ = run(
        plan,
        stable=Behaviour(scores=UNIFORM),
        candidate=Behaviour(scores=SKEWED),
        looks=40,
        rate=200,
    )
    found = getattr(verdict, field)
    assert found is not None and found.type == "PredictionShift" and found.verdict == "Fail"
    assert "own reference profile" in found.message
    assert verdict.promotion == "Wait" and verdict.worst == "shift"


def test_a_season_that_moves_both_models_is_not_held() -> None:
    _, verdict, _ = run(
        plan_of(),
        stable=Behaviour(scores=SKEWED),
        candidate=Behaviour(scores=SKEWED),
        looks=40,
        rate=200,
    )
    assert verdict.hold is None


def test_a_slow_candidate_fails_and_unequal_load_is_no_excuse_for_tenfold() -> None:
    slow = Behaviour(median=0.1)
    for step in (0, 2):
        _, verdict, looks = run(
            plan_of(), stable=Behaviour(), candidate=slow, looks=60, step=step, rate=200
        )
        assert verdict.alarm is not None and verdict.alarm.type == "Latency"
        assert verdict.alarm.effect is not None and verdict.alarm.effect > 3
        assert looks <= 30
    lightly = Behaviour(median=0.014)
    _, verdict, _ = run(plan_of(), stable=Behaviour(), candidate=lightly, looks=60, rate=200)
    assert verdict.alarm is None


def test_one_unit_cannot_take_a_candidate_back_when_the_split_is_sticky() -> None:
    plan = plan_of(traffic={"unit": {"header": "X-User-Id"}})
    rng, state = np.random.default_rng(1), canary(plan)
    for number in range(30):
        # One user of the candidate's sends a third of its requests, and most of them fail.
        cells = dict.fromkeys(rng.choice(500, size=10, replace=False).tolist(), (1, 0, 0))
        cells[499] = (5, 0, 4)
        n = sum(c[0] for c in cells.values())
        candidate = ArmLook(n=n, model_errors=4, buckets=cells)
        stable_cells = dict.fromkeys(range(300), (1, 0, 0))
        stable = ArmLook(n=300, buckets=stable_cells)
        state = judging.absorb(plan, state, Look(number, 1.0, 5, stable, candidate))
        assert judging.judge(plan, state).alarm is None
    random = plan_of()
    verdict = judging.judge(
        random,
        judging.absorb(
            random,
            canary(random),
            Look(0, 30.0, 5, ArmLook(n=9000), ArmLook(n=450, model_errors=120)),
        ),
    )
    assert verdict.alarm is not None


def test_sticky_regressions_of_many_units_are_still_found() -> None:
    plan = plan_of(traffic={"unit": {"header": "X-User-Id"}})
    rng, state = np.random.default_rng(1), canary(plan)
    for number in range(20):
        picked = rng.choice(500, size=20, replace=False).tolist()
        cells = {b: (1, 0, int(rng.random() < 0.3)) for b in picked}
        errors = sum(c[2] for c in cells.values())
        candidate = ArmLook(n=20, model_errors=errors, buckets=cells)
        stable = ArmLook(n=380, buckets=dict.fromkeys(range(380), (1, 0, 0)))
        state = judging.absorb(plan, state, Look(number, 1.0, 5, stable, candidate))
        if judging.judge(plan, state).alarm is not None:
            break
    assert number <= 4
