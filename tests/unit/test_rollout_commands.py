"""Commands: executed once, answered, bound to a digest where they could do harm."""

from __future__ import annotations

import pytest
from tests.worlds.rollout import SimWorld
from tests.worlds.stories import rollout, serving, state, stepping, steps, until, watching

from sluice.rollout.model import Failure


def answer(world: SimWorld) -> str:
    assert world.progress.last_command is not None
    return world.progress.last_command.result


def test_a_command_is_executed_once_and_its_annotation_goes() -> None:
    world = stepping()
    world.command("pause")
    world.run(1)
    assert not world.annotations
    told = world.progress.last_command
    world.run(5)
    assert world.progress.last_command == told


def test_the_same_command_can_be_given_again() -> None:
    world = stepping()
    for _ in range(2):
        world.command("pause")
        world.run(1)
        assert world.progress.rollout is not None
        assert world.progress.rollout.paused
        world.command("resume")
        world.run(1)
        assert world.progress.rollout is not None
        assert not world.progress.rollout.paused


def test_a_kill_before_the_annotation_goes_does_not_execute_twice() -> None:
    world = watching()
    world.command("abort")
    decision = world.reconcile()
    assert decision.executed == ("abort",)
    world.annotations["sluice.dev/abort"] = "now"  # The removal was lost.
    world.ask_for("c")
    until(world, "Provisioning")
    world.run(1)
    assert state(world) in ("Provisioning", "Stepping"), world.notes


@pytest.mark.parametrize("verb", ["promote", "promote-now"])
@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("now", "Name the candidate's digest"),
        ("6262", "Name the candidate's digest"),
        ("0123456789ab", "is not the candidate's digest"),
        ("616161616161", "is not the candidate's digest"),
    ],
)
def test_promote_needs_the_candidates_own_digest(verb: str, value: str, said: str) -> None:
    world = stepping(rollout=rollout(steps=steps(minDuration="10m")))
    world.command(verb, value=value)
    world.run(2)
    assert said in answer(world)
    assert world.roles.weight == 5


def test_promote_passes_one_step() -> None:
    world = stepping(rollout=rollout(steps=steps(minDuration="10m")))
    world.command("promote", "b")
    world.run(5)
    assert world.roles.weight == 25
    world.run(20)
    assert world.roles.weight == 25


def test_promote_between_two_steps_is_not_lost() -> None:
    world = stepping(rollout=rollout(steps=steps(minDuration="10m")))
    world.command("promote", "b")
    world.pass_time(1)
    world.reconcile()  # The step is passed, the next weight not set yet.
    assert world.roles.weight == 5
    world.command("promote", value="62626262626262")  # Other words, or it is the same command.
    world.run(6)
    assert world.roles.weight == 50


def test_promote_now_skips_steps_but_not_guardrails() -> None:
    world = stepping(rollout=rollout(steps=steps(minDuration="10m")))
    world.command("promote-now", "b")
    until(world, "Watching", 10)
    assert world.roles.stable == world.revision_of("b")
    worse = stepping(errors=0.3, rollout=rollout(steps=steps(minDuration="10m")))
    worse.command("promote-now", "b")
    worse.run(40)
    assert worse.roles.stable == worse.revision_of("a")
    assert worse.condition("Stalled").reason == "RevisionQuarantined"


def test_pause_keeps_the_weight_and_resume_goes_on() -> None:
    world = stepping()
    world.command("pause")
    world.run(60)
    assert world.roles.weight == 5
    assert world.condition("Ready").reason == "Held"
    assert "sluice.dev/resume=now" in world.condition("Ready").message
    world.command("resume")
    world.run(8)
    assert world.roles.weight > 5


def test_a_candidate_paused_before_its_first_step_gets_no_traffic() -> None:
    world = serving()
    world.ask_for("b")
    until(world, "Validating")
    world.command("pause")
    world.run(60)
    assert world.roles.weight == 0
    assert world.revision_of("b") not in world.got_traffic
    world.command("resume")
    world.run(5)
    assert world.roles.weight == 5


def test_guardrails_stay_on_while_paused() -> None:
    world = stepping()
    world.command("pause")
    world.run(2)
    world.errors = {world.revisions[world.revision_of("b") or ""].package.digest: 0.4}
    world.run(40)
    assert world.roles.weight == 0
    assert world.condition("Stalled").reason == "RevisionQuarantined"


def test_abort_takes_back_and_latches() -> None:
    world = stepping()
    world.command("abort")
    world.run(5)
    b = world.revision_of("b") or ""
    assert world.revisions[b].verdict.reason == "Aborted"
    world.ask_for("a")
    world.run(5)
    world.ask_for("b")
    world.run(30)
    assert world.roles.weight == 0
    assert world.condition("Stalled").reason == "RevisionQuarantined"


def test_abort_beats_promote_given_at_the_same_time() -> None:
    world = stepping()
    world.command("promote-now", "b")
    world.command("abort")
    world.run(20)
    assert world.roles.stable == world.revision_of("a")
    assert world.revisions[world.revision_of("b") or ""].verdict.phase == "Failed"


def test_abort_in_the_watch_undoes_the_promotion_at_once() -> None:
    world = watching()
    world.command("abort")
    world.run(3)
    assert world.roles.stable == world.revision_of("a")
    assert "retry=626262626262" in world.condition("Stalled").message
    assert state(world) == "Stopped"


def test_abort_turns_a_withdrawal_into_a_quarantine() -> None:
    world = stepping()
    world.routers[0].up = False
    world.errors = {r.package.digest: 0.5 for r in world.revisions.values()}
    b = world.revision_of("b") or ""
    rolling = world.progress.rollout
    assert rolling is not None
    failure = Failure(check="errors", reason="GuardrailFailed", message="Both arms fail.")
    changed = {"phase": "RollingBack", "failure": failure, "withdrawn": True}
    world.progress = world.progress.model_copy(
        update={"rollout": rolling.model_copy(update=changed)}
    )
    world.command("abort")
    world.run(2)
    world.routers[0].up = True
    world.run(5)
    assert world.revisions[b].verdict.phase == "Failed"


def test_retry_names_the_quarantined_digest() -> None:
    world = stepping()
    world.command("abort")
    world.run(5)
    world.command("retry", value="now")
    world.run(1)
    assert answer(world).startswith("Name the digest")
    world.command("retry", "c")
    world.run(1)
    assert "No revision has a package digest" in answer(world)
    world.command("retry", "a")
    world.run(1)
    assert "not quarantined" in answer(world)
    world.command("retry", "b")
    world.run(1)
    assert "quarantine is lifted" in answer(world)
    until(world, "Watching")


def test_retry_waits_until_the_candidate_is_taken_back() -> None:
    world = stepping()
    world.routers[1].up = False
    world.command("abort")
    world.run(2)
    assert state(world) == "RollingBack"
    world.command("retry", "b")
    world.run(2)
    assert "being taken back" in answer(world)
    world.routers[1].up = True
    world.run(3)
    assert world.revisions[world.revision_of("b") or ""].verdict.phase == "Failed"


def test_promote_ends_a_watch_so_that_the_next_canary_may_begin() -> None:
    world = watching()
    world.ask_for("c")
    until(world, "Provisioning")
    world.run(2)
    assert "sluice.dev/promote=626262626262" in world.status["step"]["summary"]
    world.command("promote", "b")
    until(world, "Stepping", 8)
    assert world.progress.watch is None


@pytest.mark.parametrize(
    ("verb", "said"),
    [
        ("abort", "Nothing to abort"),
        ("pause", "Nothing to pause"),
        ("resume", "Nothing to resume"),
    ],
)
def test_a_command_without_a_rollout_says_so(verb: str, said: str) -> None:
    world = serving()
    world.command(verb)
    world.run(1)
    assert said in answer(world)
