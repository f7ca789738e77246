"""Sluice's engines over many runs at once: thin states around the arrays of sluice.stats.

No formula lives here.  Used by the tables of tests.stats_report.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sluice.stats import counts

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Seen:
    """One look of every run: requests and events of stable (a) and candidate (b)."""

    n_a: Ints
    x_a: Ints
    n_b: Ints
    x_b: Ints

    def swapped(self) -> Seen:
        """The arms the other way round."""
        return Seen(self.n_b, self.x_b, self.n_a, self.x_a)


class OddsRatio:
    """Engine C: is the odds ratio above ``margin``?  One row a run, one start per ``begin``.

    ``dispersions`` keeps the evidence for each phi that the product keeps, shape (runs, 6, 41);
    without it phi is 1.
    """

    def __init__(self, runs: int, margin: float, planned: int, *, dispersions: bool = False):
        self.log_margin = math.log(margin)
        self.phis = counts.PHIS if dispersions else np.ones(1)
        self.up = np.full((runs, len(self.phis), len(counts.UPWARD)), counts.NOTHING)
        self.planned = planned
        self.started = 0

    def begin(self) -> None:
        """One more of the planned starts, in every run."""
        if self.started < self.planned:
            self.up, self.started = counts.begun(self.up), self.started + 1

    def absorb(self, seen: Seen) -> None:
        """One more look."""
        tests = [(counts.UP_GRID, self.log_margin)]
        gain = counts.gains(seen.n_a, seen.x_a, seen.n_b, seen.x_b, tests)[0]
        self.up = counts.grown(self.up, gain[:, None, :], self.phis[:, None])

    def log_e(self, phi: Floats | None = None) -> Floats:
        """log e-value of each run, at each run's dispersion."""
        kept = np.zeros(len(self.up), dtype=np.int64)
        if phi is not None:
            kept = np.array([counts.phi_index(value) for value in phi.tolist()])
        up = self.up[np.arange(len(self.up)), kept]
        return counts.log_mixture(up, self.planned, self.started)


class Crossing:
    """When each run first crossed its threshold: -1 while it has not."""

    def __init__(self, runs: int):
        self.at: Ints = np.full(runs, -1)

    def mark(self, crossed: Flags, when: int | Ints) -> None:
        """The runs that cross now, those that crossed before keep their time."""
        self.at = np.where((self.at < 0) & crossed, when, self.at)

    @property
    def ever(self) -> Flags:
        """Whether each run has crossed."""
        fired: Flags = self.at >= 0
        return fired

    def median(self) -> float:
        """Median time over all runs; infinite when fewer than half have crossed."""
        return float(np.median(np.where(self.ever, self.at, math.inf)))
