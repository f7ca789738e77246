"""``rollout.promotion: NonInferiority``: a step passes on a ratio of odds, and says how long."""

from __future__ import annotations

import json

from tests.unit.looks import Behaviour, plan_of
from tests.unit.test_judge_canary import run

from sluice.rollout import judge as judging
from sluice.rollout.plan import Plan
from sluice.rollout.waiting import explain
from sluice.stats.look import ArmLook, Look

FAILING = Behaviour(errors=0.02, client_errors=0.02)


def strict(margin: float = 1.2) -> Plan:
    checks = [
        {"name": "errors", "type": "ErrorRate", "margin": margin},
        {"name": "rejects", "type": "ClientErrorRate", "margin": margin},
    ]
    return plan_of(
        rollout={"promotion": "NonInferiority", "steps": [{"weight": 50}]},
        analysis={"checks": checks},
    )


def test_what_a_step_must_show_is_in_the_plan() -> None:
    assert plan_of().promotion == "BoundedRisk"
    plan = Plan.from_json(json.loads(json.dumps(strict().to_json())))
    assert plan == strict() and plan.promotion == "NonInferiority"


def seldom_failing(plan: Plan) -> judging.Judgement:
    """Eleven minutes in which both arms fail once in a thousand requests."""
    state = judging.begin_step(plan, judging.new_state(plan, "canary"), 0)
    for number in range(66):
        arm = ArmLook(n=1000, model_errors=1, client_errors=1, load_per_pod=50.0)
        state = judging.absorb(plan, state, Look(number, 10.0, 50, arm, arm))
    return judging.judge(plan, state)


def test_what_bounded_risk_passes_still_waits_and_says_how_long() -> None:
    checks = [{"name": "errors", "type": "ErrorRate"}]
    loose = plan_of(rollout={"steps": [{"weight": 50}]}, analysis={"checks": checks})
    assert seldom_failing(loose).promotion == "Pass"
    verdict = seldom_failing(strict())
    assert verdict.promotion == "Wait" and verdict.alarm is None
    assert any("odds of errors not yet shown to be at most 1.2 x" in m for m in verdict.missing)
    assert verdict.eta_seconds is not None and verdict.eta_seconds > 3600
    assert verdict.checks[0].verdict == "Inconclusive"
    assert "Not worse by" not in verdict.checks[0].message


def test_it_passes_on_evidence_of_both_rates_and_claims_no_more() -> None:
    _, verdict, _ = run(
        strict(2.0), stable=FAILING, candidate=FAILING, looks=1200, rate=100.0, seed=1
    )
    assert verdict.promotion == "Pass", verdict.missing
    assert "Odds shown to be at most 2 x stable's (97.5 %)." in verdict.checks[0].message


def test_a_candidate_at_the_margin_waits() -> None:
    worse = Behaviour(errors=0.038, client_errors=0.02)
    _, verdict, _ = run(strict(2.0), stable=FAILING, candidate=worse, looks=600, rate=100.0)
    assert verdict.promotion == "Wait"


def test_without_failures_it_says_that_nobody_can_tell() -> None:
    plan = strict()
    state = judging.begin_step(plan, judging.new_state(plan, "canary"), 0)
    for number in range(100):
        arm = ArmLook(n=500, load_per_pod=50.0)
        state = judging.absorb(plan, state, Look(number, 10.0, 50, arm, arm))
    verdict = judging.judge(plan, state)
    assert verdict.promotion == "Wait" and verdict.eta_seconds is None
    text = explained(plan, verdict)
    assert "none in either arm" in text and "cannot be told yet" in text
    assert "send requests" not in text


def test_days_are_said_to_be_days_at_the_traffic_seen() -> None:
    plan = strict()
    state = judging.begin_step(plan, judging.new_state(plan, "canary"), 0)
    for number in range(200):
        bad = int(number == 30)
        arm = ArmLook(n=50, model_errors=bad, client_errors=bad, load_per_pod=5.0)
        state = judging.absorb(plan, state, Look(number, 10.0, 50, arm, arm))
    text = explained(plan, judging.judge(plan, state))
    assert "At the present traffic (10 requests/s) an equal candidate needs about" in text
    assert " days more." in text and len(text) <= 512


def explained(plan: Plan, verdict: judging.Judgement) -> str:
    text, _ = explain(
        name="iris",
        digest="0123456789ab",
        step=plan.steps[0],
        index=0,
        count=1,
        observed=10.0,
        judgement=verdict,
    )
    return text
