"""Evidence that cannot be trusted: a split that is not the weight's, arms that fail together."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from tests.unit.looks import Behaviour, look
from tests.worlds.rollout import BASE, digest_of
from tests.worlds.stories import state, stepping, until

from sluice.rollout import judge_trust
from sluice.rollout.judge_trust import AFTER_INCREASE, LASTING, Doubt
from sluice.rollout.ledger import MAX_WITHDRAWN

WELL = Behaviour(errors=0.002)
DOWN = Behaviour(errors=0.3)


def doubts(
    rng: np.random.Generator,
    *,
    share: int,
    weight: int = 25,
    looks: int = 60,
    rate: float = 50.0,
    sticky: bool = False,
    start: judge_trust.State | None = None,
    stable: Behaviour = WELL,
    candidate: Behaviour = WELL,
) -> tuple[judge_trust.State, Doubt | None]:
    """What is said after looks at which the candidate really gets ``share`` percent."""
    trust = start or judge_trust.new()
    for number in range(looks):
        seen = look(
            rng, number, weight=share, stable=stable, candidate=candidate, rate=rate, seconds=2.0
        )
        trust = judge_trust.absorb(trust, replace(seen, weight=weight), sticky=sticky)
        trust = json.loads(json.dumps(trust))
    return trust, judge_trust.doubt(trust)


@pytest.mark.parametrize("weight", [5, 25, 50])
def test_a_split_by_the_weight_is_trusted(weight: int) -> None:
    for seed in range(20):
        rng = np.random.default_rng(seed)
        _, doubt = doubts(rng, share=weight, weight=weight)
        assert doubt is None


@pytest.mark.parametrize("share", [10, 20, 40, 0])
def test_another_split_is_said_with_both_numbers_and_lasts(share: int) -> None:
    _, doubt = doubts(np.random.default_rng(1), share=share, rate=200.0)
    assert doubt is not None and doubt.kind == "SampleRatio" and doubt.lasting
    assert "its weight says 25.0 %" in doubt.message


def test_a_split_that_is_off_for_one_look_does_not_last() -> None:
    rng = np.random.default_rng(1)
    trust, doubt = doubts(rng, share=60, looks=1, rate=200.0)
    assert doubt is not None and not doubt.lasting
    _, doubt = doubts(rng, share=25, looks=60, rate=200.0, start=trust)
    assert doubt is None


def test_requests_of_sticky_users_are_no_units() -> None:
    _, doubt = doubts(np.random.default_rng(1), share=10, sticky=True, rate=200.0)
    assert doubt is None


def raised(seed: int, before: Behaviour, stable: Behaviour, candidate: Behaviour) -> Doubt | None:
    rng = np.random.default_rng(seed)
    trust, _ = doubts(rng, share=5, weight=5, stable=before, candidate=before)
    _, doubt = doubts(
        rng,
        share=25,
        looks=AFTER_INCREASE + LASTING,
        start=judge_trust.begin(trust),
        stable=stable,
        candidate=candidate,
    )
    return doubt


def test_both_arms_that_fail_after_an_increase_make_the_environment_suspect() -> None:
    doubt = raised(1, WELL, DOWN, DOWN)
    assert doubt is not None and doubt.kind == "Environment" and doubt.lasting
    assert doubt.message.startswith("Both arms fail since the weight went up: the candidate 3")


@pytest.mark.parametrize(
    ("before", "stable", "candidate"),
    [(WELL, WELL, DOWN), (WELL, DOWN, WELL), (DOWN, DOWN, DOWN), (WELL, WELL, WELL)],
    ids=["only the candidate", "only stable", "as before", "nobody"],
)
def test_anything_else_does_not(before: Behaviour, stable: Behaviour, candidate: Behaviour) -> None:
    for seed in range(5):
        assert raised(seed, before, stable, candidate) is None


def test_an_outage_long_after_the_increase_is_not_the_weights() -> None:
    rng = np.random.default_rng(1)
    trust, _ = doubts(rng, share=5, weight=5)
    trust, _ = doubts(rng, share=25, looks=AFTER_INCREASE, start=judge_trust.begin(trust))
    _, doubt = doubts(rng, share=25, looks=60, start=trust, stable=DOWN, candidate=DOWN)
    assert doubt is None


def test_nothing_is_said_without_a_history() -> None:
    _, doubt = doubts(np.random.default_rng(1), share=25, stable=DOWN, candidate=DOWN)
    assert doubt is None


def test_a_broken_split_withdraws_without_a_verdict_and_tries_three_times() -> None:
    world = stepping()
    world.routed_share = 0.3
    until(world, "Stopped", 120)
    verdict = world.revisions[world.revision_of("b") or ""].verdict
    assert (verdict.phase, verdict.attempts) == ("Withdrawn", 1)
    assert "its weight says 5.0 %" in verdict.message
    assert all(r.shares() == {world.revision_of("a"): 100} for r in world.routers)
    world.run(800)
    verdict = world.revisions[world.revision_of("b") or ""].verdict
    assert (verdict.phase, verdict.attempts) == ("Withdrawn", MAX_WITHDRAWN)


def test_a_split_that_is_mended_is_tried_again_and_promoted() -> None:
    world = stepping()
    world.routed_share = 0.3
    until(world, "Stopped", 120)
    world.routed_share = None
    until(world, "Watching", 300)


def test_a_wrong_split_is_held_before_it_is_withdrawn() -> None:
    world = stepping()
    world.routed_share = 0.3
    for _ in range(60):
        world.run(1)
        if "weight says" in world.condition("Ready").message:
            break
    assert state(world) == "Stepping"
    assert world.condition("Ready").message.startswith("Held: The candidate gets 3")


def test_both_arms_failing_at_a_higher_weight_withdraw_the_candidate() -> None:
    steps = [{"weight": w, "minRequests": 50, "minDuration": "5s"} for w in (5, 25)]
    world = stepping(rollout={**BASE["rollout"], "steps": steps})
    while world.roles.weight != 25:
        world.run(1)
    world.errors = {digest_of("a"): 0.15, digest_of("b"): 0.15}
    until(world, "Stopped", 120)
    verdict = world.revisions[world.revision_of("b") or ""].verdict
    assert verdict.phase == "Withdrawn"
    assert "Both arms fail since the weight went up" in verdict.message
