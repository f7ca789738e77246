"""How fast Engine C finds a real regression, against the tables that it was designed by.

Requests of both arms until the alarm (alpha 5 %, margin 1, looks of 100 requests or fewer events).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import numpy as np
from tests.stats_report import worlds
from tests.stats_report.engines import Crossing, OddsRatio
from tests.stats_report.rows import Cell, Row, false_alarms, percent, within

from sluice.stats import watch

TABLE = "Time to find a regression"
WEIGHTS = "Time to find a regression by weight"
PASSES = "Not worse by an odds ratio"
ALPHA = 0.05
NEED = math.log(20.0)
SPREAD = 0.25


@dataclass(frozen=True)
class Regression:
    """Errors that rise from ``base`` to ``worse``; ``reference`` requests should find it."""

    base: float
    worse: float
    share: float
    reference: float

    @property
    def case(self) -> str:
        """The row's name."""
        rise = f"{100 * self.base:g} -> {100 * self.worse:g} %"
        return f"{rise}, {100 * self.share:g} % of traffic"

    def crossing(
        self, rng: np.random.Generator, runs: int, *, largest: int, times: int, enough: float
    ) -> Crossing:
        """When each run has found it: looks of 1/60 of the reference, up to ``times`` that."""
        size = max(20, min(largest, round(self.reference / 60)))
        engine, crossing = OddsRatio(runs, 1.0, 1), Crossing(runs)
        engine.begin()
        for number in range(1, math.ceil(times * self.reference / size)):
            engine.absorb(worlds.look(rng, runs, size, self.share, self.base, self.worse))
            crossing.mark(engine.log_e() >= NEED, number * size)
            if np.mean(crossing.ever) > enough:
                break
        return crossing


def found(rng: np.random.Generator, runs: int, *, what: Regression) -> list[Row]:
    """Requests after which half of the runs have found it."""
    crossing = what.crossing(rng, runs, largest=500, times=5, enough=0.6)
    return [within(what.case, crossing.median(), what.reference, SPREAD, "requests")]


def by_weight(rng: np.random.Generator, runs: int, *, what: Regression) -> list[Row]:
    """Requests after which four of five runs have found it: how long a step must be."""
    crossing = what.crossing(rng, runs, largest=2000, times=4, enough=0.85)
    row = within(what.case, crossing.quantile(0.8), what.reference, SPREAD, "requests")
    cells = {"80 %": row.cells["median"]} | {k: v for k, v in row.cells.items() if k != "median"}
    return [Row(row.case, cells, row.holds, row.points)]


def not_worse(
    rng: np.random.Generator,
    runs: int,
    *,
    base: float,
    margin: float,
    share: float,
    reference: float,
) -> list[Row]:
    """The arms swapped and the margin inverted: is "worse by the margin" refuted?

    An equal candidate until it passes; one exactly at the margin for 100,000 requests.
    """
    at_margin = margin * base / (1.0 - base + margin * base)
    size = max(100, round(reference / 60))
    rows = []
    for candidate in (base, at_margin):
        engine, passed = OddsRatio(runs, 1.0 / margin, 1), Crossing(runs)
        engine.begin()
        for number in range(1, math.ceil(max(100_000, 4 * reference) / size)):
            seen = worlds.look(rng, runs, size, share, base, candidate)
            engine.absorb(seen.swapped())
            passed.mark(engine.log_e() >= NEED, number * size)
        case = f"{100 * base:g} %, margin {margin:g}, {100 * share:g} % of traffic"
        if candidate == base:
            row = within(f"{case}: equal", passed.median(), reference, SPREAD, "requests")
            share_passed = {"passed": percent(float(np.mean(passed.ever)))}
            rows.append(Row(row.case, {**share_passed, **row.cells}, row.holds, row.points))
        else:
            row = false_alarms(f"{case}: at the margin", passed.ever, ALPHA, {})
            cells = {"passed": row.cells["Sluice"], "claim": row.cells["claim"]}
            rows.append(Row(row.case, cells, row.holds, row.points))
    return rows


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
BY_WEIGHT = {
    (0.001, 0.01): (57_500, 13_000, 6_200, 3_400, 2_700),
    (0.005, 0.01): (330_000, 68_700, 35_900, 17_100, 13_000),
    (0.01, 0.02): (168_000, 34_400, 18_800, 8_700, 6_900),
    (0.01, 0.05): (17_000, 3_600, 2_000, 900, 800),
    (0.01, 0.012): (3_900_000, 846_000, 458_000, 237_000, 169_000),
}
NOT_WORSE = (
    (0.01, 1.25, 0.5, 52_000),
    (0.01, 1.5, 0.5, 16_000),
    (0.01, 2.0, 0.1, 12_000),
    (0.005, 2.0, 0.1, 22_000),
)
WATCH_REFERENCE = ((2.0, 0.1, 34000), (2.0, 0.2, 21000), (5.0, 0.05, 11000), (5.0, 0.1, 6000))


def cells() -> list[Cell]:
    """Every simulation of this table."""
    found_cells = [
        Cell(
            TABLE,
            f"{base} {worse} {share}",
            partial(found, what=Regression(base, worse, share, reference)),
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
    by_weight_cells = [
        Cell(
            WEIGHTS,
            f"{base} {worse} {share}",
            partial(by_weight, what=Regression(base, worse, share, reference)),
        )
        for (base, worse), references in BY_WEIGHT.items()
        for share, reference in zip(worlds.RAMP, references, strict=True)
    ]
    not_worse_cells = [
        Cell(
            PASSES,
            f"{base} {margin} {share}",
            partial(not_worse, base=base, margin=margin, share=share, reference=reference),
        )
        for base, margin, share, reference in NOT_WORSE
    ]
    return found_cells + by_weight_cells + not_worse_cells
