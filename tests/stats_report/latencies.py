"""False alarms, false passes and speed of the latency check: lognormal times, three pods an arm.

Margin 10 %, one-sided at alpha 5 % (alarm) and 2.5 % (pass), after each look of 1,000 requests.
"""

from __future__ import annotations

import math
from functools import partial

import numpy as np
from tests.stats_report import worlds
from tests.stats_report.engines import Crossing, Floats, Ints, Latency
from tests.stats_report.promotion import NEED_PASS, PLAN
from tests.stats_report.rows import Cell, Row, at_most, false_alarms, percent, within

from sluice.stats.logs import log_sum

TABLE = "Latency"
ALPHA = 0.05
NEED = math.log(1.0 / ALPHA)
REQUESTS = 1000
PODS = 3
SHARES = (0.1, 0.5)


def _arms(
    rng: np.random.Generator,
    share: float,
    stable: Floats,
    candidate: Floats,
    requests: int = REQUESTS,
    tail: float = 1.0,
) -> tuple[Ints, Ints]:
    n_b = round(requests * share)
    return (
        worlds.latencies(rng, requests - n_b, stable),
        worlds.latencies(rng, n_b, candidate, tail),
    )


def equal(
    rng: np.random.Generator, runs: int, *, share: float, pods: float, minutes: float, margin: float
) -> list[Row]:
    """Equal arms whose pods differ by ``pods`` for good and by ``minutes`` from look to look."""
    engine, found = Latency(runs, margin, 1), Crossing(runs)
    engine.begin()
    speed = np.exp(pods * rng.standard_normal((2, runs, PODS)))
    for number in range(100):
        now = speed * np.exp(minutes * rng.standard_normal(speed.shape))
        engine.absorb(*_arms(rng, share, now[0], now[1]))
        found.mark(engine.log_e() >= NEED, number)
    differ = f"pods differ by {100 * pods:g} %" if pods else "equal pods"
    noise = f" and {100 * minutes:g} % from look to look" if minutes else ""
    case = f"equal, {differ}{noise}, margin {100 * margin - 100:.0f} %, {100 * share:g} %"
    row = false_alarms(case, found.ever, ALPHA, {})
    # A margin of 0 tolerates nothing, and different pods are a difference: shown, not claimed.
    return [row if margin > 1 or not pods else Row(case, {"Sluice": row.cells["Sluice"]})]


def stalls(rng: np.random.Generator, runs: int, *, often: float, share: float) -> list[Row]:
    """Equal arms; now and then a single pod, of either arm, takes three times as long."""
    engine, found, careless = Latency(runs, 1.1, 1), Crossing(runs), Crossing(runs)
    engine.begin()
    for number in range(100):
        speed = np.where(rng.random((2, runs, PODS)) < often, 3.0, 1.0)
        engine.absorb(*_arms(rng, share, speed[0], speed[1]))
        found.mark(engine.log_e() >= NEED, number)
        at_one = np.stack([part.log_e() for part in engine.parts], axis=-1)
        careless.mark(log_sum(at_one) - math.log(at_one.shape[-1]) >= NEED, number)
    case = f"stalls: {100 * often:g} % of pod-minutes three times as slow, {100 * share:g} %"
    beside = {"without phi": percent(float(np.mean(careless.ever)))}
    return [false_alarms(case, found.ever, ALPHA, beside)]


def slower(
    rng: np.random.Generator, runs: int, *, share: float, factor: float, reference: float
) -> list[Row]:
    """Requests of both arms until a slower candidate is found; pods differ by 3 %.

    Looks of 250: the reference knew its thresholds beforehand, here the first look pays for them.
    """
    engine, found = Latency(runs, 1.1, 1), Crossing(runs)
    engine.begin()
    speed = np.exp(0.03 * rng.standard_normal((2, runs, PODS)))
    size = 250
    for number in range(1, 120):
        engine.absorb(*_arms(rng, share, speed[0], speed[1] * factor, size))
        found.mark(engine.log_e() >= NEED, number * size)
    case = f"{100 * factor - 100:.0f} % slower, pods differ by 3 %, {100 * share:g} % of traffic"
    return [within(case, found.median(), reference, 0.25, "requests")]


def half_slower(rng: np.random.Generator, runs: int) -> list[Row]:
    """50 % slower at a tenth of the traffic, pods that differ by 5 % and 5 % from look to look."""
    engine, found, size = Latency(runs, 1.1, 1), Crossing(runs), 250
    engine.begin()
    speed = np.exp(0.05 * rng.standard_normal((2, runs, PODS)))
    for number in range(1, 41):
        now = speed * np.exp(0.05 * rng.standard_normal(speed.shape))
        engine.absorb(*_arms(rng, 0.1, now[0], now[1] * 1.5, size))
        found.mark(engine.log_e() >= NEED, number * size)
    case = "50 % slower, pods differ by 5 % and 5 % from look to look, 10 % of traffic"
    return [at_most(case, found.median(), 500 + size, "requests")]


def slow_tail(rng: np.random.Generator, runs: int, *, share: float, reference: float) -> list[Row]:
    """Only requests above the 95th percentile are 20 % slower; no margin.

    Half as much again as the reference is allowed: it knew its thresholds, and had no floor of a
    millisecond below which nothing is slower.
    """
    engine, found, size = Latency(runs, 1.0, 1), Crossing(runs), 250
    engine.begin()
    same = np.ones((runs, PODS))
    for number in range(1, 100):
        engine.absorb(*_arms(rng, share, same, same, size, tail=1.2))
        found.mark(engine.log_e() >= NEED, number * size)
    case = f"tail only 20 % slower, margin 0 %, {100 * share:g} % of traffic"
    return [within(case, found.median(), reference, 0.5, "requests")]


def at_margin(rng: np.random.Generator, runs: int, *, step: int) -> list[Row]:
    """A candidate that is slower by exactly what a step must exclude, and an equal one."""
    plan = PLAN.steps[step]
    share, rows = plan.weight / 100.0, []
    for name, factor in (("at the margin", plan.latency_margin), ("equal", 1.0)):
        engine, passed = Latency(runs, plan.latency_margin, 1, reverse=True), Crossing(runs)
        engine.begin()
        same = np.ones((runs, PODS))
        for number in range(1, 61):
            engine.absorb(*_arms(rng, share, same, same * factor))
            done = engine.log_es().min(axis=-1) >= NEED_PASS
            passed.mark(done, number * round(share * REQUESTS))
        case = f"promotion, {plan.weight} %, within {100 * plan.latency_margin - 100:.0f} %: {name}"
        if factor > 1:
            rows.append(false_alarms(case, passed.ever, PLAN.alpha_promotion, {}))
        else:
            cells = {
                "Sluice": percent(float(np.mean(passed.ever))),
                "median": f"{passed.median():,.0f} candidate requests",
            }
            rows.append(Row(case, cells))
    return rows


REFERENCE = ((0.5, 1.2, 2000), (0.1, 1.2, 5500))


def cells() -> list[Cell]:
    """Every simulation of this table."""
    found = [
        Cell(
            TABLE,
            f"equal {share} {pods} {minutes} {margin}",
            partial(equal, share=share, pods=pods, minutes=minutes, margin=margin),
        )
        for pods, minutes, margin in ((0, 0, 1.1), (0.05, 0.05, 1.0), (0.05, 0.05, 1.1))
        for share in SHARES
    ]
    found += [
        Cell(
            TABLE,
            f"slower {share} {factor}",
            partial(slower, share=share, factor=factor, reference=reference),
        )
        for share, factor, reference in REFERENCE
    ]
    found += [
        Cell(TABLE, f"stalls {often} {share}", partial(stalls, often=often, share=share))
        for often in (0.01, 0.05)
        for share in SHARES
    ]
    found.append(Cell(TABLE, "half slower", half_slower))
    found += [
        Cell(TABLE, f"tail {share}", partial(slow_tail, share=share, reference=reference))
        for share, reference in ((0.5, 2700), (0.1, 6700))
    ]
    found += [
        Cell(TABLE, f"margin {step}", partial(at_margin, step=step))
        for step in range(len(PLAN.steps))
    ]
    return found
