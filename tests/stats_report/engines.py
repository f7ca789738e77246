"""Sluice's engines over many runs at once: thin states around the arrays of sluice.stats.

No formula lives here.  Used by the tables of tests.stats_report.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sluice.stats import counts, dispersion, latency
from sluice.stats.logs import log_sum

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

    ``dispersions`` keeps the evidence for each phi that the product keeps, shape (runs, phis, 41);
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

    def absorb(self, seen: Seen, most: float = math.inf) -> None:
        """One more look, of at most so many nats."""
        tests = [(counts.UP_GRID, self.log_margin)]
        gain = counts.gains(seen.n_a, seen.x_a, seen.n_b, seen.x_b, tests)[0]
        gain = np.minimum(gain, most)
        self.up = counts.grown(self.up, gain[:, None, :], self.phis[:, None])

    def log_e(self, phi: Floats | None = None, without: Floats | None = None) -> Floats:
        """log e-value of each run, at each run's dispersion, without a part of the evidence."""
        kept = np.zeros(len(self.up), dtype=np.int64)
        if phi is not None:
            kept = np.array([counts.phi_index(value) for value in phi.tolist()])
        up = self.up[np.arange(len(self.up)), kept]
        if without is not None:
            up = up - without / self.phis[kept][:, None]
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

    def quantile(self, part: float) -> float:
        """Time by which ``part`` of all runs have crossed."""
        times = np.where(self.ever, self.at, math.inf)
        return float(np.quantile(times, part, method="inverted_cdf"))


class Latency:
    """Engine C at stable's p50, p90 and p99 with shifted buckets, and the jumps that stalls make.

    Histograms have shape (runs, bins).  ``reverse`` asks the promotion's question at p50 and p90:
    is the candidate shown *not* to be slower by the margin?
    """

    def __init__(self, runs: int, margin: float, planned: int, *, reverse: bool = False):
        self.tolerance = latency.tolerance_of("comparable", margin)
        self.reverse = reverse
        self.recent = np.zeros((runs, latency.LATENCY_BINS), dtype=np.int64)
        self.past = np.zeros_like(self.recent)
        many = 2 if reverse else len(latency.QUANTILES)
        self.parts = [OddsRatio(runs, 1.0, planned, dispersions=not reverse) for _ in range(many)]
        self.last = np.full((many, runs), math.nan)
        self.jumps, self.jumped = np.zeros((many, runs)), np.zeros((many, runs))
        self.sums = np.zeros((4, many, runs))

    def begin(self) -> None:
        """One more of the planned starts."""
        for part in self.parts:
            part.begin()

    def absorb(self, stable: Ints, candidate: Ints) -> None:
        """One more look of both arms' histograms."""
        edge = latency.thresholds(self.recent, self.past)
        limit = latency.candidate_edges(self.tolerance)[edge]
        found = latency.slower(stable, candidate, np.maximum(edge, 0), limit)
        for i, part in enumerate(self.parts):
            known = edge[:, i] >= 0
            seen = Seen(*(np.where(known, column[:, i], 0) for column in found))
            if self.reverse:
                part.absorb(seen.swapped())
            else:
                part.absorb(seen, latency.MOST_A_LOOK)
            self.sums[:, i] += np.stack((seen.n_a, seen.n_b, seen.x_a, seen.x_b))
            self._jump(i, seen)
        self.recent = latency.faded(self.recent, stable)
        self.past = self.past + stable

    def _jump(self, i: int, seen: Seen) -> None:
        events, total = seen.x_a + seen.x_b, seen.n_a + seen.n_b
        told = (seen.n_a > 0) & (seen.n_b > 0) & (events > 0) & (events < total)
        columns = (seen.n_a, seen.x_a, seen.n_b, seen.x_b)
        z = np.full(len(told), math.nan)
        z[told] = dispersion.share_z(*(column[told] for column in columns))
        jump = 0.5 * (z - self.last[i]) ** 2
        counted = ~np.isnan(jump)
        self.jumps[i] += np.where(counted, jump, 0.0)
        self.jumped[i] += counted
        self.last[i] = np.where(told, z, self.last[i])

    def log_es(self) -> Floats:
        """log e-value of each run and quantile."""
        if self.reverse:
            return np.stack([part.log_e() for part in self.parts], axis=-1)
        phi = dispersion.jumps_phi(self.jumps, self.jumped, dispersion.steady_variance(*self.sums))
        return np.stack([p.log_e(f) for p, f in zip(self.parts, phi, strict=True)], axis=-1)

    def log_e(self) -> Floats:
        """log of the mean e-value over the quantiles."""
        return log_sum(self.log_es()) - math.log(len(self.parts))
