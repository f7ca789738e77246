"""The product's story, told to ``decide`` in a simulated world."""

from __future__ import annotations

from tests.worlds.rollout import SimWorld, digest_of, spec_for


def served(world: SimWorld) -> SimWorld:
    """A world in which model ``a`` serves."""
    world.run(12)
    assert world.roles.stable == world.revision_of("a"), world.notes
    return world


def test_the_first_revision_is_gated_and_serves() -> None:
    world = served(SimWorld(spec_for("a")))
    assert world.condition("Ready").status == "True", world.conditions
    assert world.condition("Available").status == "True"
    assert world.condition("Validated").reason == "AnswersOnly"


def test_a_good_candidate_is_promoted_step_by_step_and_watched() -> None:
    world = served(SimWorld(spec_for("a")))
    world.ask_for("b")
    world.run(50)
    b = world.revision_of("b")
    assert world.roles.stable == b, (world.notes, world.status.get("step"))
    assert world.roles.previous == world.revision_of("a")
    world.run(120)
    assert world.roles.previous is None
    assert world.condition("Ready").status == "True"
    world.run(120)
    assert list(world.wanted) == [b]


def test_a_bad_candidate_is_rolled_back_and_quarantined() -> None:
    world = served(SimWorld(spec_for("a"), errors={digest_of("b"): 0.3}))
    world.ask_for("b")
    world.run(60)
    b = world.revision_of("b")
    assert b is not None
    assert world.revisions[b].verdict.phase == "Failed", world.notes
    assert world.condition("Stalled").reason == "RevisionQuarantined"
    assert world.condition("Available").status == "True"
    assert world.roles.stable == world.revision_of("a")
    assert world.progress.last_rollback is not None
    assert world.progress.last_rollback.traffic_zero_at
    assert "retry" in world.condition("Stalled").message
    shown = {c["name"]: c for c in world.status["checks"]}
    assert shown["errors"]["verdict"] == "Fail", "what took it back stays in view"
    assert b not in world.wanted


def test_a_failed_gate_keeps_users_away() -> None:
    world = served(SimWorld(spec_for("a"), broken_gate={digest_of("b")}))
    world.ask_for("b")
    world.run(60)
    b = world.revision_of("b")
    assert b not in world.got_traffic
    assert world.condition("Stalled").reason == "RevisionQuarantined"


def test_an_idle_world_is_left_alone() -> None:
    world = served(SimWorld(spec_for("a")))
    world.run(30)
    before = world.writes
    world.run(100)
    assert world.writes == before


def test_degrading_after_promotion_rolls_back_without_a_pod_start() -> None:
    world = served(SimWorld(spec_for("a")))
    world.ask_for("b")
    world.run(50)
    assert world.roles.previous == world.revision_of("a"), world.notes
    running = dict(world.wanted)
    world.errors[digest_of("b")] = 0.3
    world.run(20)
    assert world.roles.stable == world.revision_of("a"), world.notes
    assert world.wanted[world.revision_of("a") or ""] == running[world.revision_of("a") or ""]
    assert world.condition("Stalled").reason == "RevisionQuarantined"


def test_abort_latches_and_retry_releases() -> None:
    world = served(SimWorld(spec_for("a")))
    world.ask_for("b")
    world.run(8)
    world.annotations["sluice.dev/abort"] = "now"
    world.run(10)
    b = world.revision_of("b")
    assert b is not None
    assert world.revisions[b].verdict.reason == "Aborted"
    assert "sluice.dev/abort" not in world.annotations
    world.annotations["sluice.dev/retry"] = digest_of("b").removeprefix("sha256:")[:12]
    world.run(250)
    assert world.roles.stable == b, (world.notes, world.progress.last_command)


def test_a_candidate_is_not_judged_by_the_evidence_of_the_one_before() -> None:
    world = served(SimWorld(spec_for("a"), errors={digest_of("b"): 0.3}))
    world.ask_for("b")
    world.run(60)
    assert world.condition("Stalled").reason == "RevisionQuarantined"
    world.ask_for("c")
    world.run(60)
    assert world.roles.stable == world.revision_of("c"), world.notes
