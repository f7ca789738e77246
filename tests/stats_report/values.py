"""False alarms and delays of one value a look, the more its neighbours have to do with each other.

Two levels, looked at after every look from the twentieth on: 5 %, and what a guardrail of a
rollout spends at the default alpha.  Beside it a normal mixture that takes looks for independent.
"""

from __future__ import annotations

import math
from functools import partial

import numpy as np
from tests.stats_report.rows import Cell, Row, false_alarms, percent

from sluice.stats import gauge

TABLE = "One value a look"
LOOKS = 360
ALPHA, ROLLOUT = 0.05, 0.005
SHIFT = 1.5
"""Of the candidate, in standard deviations of a value."""

PRIOR = 20.0
WORLDS = {
    "independent": ("ar", 0.0),
    "correlation 0.5": ("ar", 0.5),
    "correlation 0.8": ("ar", 0.8),
    "correlation 0.9": ("ar", 0.9),
    "correlation 0.95": ("ar", 0.95),
    "each over 6 looks": ("window", 6.0),
    "each over 30 looks": ("window", 30.0),
}
FOUND = ("independent", "correlation 0.5", "correlation 0.8")


def noise(rng: np.random.Generator, kind: str, by: float) -> np.ndarray:
    """A series of variance 1: AR(1) of correlation ``by``, or means over ``by`` looks."""
    if kind == "window":
        sums = np.cumsum(rng.normal(size=LOOKS + int(by)))
        return (sums[int(by) :] - sums[: -int(by)]) / math.sqrt(by)
    fresh = rng.normal(size=LOOKS) * math.sqrt(1.0 - by * by)
    values = np.empty(LOOKS)
    values[0] = rng.normal()
    for t in range(1, LOOKS):
        values[t] = by * values[t - 1] + fresh[t]
    return values


def strongest(values: np.ndarray) -> tuple[np.ndarray, float]:
    """Evidence after each look, and the most that a mixture of independent looks ever had."""
    state, evidence = gauge.new(), np.zeros(len(values))
    for number, value in enumerate(values):
        state = gauge.absorb(state, float(value), 1.0)
        evidence[number] = gauge.log_e(state)
    n = np.arange(1, len(values) + 1)
    sums = np.cumsum(values)
    naive = 0.5 * np.log(PRIOR / (n + PRIOR)) + sums**2 / (2.0 * (n + PRIOR))
    return evidence, float(np.max(np.where(sums > 0, naive, 0.0)[gauge.FEWEST_LOOKS - 1 :]))


def equal(rng: np.random.Generator, runs: int, *, name: str) -> list[Row]:
    """Arms that do not differ."""
    most, naive = np.zeros(runs), np.zeros(runs)
    for run in range(runs):
        evidence, naive[run] = strongest(noise(rng, *WORLDS[name]))
        most[run] = evidence.max()
    beside = {"without correlation": percent(float(np.mean(naive >= -math.log(ALPHA))))}
    return [
        false_alarms(f"equal, {name}", most >= -math.log(ALPHA), ALPHA, beside),
        false_alarms(f"equal, {name}, at 0.5 %", most >= -math.log(ROLLOUT), ROLLOUT, {}),
    ]


def worse(rng: np.random.Generator, runs: int, *, name: str) -> list[Row]:
    """The candidate is SHIFT standard deviations worse from the beginning."""
    found = np.full(runs, LOOKS + 1)
    for run in range(runs):
        evidence, _ = strongest(noise(rng, *WORLDS[name]) + SHIFT)
        reached = np.flatnonzero(evidence >= -math.log(ROLLOUT))
        found[run] = reached[0] + 1 if len(reached) else LOOKS + 1
    cells = {
        "found": percent(float(np.mean(found <= LOOKS))),
        "median looks": f"{np.median(found):.0f}",
    }
    return [Row(f"{SHIFT:g} standard deviations worse, {name}", cells)]


def cells() -> list[Cell]:
    """Every simulation of this table."""
    quiet = [Cell(TABLE, f"equal {name}", partial(equal, name=name)) for name in WORLDS]
    return quiet + [Cell(TABLE, f"worse {name}", partial(worse, name=name)) for name in FOUND]
