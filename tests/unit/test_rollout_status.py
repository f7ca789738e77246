"""Status: what generic tools make of it, what people read, and that it stays small."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import pytest
from tests.worlds.rollout import BASE, SimWorld, digest_of, spec_for
from tests.worlds.stories import rollout, serving, stepping, steps, until, watching

from sluice.api.conditions import REASONS, TYPES, KStatus, compute
from sluice.rollout.messages import with_way_out
from sluice.rollout.model import ResolveView, Trouble

MAX_BYTES = 32 * 1024


def kstatus(world: SimWorld) -> KStatus:
    """What Flux, Helm and Argo CD make of it."""
    return compute({"metadata": {"generation": world.generation}, "status": world.status})


def just_changed() -> SimWorld:
    world = serving()
    world.ask_for("b")
    return world


def validating() -> SimWorld:
    world = serving()
    world.ask_for("b")
    until(world, "Validating")
    world.run(1)
    return world


def pending() -> SimWorld:
    world = serving(rollout=rollout(progressDeadline="60s"))
    world.ask_for("b")
    until(world, "Provisioning")
    world.troubles[world.revision_of("b") or ""] = Trouble("Pending", "no node has room")
    world.run(5)
    return world


def overdue() -> SimWorld:
    world = pending()
    world.run(90)
    return world


def aborted() -> SimWorld:
    world = stepping()
    world.command("abort")
    world.run(10)
    return world


def paused() -> SimWorld:
    world = stepping()
    world.command("pause")
    world.run(3)
    return world


def manual() -> SimWorld:
    world = stepping(rollout=rollout(steps=steps(pause="Manual")))
    world.run(40)
    return world


def failed_and_paused() -> SimWorld:
    world = stepping(errors=0.4, rollout=rollout(onFail="Pause"))
    world.run(30)
    return world


def away() -> SimWorld:
    world = serving()
    world.ask_for("b")
    world.fetched = ResolveView("Failed", None, "Unreachable", "No answer.", retryable=True)
    world.run(5)
    return world


def corrupt() -> SimWorld:
    world = away()
    world.fetched = ResolveView("Failed", None, "Corrupt", "Other bytes than published.")
    world.run(60)
    return world


def untrusted() -> SimWorld:
    world = serving()
    world.classes["d"] = "Code"
    world.ask_for("d")
    world.run(10)
    return world


def scaled_to_zero() -> SimWorld:
    world = serving()
    world.change(replicas=0)
    world.run(5)
    return world


def conflicted() -> SimWorld:
    world = serving()
    world.conflicts = ("Service iris exists and is not ours; it is left untouched.",)
    world.run(3)
    return world


def stable_restarts() -> SimWorld:
    world = serving()
    world.troubles[world.roles.stable or ""] = Trouble("NotReady", "starting")
    world.run(3)
    return world


def routers_start() -> SimWorld:
    world = serving()
    for router in world.routers:
        router.up = False
    world.run(3)
    return world


def withdrawn() -> SimWorld:
    world = stepping(errors=0.4)
    world.errors[digest_of("a")] = 0.3
    until(world, "Stopped")
    return world


Maker = Callable[[], SimWorld]


@pytest.mark.parametrize(
    ("make", "kind", "ready", "reconciling", "stalled", "available"),
    [
        (serving, "Current", "True", "False", "False", "True"),
        (watching, "Current", "True", "False", "False", "True"),
        (paused, "Current", "True", "False", "False", "True"),
        (manual, "Current", "True", "False", "False", "True"),
        (scaled_to_zero, "Current", "True", "False", "False", "False"),
        (validating, "InProgress", "Unknown", "True", "False", "True"),
        (pending, "InProgress", "Unknown", "True", "False", "True"),
        (stepping, "InProgress", "Unknown", "True", "False", "True"),
        (away, "InProgress", "False", "True", "False", "True"),
        (withdrawn, "InProgress", "False", "True", "False", "True"),
        (stable_restarts, "InProgress", "Unknown", "True", "False", "False"),
        (routers_start, "InProgress", "Unknown", "True", "False", "False"),
        (overdue, "Failed", "False", "False", "True", "True"),
        (aborted, "Failed", "False", "False", "True", "True"),
        (failed_and_paused, "Failed", "False", "False", "True", "True"),
        (corrupt, "Failed", "False", "False", "True", "True"),
        (untrusted, "Failed", "False", "False", "True", "True"),
        (conflicted, "Failed", "False", "False", "True", "True"),
    ],
)
def test_truth_table(
    make: Maker, kind: KStatus, ready: str, reconciling: str, stalled: str, available: str
) -> None:
    world = make()
    told = {t: world.condition(t).status for t in ("Ready", "Reconciling", "Stalled", "Available")}
    assert told == {
        "Ready": ready,
        "Reconciling": reconciling,
        "Stalled": stalled,
        "Available": available,
    }, world.conditions
    assert kstatus(world) == kind
    check_words(world)


def check_words(world: SimWorld) -> None:
    """Bounded, of known types and reasons, and with a way out where a person must act."""
    for condition in world.conditions:
        assert condition.type in TYPES
        assert condition.reason in {*REASONS, "Corrupt", "Unreachable"}, condition.reason
        assert len(condition.message) <= 512
        assert condition.observed_generation == world.generation
    stalled = world.condition("Stalled")
    if stalled.status == "True" and stalled.reason not in ("Corrupt", "NameConflict"):
        ways = ("kubectl annotate mdep/iris sluice.dev/", "TrustPolicy")
        assert any(w in stalled.message for w in ways), stalled.message
    assert len(json.dumps(world.status)) < MAX_BYTES


def test_a_new_spec_is_in_progress_before_anything_is_written() -> None:
    assert kstatus(just_changed()) == "InProgress"


def test_generation_and_ready_are_written_together() -> None:
    world = just_changed()
    world.pass_time(1)
    world.reconcile()
    assert world.status["observedGeneration"] == world.generation
    assert world.condition("Ready").status == "Unknown"


def test_transition_times_move_only_with_the_truth() -> None:
    world = stepping()
    before = world.condition("Ready").last_transition_time
    world.run(3)
    assert world.condition("Ready").last_transition_time == before


def test_a_waiting_step_says_what_is_missing_how_long_and_how_to_go_on() -> None:
    world = stepping(rollout=rollout(steps=steps(minDuration="10m", minRequests=10_000)))
    world.run(10)
    summary = world.status["step"]["summary"]
    assert "Step 1 of 3 at 5 %" in summary
    assert "Missing" in summary
    assert "sluice.dev/promote=626262626262" in summary
    assert world.status["step"]["estimatedSeconds"] > 0


def test_what_was_said_ends_before_the_way_out_begins() -> None:
    assert with_way_out("It lets it pass", "To try it again: x") == (
        "It lets it pass. To try it again: x"
    )
    assert with_way_out("It waits.", "Go on: x") == "It waits. Go on: x"


def test_long_messages_lose_words_and_never_the_command() -> None:
    world = stepping()
    world.command("abort")
    world.run(3)
    b = world.revision_of("b") or ""
    record = world.revisions[b]
    long = record.verdict.model_copy(update={"message": "x" * 512})
    world.revisions[b] = replace(record, verdict=long)
    world.run(3)
    message = world.condition("Stalled").message
    assert message.endswith("sluice.dev/retry=626262626262")
    assert len(message) <= 512


def test_the_largest_status_fits() -> None:
    checks = [
        {"name": f"check-{i}-{'n' * 40}", "type": kind}
        for i, kind in enumerate(["ErrorRate", "ClientErrorRate", "Latency", "PredictionShift"] * 4)
    ]
    world = stepping(analysis={**BASE["analysis"], "checks": checks[:16]})
    for letter in "cdefghijklmn":
        world.ask_for(letter)
        world.run(8)
    assert len(world.status["revisions"]) == 10
    assert len(json.dumps(world.status)) < MAX_BYTES


def test_people_read_who_serves_with_which_share() -> None:
    world = stepping()
    stable, candidate = world.status["stable"], world.status["candidate"]
    assert stable["revision"] == world.revision_of("a")
    assert stable["weight"] == {"desired": 95, "observed": 95}
    assert candidate["digest"] == digest_of("b")
    assert candidate["weight"] == {"desired": 5, "observed": 5}
    world.routers[0].up = False
    world.run(1)
    assert "observed" not in world.status["stable"]["weight"]


def test_answers_only_is_said_without_a_quality_dataset() -> None:
    assert serving().condition("Validated").reason == "AnswersOnly"


def test_nothing_serves_before_the_first_promotion() -> None:
    world = SimWorld(spec_for("a"))
    world.run(1)
    assert world.condition("Available").status == "False"
    assert kstatus(world) == "InProgress"
