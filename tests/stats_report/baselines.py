"""What other tools do with the same looks, for comparison: they claim nothing here.

Used by the tables of tests.stats_report.
"""

from __future__ import annotations

import numpy as np
from tests.stats_report.engines import Crossing, Flags, Floats, Seen


class PooledZ:
    """A one-sided z-test on everything so far, asked again at every look."""

    def __init__(self, runs: int, critical: float = 1.645):
        self.sums: Floats = np.zeros((4, runs))
        self.critical = critical
        self.crossing = Crossing(runs)

    def absorb(self, seen: Seen, number: int) -> None:
        """One more look."""
        self.sums = self.sums + np.stack((seen.n_a, seen.x_a, seen.n_b, seen.x_b))
        n_a, x_a, n_b, x_b = np.maximum(self.sums, 1e-9)
        p = (x_a + x_b) / (n_a + n_b)
        error = np.sqrt(p * (1.0 - p) * (1.0 / n_a + 1.0 / n_b))
        crossed: Flags = (x_b / n_b - x_a / n_a) / error > self.critical
        self.crossing.mark(crossed & (self.sums[3] > 0), number)


class Threshold:
    """Fails a look whose success rate is below a fixed one; rolls back at the fifth failure.

    That is how a controller with metric thresholds and a failure counter that never falls works.
    """

    def __init__(self, runs: int, success: float = 0.99, failures: int = 5):
        self.allowed, self.failures = 1.0 - success, failures
        self.failed = np.zeros(runs, dtype=np.int64)
        self.crossing = Crossing(runs)

    def absorb(self, seen: Seen, number: int) -> None:
        """One more look."""
        self.failed = self.failed + (seen.x_b > self.allowed * seen.n_b)
        self.crossing.mark(self.failed >= self.failures, number)
