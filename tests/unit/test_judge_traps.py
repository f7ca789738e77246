"""Traps that a judge of canaries must not fall into."""

from __future__ import annotations

import numpy as np
import pytest
from tests.unit.looks import Behaviour, look, plan_of

from sluice.rollout import judge as judging


def _judged(stable: list[Behaviour], candidate: list[Behaviour], seed: int) -> judging.Judgement:
    """All looks of 1,000 requests at half of the traffic, judged after each; the first alarm."""
    plan, rng = plan_of(), np.random.default_rng(seed)
    state = judging.begin_step(plan, judging.new_state(plan, "canary"), 2)
    for number, (a, b) in enumerate(zip(stable, candidate, strict=True)):
        seen = look(rng, number, weight=50, stable=a, candidate=b, seconds=10.0)
        state = judging.absorb(plan, state, seen)
        found = judging.judge(plan, state)
        if found.alarm is not None:
            return found
    return judging.judge(plan, state)


@pytest.mark.parametrize("seed", range(3))
def test_a_better_candidate_never_alarms(seed: int) -> None:
    better = [Behaviour(errors=0.005, median=0.008)] * 60
    assert _judged([Behaviour(errors=0.05)] * 60, better, seed).alarm is None


@pytest.mark.parametrize("seed", range(3))
def test_an_outage_that_both_share_never_rolls_back(seed: int) -> None:
    both = [Behaviour(errors=0.9 if 20 <= k < 40 else 0.005) for k in range(60)]
    assert _judged(both, both, seed).alarm is None


@pytest.mark.parametrize("seed", range(3))
def test_the_sign_is_right_while_the_baseline_moves_by_a_third(seed: int) -> None:
    base = [0.04 * (1.0 + 0.3 * np.sin(k / 8.0)) for k in range(60)]
    stable = [Behaviour(errors=p) for p in base]
    worse = _judged(stable, [Behaviour(errors=2.0 * p) for p in base], seed)
    assert worse.alarm is not None
    assert worse.alarm.type == "ErrorRate"
    assert worse.alarm.effect is not None
    assert worse.alarm.effect > 1.2
    better = _judged(stable, [Behaviour(errors=0.5 * p) for p in base], seed)
    assert better.alarm is None
    errors = next(c for c in better.checks if c.type == "ErrorRate")
    assert errors.high is not None
    assert errors.high < 1.0
