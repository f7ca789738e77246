"""Traffic and failures for many runs at once, drawn from their distributions, not per request.

Used by the tables of tests.stats_report.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from tests.stats_report.engines import Floats, Ints, Seen

from sluice.stats.look import LATENCY_BASE, LATENCY_BINS, LATENCY_RATIO

MEDIAN = 0.02
SIGMA = 0.5
TAIL = 1.645
"""The 95th percentile of a standard normal."""

RAMP = (0.01, 0.05, 0.1, 0.25, 0.5)


def split(rng: np.random.Generator, runs: int, requests: int, share: float) -> tuple[Ints, Ints]:
    """How many of a look's requests went to stable and to the candidate."""
    candidate = rng.binomial(requests, share, size=runs)
    return requests - candidate, candidate


def look(
    rng: np.random.Generator,
    runs: int,
    requests: int,
    share: float,
    stable: float | Floats,
    candidate: float | Floats,
) -> Seen:
    """One look of every run; failures are independent."""
    n_a, n_b = split(rng, runs, requests, share)
    return Seen(n_a, rng.binomial(n_a, stable), n_b, rng.binomial(n_b, candidate))


def ramp(looks_per_step: int) -> Iterator[tuple[int, float, bool, float]]:
    """Looks of a five-step ramp: number, candidate's share, whether a step begins, progress."""
    total = looks_per_step * len(RAMP)
    for number in range(total):
        yield (
            number,
            RAMP[number // looks_per_step],
            number % looks_per_step == 0,
            number / (total - 1),
        )


def latencies(rng: np.random.Generator, requests: int, slower: Floats, tail: float = 1.0) -> Ints:
    """Histograms of one arm: lognormal, ``slower`` times the median by (run, pod); (runs, bins).

    ``tail`` slows only what is above the 95th percentile.
    """
    runs, pods = slower.shape
    normal = rng.standard_normal((runs, pods, requests // pods))
    logs = SIGMA * normal + math.log(tail) * (normal > TAIL)
    logs += np.log(MEDIAN / LATENCY_BASE * slower)[..., None]
    bins = np.clip(logs / np.log(LATENCY_RATIO), 0, LATENCY_BINS - 1).astype(np.int64)
    flat = (bins + LATENCY_BINS * np.arange(runs)[:, None, None]).ravel()
    return np.bincount(flat, minlength=runs * LATENCY_BINS).reshape(runs, LATENCY_BINS)


def latencies_of(rng: np.random.Generator, n: Ints, slower: float) -> Ints:
    """Histograms of ``n`` requests in each run, all ``slower`` times the median; (runs, bins)."""
    logs = SIGMA * rng.standard_normal(int(n.sum())) + np.log(MEDIAN / LATENCY_BASE * slower)
    bins = np.clip(logs / np.log(LATENCY_RATIO), 0, LATENCY_BINS - 1).astype(np.int64)
    flat = bins + LATENCY_BINS * np.repeat(np.arange(len(n)), n)
    return np.bincount(flat, minlength=len(n) * LATENCY_BINS).reshape(len(n), LATENCY_BINS)
