"""Reconciles one ModelDeployment that has not changed, again and again, and prints the mean CPU.

Run inside a cluster by bench_operator: ``python reconcile_once.py KUBECONFIG NAMESPACE NAME``.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

from sluice.controller.engine import Engine
from sluice.controller.metrics import Metrics
from sluice.controller.reconcile import Reconciler
from sluice.controller.settings import Settings
from sluice.kube.client import KubeClient
from sluice.kube.connection import load_connection
from sluice.kube.store import Key

SETTLED, FULL = 2000, 40


async def measure(kubeconfig: str, key: Key) -> dict[str, float]:
    """Milliseconds and requests, as the engine does it and with nothing skipped."""
    connection = load_connection(kubeconfig)
    metrics = Metrics()
    settings = Settings(
        kubeconfig=kubeconfig, namespaces=(key[0],), lease=False, lease_namespace=key[0]
    )
    async with KubeClient(connection, observe=metrics.observe_request) as client:
        engine = Engine(settings, Reconciler, client, metrics)
        engine.start()
        try:
            for informer in (*engine.parents, *engine.informers):
                await informer.synced.wait()
            await asyncio.sleep(3.0)
            await engine.workers.stop(3.0)  # From here on nobody else works.

            def requests() -> float:
                return sum(metrics.rest_requests.values.values())

            await engine._work(key)
            sent, begun = requests(), time.process_time()
            for _ in range(SETTLED):
                await engine._work(key)
            settled, asked = time.process_time() - begun, requests() - sent
            sent, begun = requests(), time.process_time()
            for _ in range(FULL):
                await engine.reconciler.reconcile(key)
            full, asked_fully = time.process_time() - begun, requests() - sent
        finally:
            await engine.stop()
    return {
        "settled_ms": 1000 * settled / SETTLED,
        "settled_requests": asked,
        "full_ms": 1000 * full / FULL,
        "full_requests": asked_fully,
    }


if __name__ == "__main__":
    print(json.dumps(asyncio.run(measure(sys.argv[1], (sys.argv[2], sys.argv[3])))))
