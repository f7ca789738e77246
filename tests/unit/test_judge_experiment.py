"""Verdicts of an experiment on simulated users: planted effects found, equal arms left alone."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np

from sluice.evidence.units_store import Exposure, Outcome, UnitStore
from sluice.rollout import judge_experiment as judging
from sluice.rollout.judge_experiment import ExperimentLook, Finding
from sluice.rollout.plan import ExperimentPlan

BEGAN = 1_000_000.0
PLAN = ExperimentPlan(
    metric="conversion",
    kind="Conversion",
    direction="Higher",
    weight=50,
    window_seconds=100.0,
    max_units=40_000,
    max_seconds=0.0,
    margin=0.0,
    alpha=0.05,
    on_win="Promote",
    on_loss="Rollback",
    on_inconclusive="Hold",
)


def run(plan: ExperimentPlan, *, rates: tuple[float, float], seed: int, **how: Any) -> Finding:
    """Units come at a steady pace and convert after an exponential wait; a look each 10 s."""
    rng = np.random.default_rng(seed)
    per_look, share = how.get("per_look", 400), how.get("share", plan.weight / 100)
    until = how.get("looks", plan.max_units // per_look + 11)
    store = UnitStore(plan.kind, since=BEGAN, window=plan.window_seconds, most=plan.max_units)
    state = judging.new_state(plan)
    pending: list[Outcome] = []
    before = list(store.seen.exposed)
    ticks = [BEGAN + 10.0 * k for k in range(until + 1)]
    unit = 0
    for k, (start, end) in enumerate(pairwise(ticks)):
        exposures = []
        for at in np.sort(rng.uniform(start, end, per_look)):
            unit += 1
            arm = int(rng.random() < share)
            exposures.append(Exposure(unit, arm, float(at)))
            pending += outcomes_of(plan, rng, unit, float(at), rates[arm], how)
        due = [o for o in pending if o.at < end]
        pending = [o for o in pending if o.at >= end]
        store.add(exposures, due)
        new = tuple(a - b for a, b in zip(store.seen.exposed, before, strict=True))
        before = list(store.seen.exposed)
        closed = store.close(start if k else 0.0, end)
        state = judging.absorb(
            plan,
            state,
            ExperimentLook(
                k, 10.0, plan.weight, (new[0], new[1]), closed.stable, closed.candidate,
                store.seen.crossed,
            ),
        )  # fmt: skip
        if state["verdict"]:
            break
    return judging.judge(plan, state)


def outcomes_of(
    plan: ExperimentPlan, rng: Any, unit: int, at: float, rate: float, how: Any
) -> list[Outcome]:
    when = at + float(rng.exponential(how.get("wait", 20.0)))
    if plan.kind == "Conversion":
        return [Outcome(unit, when, 1.0)] if rng.random() < rate else []
    if plan.kind == "Mean":
        return [Outcome(unit, when, float(rng.gamma(1.0, rate)))]
    size = float(1 + rng.poisson(2))
    return [Outcome(unit, when, float(rng.gamma(size, rate)), size)]


def verdicts(plan: ExperimentPlan, seeds: range, **how: Any) -> list[str]:
    return [run(plan, seed=seed, **how).verdict for seed in seeds]


def test_a_planted_tenth_more_conversions_is_superior() -> None:
    found = verdicts(PLAN, range(10), rates=(0.20, 0.22))
    assert found.count("Superior") >= 9
    assert "Inferior" not in found


def test_equal_arms_are_not_told_apart() -> None:
    found = verdicts(PLAN, range(20, 40), rates=(0.20, 0.20))
    assert found.count("Inconclusive") >= 18


def test_fewer_conversions_are_inferior() -> None:
    assert run(PLAN, rates=(0.20, 0.17), seed=3).verdict == "Inferior"


def test_where_less_is_better_the_same_change_is_inferior() -> None:
    lower = replace(PLAN, direction="Lower")
    assert run(lower, rates=(0.20, 0.24), seed=3).verdict == "Inferior"
    assert run(lower, rates=(0.24, 0.20), seed=3).verdict == "Superior"


def test_with_a_margin_an_equal_candidate_is_not_inferior() -> None:
    plan = replace(PLAN, margin=0.2)
    assert run(plan, rates=(0.20, 0.20), seed=5).verdict == "NonInferior"


def test_arms_that_do_not_get_their_share_are_untrusted() -> None:
    found = run(PLAN, rates=(0.20, 0.22), seed=1, share=0.40)
    assert found.verdict == "Untrusted"
    assert "planned were 50.0 %" in found.message


def test_units_seen_in_both_arms_are_untrusted() -> None:
    state = judging.new_state(PLAN)
    state = judging.absorb(PLAN, state, ExperimentLook(0, 10.0, 50, (500, 500), crossed=30))
    found = judging.judge(PLAN, state)
    assert found.verdict == "Untrusted"
    assert "30 of 1,000 units were seen in both arms" in found.message


def test_slower_conversions_are_not_fewer() -> None:
    """A candidate whose users convert later has the same rate once windows have closed."""
    plan = replace(PLAN, window_seconds=300.0)
    rng = np.random.default_rng(8)
    store = UnitStore("Conversion", since=BEGAN, window=300.0)
    state = judging.new_state(plan)
    exposures = [Exposure(n, n % 2, BEGAN + n / 40) for n in range(20_000)]
    outcomes = [
        Outcome(e.unit, e.at + float(rng.exponential(5.0 if e.arm == 0 else 50.0)), 1.0)
        for e in exposures
        if rng.random() < 0.3
    ]
    store.add(exposures, outcomes)
    for k in range(80):
        end = BEGAN + 10.0 * (k + 1)
        closed = store.close(end - 10.0, end)
        look = ExperimentLook(k, 10.0, 50, (0, 0), closed.stable, closed.candidate)
        state = judging.absorb(plan, state, look)
    found = judging.judge(plan, state)
    assert sum(found.closed) == 20_000
    assert found.verdict == "Inconclusive"


def test_means_and_ratios_are_told_apart_too() -> None:
    for kind in ("Mean", "Ratio"):
        plan = replace(PLAN, kind=kind)
        assert run(plan, rates=(1.0, 1.10), seed=2).verdict == "Superior", kind
        assert run(plan, rates=(1.0, 0.90), seed=2).verdict == "Inferior", kind
        assert run(plan, rates=(1.0, 1.0), seed=2).verdict == "Inconclusive", kind


def test_a_group_sequential_design_is_judged_when_it_was_declared() -> None:
    plan = replace(PLAN, design="GroupSequential", max_units=20_000)
    found = run(plan, rates=(0.20, 0.23), seed=4)
    assert found.verdict == "Superior"
    assert found.low is not None and found.low > 0
    assert sum(found.closed) > 0.19 * plan.max_units
    assert run(plan, rates=(0.20, 0.17), seed=4).verdict == "Inferior"
    assert verdicts(plan, range(8), rates=(0.2, 0.2)).count("Inconclusive") >= 7


def test_a_group_sequential_design_finds_smaller_differences() -> None:
    """The same 10,000 users, +10 % of 20 %: declared looks find it more often."""
    sizes = {"max_units": 10_000}
    found = {
        design: verdicts(replace(PLAN, design=design, **sizes), range(12), rates=(0.2, 0.22)).count(
            "Superior"
        )
        for design in ("Sequential", "GroupSequential")
    }
    assert found["GroupSequential"] > found["Sequential"]


def test_a_group_sequential_margin_works_both_ways() -> None:
    plan = replace(PLAN, design="GroupSequential", max_units=20_000, margin=0.15)
    assert run(plan, rates=(0.20, 0.20), seed=2).verdict == "NonInferior"
    assert run(plan, rates=(0.20, 0.14), seed=2).verdict == "Inferior"
    lower = replace(plan, direction="Lower")
    assert run(lower, rates=(0.20, 0.20), seed=2).verdict == "NonInferior"
    assert run(lower, rates=(0.20, 0.26), seed=2).verdict == "Inferior"


def test_a_look_that_is_replayed_changes_nothing() -> None:
    state = judging.new_state(PLAN)
    look = ExperimentLook(4, 10.0, 50, (5, 6))
    once = judging.absorb(PLAN, state, look)
    assert judging.absorb(PLAN, once, look) == once


def test_before_anything_came_nothing_is_claimed() -> None:
    for kind in ("Conversion", "Mean", "Ratio"):
        plan = replace(PLAN, kind=kind)
        found = judging.judge(plan, judging.new_state(plan))
        assert found.verdict == "Inconclusive"
        assert found.eta_seconds is None
