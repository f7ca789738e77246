"""Estimates at the start: within a quarter of what the simulations of the reference took."""

from __future__ import annotations

import math

import pytest
from tests.unit.looks import plan_of
from tests.worlds.rollout import SimWorld
from tests.worlds.stories import rollout, serving, state, steps, until

from sluice.rollout import estimate, judge
from sluice.rollout.estimate import Traffic
from sluice.stats import detection
from sluice.stats.look import ArmLook, Look

ERRORS = {"checks": [{"name": "errors", "type": "ErrorRate"}]}


@pytest.mark.parametrize(
    ("per_second", "base", "minutes"),
    [
        (10, 0.0, 18.3),
        (10, 0.001, 19.3),
        (10, 0.005, 22.0),
        (10, 0.02, 53.5),
        (10, 0.05, 53.0),
        (100, 0.0, 17.0),
        (100, 0.005, 17.0),
        (100, 0.02, 17.0),
        (1000, 0.02, 17.0),
        (1, 0.0, 87.0),
    ],
)
def test_an_equal_candidate_takes_as_long_as_was_simulated(
    per_second: float, base: float, minutes: float
) -> None:
    traffic = Traffic(per_second, {"ErrorRate": base, "ClientErrorRate": 0.0})
    told = estimate.promotion_seconds(plan_of(analysis=ERRORS), traffic)
    assert told is not None and told / 60 == pytest.approx(minutes, rel=0.25)


@pytest.mark.parametrize(
    ("p", "q", "share", "candidate"),
    [
        (0.001, 0.01, 0.05, 649),
        (0.005, 0.01, 0.05, 3400),
        (0.01, 0.02, 0.05, 1700),
        (0.01, 0.05, 0.05, 181),
        (0.01, 0.012, 0.05, 42_000),
        (0.01, 0.05, 0.25, 236),
        (0.005, 0.01, 0.5, 6500),
        (0.01, 0.05, 0.5, 396),
    ],
)
def test_a_regression_is_noticed_after_as_many_requests_as_were_simulated(
    p: float, q: float, share: float, candidate: float
) -> None:
    """80 % power at alpha 0.05 and margin 1."""
    told = detection.requests_to_notice(p, q, share, margin=1.0, log_need=math.log(20))
    assert told == pytest.approx(candidate, rel=0.25)


def test_what_the_margin_tolerates_is_never_noticed() -> None:
    told = detection.requests_to_notice(0.01, 0.011, 0.05, margin=1.2, log_need=3.0)
    assert told == math.inf
    loose = plan_of(analysis={"checks": [{"name": "e", "type": "ErrorRate", "margin": 10}]})
    traffic = Traffic(10.0, {"ErrorRate": 0.0, "ClientErrorRate": 0.0})
    assert estimate.notice_seconds(loose, loose.steps[0], traffic, 0.01, 0.05) is None
    assert "to see" not in estimate.said(loose, loose.steps[0], traffic)


def test_both_are_said_in_plain_words() -> None:
    plan = plan_of()
    traffic = Traffic(10.0, {"ErrorRate": 0.0, "ClientErrorRate": 0.0})
    text = estimate.said(plan, plan.steps[0], traffic)
    assert text.startswith("5 % of 10 requests/s: about ")
    assert "to see an error rate of 1.0 % become 5.0 %" in text
    assert text.endswith("An equal candidate takes about 18 min from the first step to promotion.")


def test_where_stable_fails_a_lot_the_example_starts_there() -> None:
    plan = plan_of()
    traffic = Traffic(10.0, {"ErrorRate": 0.4, "ClientErrorRate": 0.0})
    assert "error rate of 40.0 % become 70.0 %" in estimate.said(plan, plan.steps[0], traffic)


def test_non_inferiority_without_failures_is_never_promised() -> None:
    plan = plan_of(rollout={"promotion": "NonInferiority"})
    traffic = Traffic(10.0, {"ErrorRate": 0.01, "ClientErrorRate": 0.0})
    assert estimate.promotion_seconds(plan, traffic) is None
    assert "cannot be told" in estimate.said(plan, plan.steps[0], traffic)
    some = Traffic(10.0, {"ErrorRate": 0.001, "ClientErrorRate": 0.001})
    told = estimate.promotion_seconds(plan, some)
    assert told is not None and told > 86400
    assert "days" in estimate.said(plan, plan.steps[0], some)


def test_copies_are_counted_as_the_part_of_traffic_they_are() -> None:
    plan = plan_of(rollout={"steps": [{"mirror": 20}, {"weight": 50}]})
    state = judge.begin_step(plan, judge.new_state(plan, "canary"), 0)
    for number in range(3):
        arm = ArmLook(n=20, load_per_pod=1.0)
        state = judge.absorb(plan, state, Look(number, 10.0, 0, arm, arm))
    traffic = estimate.traffic_of(plan.steps[0], state)
    assert traffic is not None and traffic.per_second == pytest.approx(10.0)


def slowly() -> SimWorld:
    world = serving(rollout=rollout(steps=steps(minDuration="10m")))
    world.ask_for("b")
    until(world, "Stepping")
    return world


def test_it_is_said_once_as_an_event_and_stays_in_the_message() -> None:
    world = slowly()
    world.run(30)
    told = [n for n in world.notes if n.startswith("Estimated")]
    assert len(told) == 1 and "5 % of 400 requests/s: about" in told[0]
    assert state(world) == "Stepping"
    assert "5 % of 400 requests/s: about" in world.status["step"]["summary"]
    assert "5 % of 400 requests/s: about" in world.condition("Ready").message
    assert "sluice.dev/promote=626262626262" in world.condition("Ready").message


def test_nothing_is_estimated_without_requests() -> None:
    world = serving(rollout=rollout())
    world.rate = 0.0
    world.ask_for("b")
    until(world, "Stepping")
    world.run(30)
    assert not any(n.startswith("Estimated") for n in world.notes)
