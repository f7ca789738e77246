"""How fast Engine C finds a real regression, against the tables that it was designed by.

Requests of both arms until the alarm (alpha 5 %, margin 1, looks of 100 requests or fewer events).
"""

from __future__ import annotations

import math
from functools import partial

import numpy as np
from tests.stats_report import worlds
from tests.stats_report.engines import Crossing, OddsRatio
from tests.stats_report.rows import Cell, Row, percent, within

from sluice.stats import watch

TABLE = "Time to find a regression"
NEED = math.log(20.0)
SPREAD = 0.25


def found(
    rng: np.random.Generator,
    runs: int,
    *,
    base: float,
    worse: float,
    share: float,
    reference: float,
) -> list[Row]:
    """Looks of 1/60 of the reference time, up to five times that."""
    size = max(20, min(500, round(reference / 60)))
    engine, crossing = OddsRatio(runs, 1.0, 1), Crossing(runs)
    engine.begin()
    for number in range(1, math.ceil(5 * reference / size)):
        engine.absorb(worlds.look(rng, runs, size, share, base, worse))
        crossing.mark(engine.log_e() >= NEED, number * size)
        if np.mean(crossing.ever) > 0.6:
            break
    case = f"{100 * base:g} -> {100 * worse:g} %, {100 * share:g} % of traffic"
    return [within(case, crossing.median(), reference, SPREAD, "requests")]


def watched(
    rng: np.random.Generator, runs: int, *, factor: float, holdback: float, reference: float
) -> list[Row]:
    """A change at minute 100 of a watch of 200 looks of 1,000 requests."""
    looks, change = 200, 100
    engine, crossing = OddsRatio(runs, 1.0, watch.planned_starts(looks)), Crossing(runs)
    for number in range(looks):
        if watch.begins(number, looks):
            engine.begin()
        rate = 0.005 * (factor if number >= change else 1.0)
        engine.absorb(worlds.look(rng, runs, 1000, 1.0 - holdback, 0.005, rate))
        if number >= change:
            crossing.mark(engine.log_e() >= NEED, (number - change + 1) * 1000)
    case = f"watch, errors x{factor:g} at half time, holdback {100 * holdback:g} %"
    row = within(case, crossing.median(), reference, SPREAD, "requests")
    cells = {**row.cells, "found": percent(float(np.mean(crossing.ever)))}
    return [Row(case, cells, row.holds, row.points)]


REFERENCE = (
    (0.005, 0.01, 0.5, 7000),
    (0.005, 0.01, 0.1, 18800),
    (0.01, 0.05, 0.5, 500),
    (0.01, 0.05, 0.1, 1200),
)
WATCH_REFERENCE = ((2.0, 0.1, 34000), (2.0, 0.2, 21000), (5.0, 0.05, 11000), (5.0, 0.1, 6000))


def cells() -> list[Cell]:
    """Every simulation of this table."""
    return [
        Cell(
            TABLE,
            f"{base} {worse} {share}",
            partial(found, base=base, worse=worse, share=share, reference=reference),
        )
        for base, worse, share, reference in REFERENCE
    ] + [
        Cell(
            TABLE,
            f"watch {factor} {holdback}",
            partial(watched, factor=factor, holdback=holdback, reference=reference),
        )
        for factor, holdback, reference in WATCH_REFERENCE
    ]
