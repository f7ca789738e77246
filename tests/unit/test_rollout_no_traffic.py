"""No request reaches the candidate: it says so, and passes by gates only where that was chosen."""

from __future__ import annotations

import pytest
from tests.unit.looks import plan_of
from tests.worlds.rollout import SimWorld
from tests.worlds.stories import mirrored, mirroring, rollout, serving, state, steps, until

from sluice.rollout import judge
from sluice.rollout.looking import absorbed
from sluice.rollout.model import Progress, Quiet
from sluice.stats.look import ArmLook, Look


def silent(rate: float = 0.0, **changes: object) -> SimWorld:
    """Model ``b`` is at 5 % and nobody sends more than ``rate`` requests a second."""
    world = serving(rollout=rollout(**changes))
    world.rate = rate
    world.ask_for("b")
    until(world, "Stepping")
    return world


def test_after_five_looks_the_ways_out_are_named() -> None:
    world = silent()
    world.run(8)
    assert world.condition("AnalysisHealthy").status == "True"
    world.run(12)
    healthy = world.condition("AnalysisHealthy")
    assert (healthy.status, healthy.reason) == ("False", "NoData")
    for way in ("steps[].mirror", "onNoTraffic", "larger weight"):
        assert way in healthy.message
        assert way in world.status["step"]["summary"]
    assert "sluice.dev/promote=626262626262" in world.status["step"]["summary"]
    assert world.condition("Stalled").status == "False"


def test_by_default_a_step_without_requests_waits_for_ever() -> None:
    world = silent()
    world.run(600)
    assert (state(world), world.roles.weight) == ("Stepping", 5)


def test_by_gates_where_the_user_chose_it_and_says_so() -> None:
    world = silent(onNoTraffic="PromoteByGates")
    until(world, "Watching")
    passed = [n for n in world.notes if n.startswith("PassedByGates")]
    assert len(passed) == 3 and "gates alone" in passed[0] and "at 5 %" in passed[0]
    assert any("By gates alone in 3 of its steps" in n for n in world.notes)


def test_it_may_be_chosen_while_the_rollout_waits() -> None:
    world = silent()
    world.run(60)
    world.change(rollout=rollout(onNoTraffic="PromoteByGates"))
    until(world, "Watching")


def test_least_duration_and_a_person_are_waited_for() -> None:
    world = silent(onNoTraffic="PromoteByGates", steps=steps(minDuration="100s", pause="Manual"))
    world.run(90)
    assert world.condition("Ready").status == "Unknown"
    world.run(60)
    assert (state(world), world.roles.weight) == ("Stepping", 5)
    assert "The step has passed" in world.condition("Ready").message


def test_a_source_that_cannot_be_read_is_no_absence_of_traffic() -> None:
    world = silent(onNoTraffic="PromoteByGates")
    world.stopped_traffic = True  # No look is taken at all.
    world.run(300)
    assert (state(world), world.roles.weight) == ("Stepping", 5)


def test_stable_with_requests_and_the_candidate_without_is_a_routing_fault() -> None:
    world = silent(rate=4.5, onNoTraffic="PromoteByGates", steps=steps(minDuration="60s"))
    world.run(60)
    assert (state(world), world.roles.weight) == ("Stepping", 5), "9 a look round to no request"
    assert "does not get its share" in world.status["step"]["summary"]
    world.run(20)
    assert (state(world), world.roles.weight) == ("Stopped", 0)
    assert "Withdrawn without a verdict" in world.condition("Ready").message


def test_enough_traffic_is_judged_whatever_was_chosen() -> None:
    world = serving(rollout=rollout(onNoTraffic="PromoteByGates"))
    world.ask_for("b")
    until(world, "Watching")
    assert not any("gates alone" in n for n in world.notes)


def test_mirrored_steps_pass_by_gates_when_every_pod_copies() -> None:
    world = mirroring(rollout=rollout(onNoTraffic="PromoteByGates", steps=mirrored()))
    world.rate = 0.0
    until(world, "Watching", 240)
    assert sum(n.startswith("PassedByGates") for n in world.notes) == 4


@pytest.mark.parametrize(("n", "partial", "looks"), [(0, False, 4), (1, False, 0), (0, True, 0)])
def test_only_complete_looks_without_a_request_count(n: int, partial: bool, looks: int) -> None:
    plan = plan_of()
    before = Progress(
        judge=judge.begin_step(plan, judge.new_state(plan, "canary"), 0),
        quiet=Quiet(looks=3, seconds=30.0, stable=7),
        partial=partial,
    )
    look = Look(0, 10.0, 5, ArmLook(n=2, load_per_pod=1.0), ArmLook(n=n, load_per_pod=1.0))
    after = absorbed(before, plan, look)
    assert after.quiet.looks == looks
    if looks:
        assert after.quiet == Quiet(looks=4, seconds=40.0, stable=9)
