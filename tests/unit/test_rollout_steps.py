"""Steps: weights, time, evidence, pauses, and what happens when nothing can be told."""

from __future__ import annotations

import pytest
from tests.worlds.rollout import BASE, digest_of
from tests.worlds.stories import rollout, serving, state, stepping, steps, until

from sluice.rollout.model import Trouble


def test_a_manual_pause_waits_after_the_step_has_passed() -> None:
    world = stepping(rollout=rollout(steps=steps(pause="Manual")))
    world.run(40)
    assert world.roles.weight == 5
    ready = world.condition("Ready")
    assert (ready.status, ready.reason) == ("True", "Held")
    assert "The step has passed" in ready.message
    assert "sluice.dev/promote=626262626262" in ready.message
    world.command("promote", "b")
    world.run(4)
    assert world.roles.weight == 25


def test_on_fail_pause_takes_the_traffic_away_and_asks() -> None:
    world = stepping(errors=0.3, rollout=rollout(onFail="Pause", steps=steps(minDuration="10m")))
    world.run(40)
    for _ in range(20):
        world.run(1)
        assert world.roles.weight == 0, "a failed candidate must not get its weight back"
    stalled = world.condition("Stalled")
    assert (stalled.status, stalled.reason) == ("True", "GuardrailFailed")
    assert "sluice.dev/resume=now" in stalled.message
    assert "sluice.dev/abort=now" in stalled.message
    assert world.revisions[world.revision_of("b") or ""].verdict.phase == "Validated"


def test_resume_after_a_failure_starts_from_no_evidence() -> None:
    world = stepping(errors=0.3, rollout=rollout(onFail="Pause"))
    world.run(30)
    assert world.roles.weight == 0
    world.errors.clear()
    world.command("resume")
    world.run(3)
    assert world.roles.weight == 5
    until(world, "Watching")


@pytest.mark.parametrize(("policy", "serves"), [("Hold", "a"), ("Rollback", "a"), ("Promote", "b")])
def test_undecided_at_max_duration(policy: str, serves: str) -> None:
    """Both fail a lot and there is little traffic: nothing can be told in time."""
    slow = steps(minRequests=50, minDuration="60s", maxDuration="60s")
    world = serving(rollout=rollout(onInconclusive=policy, steps=slow))
    world.rate, world.errors = 30.0, {digest_of("a"): 0.1, digest_of("b"): 0.1}
    world.ask_for("b")
    until(world, "Stepping")
    world.run(400)
    assert world.roles.stable == world.revision_of(serves), world.notes[-5:]
    if policy == "Hold":
        assert state(world) == "Stepping"
        stalled = world.condition("Stalled")
        assert stalled.reason == "Inconclusive"
        assert "sluice.dev/promote=" in stalled.message
    if policy == "Rollback":
        verdict = world.revisions[world.revision_of("b") or ""].verdict
        assert (verdict.check, verdict.scope) == ("inconclusive", "Revision")


@pytest.mark.parametrize("policy", ["Rollback", "Promote"])
def test_without_data_nothing_is_decided_at_max_duration(policy: str) -> None:
    timed = steps(minDuration="10s", maxDuration="20s")
    world = serving(rollout=rollout(onInconclusive=policy, steps=timed))
    world.stopped_traffic = True
    world.ask_for("b")
    until(world, "Stepping")
    world.run(200)
    assert state(world) == "Stepping"
    assert world.roles.weight == 5
    assert world.condition("Stalled").reason == "Inconclusive"
    assert "0 of 50 requests" in world.condition("Stalled").message


def test_a_check_that_holds_asks_for_a_person_and_keeps_the_weight() -> None:
    checks = [{"name": "errors", "type": "ErrorRate", "onFail": "Hold"}]
    world = stepping(errors=0.3, analysis={**BASE["analysis"], "checks": checks})
    world.run(60)
    assert world.roles.weight == 5
    ready = world.condition("Ready")
    assert (ready.status, ready.reason) == ("True", "Held")
    assert "sluice.dev/abort=now" in ready.message
    assert "sluice.dev/promote=626262626262" in ready.message


def test_the_weight_waits_for_every_router() -> None:
    world = stepping()
    world.routers[1].up = False
    world.run(60)
    assert world.roles.weight == 5
    assert "1 of 2 router pods" in world.status["step"]["summary"]
    world.routers[1].up = True
    until(world, "Watching")


def test_pods_that_wait_are_named_and_never_a_verdict() -> None:
    world = serving(rollout=rollout(progressDeadline="60s"))
    world.ask_for("b")
    until(world, "Provisioning")
    b = world.revision_of("b") or ""
    world.troubles[b] = Trouble("Pending", "0/3 nodes have enough memory")
    world.run(30)
    assert "enough memory" in world.condition("Ready").message
    assert world.condition("Stalled").status == "False"
    world.run(60)
    assert world.condition("Stalled").reason == "ProgressDeadlineExceeded"
    assert "enough memory" in world.condition("Stalled").message
    assert world.revisions[b].verdict.phase == "Validated"
    world.troubles.clear()
    until(world, "Watching")


def test_the_deadline_counts_from_the_last_progress() -> None:
    """A pod that restarts late in a long step is no reason to call a person."""
    world = stepping(rollout=rollout(progressDeadline="60s", steps=steps(minDuration="10m")))
    world.run(200)
    b = world.revision_of("b") or ""
    world.troubles[b] = Trouble("NotReady", "starting")
    world.run(10)
    assert world.condition("Stalled").status == "False"


def test_a_crash_by_the_models_fault_quarantines_the_revision_only() -> None:
    world = stepping()
    b = world.revision_of("b") or ""
    world.crashing.add(b)
    world.run(10)
    assert world.revisions[b].verdict.scope == "Revision"
    assert world.condition("Stalled").reason == "RevisionQuarantined"


def test_zero_replicas_judge_nothing_and_go_on_when_raised() -> None:
    world = serving()
    world.change(replicas=0)
    world.ask_for("b")
    world.run(60)
    assert state(world) == "Provisioning"
    assert world.roles.weight == 0
    assert "spec.replicas is 0" in world.condition("Ready").message
    assert world.condition("Stalled").status == "False"
    assert world.condition("Available").reason == "ScaledToZero"
    world.change(replicas=2)
    until(world, "Watching")


def test_zero_replicas_in_a_step_hold() -> None:
    world = stepping()
    world.change(replicas=0)
    world.run(30)
    assert world.roles.weight == 5
    assert "spec.replicas is 0" in world.status["step"]["summary"]


def test_a_name_that_is_somebody_elses_stops_progress_but_not_guardrails() -> None:
    world = stepping()
    world.conflicts = ("Service iris exists and is not ours; it is left untouched.",)
    world.run(20)
    assert world.roles.weight == 5
    assert world.condition("Stalled").reason == "NameConflict"
    world.command("abort")
    world.run(5)
    assert world.roles.weight == 0
    assert world.revisions[world.revision_of("b") or ""].verdict.phase == "Failed"
