"""Gates: nobody is served by what has not passed, and a gate that cannot run is no verdict."""

from __future__ import annotations

import pytest
from tests.worlds.rollout import SimWorld, spec_for
from tests.worlds.stories import rollout, serving, state, until, watching

from sluice.api.status import GateStatus
from sluice.rollout.model import GatesView


def report(name: str, verdict: str = "Fail") -> GatesView:
    gate = GateStatus.model_validate({"name": name, "verdict": verdict, "message": "said why"})
    return GatesView("Done", gates=(gate,))


@pytest.mark.parametrize(
    ("gate", "scope"),
    [
        ("smoke", "Package"),
        ("schema", "Package"),
        ("golden", "Package"),
        ("quality", "Package"),
        ("latency", "Revision"),
    ],
)
def test_a_failed_gate_quarantines_what_caused_it(gate: str, scope: str) -> None:
    world = serving()
    world.gate_report = report(gate)
    world.ask_for("b")
    world.run(20)
    b = world.revision_of("b") or ""
    assert b not in world.got_traffic
    assert world.revisions[b].verdict.scope == scope
    assert f"Gate {gate} failed: said why" in world.condition("Stalled").message
    assert world.roles.stable == world.revision_of("a")


def test_the_first_revision_is_gated_too() -> None:
    world = SimWorld(spec_for("a"))
    world.gate_report = report("smoke")
    world.run(20)
    assert world.roles.stable is None
    assert world.condition("Available").reason == "NothingServesYet"
    assert world.condition("Stalled").reason == "RevisionQuarantined"
    assert world.progress.last_rollback is None


@pytest.mark.parametrize("retryable", [True, False])
def test_gates_that_cannot_run_are_no_verdict(retryable: bool) -> None:
    world = serving(rollout=rollout(progressDeadline="60s"))
    world.gate_report = GatesView("Broken", message="no node has room", retryable=retryable)
    world.ask_for("b")
    world.run(90)
    assert state(world) == "Validating"
    assert world.condition("Stalled").reason == "ProgressDeadlineExceeded"
    assert "no node has room" in world.condition("Stalled").message
    world.gate_report = None
    until(world, "Watching")


def test_gates_that_never_can_run_ask_at_once_and_retry_runs_them_again() -> None:
    world = serving()
    world.gate_report = GatesView("Broken", message="no such column: label", retryable=False)
    world.ask_for("b")
    world.run(10)
    stalled = world.condition("Stalled")
    assert stalled.reason == "GatesCannotRun"
    assert "no such column: label" in stalled.message
    assert "sluice.dev/retry=626262626262" in stalled.message
    assert not world.reconcile().drop_gates
    world.command("retry", "b")
    decision = world.reconcile()
    assert (decision.drop_gates, decision.gates) == (True, None)
    world.gate_report = None
    until(world, "Watching")


def test_gates_only_promotes_after_the_gates_and_watches() -> None:
    world = serving(rollout=rollout(strategy="GatesOnly"))
    world.rate = 1.0
    world.ask_for("b")
    until(world, "Watching", 15)
    assert world.roles.stable == world.revision_of("b")
    assert "StepStarted" not in "".join(world.notes)


def test_gates_only_is_still_taken_back_in_its_watch() -> None:
    world = watching(rollout=rollout(strategy="GatesOnly"))
    world.errors[world.revisions[world.revision_of("b") or ""].package.digest] = 0.4
    world.run(30)
    assert world.roles.stable == world.revision_of("a")
