"""The watch: previous stays warm, failure goes back at once, the end needs time and requests."""

from __future__ import annotations

import pytest
from tests.worlds.rollout import BASE, SimWorld, digest_of
from tests.worlds.stories import rollout, state, until, watching

from sluice.rollout.states import State


def degrade(world: SimWorld, letter: str = "b") -> None:
    world.errors[digest_of(letter)] = 0.4


def test_previous_keeps_full_capacity_and_the_holdback() -> None:
    world = watching()
    assert world.wanted == {world.revision_of("a"): 2, world.revision_of("b"): 2}
    for router in world.routers:
        assert router.shares() == {world.revision_of("b"): 90, world.revision_of("a"): 10}
    assert world.condition("Ready").reason == "Watching"


def test_a_failure_goes_back_without_a_pod_start() -> None:
    world = watching()
    running = dict(world.wanted)
    degrade(world)
    until(world, "Stopped", 30)
    assert world.roles.stable == world.revision_of("a")
    assert world.wanted == running
    for router in world.routers:
        assert router.shares() == {world.revision_of("a"): 100}
    assert "sluice.dev/retry=626262626262" in world.condition("Stalled").message


@pytest.mark.parametrize("waiting_in", ["Resolving", "Validating", "Provisioning"])
def test_a_failure_counts_while_the_next_candidate_waits(waiting_in: State) -> None:
    world = watching(rollout=rollout(watch={**BASE["rollout"]["watch"], "duration": "10m"}))
    world.ask_for("c")
    until(world, waiting_in)
    world.slow_jobs = waiting_in != "Provisioning"
    world.run(4)
    assert state(world) == waiting_in
    degrade(world)
    world.run(30)
    b = world.revision_of("b") or ""
    assert world.revisions[b].verdict.phase == "Failed", world.notes[-6:]
    assert world.progress.last_rollback is not None
    assert world.progress.last_rollback.to == world.revision_of("a")
    world.slow_jobs = False
    until(world, "Watching")
    assert world.roles.stable == world.revision_of("c"), "the next candidate starts again"


def test_an_aborted_next_candidate_stays_aborted_when_the_watch_fails_too() -> None:
    world = watching()
    world.ask_for("c")
    until(world, "Provisioning")
    world.routers[1].up = False  # The abort cannot finish.
    world.command("abort")
    world.run(2)
    assert state(world) == "RollingBack"
    world.routers[1].up = True
    degrade(world)
    world.run(40)
    for letter in "bc":
        verdict = world.revisions[world.revision_of(letter) or ""].verdict
        assert verdict.phase == "Failed", letter


def test_both_arms_failing_in_the_watch_goes_back_without_a_quarantine() -> None:
    world = watching()
    world.errors = {digest_of("a"): 0.25, digest_of("b"): 0.6}
    until(world, "Stopped", 60)
    b = world.revision_of("b") or ""
    assert world.roles.stable == world.revision_of("a")
    assert world.revisions[b].verdict.phase == "Withdrawn"
    assert world.condition("Stalled").status == "False"


def test_it_needs_its_requests_as_well_as_its_time() -> None:
    world = watching(
        rollout=rollout(watch={"duration": "20s", "holdback": 10, "minRequests": 100_000})
    )
    world.run(60)
    assert state(world) == "Watching"
    world.rate = 4000.0
    until(world, "Idle", 200)


def test_without_a_holdback_time_is_enough() -> None:
    world = watching(rollout=rollout(watch={"duration": "20s", "holdback": 0, "minRequests": 100}))
    world.run(30)
    assert state(world) == "Idle"


def test_the_time_that_nobody_looked_does_not_count() -> None:
    world = watching()
    world.pass_time(3600)
    world.run(10)
    assert state(world) == "Watching"


def test_a_lost_evidence_config_map_starts_the_watch_again() -> None:
    world = watching()
    world.lose_evidence()
    world.run(2)
    assert world.progress.watch is not None
    assert world.roles.previous == world.revision_of("a")
    degrade(world)
    world.run(40)
    assert world.roles.stable == world.revision_of("a")


def test_the_watch_counts_from_its_own_beginning() -> None:
    world = watching(rollout=rollout(watch={"duration": "4s", "holdback": 10, "minRequests": 0}))
    assert state(world) in ("Watching", "Idle")
    passed = [n for n in world.notes if n.startswith("WatchPassed")]
    assert not passed or "Watched for 4 s" in passed[0] or "Watched for 5 s" in passed[0]


@pytest.mark.parametrize("delay", range(6))
def test_an_abort_goes_back_whatever_the_evidence_says_at_that_moment(delay: int) -> None:
    world = watching()
    degrade(world)
    world.run(delay)
    world.command("abort")
    world.run(10)
    assert state(world) == "Stopped"
    assert world.roles.stable == world.revision_of("a")
    assert sum(note.startswith("RolledBack") for note in world.notes) == 1
