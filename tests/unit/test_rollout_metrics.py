"""A rollout with a metric check: its source goes away, comes back, and what it says is obeyed."""

from __future__ import annotations

from typing import Any

from tests.worlds.rollout import SimWorld
from tests.worlds.sources import AWAY, REFUNDS, away, bad, fine
from tests.worlds.stories import rollout, serving, until


def canary(*, rollout_block: dict[str, Any] | None = None, **check: Any) -> SimWorld:
    """B on its way beside A, with a metric check."""
    checks = [{"name": "errors", "type": "ErrorRate"}, {**REFUNDS, **check}]
    world = serving(
        analysis={"interval": "2s", "checks": checks}, rollout=rollout_block or rollout()
    )
    world.sources = {"refunds": fine}
    world.ask_for("b")
    return world


def reach(world: SimWorld, weight: int) -> None:
    for _ in range(300):
        if world.roles.weight == weight:
            return
        world.run(1)
    raise AssertionError(f"the weight is {world.roles.weight}: {world.status['step']}")


def check_of(world: SimWorld) -> dict[str, Any]:
    return next(c for c in world.status["checks"] if c["name"] == "refunds")


def test_a_metric_that_is_worse_takes_the_candidate_back() -> None:
    world = canary()
    reach(world, 25)
    world.sources = {"refunds": bad}
    world.run(20)
    bad_one = world.revision_of("b")
    assert bad_one is not None
    assert world.roles.weight == 0
    verdict = world.revisions[bad_one].verdict
    assert (verdict.phase, verdict.check, verdict.scope) == ("Failed", "refunds", "Package")
    assert "refunds 7.2 % of 2,000 counted, stable 2.0 %" in verdict.message


def test_a_source_away_for_ten_minutes_freezes_the_weight_and_says_why() -> None:
    world = canary()
    reach(world, 25)
    world.sources = {"refunds": away}
    for _ in range(120):
        world.run(5)
        assert world.roles.weight == 25
    assert not any(note.startswith(("RolledBack", "Promoted: Revision b")) for note in world.notes)
    assert world.progress.last_rollback is None
    healthy = world.condition("AnalysisHealthy")
    assert (healthy.status, healthy.reason) == ("False", "MetricUnreadable")
    assert healthy.message == f"refunds: {AWAY}"
    assert AWAY in world.status["step"]["summary"]
    assert "It goes on when refunds is read again." in world.status["step"]["summary"]
    assert check_of(world)["verdict"] == "NoData"

    world.sources = {"refunds": fine}
    world.run(3)
    assert world.condition("AnalysisHealthy").status == "True"
    world.run(300)
    assert world.roles.stable == world.revision_of("b")


def test_four_silent_looks_are_not_yet_worth_a_condition() -> None:
    world = canary()
    reach(world, 25)
    world.run(4)
    world.sources = {"refunds": away}
    silent = 0
    while silent < 4:
        world.run(1)
        silent = world.progress.judge["checks"]["refunds"]["silent"]
        assert world.condition("AnalysisHealthy").status == "True"
    world.run(3)
    assert world.condition("AnalysisHealthy").status == "False"


def test_max_duration_decides_nothing_while_a_source_is_silent() -> None:
    for policy in ("Promote", "Rollback"):
        steps = [{"weight": 5, "minRequests": 50, "minDuration": "5s", "maxDuration": "30s"}]
        world = canary(rollout_block=rollout(steps=steps, onInconclusive=policy))
        world.sources = {"refunds": away}
        reach(world, 5)
        world.run(120)
        assert world.roles.weight == 5
        stalled = world.condition("Stalled")
        assert (stalled.status, stalled.reason) == ("True", "Inconclusive")
        assert "without data of refunds" in stalled.message


def test_a_silence_that_is_ignored_holds_nothing() -> None:
    world = canary(onProviderError="Ignore", onNoData="Ignore")
    world.sources = {"refunds": away}
    world.run(300)
    assert world.roles.stable == world.revision_of("b")
    assert world.condition("AnalysisHealthy").status == "True"


def test_a_dry_run_is_in_status_and_acts_on_nothing() -> None:
    world = canary(mode="DryRun")
    world.sources = {"refunds": bad}
    reach(world, 50)
    assert "Dry run" in check_of(world)["message"]
    world.run(300)
    assert world.roles.stable == world.revision_of("b")


def test_a_watch_that_finds_the_metric_worse_goes_back_to_previous() -> None:
    long = {"duration": "10m", "holdback": 10, "minRequests": 100}
    world = canary(rollout_block=rollout(watch=long))
    until(world, "Watching", 400)
    assert world.roles.stable == world.revision_of("b")
    world.sources = {"refunds": bad}
    world.run(60)
    assert world.roles.stable == world.revision_of("a")
    assert world.progress.last_rollback is not None
    assert world.progress.last_rollback.check == "refunds"
