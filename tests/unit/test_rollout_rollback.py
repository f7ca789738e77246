"""Taking a candidate back: traffic first, then the verdict, then its pods; and never twice."""

from __future__ import annotations

from tests.worlds.rollout import SimWorld, digest_of
from tests.worlds.stories import serving, state, stepping, until

from sluice.rollout import judge as judging
from sluice.rollout.ledger import MAX_WITHDRAWN
from sluice.rollout.states import state_of


def bad() -> SimWorld:
    """``b`` fails at its first step."""
    return stepping(errors=0.4)


def test_the_weight_goes_before_anything_is_recorded() -> None:
    world = stepping()
    world.command("abort")
    world.pass_time(1)
    world.reconcile(kill_after=1)
    assert all(r.memory.weight == 0 for r in world.routers)
    assert world.revisions[world.revision_of("b") or ""].verdict.phase == "Validated"
    world.run(5)
    assert world.revisions[world.revision_of("b") or ""].verdict.phase == "Failed"


def test_a_kill_after_any_write_ends_the_same() -> None:
    for after in range(8):
        world = stepping()
        world.command("abort")
        world.pass_time(1)
        world.reconcile(kill_after=after)
        world.run(120)
        b = world.revision_of("b") or ""
        assert world.revisions[b].verdict.reason == "Aborted"
        assert b not in world.wanted
        last = world.progress.last_rollback
        assert last is not None, f"killed after {after} writes"
        assert last.from_ == b
        assert last.traffic_zero_at


def test_the_rollback_is_told_with_times_and_the_line_to_retry() -> None:
    world = bad()
    until(world, "Stopped")
    world.run(2)
    last = world.progress.last_rollback
    assert last is not None
    assert (last.to, last.check) == (world.revision_of("a"), "errors")
    assert last.detected_at <= last.traffic_zero_at
    stalled = world.condition("Stalled")
    assert "kubectl annotate mdep/iris sluice.dev/retry=626262626262" in stalled.message
    assert world.condition("Available").status == "True"
    assert world.condition("Promoted").status == "False"


def test_the_looks_are_in_status_from_the_rollback_on() -> None:
    world = bad()
    until(world, "RollingBack")
    for _ in range(3):
        evidence = world.status["evidence"]
        assert evidence["revision"] == world.revision_of("b")
        assert ",errors," in evidence["looks"]
        assert any(check["name"] == "errors" for check in world.status["checks"])
        world.run(5)


def test_statistics_of_another_version_are_begun_again_and_stop_nobody() -> None:
    world = stepping()
    for version in (3, 99, None):
        world.progress = world.progress.model_copy(update={"judge": {"v": version}})
        world.run(4)
        assert world.progress.judge["v"] == judging.VERSION
    until(world, "Watching")


def test_it_ends_only_when_every_router_shows_zero() -> None:
    world = stepping()
    world.routers[1].up = False
    world.command("abort")
    world.run(30)
    assert state(world) == "RollingBack"
    assert world.wanted[world.revision_of("b") or ""] > 0
    world.routers[1].up = True
    world.run(3)
    assert state(world) == "Stopped"


def test_pods_go_after_the_traffic() -> None:
    world = bad()
    until(world, "Stopped")
    world.run(5)
    assert world.revision_of("b") not in world.wanted
    assert set(world.wanted) == {world.revision_of("a")}


def test_both_arms_failing_is_no_verdict_and_is_tried_again_three_times() -> None:
    world = bad()
    world.errors[digest_of("a")] = 0.25
    attempts = 0
    for _ in range(1500):
        world.run(1)
        b = world.revision_of("b") or ""
        verdict = world.revisions[b].verdict
        assert verdict.phase != "Failed"
        if verdict.attempts > attempts:
            attempts = verdict.attempts
            told = world.condition("Ready").message
            assert f"attempt {attempts}" in told, told
    assert attempts == MAX_WITHDRAWN
    stalled = world.condition("Stalled")
    assert (stalled.status, stalled.reason) == ("True", "Withdrawn")
    assert "sluice.dev/retry=626262626262" in stalled.message


def test_an_edit_of_the_spec_does_not_forget_three_withdrawals() -> None:
    world = bad()
    world.errors[digest_of("a")] = 0.25
    world.run(1500)
    assert world.condition("Stalled").reason == "Withdrawn"
    world.ask_for("a")
    world.run(5)
    world.ask_for("b")
    world.run(60)
    assert world.condition("Stalled").reason == "Withdrawn"
    assert world.roles.weight == 0
    world.errors.clear()
    world.command("retry", "b")
    until(world, "Watching")


def test_a_withdrawn_candidate_that_recovers_is_promoted() -> None:
    world = bad()
    world.errors[digest_of("a")] = 0.25
    until(world, "Stopped")
    assert world.condition("Stalled").status == "False"
    assert world.condition("Reconciling").status == "True"
    world.errors.clear()
    until(world, "Watching", 300)


def test_nothing_starts_again_in_the_decision_that_takes_back() -> None:
    world = serving()
    world.ask_for("b")
    until(world, "Watching")
    world.run(4)
    world.command("abort")
    world.pass_time(1)
    decision = world.reconcile()
    assert state_of(world.progress) == "Stopped"
    assert decision.gates is None
    assert world.progress.rollout is None
