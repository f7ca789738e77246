"""A look is computed for all checks at once; each engine alone must come to the same.

Two hundred looks are replayed through the judge and, beside it, through one engine after another.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tests.unit.looks import Behaviour, look, plan_of

from sluice.rollout import judge as judging
from sluice.stats import bounded_risk, counts, dispersion, latency, means
from sluice.stats.counts import Counts
from sluice.stats.look import Look, Means, MetricLook
from sluice.stats.means import Moments

LOOKS = 200
STEP = 2
SOURCE = {
    "url": "http://prometheus.monitoring.svc:9090",
    "events": "refunds{{revision}}{{interval}}",
    "total": "orders{{revision}}{{interval}}",
}
CHECKS = [
    {"name": "errors", "type": "ErrorRate"},
    {"name": "latency", "type": "Latency"},
    {"name": "clients", "type": "ClientErrorRate"},
    {"name": "refunds", "type": "Metric", "direction": "Lower", "prometheus": SOURCE},
    {"name": "revenue", "type": "Metric", "direction": "Higher", "prometheus": SOURCE},
]
STABLE = Behaviour(errors=0.01, client_errors=0.02)
CANDIDATE = Behaviour(errors=0.02, client_errors=0.03, median=0.0125)


def recorded() -> list[Look]:
    """A candidate that is worse in everything, and a source that is silent now and then."""
    rng = np.random.default_rng(20)

    def outcomes(mean: float) -> Moments:
        values = rng.exponential(mean, 80)
        return Moments(80, float(values.sum()), float((values**2).sum()))

    looks = []
    for number in range(LOOKS):
        seen = look(rng, number, weight=25, stable=STABLE, candidate=CANDIDATE, seconds=10.0)
        refunds = Counts(300, int(rng.binomial(300, 0.02)), 100, int(rng.binomial(100, 0.04)))
        silent = MetricLook(problem="no answer", error=True)
        metrics = {
            "refunds": silent if number % 17 == 5 else MetricLook(refunds),
            "revenue": MetricLook(Means(outcomes(10.0), outcomes(9.0))),
        }
        looks.append(replace(seen, metrics=metrics))
    return looks


def alone(rates: dict[str, Any], seen: Look) -> dict[str, Any]:
    """Every engine by itself, one look on."""
    stable, candidate = seen.stable, seen.candidate
    errors = Counts(stable.n, stable.model_errors, candidate.n, candidate.model_errors)
    clients = Counts(stable.n, stable.client_errors, candidate.n, candidate.client_errors)
    load = latency.load_of(stable, candidate)
    margin = latency.tolerance_of(load, 1.1)
    step_margin = latency.tolerance_of(load, rates["step margin"])
    measured = latency.measured(rates["latency"], stable.latency, candidate.latency, margin)
    after = {
        "errors": counts.absorb(rates["errors"], errors),
        "clients": counts.absorb(rates["clients"], clients),
        "latency": latency.absorb(rates["latency"], stable.latency, candidate.latency, margin),
        "risk": bounded_risk.absorb(rates["risk"], errors),
        "passing": latency.absorb_promotion(rates["passing"], measured, step_margin),
        "step margin": rates["step margin"],
        "refunds": rates["refunds"],
        "revenue": rates["revenue"],
    }
    refunds, revenue = seen.metrics["refunds"].data, seen.metrics["revenue"].data
    if isinstance(refunds, Counts):
        jumps = dispersion.absorb_jumps(rates["refunds"]["jumps"], refunds)
        after["refunds"] = {**counts.absorb(rates["refunds"], refunds), "jumps": jumps}
    assert isinstance(revenue, Means)
    after["revenue"] = means.absorb(rates["revenue"], revenue.stable, revenue.candidate)
    return after


def same(together: Any, single: Any) -> None:
    """The same up to the last kept place: the order of a sum may differ."""
    if isinstance(single, dict):
        assert together.keys() == single.keys()
        for key, value in single.items():
            same(together[key], value)
    elif isinstance(single, list) and single and isinstance(single[0], list | dict):
        assert len(together) == len(single)
        for one, other in zip(together, single, strict=True):
            same(one, other)
    else:
        assert together == pytest.approx(single, abs=1e-4)


def test_two_hundred_looks_at_once_are_those_of_each_engine_alone() -> None:
    plan = plan_of(analysis={"checks": CHECKS})
    state = judging.begin_step(plan, judging.new_state(plan, "canary"), STEP)
    starts = len(plan.steps)
    each: dict[str, Any] = {
        "errors": counts.start(counts.new(plan.checks[0].margin, starts)),
        "clients": counts.start(counts.new(plan.checks[2].margin, starts)),
        "latency": latency.start(latency.new(starts)),
        "refunds": {
            **counts.start(counts.new(plan.checks[3].margin, starts)),
            "jumps": dispersion.new_jumps(),
        },
        "revenue": means.new(),
        "risk": state["promotion"]["risks"]["ErrorRate"],
        "passing": latency.new_promotion(),
        "step margin": plan.steps[STEP].latency_margin,
    }
    for seen in recorded():
        state, each = judging.absorb(plan, state, seen), alone(each, seen)
        for name in ("errors", "clients", "latency"):
            same(state["checks"][name], each[name])
        for name in ("refunds", "revenue"):
            same(state["checks"][name]["process"], each[name])
        same(state["promotion"]["risks"]["ErrorRate"], each["risk"])
        same(state["promotion"]["latency"], each["passing"])
    assert state["looks"] == LOOKS
