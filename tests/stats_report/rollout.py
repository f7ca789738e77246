"""A whole rollout of an equal candidate, and of one exactly at every margin.

Canary and watch, every guardrail, the product's alpha.
Errors 0.5 %, client errors 2 % and latency, margins 1.2, 1.2 and 10 %, half of 1 % for the canary
and half for the watch; rates drift by half over the rollout.  An alarm needs the mean of the three
e-values and, for rates, 0.1 points of observed difference, as in the judge.
"""

from __future__ import annotations

import math
from functools import partial

import numpy as np
from tests.stats_report import worlds
from tests.stats_report.engines import Crossing, Flags, Latency, OddsRatio
from tests.stats_report.promotion import MARGIN, PLAN
from tests.stats_report.rows import Cell, Row, false_alarms, percent

from sluice.rollout.judge_guardrails import MIN_DIFFERENCE
from sluice.stats import watch
from sluice.stats.logs import log_sum

TABLE = "A whole rollout"
RATES = (0.005, 0.02)
PODS = 2
SLOWER = next(c.margin for c in PLAN.checks if c.type == "Latency")


class Phase:
    """The guardrails of a canary or a watch over many runs."""

    def __init__(self, runs: int, planned: int, alpha: float):
        self.rates = [OddsRatio(runs, MARGIN, planned) for _ in RATES]
        self.latency = Latency(runs, SLOWER, planned)
        self.sums = np.zeros((len(RATES), 4, runs))
        self.need = math.log(1.0 / alpha)
        self.found = Crossing(runs)
        self.runs = runs

    def begin(self) -> None:
        """One more of the planned starts."""
        for engine in (*self.rates, self.latency):
            engine.begin()

    def look(
        self,
        rng: np.random.Generator,
        number: int,
        requests: int,
        share: float,
        drift: float,
        worse: bool,
    ) -> None:
        """One look of equal arms, or of a candidate exactly at every margin."""
        for i, (engine, rate) in enumerate(zip(self.rates, RATES, strict=True)):
            odds = (MARGIN if worse else 1.0) * rate * drift / (1.0 - rate * drift)
            seen = worlds.look(rng, self.runs, requests, share, rate * drift, odds / (1.0 + odds))
            engine.absorb(seen)
            self.sums[i] += np.stack((seen.n_a, seen.x_a, seen.n_b, seen.x_b))
        same, n_b = np.ones((self.runs, PODS)), round(requests * share)
        self.latency.absorb(
            worlds.latencies(rng, requests - n_b, same),
            worlds.latencies(rng, n_b, same * (SLOWER if worse else 1.0)),
        )
        self.found.mark(self._alarmed(), number)

    def _alarmed(self) -> Flags:
        each = [engine.log_e() for engine in (*self.rates, self.latency)]
        log_es = np.stack(each, axis=-1)
        n_a, x_a, n_b, x_b = (self.sums[:, k] for k in range(4))
        difference = x_b / np.maximum(n_b, 1) - x_a / np.maximum(n_a, 1)
        matters = np.vstack((difference >= MIN_DIFFERENCE, np.ones((1, self.runs), dtype=bool)))
        culprit = log_es.argmax(axis=-1)
        counted = matters[culprit, np.arange(self.runs)]
        alarmed: Flags = counted & (log_sum(log_es) - math.log(len(each)) >= self.need)
        return alarmed


def tolerated(rng: np.random.Generator, runs: int, *, requests: int, worse: bool) -> list[Row]:
    """20 looks at each step, then a watch of 120 looks."""
    canary = Phase(runs, len(PLAN.steps), PLAN.alpha_canary)
    for number in range(20 * len(PLAN.steps)):
        if number % 20 == 0:
            canary.begin()
        share = PLAN.steps[number // 20].weight / 100.0
        canary.look(rng, number, requests, share, 1.0 + number / 120.0, worse)
    looks = 120
    after = Phase(runs, watch.planned_starts(looks), PLAN.alpha_watch)
    for number in range(looks):
        if watch.begins(number, looks):
            after.begin()
        drift = 1.0 + 0.5 * math.cos(2.0 * math.pi * number / looks)
        after.look(rng, number, requests, PLAN.final_weight / 100.0, drift, worse)
    beside = {
        "canary": percent(float(np.mean(canary.found.ever))),
        "watch": percent(float(np.mean(after.found.ever))),
    }
    who = "a candidate exactly at every margin" if worse else "an equal candidate"
    case = f"{who}, {requests} requests a look, taken back in canary or watch"
    alpha = PLAN.alpha_canary + PLAN.alpha_watch
    return [false_alarms(case, canary.found.ever | after.found.ever, alpha, beside)]


def cells() -> list[Cell]:
    """Every simulation of this table."""
    return [
        Cell(TABLE, f"{requests} {worse}", partial(tolerated, requests=requests, worse=worse))
        for worse in (False, True)
        for requests in (200, 1000)
    ]
