"""Simulated looks for the judge's tests: Poisson traffic, binomial errors, lognormal latency."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sluice.api.modeldeployment import ModelDeploymentSpec
from sluice.rollout.plan import Plan, analysis_plan
from sluice.stats.look import LATENCY_BASE, LATENCY_RATIO, ArmLook, Cell, Look


def plan_of(**spec: object) -> Plan:
    return analysis_plan(
        ModelDeploymentSpec.model_validate({"model": {"uri": "file:///model"}, **spec})
    )


@dataclass(frozen=True)
class Behaviour:
    """How an arm behaves."""

    errors: float = 0.0
    client_errors: float = 0.0
    median: float = 0.01
    scores: tuple[float, ...] = ()


def arm(rng: np.random.Generator, n: int, how: Behaviour, *, pods: int = 2) -> ArmLook:
    errors = int(rng.binomial(n, how.errors))
    clients = int(rng.binomial(n - errors, how.client_errors))
    ok = n - errors - clients
    parts = [rng.multinomial(k, [1 / pods] * pods) for k in (ok, clients, errors)]
    cells: tuple[Cell, ...] = tuple(
        (int(a + b + c), int(b), int(c)) for a, b, c in zip(*parts, strict=True)
    )
    seconds = how.median * np.exp(0.4 * rng.normal(size=ok))
    bins = np.floor(np.log(seconds / LATENCY_BASE) / np.log(LATENCY_RATIO)).astype(int)
    index, count = np.unique(np.clip(bins, 0, 699), return_counts=True)
    scores = rng.multinomial(ok, how.scores).tolist() if how.scores else []
    return ArmLook(
        n=n,
        client_errors=clients,
        model_errors=errors,
        latency=dict(zip(index.tolist(), count.tolist(), strict=True)),
        scores=tuple(scores),
        score_reference=(500,) * len(scores),
        pods=cells,
        load_per_pod=n / pods,
    )


def look(
    rng: np.random.Generator,
    number: int,
    *,
    weight: int,
    stable: Behaviour,
    candidate: Behaviour,
    rate: float = 100.0,
    seconds: float = 1.0,
) -> Look:
    n = int(rng.poisson(rate * seconds))
    candidate_n = int(rng.binomial(n, weight / 100))
    return Look(
        number,
        seconds,
        weight,
        arm(rng, n - candidate_n, stable),
        arm(rng, candidate_n, candidate),
    )
