"""Fast enough: one row after another, in process, wall clock, after warming up.

It measures the model, not the network: the check on traffic measures that.
"""

from __future__ import annotations

import time

import numpy as np

from sluice.api.duration import seconds
from sluice.jobs.gates.bench import Bench, GateFailedError

WARM_UP = 20
DEFAULT_REQUESTS = 500
MORE_ROUNDS = 2


def run(bench: Bench) -> str:
    wanted = bench.gates["latency"]
    limit = seconds(str(wanted["p99"]))
    requests = int(wanted.get("requests", DEFAULT_REQUESTS))
    p50, p99 = measure(bench, requests)
    for _ in range(MORE_ROUNDS):
        if p99 <= limit:
            break
        # Whatever else the machine does can only add: the best round is nearest to the model.
        p50, p99 = min((p50, p99), measure(bench, requests), key=lambda both: both[1])
    numbers = f"p50 {_ms(p50)}, p99 {_ms(p99)} over {requests:,} single rows"
    if p99 > limit:
        raise GateFailedError(
            f"{numbers}: p99 is above the limit of {_ms(limit)} in each of {1 + MORE_ROUNDS} rounds"
        )
    return f"{numbers} (limit {_ms(limit)})"


def measure(bench: Bench, requests: int) -> tuple[float, float]:
    """Median and 99th percentile, in seconds, of ``requests`` calls with one row."""
    rows, predictor = bench.rows(), bench.predictor
    for index in range(WARM_UP):
        predictor.predict_rows([rows[index % len(rows)]])
    taken = np.empty(requests)
    for index in range(requests):
        row = rows[index % len(rows)]
        started = time.perf_counter()
        predictor.predict_rows([row])
        taken[index] = time.perf_counter() - started
    return float(np.quantile(taken, 0.5)), float(np.quantile(taken, 0.99))


def _ms(value: float) -> str:
    return f"{value * 1000:.3g} ms"
