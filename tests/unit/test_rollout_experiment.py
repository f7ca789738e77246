"""Experimenting: after the steps, at one weight, until a metric tells the arms apart."""

from __future__ import annotations

from typing import Any

import pytest
from tests.worlds.rollout import SimWorld, digest_of
from tests.worlds.stories import serving, state, until

from sluice.rollout.plan import analysis_plan

STUDY = {
    "metric": "conversion",
    "kind": "Conversion",
    "weight": 50,
    "window": "1s",
    "maxUnits": 20_000,
    "feedback": {"secretRef": {"name": "feedback"}},
}


def study(rate: float = 0.2, **changes: Any) -> SimWorld:
    """b is on its way; a converts one of five users."""
    world = serving(traffic={"unit": {"header": "X-User-Id"}}, experiment={**STUDY, **changes})
    world.conversions = {digest_of("a"): 0.2, digest_of("b"): rate}
    world.rate = 2000.0
    world.ask_for("b")
    until(world, "Experimenting")
    return world


def verdict(world: SimWorld) -> str:
    return str(world.status["experiment"]["verdict"])


def test_after_the_steps_the_weight_stays_and_users_are_named() -> None:
    world = study()
    world.run(10)
    assert world.roles.weight == 50
    running = world.progress.experiment
    assert running is not None
    assert world.roles.experiment == running.id
    ready = world.condition("Ready")
    assert (ready.status, ready.reason) == ("True", "Held")
    assert "conversion" in ready.message
    assert "sluice.dev/promote=626262626262" in ready.message
    assert world.condition("Reconciling").status == "False"
    assert verdict(world) == "Inconclusive"
    assert world.status["experiment"]["exposed"] > 0


def test_nothing_is_counted_while_routers_let_no_outcome_in() -> None:
    world = serving(traffic={"unit": {"header": "X-User-Id"}}, experiment=STUDY)
    world.conversions = {digest_of("a"): 0.2, digest_of("b"): 0.2}
    world.rate, world.feedback_shut = 2000.0, True
    world.ask_for("b")
    until(world, "Experimenting")
    world.run(20)
    assert world.progress.experiment is None
    said = world.condition("Ready").message
    assert "has not begun" in said
    assert "under 'token' of Secret 'feedback'" in said
    assert "kubectl rollout restart deployment/iris-router -n default" in said
    world.feedback_shut = False
    world.run(10)
    assert world.status["experiment"]["exposed"] > 0
    world.feedback_shut = True
    world.run(2)
    assert "Outcomes are being lost: a router has no token" in world.condition("Ready").message


def test_a_candidate_that_sells_more_is_promoted() -> None:
    world = study(rate=0.26)
    until(world, "Watching", 400)
    assert world.roles.stable == world.revision_of("b")
    assert world.roles.experiment == ""
    assert verdict(world) == "Superior"
    assert any(note.startswith("ExperimentWon: Superior") for note in world.notes)


def test_a_candidate_that_sells_less_goes_back_and_is_quarantined() -> None:
    world = study(rate=0.14)
    until(world, "Stopped", 400)
    known = world.revisions[world.revision_of("b") or ""].verdict
    assert (known.phase, known.check, known.scope) == ("Failed", "conversion", "Package")
    assert "conversion 1" in known.message
    assert world.roles.weight == 0
    assert verdict(world) == "Inferior"


@pytest.mark.parametrize(
    ("rate", "change"), [(0.26, {"onWin": "Hold"}), (0.14, {"onLoss": "Hold"})]
)
def test_hold_leaves_the_verdict_to_a_person(rate: float, change: dict[str, str]) -> None:
    world = study(rate=rate, **change)
    world.run(300)
    assert state(world) == "Experimenting"
    assert world.condition("Ready").reason == "Held"
    assert verdict(world) in world.condition("Ready").message
    world.command("promote", "b")
    until(world, "Watching")


@pytest.mark.parametrize(("policy", "serves"), [("Hold", "a"), ("Rollback", "a"), ("Promote", "b")])
def test_undecided_at_the_most_units(policy: str, serves: str) -> None:
    world = study(onInconclusive=policy, maxUnits=3000)
    world.run(300)
    assert world.roles.stable == world.revision_of(serves), world.notes[-5:]
    if policy == "Hold":
        assert state(world) == "Experimenting"
        assert world.condition("Stalled").reason == "Inconclusive"
    if policy == "Rollback":
        known = world.revisions[world.revision_of("b") or ""].verdict
        assert (known.check, known.scope) == ("conversion", "Revision")


def test_undecided_at_the_most_time() -> None:
    world = study(onInconclusive="Promote", maxDuration="30s", maxUnits=200_000)
    world.run(20)
    assert state(world) == "Experimenting"
    world.run(40)
    assert world.roles.stable == world.revision_of("b")


def test_without_units_nothing_is_decided_at_its_end() -> None:
    world = study(onInconclusive="Promote", maxDuration="10s")
    world.stopped_traffic = True
    world.run(60)
    assert world.roles.stable == world.revision_of("a")


def test_users_that_are_not_split_as_planned_hold_and_are_withdrawn_in_the_end() -> None:
    world = study(rate=0.26, maxDuration="60s", maxUnits=200_000)
    world.split = 0.35
    world.run(30)
    assert state(world) == "Experimenting"
    assert verdict(world) == "Untrusted"
    assert "planned were 50.0 %" in world.condition("Ready").message
    world.run(60)
    known = world.revisions[world.revision_of("b") or ""].verdict
    assert known.phase == "Withdrawn"
    assert "Untrusted" in known.message
    assert world.roles.weight == 0


def test_a_guardrail_takes_the_candidate_back_in_the_middle() -> None:
    world = study(rate=0.2)
    world.errors = {digest_of("b"): 0.3}
    until(world, "Stopped", 100)
    known = world.revisions[world.revision_of("b") or ""].verdict
    assert (known.phase, known.check) == ("Failed", "errors")
    assert world.progress.experiment is None


def test_its_log_is_removed_after_it_is_over() -> None:
    world = study(rate=0.26)
    world.run(4)
    while world.progress.experiment is not None:
        world.run(1)
    assert world.progress.stale_units == 1
    world.run(2)
    assert world.progress.stale_units == 0
    assert world.status["experiment"]["verdict"] == "Superior"


def test_a_damaged_log_begins_anew_under_another_name() -> None:
    world = study()
    world.run(20)
    before = world.progress.experiment
    assert before is not None
    world.progress = world.progress.model_copy(
        update={"experiment": before.model_copy(update={"damaged": "It is gone."})}
    )
    world.version += 1
    world.run(3)
    after = world.progress.experiment
    assert after is not None
    assert after.id != before.id
    assert world.roles.experiment == after.id
    assert any("ExperimentRestarted: It is gone." in note for note in world.notes)


def test_a_paused_experiment_decides_nothing_and_goes_on_when_resumed() -> None:
    world = study(rate=0.26)
    world.command("pause")
    world.run(300)
    assert state(world) == "Experimenting"
    assert world.condition("Ready").reason == "Held"
    world.command("resume")
    until(world, "Watching")


def test_abort_ends_it() -> None:
    world = study(rate=0.26)
    world.command("abort")
    until(world, "Stopped")
    assert world.roles.experiment == ""


def test_the_spec_going_back_ends_it_without_a_verdict() -> None:
    world = study()
    world.ask_for("a")
    until(world, "Idle")
    known = world.revisions[world.revision_of("b") or ""].verdict
    assert known.phase == "Validated"
    assert world.progress.experiment is None


def test_a_restart_in_the_middle_of_a_write_changes_nothing() -> None:
    world = study(rate=0.26)
    for kill in range(12):
        world.pass_time(1)
        world.reconcile(kill_after=kill % 4)
    until(world, "Watching", 400)


def test_promote_now_in_a_step_skips_the_experiment_too() -> None:
    world = serving(traffic={"unit": {"header": "X-User-Id"}}, experiment=STUDY)
    world.ask_for("b")
    until(world, "Stepping")
    world.command("promote-now", "b")
    until(world, "Watching")
    assert world.progress.last_experiment is None


def test_steps_above_the_experiments_weight_are_left_out() -> None:
    for weight, steps in ((50, [5, 25, 50]), (30, [5, 25]), (3, [3])):
        world = serving(
            traffic={"unit": {"header": "X-User-Id"}}, experiment={**STUDY, "weight": weight}
        )
        plan = analysis_plan(world.parsed())
        assert [s.weight for s in plan.steps] == steps
        assert plan.steps[-1].last
        assert type(plan).from_json(plan.to_json()) == plan
