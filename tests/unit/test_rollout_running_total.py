"""Small losses add up over promotions; past one margin a person is asked, and anchors anew."""

from __future__ import annotations

import math

import pytest
from tests.worlds.rollout import BASE, SimWorld, digest_of
from tests.worlds.stories import rollout, serving, state, steps, until

from sluice.stats import counts
from sluice.stats.counts import Counts

LOOSE = {**BASE["analysis"], "checks": [{"name": "errors", "type": "ErrorRate", "margin": 1.5}]}


def lossy(total: float = 0.0, **blocks: object) -> SimWorld:
    """Model ``a`` serves, with what earlier promotions have added up to."""
    world = serving(analysis=LOOSE, **blocks)
    roles = world.roles.model_copy(update={"since_anchor": {"ErrorRate": total} if total else {}})
    world.progress = world.progress.model_copy(update={"roles": roles})
    world.copied_roles = roles
    return world


def promoted(world: SimWorld, letter: str) -> None:
    world.ask_for(letter)
    until(world, "Watching", 600)


def test_each_promotion_adds_its_estimate() -> None:
    world = lossy(rollout=rollout(steps=steps(minDuration="60s")))
    world.errors = {digest_of("a"): 0.004, digest_of("b"): 0.0055}
    promoted(world, "b")
    total = world.roles.since_anchor["ErrorRate"]
    assert 0.0 < total < math.log(2.0)
    (shown,) = world.status["sinceAnchor"]
    assert shown["type"] == "ErrorRate" and shown["margin"] == pytest.approx(1.5)
    assert shown["oddsRatio"] == pytest.approx(math.exp(total))


def test_an_improvement_takes_off_and_never_goes_below_nothing() -> None:
    world = lossy(0.1)
    world.errors = {digest_of("a"): 0.2}
    promoted(world, "b")
    assert world.roles.since_anchor["ErrorRate"] == 0.0


def test_past_one_margin_the_next_promotion_asks_and_approval_anchors() -> None:
    world = lossy(0.6)
    world.ask_for("b")
    until(world, "Promoting")
    world.run(60)
    assert (state(world), world.roles.weight) == ("Promoting", 50)
    ready = world.condition("Ready")
    assert (ready.status, ready.reason) == ("True", "Held")
    assert "multiplied the odds of an error by about 1.8" in ready.message
    assert "sluice.dev/promote=626262626262" in ready.message
    world.command("promote", "b")
    until(world, "Watching")
    assert world.roles.since_anchor == {}
    assert world.status["sinceAnchor"] == []


def test_guardrails_stay_on_while_it_asks() -> None:
    world = lossy(0.6)
    world.ask_for("b")
    until(world, "Promoting")
    world.run(5)
    world.errors = {digest_of("b"): 0.5}
    until(world, "Stopped")
    assert world.roles.stable == world.revision_of("a")
    assert world.roles.since_anchor == {"ErrorRate": 0.6}


def test_within_one_margin_nobody_is_asked() -> None:
    world = lossy(0.4)
    promoted(world, "b")
    assert "ErrorRate" in world.roles.since_anchor


def test_what_is_undone_in_its_watch_takes_its_part_back() -> None:
    world = lossy(0.3)
    world.errors = {digest_of("a"): 0.004, digest_of("b"): 0.0055}
    promoted(world, "b")
    assert world.roles.since_anchor != {"ErrorRate": 0.3}
    world.command("abort")
    until(world, "Stopped")
    assert world.roles.since_anchor == {"ErrorRate": 0.3}


def test_the_spec_back_at_previous_takes_it_back_too() -> None:
    world = lossy(0.3)
    world.errors = {digest_of("a"): 0.004, digest_of("b"): 0.0055}
    promoted(world, "b")
    world.ask_for("a")
    until(world, "Idle")
    assert world.roles.since_anchor == {"ErrorRate": 0.3}


def test_a_revision_that_was_promoted_before_never_asks() -> None:
    world = serving(analysis=LOOSE)
    promoted(world, "b")
    world.run(120)
    roles = world.roles.model_copy(update={"since_anchor": {"ErrorRate": 0.9}})
    world.progress = world.progress.model_copy(update={"roles": roles})
    promoted(world, "a")
    assert world.roles.since_anchor == {"ErrorRate": 0.9}


def test_the_total_survives_the_loss_of_the_evidence() -> None:
    world = lossy(0.6)
    world.run(2)
    world.lose_evidence()
    world.run(5)
    assert world.roles.since_anchor == {"ErrorRate": 0.6}


def test_gates_only_adds_nothing_but_asks() -> None:
    world = lossy(0.3, rollout=rollout(strategy="GatesOnly"))
    promoted(world, "b")
    assert world.roles.since_anchor == {"ErrorRate": 0.3}
    world = lossy(0.6, rollout=rollout(strategy="GatesOnly"))
    world.ask_for("b")
    world.run(60)
    assert (state(world), world.roles.weight) == ("Promoting", 0)


@pytest.mark.parametrize(("x", "low", "high"), [(0, -0.01, 0.01), (3, 0.0, 0.1)])
def test_few_events_say_little_either_way(x: int, low: float, high: float) -> None:
    state = counts.absorb(counts.start(counts.new(1.2, 1)), Counts(1000, 0, 1000, x))
    assert low <= counts.shrunk_log_odds(state, math.log(1.2)) <= high


@pytest.mark.parametrize("truth", [-0.5, 0.0, 0.03, 0.1, 0.5])
def test_many_events_speak_for_themselves(truth: float) -> None:
    state = counts.start(counts.new(1.2, 1))
    odds = math.exp(truth) * 0.05 / 0.95
    x = round(10**6 * odds / (1 + odds))
    state = counts.absorb(state, Counts(10**6, 50_000, 10**6, x))
    assert counts.shrunk_log_odds(state, math.log(1.2)) == pytest.approx(truth, abs=0.01)
    assert abs(counts.shrunk_log_odds(state, math.log(1.2), phi=1000.0)) <= abs(truth) + 1e-9
