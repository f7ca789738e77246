"""What cannot be fetched: said once, tried again only where that can help, and silent otherwise."""

from __future__ import annotations

import pytest
from tests.worlds.rollout import SimWorld
from tests.worlds.stories import serving

from sluice.rollout.model import ResolveView


def broken(reason: str, *, retryable: bool = False) -> ResolveView:
    return ResolveView("Failed", reason=reason, message="Said why.", retryable=retryable)


def test_a_damaged_package_is_said_once_and_left_alone() -> None:
    world = serving()
    world.fetched = broken("Corrupt")
    world.ask_for("b")
    world.run(5)
    stalled = world.condition("Stalled")
    assert (stalled.status, stalled.reason, stalled.message) == ("True", "Corrupt", "Said why.")
    writes = world.writes
    world.run(60)
    assert world.writes == writes, "a refusal is idle"
    world.resolved = False  # Its job has expired.
    world.run(5)
    assert not world.resolved, "another job would find the same"
    assert world.condition("Stalled").reason == "Corrupt"
    assert world.roles.stable == world.revision_of("a")


@pytest.mark.parametrize("view", [broken("Missing"), broken("Unreachable", retryable=True)])
def test_what_may_come_is_tried_again_with_pauses(view: ResolveView) -> None:
    world = serving()
    world.fetched = view
    world.ask_for("b")
    world.run(5)
    assert world.condition("Stalled").status == ("True" if view.reason == "Missing" else "False")
    assert world.condition("Ready").message == "Said why."
    assert world.roles.stable == world.revision_of("a")
    assert tried(world) == 1
    world.run(60)
    assert tried(world) == 3, "after 15 s, after 30 s more"
    world.fetched = None  # It has been uploaded.
    world.run(80)
    assert world.revision_of("b") is not None
    assert world.condition("Stalled").status == "False"


def tried(world: SimWorld) -> int:
    return sum("Said why." in note for note in world.notes)
