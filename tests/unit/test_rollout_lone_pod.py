"""One bad pod is replaced, once; the model goes on when its pods are well, and back when not."""

from __future__ import annotations

import pytest
from tests.worlds.rollout import SimWorld, digest_of
from tests.worlds.stories import state, stepping, until, watching


def candidate(world: SimWorld) -> str:
    return world.revision_of("b") or ""


def replacements(world: SimWorld) -> list[str]:
    return [note for note in world.notes if note.startswith("PodReplaced")]


def test_one_bad_pod_is_named_and_replaced_and_the_model_is_promoted() -> None:
    world = stepping()
    world.bad_pods[digest_of("b")] = ["pod-7"]
    until(world, "Watching", 300)
    assert world.replaced == ["pod-7"]
    [note] = replacements(world)
    assert "Pod pod-7 has 100.0 % of the failures" in note
    assert not any(note.startswith("RolledBack") for note in world.notes)


def test_a_second_bad_pod_is_the_models_fault() -> None:
    world = stepping()
    world.bad_pods[digest_of("b")] = ["pod-7", "pod-8", "pod-9"]
    until(world, "Stopped", 120)
    assert world.replaced == ["pod-7"]
    verdict = world.revisions[candidate(world)].verdict
    assert (verdict.phase, verdict.check) == ("Failed", "errors")
    assert "Pod pod-8 has " in verdict.message


def test_one_bad_pod_in_the_watch_does_not_take_the_revision_back() -> None:
    world = watching()
    world.bad_pods[digest_of("b")] = ["pod-7"]
    until(world, "Idle", 300)
    assert world.replaced == ["pod-7"]
    assert world.roles.stable == candidate(world)


def test_siblings_that_fail_too_are_no_reason_to_wait() -> None:
    world = stepping()
    world.bad_pods[digest_of("b")] = ["pod-7"]
    world.errors[digest_of("b")] = 0.5
    until(world, "Stopped", 120)
    assert world.revisions[candidate(world)].verdict.phase == "Failed"


@pytest.mark.parametrize("writes", range(4))
def test_a_kill_neither_loses_nor_repeats_a_replacement(writes: int) -> None:
    world = stepping()
    world.bad_pods[digest_of("b")] = ["pod-7"]
    for _ in range(120):
        world.pass_time(1.0)
        world.reconcile(kill_after=writes)
        world.reconcile()
        if state(world) == "Watching":
            break
    assert state(world) == "Watching"
    assert world.replaced == ["pod-7"]


def test_a_pod_that_still_answers_while_it_goes_is_not_held_against_the_model() -> None:
    world = stepping()
    world.bad_pods[digest_of("b")] = ["pod-7"]
    while not world.replaced:
        world.run(1)
    world.bad_pods[digest_of("b")] = ["pod-7"]
    world.run(20)
    world.bad_pods.clear()
    until(world, "Watching", 300)
    assert len(replacements(world)) == 1
