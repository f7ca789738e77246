"""Business metrics: means through Engine M, conversions that come late, and the sample ratio.

Two-sided at alpha 5 % (sample ratio: 0.1 %), asked after every look.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np
from tests.stats_report import worlds
from tests.stats_report.engines import Crossing, Flags, Floats, Ints, OddsRatio, Seen
from tests.stats_report.rows import Cell, Row, at_least, false_alarms, percent, within

from sluice.stats import means, sample_ratio

TABLE = "Business metrics"
ALPHA = 0.05
NEED = math.log(1.0 / ALPHA)
LOOK = 1000

Draw = Callable[[np.random.Generator, Ints, float], tuple[Floats, Floats]]
"""Sums and sums of squares of so many units' outcomes in each run, at a mean."""

BUYERS = 0.03
LOG_SD = 0.95
"""Three buyers in a hundred units, lognormal amounts: a coefficient of variation of 9."""


def plain(rng: np.random.Generator, n: Ints, mean: float) -> tuple[Floats, Floats]:
    """Exponential outcomes: their standard deviation is their mean."""
    return _sums(n, mean * rng.standard_exponential(int(n.sum())))


def revenue(rng: np.random.Generator, n: Ints, mean: float) -> tuple[Floats, Floats]:
    """Most units buy nothing."""
    buyers = rng.binomial(n, BUYERS)
    amounts = rng.lognormal(-0.5 * LOG_SD**2, LOG_SD, int(buyers.sum()))
    return _sums(buyers, mean / BUYERS * amounts)


def _sums(n: Ints, outcomes: Floats) -> tuple[Floats, Floats]:
    runs = np.repeat(np.arange(len(n)), n)
    both = (np.bincount(runs, outcomes**power, len(n)) for power in (1, 2))
    total, squares = both
    return total, squares


class Means:
    """Engine M's own states, one a run, beside the z-test that pools all looks."""

    def __init__(self, runs: int) -> None:
        self.states = [means.new() for _ in range(runs)]
        self.found, self.pooled, self.lower = Crossing(runs), Crossing(runs), Crossing(runs)
        self.sums: Floats = np.zeros((6, runs))

    def look(
        self, rng: np.random.Generator, draw: Draw, n: tuple[Ints, Ints], mean: Floats
    ) -> None:
        """One look of so many units of both arms, at their means."""
        stable, candidate = (draw(rng, units, m) for units, m in zip(n, mean.tolist(), strict=True))
        rows = np.stack((n[0], *stable, n[1], *candidate), axis=-1).tolist()
        self.states = [
            means.absorb(s, _moments(row[:3]), _moments(row[3:]))
            for s, row in zip(self.states, rows, strict=True)
        ]
        self.sums += np.stack((n[0], *stable, n[1], *candidate))

    def mark(self, number: int) -> None:
        """Which runs have found a difference by now, and whether the candidate is the lower one."""
        fired = np.array([means.log_e(state) >= NEED for state in self.states])
        below = np.array([(means.estimate(state) or 0.0) < 0.0 for state in self.states])
        self.lower.mark(fired & below & ~self.found.ever, number)
        self.found.mark(fired, number)
        self.pooled.mark(self._pooled_z(), number)

    def _pooled_z(self) -> Flags:
        n_a, y_a, yy_a, n_b, y_b, yy_b = np.maximum(self.sums, 1e-9)
        errors = (yy_a / n_a - (y_a / n_a) ** 2) / n_a + (yy_b / n_b - (y_b / n_b) ** 2) / n_b
        z = np.abs(y_b / n_b - y_a / n_a) / np.sqrt(np.maximum(errors, 1e-12))
        fired: Flags = z > 1.96
        return fired


def _moments(row: list[float]) -> means.Moments:
    n, total, squares = row
    return means.Moments(int(n), total, squares)


def constant(
    rng: np.random.Generator,
    runs: int,
    *,
    draw: Draw,
    name: str,
    lift: float,
    units: int,
    reference: float,
    found: float,
) -> list[Row]:
    """Half of the traffic, looks of 1,000 units; a candidate whose mean is higher by ``lift``."""
    engine = Means(runs)
    for number in range(units // LOOK):
        engine.look(rng, draw, worlds.split(rng, runs, LOOK, 0.5), np.array([1.0, 1.0 + lift]))
        engine.mark((number + 1) * LOOK)
    share = float(np.mean(engine.found.ever))
    beside = {"pooled z at every look": percent(float(np.mean(engine.pooled.ever)))}
    if lift == 0.0:
        return [false_alarms(f"{name}, equal, {units:,} units", engine.found.ever, ALPHA, beside)]
    case = f"{name}, +{100 * lift:g} %, {units:,} units"
    if found < 1.0:
        return [at_least(case, share, found, runs)]
    row = within(case, engine.found.median(), reference, 0.25, "units")
    return [Row(case, {**row.cells, "found": percent(share)}, row.holds, row.points)]


def drifting(
    rng: np.random.Generator, runs: int, *, draw: Draw, name: str, lift: float
) -> list[Row]:
    """Weights 1-5-10-25-50 % while the mean of both arms rises by 30 %; 20,000 units a step."""
    engine = Means(runs)
    for number, share, _, progress in worlds.ramp(20):
        level = 1.0 + 0.3 * progress
        engine.look(
            rng, draw, worlds.split(rng, runs, LOOK, share), level * np.array([1.0, 1.0 + lift])
        )
        engine.mark(number)
    if lift == 0.0:
        beside = {"pooled z at every look": percent(float(np.mean(engine.pooled.ever)))}
        case = f"{name}, equal, the mean drifts by 30 % with the ramp"
        return [false_alarms(case, engine.found.ever, ALPHA, beside)]
    case = f"{name}, {100 * lift:g} % while the mean drifts by 30 %: found, with the right sign"
    return [at_least(case, float(np.mean(engine.lower.ever)), 0.95, runs)]


def conversions(rng: np.random.Generator, runs: int, *, closed: bool) -> list[Row]:
    """5 % of units convert, after 10 looks on average; "fewer conversions" under a ramp.

    ``closed``: units count when their window of 30 looks is over, with what came in it; otherwise
    each look counts the units it saw and the conversions that came in.
    """
    engine, found, window = OddsRatio(runs, 1.0, len(worlds.RAMP)), Crossing(runs), 30
    delays = np.append(0.1 * 0.9 ** np.arange(window), 0.9**window)
    looks = 40 * len(worlds.RAMP)
    late = np.zeros((2, looks + window + 1, runs), dtype=np.int64)
    for number, share, begins, progress in worlds.ramp(40):
        if begins:
            engine.begin()
        n = worlds.split(rng, runs, 500, share)
        came = [rng.multinomial(rng.binomial(k, 0.05 * (1.0 + progress)), delays) for k in n]
        for arm, parts in enumerate(came):
            late[arm, number : number + window] += parts[:, :window].T
        # The units of a closed window are all of one look: its weight never changed.
        x = [parts[:, :window].sum(axis=-1) for parts in came] if closed else late[:, number]
        engine.absorb(Seen(n[1], np.minimum(x[1], n[1]), n[0], np.minimum(x[0], n[0])))
        found.mark(engine.log_e() >= NEED, number)
    if closed:
        return [false_alarms("late conversions, closed windows", found.ever, ALPHA, {})]
    case = "late conversions, counted when they arrive"
    return [Row(case, {"Sluice": percent(float(np.mean(found.ever)))})]


def ratio(
    rng: np.random.Generator,
    runs: int,
    *,
    planned: float,
    real: float,
    reference: float,
) -> list[Row]:
    """100,000 units, asked after every 500 of them."""
    size = 500
    states = [sample_ratio.new() for _ in range(runs)]
    found, need = Crossing(runs), math.log(1.0 / sample_ratio.ALPHA)
    chi, total = Crossing(runs), np.zeros(runs)
    for number in range(1, 100_000 // size + 1):
        n_a, n_b = worlds.split(rng, runs, size, real)
        states = [
            sample_ratio.absorb(state, a, b, planned)
            for state, a, b in zip(states, n_a.tolist(), n_b.tolist(), strict=True)
        ]
        going = np.flatnonzero(~found.ever)
        fired = np.zeros(runs, dtype=np.bool_)
        fired[going] = [sample_ratio.log_e(states[i]) >= need for i in going.tolist()]
        found.mark(fired, number * size)
        total += n_b
        units = number * size
        z = (total - units * planned) / math.sqrt(units * planned * (1.0 - planned))
        chi.mark(np.abs(z) > 3.29, number * size)
        if real != planned and np.mean(found.ever) > 0.6:
            break
    case = f"sample ratio, {100 * planned:g} % planned, {100 * real:g} % seen"
    if real == planned:
        beside = {"chi-square at every look": percent(float(np.mean(chi.ever)))}
        return [false_alarms(case, found.ever, sample_ratio.ALPHA, beside)]
    return [within(case, found.median(), reference, 0.25, "units")]


MEANS: tuple[tuple[Draw, str, float, int, float, float], ...] = (
    (plain, "a mean (cv 1)", 0.0, 100_000, 0.0, 1.0),
    (revenue, "revenue (cv 9)", 0.0, 100_000, 0.0, 1.0),
    (plain, "a mean (cv 1)", 0.02, 100_000, 0.0, 0.64),
    (plain, "a mean (cv 1)", 0.02, 400_000, 77_000, 1.0),
    (plain, "a mean (cv 1)", 0.05, 100_000, 14_000, 1.0),
)
RATIOS = (
    (0.5, 0.5, 0.0),
    (0.1, 0.1, 0.0),
    (0.5, 0.51, 42_100),
    (0.5, 0.52, 9_900),
    (0.1, 0.09, 13_900),
)


def cells() -> list[Cell]:
    """Every simulation of this table."""
    found = [
        Cell(
            TABLE,
            f"{name} {lift} {units}",
            partial(
                constant,
                draw=draw,
                name=name,
                lift=lift,
                units=units,
                reference=reference,
                found=share,
            ),
        )
        for draw, name, lift, units, reference, share in MEANS
    ]
    found += [
        Cell(TABLE, f"drift {name} {lift}", partial(drifting, draw=draw, name=name, lift=lift))
        for draw, name, lift in (
            (plain, "a mean (cv 1)", 0.0),
            (revenue, "revenue (cv 9)", 0.0),
            (plain, "a mean (cv 1)", -0.05),
        )
    ]
    found += [
        Cell(TABLE, f"late {closed}", partial(conversions, closed=closed))
        for closed in (True, False)
    ]
    found += [
        Cell(
            TABLE,
            f"ratio {planned} {real}",
            partial(ratio, planned=planned, real=real, reference=reference),
        )
        for planned, real, reference in RATIOS
    ]
    return found
