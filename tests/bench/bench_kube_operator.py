"""What the shell costs: `PYTHONPATH=operator:. python tests/bench/bench_kube_operator.py [COUNT]`.

CPU of the process per object on a real API server, with a reconciler that does next to nothing
(one ConfigMap and one event per ModelDeployment), then idle, then a restart.  Ratios count; the
machine is shared.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

from tests.integration.kube_api_server import ApiServer
from tests.integration.test_kube_shell import Operator, until

from sluice.kube.client import KubeClient

CPU = "process_cpu_seconds_total"
RSS = "process_resident_memory_bytes"
RECONCILES = 'controller_runtime_reconcile_time_seconds_count{controller="modeldeployment"}'
DEPTH = 'workqueue_depth{name="modeldeployment"}'
IDLE_SECONDS = 60


async def settled(operator: Operator) -> dict[str, float]:
    """The metrics once no key has been worked on for two seconds."""
    before = operator.samples()
    while True:
        await asyncio.sleep(2)
        now = operator.samples()
        if now.get(RECONCILES) == before.get(RECONCILES) and not now.get(DEPTH):
            return now
        before = now


async def measure(
    operator: Operator, what: str, count: int, act: Callable[[int], Awaitable[object]]
) -> None:
    gate = asyncio.Semaphore(8)

    async def one(number: int) -> None:
        async with gate:
            await act(number)

    before = operator.samples()
    await asyncio.gather(*(one(n) for n in range(count)))
    after = await settled(operator)
    cost = 1000 * (after[CPU] - before[CPU]) / count
    print(
        f"{what:34} {cost:6.2f} ms CPU an object, {after[RSS] / 1e6:4.0f} MB,"
        f" {(after[RECONCILES] - before.get(RECONCILES, 0.0)) / count:.1f} reconciles"
    )


async def run(server: ApiServer, operator: Operator, count: int) -> None:
    space = server.namespace("bench")
    async with KubeClient.connect(server.kubeconfig()) as client:

        def parent(n: int) -> dict[str, object]:
            return {
                "apiVersion": "sluice.dev/v1alpha1",
                "kind": "ModelDeployment",
                "metadata": {"namespace": space, "name": f"m{n}"},
                "spec": {"model": {"uri": "s3://models/a"}},
            }

        def patch(kind: str, suffix: str, change: dict[str, object]) -> Callable[[int], object]:
            return lambda n: client.patch_merge(kind, space, f"m{n}{suffix}", change)

        spec = {"spec": {"model": {"uri": "s3://models/b"}}}
        note = {"metadata": {"annotations": {"note": "1"}}}
        steps: list[tuple[str, Callable[[int], object]]] = [
            ("create: POST of a child, an event", lambda n: client.create(parent(n))),
            ("update: apply of the child", patch("ModelDeployment", "", spec)),
            ("parent event without work", patch("ModelDeployment", "", note)),
            ("child event without work", patch("ConfigMap", "-seen", note)),
        ]
        for what, act in steps:
            await measure(operator, what, count, act)  # type: ignore[arg-type]
    before = operator.samples()
    await asyncio.sleep(IDLE_SECONDS)
    spent = operator.samples()[CPU] - before[CPU]
    print(f"{'idle':34} {100 * spent / IDLE_SECONDS:6.3f} % of a core")


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    with tempfile.TemporaryDirectory(prefix="sluice-bench-") as directory:
        server = ApiServer(Path(directory))
        operators: list[Operator] = []
        os.environ["SLOW_LEASE"] = "1"
        try:
            server.start()
            operators.append(Operator(server.kubeconfig(), Path(directory) / "one.log"))
            until(operators[0].leads, "leadership")
            asyncio.run(run(server, operators[0], count))
            operators[0].end()
            operators.append(Operator(server.kubeconfig(), Path(directory) / "two.log"))
            until(operators[1].ready, "full caches")
            ready = operators[1].samples()
            print(f"{'restart, until the caches are full':34} {ready[CPU]:6.2f} s CPU with imports")
        finally:
            for operator in operators:
                operator.end()
            server.stop()


if __name__ == "__main__":
    main()
