"""Mirroring: the candidate answers copies, is judged by them, and no user meets it."""

from __future__ import annotations

from typing import Any

import pytest
from tests.worlds.rollout import BASE, SimWorld, digest_of
from tests.worlds.stories import mirrored, mirroring, rollout, serving, state, until

from sluice.rollout.model import MirrorOrder

CHECKS = [{"name": "errors", "type": "ErrorRate"}]


def comparing(**check: Any) -> dict[str, Any]:
    """An analysis that compares mirrored answers."""
    differs = {"name": "differs", "type": "Disagreement", **check}
    return {**BASE["analysis"], "checks": [*CHECKS, differs]}


def candidate(world: SimWorld) -> str:
    return world.revision_of("b") or ""


def order(world: SimWorld) -> MirrorOrder | None:
    """What the file of stable's pods says."""
    return world.mirror_files.get(world.revision_of("a") or "")


def no_user_met(world: SimWorld) -> bool:
    return candidate(world) not in world.got_traffic


def test_a_good_candidate_answers_copies_first_and_users_then() -> None:
    world = mirroring(analysis=comparing())
    for _ in range(8):
        world.run(1)
        assert (state(world), world.roles.weight) == ("Mirroring", 0)
        assert no_user_met(world)
    until(world, "Stepping")
    assert world.copied[candidate(world)] >= 500
    assert no_user_met(world)
    until(world, "Watching")
    assert not world.mirrored_beside_users
    assert not any(world.mirror_files.values())
    assert world.events[-4:] == [
        "pods and routers are ready",
        "the last mirrored step passes",
        "the last step passes",
        "routers confirm",
    ]


def test_status_says_what_is_mirrored_and_what_is_missing() -> None:
    world = mirroring(rollout=rollout(steps=mirrored(minRequests=100_000)))
    world.run(12)
    assert world.status["step"]["index"] == 1
    assert world.status["step"]["count"] == 4
    summary = world.status["step"]["summary"]
    assert summary.startswith("Step 1 of 4 mirroring 100 % waits.")
    assert "of 100,000 mirrored requests compared" in summary
    assert "about" in summary
    assert "sluice.dev/promote=626262626262" in summary
    assert world.status["candidate"]["weight"]["desired"] == 0


def test_one_that_disagrees_too_much_is_held_and_no_user_meets_it() -> None:
    world = mirroring(differs=0.4, analysis=comparing())
    world.run(60)
    assert state(world) == "Mirroring"
    assert no_user_met(world)
    ready = world.condition("Ready")
    assert (ready.status, ready.reason) == ("True", "Held")
    assert "got another answer than from stable" in ready.message
    assert "limit 5.0 %" in ready.message
    assert "sluice.dev/abort=now" in ready.message
    shown = {c["name"]: c for c in world.status["checks"]}["differs"]
    assert shown["verdict"] == "Fail"
    assert shown["margin"] == 0.05
    assert 0.3 < shown["low"] < shown["candidate"]["value"] < shown["high"] < 0.5


def test_a_person_may_go_on_all_the_same() -> None:
    world = mirroring(differs=0.4, analysis=comparing())
    world.run(30)
    world.command("promote", "b")
    until(world, "Stepping")
    until(world, "Watching")
    assert not world.mirrored_beside_users


def test_one_that_disagrees_may_be_taken_back_instead() -> None:
    world = mirroring(differs=0.4, analysis=comparing(onFail="Rollback"))
    until(world, "Stopped")
    assert no_user_met(world)
    verdict = world.revisions[candidate(world)].verdict
    assert (verdict.phase, verdict.check, verdict.scope) == ("Failed", "differs", "Package")
    assert order(world) is None


def test_one_that_disagrees_a_little_passes() -> None:
    world = mirroring(differs=0.03, analysis=comparing())
    until(world, "Watching", 200)


def test_one_that_fails_on_copies_is_taken_back_and_no_user_meets_it() -> None:
    world = mirroring(errors=0.3)
    until(world, "Stopped")
    assert no_user_met(world)
    verdict = world.revisions[candidate(world)].verdict
    assert (verdict.phase, verdict.check, verdict.scope) == ("Failed", "errors", "Package")
    assert world.roles.stable == world.revision_of("a")
    assert world.condition("Stalled").reason == "RevisionQuarantined"


def test_what_both_fail_is_the_environments() -> None:
    world = serving(rollout=rollout(steps=mirrored()))
    world.errors = {digest_of("a"): 0.3, digest_of("b"): 0.7}
    world.ask_for("b")
    until(world, "Mirroring")
    until(world, "Stopped")
    assert world.revisions[candidate(world)].verdict.phase == "Withdrawn"


def test_users_wait_until_no_pod_mirrors_any_more() -> None:
    world = mirroring(speed=0.0, analysis=comparing())
    world.run(20)
    assert "Waiting for stable's pods to mirror: 0 of 2 do" in world.status["step"]["summary"]
    world.mirror_speed = 1.0
    world.run(4)
    world.mirror_speed = 0.0
    world.run(60)
    assert state(world) == "Mirroring"
    assert "0 of 2 pods of stable confirmed" in world.status["step"]["summary"]
    assert order(world) is None
    assert no_user_met(world)
    world.mirror_speed = 1.0
    until(world, "Stepping")
    assert not world.mirrored_beside_users


def test_pods_that_never_hear_of_it_are_named_at_the_deadline() -> None:
    world = mirroring(rollout=rollout(steps=mirrored(), progressDeadline="60s"))
    world.run(6)
    world.mirror_speed = 0.0
    world.run(100)
    assert world.condition("Stalled").reason == "ProgressDeadlineExceeded"
    assert "pods of stable confirmed" in world.condition("Stalled").message
    world.mirror_speed = 1.0
    until(world, "Watching")


@pytest.mark.parametrize("policy", ["Hold", "Rollback", "Promote"])
def test_without_copies_nothing_is_decided_at_max_duration(policy: str) -> None:
    steps = mirrored(minDuration="5s", maxDuration="20s")
    world = serving(rollout=rollout(onInconclusive=policy, steps=steps))
    world.stopped_traffic = True
    world.ask_for("b")
    until(world, "Mirroring")
    world.run(100)
    assert state(world) == "Mirroring"
    assert world.condition("Stalled").reason == "Inconclusive"
    assert "0 of 500 requests" in world.condition("Stalled").message


def test_a_manual_pause_waits_after_the_mirrored_step() -> None:
    world = mirroring(rollout=rollout(steps=mirrored(pause="Manual")))
    world.run(40)
    assert state(world) == "Mirroring"
    assert "The step has passed" in world.condition("Ready").message
    world.command("promote", "b")
    until(world, "Stepping")


def test_a_pause_keeps_mirroring_and_its_guardrails() -> None:
    world = mirroring()
    world.run(3)
    world.command("pause")
    world.run(30)
    assert state(world) == "Mirroring"
    assert order(world) is not None
    world.errors = {digest_of("b"): 0.5}
    until(world, "Stopped")
    world = mirroring()
    world.command("pause")
    world.run(30)
    world.command("resume")
    until(world, "Watching")


def test_abort_ends_it() -> None:
    world = mirroring()
    world.run(4)
    world.command("abort")
    until(world, "Stopped")
    world.run(2)
    assert set(world.mirrors[world.revision_of("a") or ""]) == {None}
    assert no_user_met(world)


def test_promote_now_skips_the_steps_but_not_the_end_of_mirroring() -> None:
    world = mirroring()
    world.run(4)
    world.command("promote-now", "b")
    until(world, "Promoting")
    until(world, "Watching")
    assert not world.mirrored_beside_users


def test_on_fail_pause_stops_the_copies_and_resume_begins_anew() -> None:
    world = mirroring(errors=0.3, rollout=rollout(onFail="Pause", steps=mirrored()))
    world.run(40)
    assert world.condition("Stalled").reason == "GuardrailFailed"
    assert order(world) is None
    world.errors.clear()
    world.command("resume")
    world.run(3)
    assert state(world) == "Mirroring"
    until(world, "Watching")


def test_several_mirrored_steps_are_walked_one_by_one() -> None:
    steps = [{"mirror": 10, "minRequests": 100, "minDuration": "4s"}, *mirrored()]
    world = mirroring(rollout=rollout(steps=steps))
    world.run(2)
    percents = set()
    for _ in range(20):
        found = order(world)
        percents.add(found.percent if found is not None else 0)
        world.run(1)
    assert {10, 100} <= percents
    until(world, "Watching")


def test_another_revision_ends_it_and_begins_its_own() -> None:
    world = mirroring()
    world.run(4)
    world.ask_for("c")
    until(world, "Resolving")
    until(world, "Mirroring")
    world.run(2)
    found = order(world)
    assert found is not None
    assert found.candidate == world.revision_of("c")


def test_the_candidate_has_the_pods_that_its_copies_need() -> None:
    world = mirroring(replicas=4)
    assert world.wanted[candidate(world)] == 4
    world = mirroring(replicas=4, rollout=rollout(steps=mirrored(mirror=10)))
    assert world.wanted[candidate(world)] == 1


def test_pods_that_crash_while_mirrored_to_are_the_models_fault() -> None:
    world = mirroring()
    world.crashing.add(candidate(world))
    until(world, "Stopped")
    assert world.revisions[candidate(world)].verdict.scope == "Revision"


@pytest.mark.parametrize("writes", range(12))
def test_a_kill_after_any_write_changes_nothing_of_the_end(writes: int) -> None:
    world = mirroring(speed=0.5, analysis=comparing())
    for second in range(40):
        world.pass_time(1.0)
        world.reconcile(kill_after=writes if second % 3 == 0 else None)
    until(world, "Watching", 200)
    assert not world.mirrored_beside_users


def test_lost_evidence_means_that_nobody_is_mirrored_to() -> None:
    world = mirroring()
    world.run(4)
    world.lose_evidence()
    world.run(1)
    assert order(world) is None
    until(world, "Watching", 200)
    assert not world.mirrored_beside_users
