"""Worlds in a known place of the story, for tests that begin there."""

from __future__ import annotations

from typing import Any

from tests.worlds.rollout import BASE, SimWorld, digest_of, spec_for

from sluice.rollout.states import State, state_of


def serving(**blocks: Any) -> SimWorld:
    """Model ``a`` serves everyone; ``blocks`` replace blocks of the spec."""
    world = SimWorld(spec_for("a", **blocks))
    world.run(12)
    assert world.roles.stable == world.revision_of("a"), world.notes
    return world


def stepping(*, errors: float = 0.0, **blocks: Any) -> SimWorld:
    """Model ``b`` is at its first step beside ``a``."""
    world = serving(**blocks)
    world.errors = {digest_of("b"): errors} if errors else {}
    world.ask_for("b")
    until(world, "Stepping")
    world.run(3)
    assert world.roles.weight == 5, world.notes
    return world


def mirroring(
    *, errors: float = 0.0, differs: float = 0.0, speed: float = 1.0, **blocks: Any
) -> SimWorld:
    """Model ``b`` gets copies of the requests to ``a``, and no user."""
    world = serving(**{"rollout": rollout(steps=mirrored()), **blocks})
    world.errors = {digest_of("b"): errors} if errors else {}
    world.differs = {digest_of("b"): differs} if differs else {}
    world.mirror_speed = speed
    world.ask_for("b")
    until(world, "Mirroring")
    return world


def watching(**blocks: Any) -> SimWorld:
    """Model ``b`` was promoted over ``a`` and is watched."""
    world = serving(**blocks)
    world.ask_for("b")
    until(world, "Watching")
    world.run(4)
    return world


def until(world: SimWorld, state: State, seconds: int = 120) -> None:
    """Lets time pass until ``state`` is reached."""
    for _ in range(seconds):
        if state_of(world.progress) == state:
            return
        world.run(1)
    raise AssertionError(f"{state} is not reached: {world.notes[-8:]}")


def state(world: SimWorld) -> State:
    """Where the world is."""
    return state_of(world.progress)


def rollout(**changes: Any) -> dict[str, Any]:
    """The block spec.rollout of the test world, changed."""
    return {**BASE["rollout"], **changes}


def mirrored(**changes: Any) -> list[dict[str, Any]]:
    """The three steps of the test world after one that mirrors; ``changes`` are that one's."""
    step = {"mirror": 100, "minRequests": 500, "minDuration": "10s", **changes}
    return [step, *BASE["rollout"]["steps"]]


def steps(**changes: Any) -> list[dict[str, Any]]:
    """The three steps of the test world, each changed alike."""
    return [{**s, **changes} for s in BASE["rollout"]["steps"]]
