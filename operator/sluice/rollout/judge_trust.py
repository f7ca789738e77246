"""The judge's doubts: is the split the weight's, and did both arms get worse when it went up?

Neither is a verdict on the candidate.  Counted in one step at a time, in the canary only; where
users stick to an arm requests are no units, so their split is not tested here (an experiment counts
units).  Called by sluice.rollout.judge only; calls sluice.stats.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from sluice.rollout import judge_words as words
from sluice.stats import counts, sample_ratio
from sluice.stats.counts import Counts
from sluice.stats.look import Look

State = dict[str, Any]

OFF = 0.1
"""Part of the smaller arm's share that may be missing: less distorts no comparison of rates."""

LASTING = 5
"""Looks in a row after which a doubt does not go away by itself."""

AFTER_INCREASE = 12
"""Looks of a step in which what begins may come from its weight."""

MUCH_WORSE = 3.0
WORSE_BY = 0.05
"""Odds, and difference of rates, by which both arms must be worse than stable was before."""

NEED = math.log(1000.0)
HISTORY = 200
"""Requests without which nobody knows how stable was before."""


@dataclass(frozen=True)
class Doubt:
    """Why the evidence cannot be trusted now; ``lasting`` when it has stayed so."""

    kind: Literal["SampleRatio", "Environment"]
    message: str
    lasting: bool


def new() -> State:
    """Nothing known."""
    return {
        "before": [0, 0],
        "ratio": sample_ratio.new(),
        "stable": [0, 0],
        "candidate": [0, 0],
        "looks": 0,
        "odd": 0,
        "worse": 0,
    }


def begin(state: State) -> State:
    """At the next weight: stable's requests and errors until then are what was before."""
    before = [a + b for a, b in zip(state["before"], state["stable"], strict=True)]
    return {**new(), "before": before}


def absorb(state: State, look: Look, *, sticky: bool) -> State:
    """The state with one more look at traffic."""
    stable, candidate = look.stable, look.candidate
    ratio = state["ratio"]
    if not sticky and 0 < look.weight < 100:
        ratio = sample_ratio.absorb(ratio, stable.n, candidate.n, look.weight / 100.0)
    after = {
        **state,
        "ratio": ratio,
        "stable": [state["stable"][0] + stable.n, state["stable"][1] + stable.model_errors],
        "candidate": [
            state["candidate"][0] + candidate.n,
            state["candidate"][1] + candidate.model_errors,
        ],
        "looks": state["looks"] + 1,
    }
    return {
        **after,
        "odd": state["odd"] + 1 if _odd(ratio) else 0,
        "worse": state["worse"] + 1 if _worse(after) else 0,
    }


def doubt(state: State) -> Doubt | None:
    """What stands against trusting the evidence of this step."""
    if state["worse"]:
        rates = (state["stable"], state["candidate"], state["before"])
        stable, candidate, before = (words.percent(x / n) for n, x in rates)
        return Doubt(
            "Environment",
            f"Both arms fail since the weight went up: the candidate {candidate}, stable {stable} "
            f"after {before} before. The environment is suspected.",
            state["worse"] >= LASTING,
        )
    if state["odd"]:
        observed, expected = sample_ratio.shares(state["ratio"])
        total = sum(a + b for _, a, b in state["ratio"]["units"])
        return Doubt(
            "SampleRatio",
            f"The candidate gets {words.percent(observed)} of {words.many(total)} requests, its "
            f"weight says {words.percent(expected)}: the arms cannot be compared.",
            state["odd"] >= LASTING,
        )
    return None


def _odd(ratio: State) -> bool:
    observed, expected = sample_ratio.shares(ratio)
    if observed is None or expected is None:
        return False
    if abs(observed - expected) < OFF * min(expected, 1.0 - expected):
        return False
    return sample_ratio.log_e(ratio) >= -math.log(sample_ratio.ALPHA)


def _worse(state: State) -> bool:
    """Whether both arms do worse than stable did before, and began to soon after the increase."""
    begun = state["looks"] <= AFTER_INCREASE or state["worse"] > 0
    if not begun or state["before"][0] < HISTORY:
        return False
    return all(_worse_than(state["before"], state[arm]) for arm in ("stable", "candidate"))


def _worse_than(before: list[int], now: list[int]) -> bool:
    (n_before, x_before), (n, x) = before, now
    if n == 0 or x / n < x_before / n_before + WORSE_BY:
        return False
    process = counts.start(counts.new(MUCH_WORSE, 1))
    return counts.log_e(counts.absorb(process, Counts(n_before, x_before, n, x))) >= NEED
