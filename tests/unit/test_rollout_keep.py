"""What runs and what goes: capacity first, pods only after their traffic."""

from __future__ import annotations

from tests.worlds.stories import serving, stepping, until, watching

from sluice.rollout.capacity import comparable, needed
from sluice.rollout.keep import FILE_LAG
from sluice.rollout.model import Roles


def test_capacity_covers_the_share() -> None:
    assert [needed(4, w) for w in (0, 1, 25, 26, 50, 100)] == [0, 1, 1, 2, 2, 4]
    assert needed(0, 50) == 0


def test_the_candidates_load_is_near_stables() -> None:
    assert [comparable(10, w) for w in (5, 25, 50, 90)] == [1, 4, 10, 10]
    assert comparable(0, 5) == 0


def test_stable_keeps_full_capacity_through_a_canary() -> None:
    world = stepping()
    assert world.wanted[world.revision_of("a") or ""] == 2


def test_a_superseded_candidates_pods_go_once_it_gets_nothing() -> None:
    world = stepping()
    b = world.revision_of("b") or ""
    world.routers[1].up = False
    world.ask_for("a")
    world.run(20)
    assert world.wanted[b] > 0, "a router that cannot be asked may still send it traffic"
    world.routers[1].up = True
    world.run(5)
    assert b not in world.wanted


def test_previous_stays_until_every_file_has_forgotten_it() -> None:
    world = watching()
    a = world.revision_of("a") or ""
    until(world, "Idle")
    world.run(FILE_LAG - 20)
    assert a in world.wanted
    world.run(40)
    assert a not in world.wanted


def test_a_slot_is_free_again_after_its_pods() -> None:
    world = watching()
    until(world, "Idle")
    world.run(FILE_LAG + 30)
    assert [r for r in world.roles.slots.values() if r] == [world.revision_of("b")]


def test_a_busy_slot_is_waited_for() -> None:
    world = serving()
    stable = world.roles.stable
    taken = {s: r for s, r in world.roles.slots.items() if r} | {"a": "older", "c": "oldest"}
    roles = world.roles.model_copy(update={"slots": taken})
    drains = {"candidate": "older", "weight": 5, "previous": "oldest", "holdback": 5}
    world.progress = world.progress.model_copy(update={"roles": roles})
    world.ask_for("b")
    for _ in range(8):
        world.pass_time(1)
        world.routers[0].memory = Roles(stable=stable, **drains)
        decision = world.reconcile()
    assert decision.roles.slot_of(world.revision_of("b")) is None
    assert "slot to drain" in decision.status["step"]["summary"]
    world.run(10)
    assert world.roles.slot_of(world.revision_of("b")) is not None


def test_scaling_reaches_stable_and_previous() -> None:
    world = watching()
    world.change(replicas=3)
    world.run(2)
    assert set(world.wanted.values()) == {3}


def test_a_lost_evidence_config_map_in_a_canary_takes_its_weight_away() -> None:
    world = stepping()
    world.lose_evidence()
    world.pass_time(1)
    world.reconcile()
    assert world.roles.weight == 0
    until(world, "Watching")
