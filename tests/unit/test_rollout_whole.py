"""What does not belong together is brought together: lost evidence, plans of another version."""

from __future__ import annotations

from tests.worlds.stories import state, stepping, until, watching

from sluice.rollout.keep import FILE_LAG


def test_lost_evidence_in_a_canary_takes_the_weight_away_and_starts_again() -> None:
    world = stepping()
    world.lose_evidence()
    world.pass_time(1)
    world.reconcile()
    assert world.roles.weight == 0
    until(world, "Watching")
    assert world.roles.stable == world.revision_of("b")


def test_lost_evidence_in_a_watch_begins_the_watch_again() -> None:
    world = watching()
    world.lose_evidence()
    world.run(3)
    assert state(world) == "Watching"
    assert world.roles.previous == world.revision_of("a")


def test_lost_evidence_at_rest_changes_nothing() -> None:
    world = watching()
    until(world, "Idle")
    world.run(FILE_LAG + 10)
    roles, writes = world.roles, world.writes
    world.lose_evidence()
    world.run(10)
    assert state(world) == "Idle"
    assert world.roles == roles
    assert world.writes - writes <= 2, "the roles are written down again, and that is all"


def test_a_step_whose_plan_another_version_wrote_is_judged_by_a_new_one() -> None:
    world = stepping()
    rollout = world.progress.rollout
    assert rollout is not None
    old = {**rollout.plan, "version": 0}
    world.progress = world.progress.model_copy(
        update={"rollout": rollout.model_copy(update={"plan": old})}
    )
    world.run(3)
    assert state(world) == "Stepping"
    assert world.progress.rollout is not None
    assert world.progress.rollout.plan["version"] == rollout.plan["version"]
    until(world, "Watching")


def test_a_watch_whose_plan_another_version_wrote_goes_on_from_no_evidence() -> None:
    world = watching()
    before = world.progress.watch
    assert before is not None
    world.progress = world.progress.model_copy(
        update={"watch": before.model_copy(update={"plan": {"version": 0}})}
    )
    world.run(3)
    assert state(world) == "Watching"
    until(world, "Idle")
    assert world.roles.stable == world.revision_of("b")
