"""The judge on mirrored requests: what is enough, what differs too much, what is carried on."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from tests.unit.looks import Behaviour, look, plan_of

from sluice.rollout import judge as judging
from sluice.rollout.judge import Judgement, State
from sluice.rollout.plan import Plan, describe
from sluice.stats.look import ArmLook, Look, MirrorLook

STEPS = [{"mirror": 100, "minRequests": 500, "minDuration": "1m"}, {"weight": 5}, {"weight": 50}]


def plan(**check: Any) -> Plan:
    """Errors, and answers that are compared."""
    differs = {"name": "differs", "type": "Disagreement", **check}
    checks = [{"name": "errors", "type": "ErrorRate"}, differs]
    return plan_of(rollout={"steps": STEPS}, analysis={"checks": checks})


def begun(of: Plan) -> State:
    return judging.begin_step(of, judging.new_state(of, "canary"), 0)


def copies(
    number: int,
    n: int,
    *,
    differ: int = 0,
    errors: int = 0,
    both: int = 0,
    seconds: float = 10.0,
    **more: Any,
) -> Look:
    """``errors`` are the candidate's alone, ``both`` are stable's too."""
    bad = errors + both
    return Look(
        number,
        seconds,
        0,
        ArmLook(n, 0, both, pods=((n, 0, both),)),
        ArmLook(n, 0, bad, pods=((n, 0, bad),)),
        mirror=MirrorLook(compared=n - bad, disagreed=differ, **more),
    )


def judged(of: Plan, *looks: Look) -> tuple[State, Judgement]:
    state = begun(of)
    for one in looks:
        state = judging.absorb(of, state, one)
    assert json.loads(json.dumps(state)) == state
    return state, judging.judge(of, state)


def check_of(verdict: Judgement, name: str) -> Any:
    return next(c for c in verdict.checks if c.name == name)


def test_the_plan_has_the_defaults_of_the_api() -> None:
    found = plan_of(rollout={"steps": [{"mirror": 10}, {"weight": 50}]})
    first, second = found.steps
    assert (first.mirror, first.weight, first.load, first.where) == (10, 0, 10, "mirroring 10 %")
    assert (first.min_requests, first.min_duration, first.last) == (500, 120.0, False)
    assert (second.where, second.last) == ("at 50 %", True)
    assert (found.first_weight, found.tolerance) == (1, 0.01)
    assert describe(first) == "10 % mirrored for 2 min and 500 requests"
    check = plan().checks[1]
    assert (check.limit, check.action, check.tolerance) == (0.05, "Hold", 0.01)
    assert plan(max=0.2, onFail="Rollback", tolerance=0.5).tolerance == 0.5
    assert Plan.from_json(json.loads(json.dumps(found.to_json()))) == found


@pytest.mark.parametrize("final", [{"holdback": 0}, {"holdback": 50}])
def test_a_weight_always_follows_a_mirrored_step(final: dict[str, int]) -> None:
    steps = [{"mirror": 100}, {"weight": 100 - final["holdback"]}]
    made = plan_of(rollout={"steps": steps, "watch": final}).steps
    assert [s.mirror for s in made] == [100, 0]
    assert made[1].weight == 50
    assert made[1].last


def test_a_step_passes_with_its_copies_and_its_time() -> None:
    few = judged(plan(), copies(0, 100, seconds=70))[1]
    assert few.promotion == "Wait"
    assert few.missing == [
        "100 of 500 mirrored requests compared",
        "errors not yet shown to be worse by less than 2 pp or 50 % of stable's (so far 5.5 pp)",
    ]
    assert few.eta_seconds == pytest.approx(280)
    short = judged(plan(), copies(0, 600, seconds=20))[1]
    assert short.missing == ["20 s of 60 s observed"]
    enough = judged(plan(), copies(0, 600, seconds=70))[1]
    assert (enough.promotion, enough.missing, enough.candidate_n) == ("Pass", [], 600)


def test_without_copies_it_cannot_be_told_how_long() -> None:
    nothing = judged(plan(), copies(0, 0, failed=7, dropped=3))[1]
    assert nothing.eta_seconds is None
    assert nothing.missing[0] == (
        "0 of 500 mirrored requests compared (7 got no answer, 3 were dropped)"
    )
    assert check_of(nothing, "differs").verdict == "NoData"
    assert "No mirrored request" in check_of(nothing, "differs").message


def test_errors_are_not_compared_but_judged() -> None:
    state, verdict = judged(plan(), copies(0, 600, both=300, seconds=70))
    assert verdict.candidate_n == 300
    assert verdict.alarm is None, "stable failed the same requests"
    assert judging.failing_now(state) == 0.5


def test_errors_of_the_candidate_alone_are_found_within_a_few() -> None:
    of = plan()
    state = begun(of)
    for number in range(20):
        state = judging.absorb(of, state, copies(number, 20, errors=6))
        verdict = judging.judge(of, state)
        if verdict.alarm is not None:
            break
    assert verdict.alarm is not None
    assert verdict.alarm.name == "errors"
    assert state["total"]["candidate"][2] <= 24


@pytest.mark.parametrize("rate", [0.03, 0.05])
def test_one_that_fails_some_copies_is_not_let_through_before_it_is_found(rate: float) -> None:
    """More than 2 points worse: at most 2.5 % may pass, whenever one looks."""
    rng, of, passed, found = np.random.default_rng(11), plan(), 0, 0
    for _ in range(100):
        state = begun(of)
        for number in range(60):
            state = judging.absorb(
                of, state, copies(number, 50, errors=int(rng.binomial(50, rate)))
            )
            verdict = judging.judge(of, state)
            if verdict.alarm is not None or verdict.promotion == "Pass":
                break
        passed += verdict.promotion == "Pass"
        found += verdict.alarm is not None
    assert passed <= 5
    assert found >= 90


def test_an_equal_one_passes_with_the_default_number_of_copies() -> None:
    """Nothing fails, or 1 % of the same requests do."""
    assert judged(plan(), copies(0, 500, seconds=70))[1].promotion == "Pass"
    verdict = judged(plan(), *(copies(n, 100, both=1) for n in range(12)))[1]
    assert verdict.promotion == "Pass", verdict.missing
    assert "Not worse by more than" in check_of(verdict, "errors").message


@pytest.mark.parametrize(("action", "alarms"), [("Hold", False), ("Rollback", True)])
def test_answers_that_surely_differ_too_often(action: str, alarms: bool) -> None:
    _, verdict = judged(plan(onFail=action), copies(0, 500, differ=100, seconds=70))
    failed = verdict.alarm if alarms else verdict.hold
    assert failed is not None
    assert (failed.name, failed.verdict) == ("differs", "Fail")
    assert (verdict.alarm is not None) is alarms
    assert verdict.promotion == "Wait"
    assert failed.candidate_value == pytest.approx(0.2)
    assert failed.low is not None
    assert failed.high is not None
    assert failed.low < 0.2 < failed.high
    assert failed.margin == 0.05
    assert "20.0 % of 500 mirrored requests got another answer" in failed.message


@pytest.mark.parametrize("differ", [0, 20, 30])
def test_answers_that_differ_as_often_as_tolerated_hold_nobody(differ: int) -> None:
    """6 % of 500 is above 5 %, but not surely."""
    _, verdict = judged(plan(), copies(0, 500, differ=differ, seconds=70))
    assert (verdict.hold, verdict.alarm, verdict.promotion) == (None, None, "Pass")


def test_a_tolerated_rate_is_seldom_held_whenever_one_looks() -> None:
    """Anytime-valid: 200 runs of 100 looks at exactly the limit; 1 of 1,000 is allowed."""
    rng, of, held = np.random.default_rng(3), plan(), 0
    for _ in range(200):
        n = x = 0
        for _look in range(100):
            n, x = n + 20, x + int(rng.binomial(20, 0.05))
            state = begun(of)
            state["checks"]["differs"] = {"n": n, "x": x, "apart": [0.0, 0.0]}
            if judging.judge(of, state).hold is not None:
                held += 1
                break
    assert held <= 3


def test_other_answers_of_equal_candidates_never_alarm() -> None:
    """Engine C on pairs: equal error rates, as alike or unlike as they may be; at most 0.5 %."""
    rng, of, alarms = np.random.default_rng(5), plan(), 0
    for _ in range(150):
        state = begun(of)
        for number in range(30):
            own, stables = (int(rng.binomial(50, 0.02)) for _ in range(2))
            both = int(rng.binomial(50, 0.02))
            arms = [ArmLook(50, 0, both + x, pods=((50, 0, both + x),)) for x in (stables, own)]
            mirror = MirrorLook(compared=50 - both - max(own, stables))
            state = judging.absorb(of, state, Look(number, 1.0, 0, *arms, mirror=mirror))
        alarms += judging.judge(of, state).alarm is not None
    assert alarms <= 2


def test_evidence_against_the_candidate_is_carried_on_and_its_sample_is_not() -> None:
    of = plan()
    state, before = judged(of, copies(0, 300, errors=3, seconds=70))
    assert before.alarm is None
    after = judging.begin_step(of, state, 1)
    assert (after["in_step"]["candidate"], after["total"]["candidate"]) == ([0] * 4, [0] * 4)
    assert after["mirror"] == {}
    assert after["last"] == state["last"]
    assert after["checks"]["errors"]["x"] == [0, 3]
    assert after["checks"]["errors"]["started"] == 2
    assert after["checks"]["errors"]["planned"] == 3, "one alpha for copies and traffic"
    verdict = judging.judge(of, after)
    assert verdict.promotion == "Wait"
    rng = np.random.default_rng(1)
    equal = Behaviour(errors=0.0)
    more = judging.absorb(of, after, look(rng, 9, weight=5, stable=equal, candidate=equal))
    assert more["total"]["candidate"][0] > 0


def test_who_goes_on_from_a_hold_is_not_held_again_by_it() -> None:
    of = plan()
    state, verdict = judged(of, copies(0, 500, differ=400, seconds=70))
    assert verdict.hold is not None
    after = judging.begin_step(of, state, 1)
    verdict = judging.judge(of, after)
    assert verdict.hold is None
    assert check_of(verdict, "differs").candidate_value == pytest.approx(0.8)


def test_a_second_mirrored_step_counts_its_own_copies() -> None:
    steps = [{"mirror": 10}, {"mirror": 100}, {"weight": 50}]
    checks = [{"name": "errors", "type": "ErrorRate"}, {"name": "d", "type": "Disagreement"}]
    of = plan_of(rollout={"steps": steps}, analysis={"checks": checks})
    state = judging.absorb(of, begun(of), copies(0, 400, differ=8))
    state = judging.begin_step(of, state, 1)
    assert state["mirror"]["compared"] == 0
    assert state["checks"]["d"]["n"] == 400, "what differed is kept"


@pytest.mark.parametrize(
    ("look", "says"),
    [
        (MirrorLook(compared=-1), "compared"),
        (MirrorLook(compared=1, disagreed=2), "2 of only 1"),
        (MirrorLook(failed=True), "failed"),
        (MirrorLook(dropped=1.5), "dropped"),  # type: ignore[arg-type]
        (MirrorLook(apart=(float("nan"), 0.0)), "largest differences"),
        (MirrorLook(apart=(0.0, -1.0)), "largest differences"),
    ],
)
def test_a_look_that_cannot_be_true_is_refused(look: MirrorLook, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Look(1, 1.0, 0, ArmLook(), ArmLook(), mirror=look)
