"""The whole ladder: time to promotion of an equal candidate, and which worse ones get through.

The default plan: steps of 5, 25 and 50 %, bounded risk for promotion, Engine C (margin 1.2, half of
1 % over three guardrails, of which two stay silent) taking candidates back, the last margin by
traffic, minimum samples and times.  Bets and margins come from stable's failures so far, as in the
judge.  Looks take ten seconds, longer after a quarter of an hour.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import numpy as np
from tests.stats_report import worlds
from tests.stats_report.engines import Crossing, Flags, Floats, Ints, Seen
from tests.stats_report.rows import Cell, Row, limit, percent
from tests.unit.looks import plan_of

from sluice.rollout.judge_guardrails import MIN_DIFFERENCE
from sluice.rollout.judge_risks import PATIENCE
from sluice.rollout.plan import StepPlan
from sluice.stats import bounded_risk, counts

TABLE = "Promotion"
PLAN = plan_of()
NEED_PASS = math.log(1.0 / PLAN.alpha_promotion)
GUARDRAILS = sum(1 for c in PLAN.checks if c.action == "Rollback")
NEED_ALARM = math.log(GUARDRAILS / PLAN.alpha_canary)
"""Errors must make up for guardrails that have nothing to say: the mean of all is compared."""

MARGIN = next(c.margin for c in PLAN.checks if c.type == "ErrorRate")
HOURS = 4.0
SLOW_HOURS = 12.0
FACTORS = (1.0, 1.5, 2.0, 3.0, 6.0)
BASES = (0.0, 0.001, 0.005, 0.02)
RATES = (1.0, 10.0, 100.0, 1000.0)

WAITING, PROMOTED, TAKEN_BACK = 0, 1, 2


class Risk:
    """One bounded-risk process per run, begun anew at each run's own step."""

    def __init__(self, runs: int):
        bets = len(bounded_risk.BETS)
        self.g = np.zeros((runs, 2, bets))
        self.prior = np.ones((runs, 2, bets)) / bets
        self.n, self.x = np.zeros(runs), np.zeros(runs)
        self.tau, self.a, self.ratio = np.ones(runs), np.full(runs, 0.5), np.ones(runs)

    def begin(self, rows: Ints, step: StepPlan, tau: Floats, p0: Floats | None) -> None:
        """A new step in some runs; before the first, nothing is known of stable."""
        share = step.weight / 100.0
        self.g[rows], self.n[rows], self.x[rows] = 0.0, 0.0, 0.0
        self.tau[rows], self.ratio[rows] = tau, step.ratio
        known = np.zeros(len(rows)) if p0 is None else p0
        self.a[rows] = bounded_risk.first_share(tau, step.ratio, known)
        first = bounded_risk.prior(tau, 1.0, p0, share)
        second = bounded_risk.prior(np.zeros(len(rows)), step.ratio, p0, share)
        self.prior[rows] = np.stack(np.broadcast_arrays(first, second), axis=-2)

    def absorb(self, seen: Seen) -> None:
        """One more look."""
        told = (seen.n_a > 0) & (seen.n_b > 0)
        r = np.where(told, seen.n_b / np.maximum(seen.n_a, 1), 0.0)
        factors = np.stack((r, self.ratio * r), axis=-1)
        self.g += bounded_risk.growth(seen.x_a[:, None], factors)
        self.n, self.x = self.n + told * seen.n_b, self.x + told * seen.x_b

    def log_e(self) -> Floats:
        """log e-value of each run against "worse by the step's margin"."""
        taus = np.stack((self.tau, np.zeros_like(self.tau)), axis=-1)
        n, x = self.n[:, None], self.x[:, None]
        lines = bounded_risk.log_e_line(self.g, self.prior, n, x, taus, 1.0)
        return bounded_risk.both_lines(lines, self.a)


@dataclass
class Outcome:
    """How each run ended, and after how many minutes."""

    end: Ints
    minutes: Floats

    def share(self, end: int) -> float:
        """Part of the runs that ended so."""
        return float(np.mean(self.end == end))

    def minutes_to(self, part: float) -> float:
        """Quantile of the minutes to promotion; infinite for runs that were not promoted."""
        times = np.where(self.end == PROMOTED, self.minutes, math.inf)
        return float(np.quantile(times, part, method="inverted_cdf"))


class Ladder:
    """Rollouts of one candidate at one traffic; every run is at its own step."""

    def __init__(self, rng: np.random.Generator, runs: int, base: float, worse: float, rps: float):
        self.rng, self.base, self.worse, self.rps = rng, base, worse, rps
        self.step = np.full(runs, -1)
        self.seconds, self.in_step = np.zeros(runs), np.zeros(runs)
        self.candidate_n = np.zeros(runs)
        self.sums = np.zeros((4, runs))
        self.risk = Risk(runs)
        self.up = np.full((runs, len(counts.UPWARD)), counts.NOTHING)
        self.end = np.full(runs, WAITING)

    def run(self, hours: float) -> Outcome:
        """Looks until every run has ended or ``hours`` are over."""
        self._begin(np.ones(len(self.end), dtype=np.bool_))
        while float(self.seconds[self.end == WAITING].min(initial=math.inf)) < 3600 * hours:
            self._look(self._length())
        return Outcome(self.end, self.seconds / 60.0)

    def _length(self) -> float:
        """Looks of ten seconds, longer while requests are few or the rollout waits for hours."""
        return max(10.0, 100.0 / self.rps, float(self.seconds.max()) / 100.0)

    def _begin(self, rows: Flags) -> None:
        """The next step in some runs: more evidence, and promotion from nothing."""
        index = np.flatnonzero(rows)
        if not len(index):
            return
        self.step[index] += 1
        self.in_step[index], self.candidate_n[index] = 0.0, 0.0
        self.up[index] = counts.begun(self.up[index])
        for number, step in enumerate(PLAN.steps):
            here = index[self.step[index] == number]
            if len(here):
                n, x = self.sums[0, here], self.sums[1, here]
                p0 = (x + 0.5) / (n + 1.0) if number else None
                self.risk.begin(here, step, self._tau(step, here, p0), p0)

    def _tau(self, step: StepPlan, rows: Ints, p0: Floats | None) -> Floats:
        if not step.last or p0 is None:
            return np.full(len(rows), step.risk)
        share = step.weight / 100.0
        budget = self.rps * share * PATIENCE * step.min_duration
        return np.minimum(step.risk, bounded_risk.last_margins(p0, share, budget))

    def _look(self, length: float) -> None:
        going = self.end == WAITING
        shares = np.array([step.weight / 100.0 for step in PLAN.steps])[self.step]
        total = np.where(going, self.rng.poisson(self.rps * length, len(going)), 0)
        n_b = self.rng.binomial(total, shares)
        seen = self._events(total - n_b, n_b)
        self.seconds = self.seconds + going * length
        self.in_step = self.in_step + going * length
        self.candidate_n = self.candidate_n + n_b
        self.sums += np.stack((seen.n_a, seen.x_a, seen.n_b, seen.x_b))
        self.risk.absorb(seen)
        self._absorb_alarm(seen)
        alarmed = going & self._alarms()
        self.end[alarmed] = TAKEN_BACK
        passed = going & ~alarmed & self._passes()
        last = self.step == len(PLAN.steps) - 1
        self.end[passed & last] = PROMOTED
        self._begin(passed & ~last)

    def _events(self, n_a: Ints, n_b: Ints) -> Seen:
        """What so many requests of both arms came to."""
        return Seen(n_a, self.rng.binomial(n_a, self.base), n_b, self.rng.binomial(n_b, self.worse))

    def _alarms(self) -> Flags:
        alarms: Flags = (self._log_e() >= NEED_ALARM) & self._matters()
        return alarms

    def _absorb_alarm(self, seen: Seen) -> None:
        tests = [(counts.UP_GRID, math.log(MARGIN))]
        gain = counts.gains(seen.n_a, seen.x_a, seen.n_b, seen.x_b, tests)[0]
        self.up = counts.grown(self.up, gain)

    def _log_e(self) -> Floats:
        return counts.log_mixture(self.up, float(len(PLAN.steps)), self.step + 1.0)

    def _matters(self) -> Flags:
        n_a, x_a, n_b, x_b = self.sums
        difference = x_b / np.maximum(n_b, 1) - x_a / np.maximum(n_a, 1)
        matters: Flags = difference >= MIN_DIFFERENCE
        return matters

    def _passes(self) -> Flags:
        steps = PLAN.steps
        least = np.array([step.min_requests for step in steps])[self.step]
        shortest = np.array([step.min_duration for step in steps])[self.step]
        enough = (self.candidate_n >= least) & (self.in_step >= shortest)
        passes: Flags = enough & (self.risk.log_e() >= NEED_PASS)
        return passes


def equal(
    rng: np.random.Generator, runs: int, *, base: float, rps: float, most: float
) -> list[Row]:
    """Time to promotion of a candidate that is exactly like stable."""
    hours = SLOW_HOURS if rps < 10 else HOURS
    outcome = Ladder(rng, runs, base, base, rps).run(hours)
    median, p90 = outcome.minutes_to(0.5), outcome.minutes_to(0.9)
    cells = {
        "median": f"{median:.0f} min",
        "90 %": f"{p90:.0f} min" if math.isfinite(p90) else f"> {hours:g} h",
        "promoted": percent(outcome.share(PROMOTED)),
        "taken back": percent(outcome.share(TAKEN_BACK)),
        "claim": f"median <= {most:g} min" if math.isfinite(most) else "",
    }
    holds = median <= most if math.isfinite(most) else None
    calm = outcome.share(TAKEN_BACK) <= limit(PLAN.alpha_canary, runs)
    case = f"equal, {100 * base:g} % errors, {rps:g} requests/s"
    return [Row(case, cells, (holds is not False) and calm, {"median": median, "rps": rps})]


def worse(
    rng: np.random.Generator, runs: int, *, base: float, factor: float, rps: float, most: float
) -> list[Row]:
    """How many candidates that fail ``factor`` times as often are promoted."""
    outcome = Ladder(rng, runs, base, factor * base, rps).run(HOURS)
    cells = {
        "promoted": percent(outcome.share(PROMOTED)),
        "taken back": percent(outcome.share(TAKEN_BACK)),
        "waiting": percent(outcome.share(WAITING)),
        "claim": f"promoted <= {percent(most)} + 3 s.e." if most < 1 else "",
    }
    holds = outcome.share(PROMOTED) <= limit(most, runs) if most < 1 else None
    case = f"{100 * base:g} -> {100 * factor * base:.2g} %, {rps:g} requests/s"
    points = {"promoted": outcome.share(PROMOTED), "factor": factor, "base": base, "rps": rps}
    return [Row(case, cells, holds, points)]


def at_margin(
    rng: np.random.Generator, runs: int, *, step: StepPlan, base: float, rps: float
) -> list[Row]:
    """False passes of one step when the candidate is worse by exactly what must be excluded."""
    share, p0 = step.weight / 100.0, np.full(runs, base)
    tau = max(step.risk, (step.ratio - 1.0) * base)
    risk, passed = Risk(runs), Crossing(runs)
    risk.begin(np.arange(runs), step, np.full(runs, step.risk), p0)
    size = max(20, round(10 * rps))
    for number in range(400):
        risk.absorb(worlds.look(rng, runs, size, share, base, base + tau))
        passed.mark(risk.log_e() >= NEED_PASS, number)
    rate = float(np.mean(passed.ever))
    cells = {
        "promoted": percent(rate),
        "claim": f"passed <= {percent(PLAN.alpha_promotion)} + 3 s.e.",
    }
    case = (
        f"false pass at the margin: {step.weight} %, +{100 * tau:g} points over "
        f"{100 * base:g} %, {rps:g} requests/s, no minimum sample"
    )
    return [Row(case, cells, rate <= limit(PLAN.alpha_promotion, runs), {"share": rate})]


GOALS = {100.0: 20.0, 10.0: 60.0}
"""Median minutes of an equal candidate, by requests a second."""

RISKS = {(0.005, 2.0, 10.0): 0.025, (0.001, 6.0, 10.0): 0.025}


def cells() -> list[Cell]:
    """Every simulation of this table."""
    found = [
        Cell(
            TABLE,
            f"equal {base} {rps}",
            partial(equal, base=base, rps=rps, most=GOALS.get(rps, math.inf)),
        )
        for rps in RATES
        for base in BASES
    ]
    found += [
        Cell(
            TABLE,
            f"worse {base} {factor} {rps}",
            partial(
                worse,
                base=base,
                factor=factor,
                rps=rps,
                most=RISKS.get((base, factor, rps), 1.0),
            ),
        )
        for rps in RATES
        for base in BASES[1:]
        for factor in FACTORS[1:]
    ]
    found += [
        Cell(
            TABLE,
            f"margin {step.weight} {base} {rps}",
            partial(at_margin, step=step, base=base, rps=rps),
        )
        for step in PLAN.steps
        for base in BASES
        for rps in (10.0, 100.0)
    ]
    return found
