"""The ladder with everything at once: errors that come in clusters, client errors and latency.

A failed attempt is tried once more and fails again in half of the cases, so attempts are not
independent.  All three guardrails share the alarm; errors, client errors and p50 and p90 must all
pass at each step, as in the judge.
"""

from __future__ import annotations

import math
from functools import partial

import numpy as np
from tests.stats_report import worlds
from tests.stats_report.engines import Flags, Floats, Ints, Latency, OddsRatio, Seen
from tests.stats_report.promotion import (
    MARGIN,
    NEED_PASS,
    PLAN,
    PROMOTED,
    TAKEN_BACK,
    WAITING,
    Ladder,
    Outcome,
    Risk,
)
from tests.stats_report.rollout import SLOWER
from tests.stats_report.rows import Cell, Row, limit, percent

from sluice.rollout.judge_guardrails import MIN_DIFFERENCE
from sluice.rollout.plan import StepPlan
from sluice.stats.logs import log_sum

TABLE = "Promotion with retries, client errors and latency"
AGAIN = 0.5
"""Chance that the second attempt of a failed request fails too."""

CLIENTS = 0.01
HOURS = 3.0


class Whole(Ladder):
    """The ladder of sluice's default checks; ``slower`` is the candidate's latency factor."""

    def __init__(
        self,
        rng: np.random.Generator,
        runs: int,
        base: float,
        worse: float,
        rps: float,
        slower: float,
    ):
        super().__init__(rng, runs, base, worse, rps)
        self.slower = slower
        self.client_risk = Risk(runs)
        self.client_alarm = OddsRatio(runs, MARGIN, len(PLAN.steps))
        self.client_sums: Floats = np.zeros((4, runs))
        self.alarm = Latency(runs, SLOWER, len(PLAN.steps))
        self.within = [Latency(runs, s.latency_margin, 1, reverse=True) for s in PLAN.steps]
        for engine in (self.client_alarm, self.alarm, *self.within):
            engine.begin()

    def _begin(self, rows: Flags) -> None:
        super()._begin(rows)
        index = np.flatnonzero(rows)
        # Before the first step the parts of this class do not exist yet.
        for number, step in enumerate(PLAN.steps):
            here = index[self.step[index] == number]
            if len(here):
                self._begin_step(here, number, step)

    def _begin_step(self, here: Ints, number: int, step: StepPlan) -> None:
        n, x = self.client_sums[0, here], self.client_sums[1, here]
        p0 = (x + 0.5) / (n + 1.0) if number else None
        self.client_risk.begin(here, step, self._tau(step, here, p0), p0)
        for part in self.within[number].parts:
            part.up[here] = 0.0

    def _events(self, n_a: Ints, n_b: Ints) -> Seen:
        clients = Seen(n_a, self.rng.binomial(n_a, CLIENTS), n_b, self.rng.binomial(n_b, CLIENTS))
        self.client_risk.absorb(clients)
        self.client_alarm.absorb(clients)
        self.client_sums += np.stack((n_a, clients.x_a, n_b, clients.x_b))
        arms = [
            worlds.latencies_of(self.rng, n, factor)
            for n, factor in ((n_a, 1.0), (n_b, self.slower))
        ]
        for engine in (self.alarm, *self.within):
            engine.absorb(*arms)
        return Seen(*self._attempts(n_a, self.base), *self._attempts(n_b, self.worse))

    def _attempts(self, n: Ints, rate: float) -> tuple[Ints, Ints]:
        failed = self.rng.binomial(n, rate)
        return n + failed, failed + self.rng.binomial(failed, AGAIN)

    def _alarms(self) -> Flags:
        each = (self._log_e(), self.client_alarm.log_e(), self.alarm.log_e())
        log_es = np.stack(each, axis=-1)
        n_a, x_a, n_b, x_b = self.client_sums
        clients = x_b / np.maximum(n_b, 1) - x_a / np.maximum(n_a, 1) >= MIN_DIFFERENCE
        matters = np.stack((self._matters(), clients, np.ones_like(clients)))
        culprit = matters[log_es.argmax(axis=-1), np.arange(len(log_es))]
        enough = log_sum(log_es) - math.log(len(each)) >= math.log(1.0 / PLAN.alpha_canary)
        alarms: Flags = culprit & enough
        return alarms

    def _passes(self) -> Flags:
        quick = np.stack([engine.log_es().min(axis=-1) for engine in self.within])
        fast = quick[np.maximum(self.step, 0), np.arange(len(self.step))] >= NEED_PASS
        passes: Flags = super()._passes() & fast & (self.client_risk.log_e() >= NEED_PASS)
        return passes


def climbed(
    rng: np.random.Generator,
    runs: int,
    *,
    factor: float,
    slower: float,
    rps: float,
    median: float,
    promoted: float,
) -> list[Row]:
    """Candidates that fail ``factor`` times as often and are ``slower``."""
    base = 0.005
    outcome: Outcome = Whole(rng, runs, base, factor * base, rps, slower).run(HOURS)
    equal = factor == 1.0 and slower == 1.0
    middle, share = outcome.minutes_to(0.5), outcome.share(PROMOTED)
    cells = {
        "promoted": percent(share),
        "taken back": percent(outcome.share(TAKEN_BACK)),
        "waiting": percent(outcome.share(WAITING)),
        "median": f"{middle:.0f} min" if math.isfinite(middle) else "",
        "claim": f"median <= {median:g} min" if equal else f"promoted <= {percent(promoted)}",
    }
    calm = outcome.share(TAKEN_BACK) <= limit(PLAN.alpha_canary, runs)
    holds = (middle <= median and calm) if equal else share <= limit(promoted, runs)
    who = "equal" if equal else f"errors x{factor:g}, latency x{slower:g}"
    return [Row(f"{who}, {rps:g} requests/s", cells, holds)]


CASES = (
    (1.0, 1.0, 10.0, 60.0, 1.0),
    (1.0, 1.0, 100.0, 20.0, 1.0),
    (2.0, 1.0, 10.0, math.inf, 0.025),
    (2.0, 1.0, 100.0, math.inf, 0.025),
    (1.0, 1.1, 10.0, math.inf, 0.025),
)


def cells() -> list[Cell]:
    """Every simulation of this table."""
    return [
        Cell(
            TABLE,
            f"{factor} {slower} {rps}",
            partial(
                climbed, factor=factor, slower=slower, rps=rps, median=median, promoted=promoted
            ),
        )
        for factor, slower, rps, median, promoted in CASES
    ]
