"""What `sluice local` costs: `PYTHONPATH=operator:. python tests/bench/bench_local.py`.

Start, idle CPU and memory of every component, pod creation to Ready, and a Deployment of 100.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from pathlib import Path

from tests.integration.conftest import kubectl_for

from sluice.local import inspect
from sluice.local.cluster import LocalCluster

IDLE_SECONDS = 60
PODS = 10


def _pod(name: str) -> str:
    container = {"name": "c", "image": "busybox", "command": ["sleep", "1000"]}
    spec = {"terminationGracePeriodSeconds": 0, "containers": [container]}
    return json.dumps({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec})


def _seconds_to_ready(cluster: LocalCluster, name: str) -> float:
    """As the API server saw it would be whole seconds, so it is watched from here."""
    kubectl_for(cluster)("create", "-f", "-", stdin=_pod(name))
    begin = time.monotonic()
    while True:
        status = cluster.api(f"/api/v1/namespaces/default/pods/{name}")["status"]
        if any(c["type"] == "Ready" and c["status"] == "True" for c in status["conditions"]):
            return time.monotonic() - begin
        time.sleep(0.005)


def measure(cluster: LocalCluster) -> None:
    """Print the table."""
    begin = time.monotonic()
    cluster.up()
    print(f"up, cold: {time.monotonic() - begin:.1f} s")
    time.sleep(20)  # the start's own aftermath
    before = {u.name: u for u in inspect.usage(cluster)}
    time.sleep(IDLE_SECONDS)
    after = {u.name: u for u in inspect.usage(cluster)}
    print(f"{'idle':26}{'% of a core':>12}{'MiB':>7}")
    shares = {n: (u.cpu_seconds - before[n].cpu_seconds) / IDLE_SECONDS for n, u in after.items()}
    for name, used in after.items():
        print(f"{name:26}{100 * shares[name]:>12.2f}{used.memory >> 20:>7}")
    memory = sum(u.memory for u in after.values())
    print(f"{'together':26}{100 * sum(shares.values()):>12.2f}{memory >> 20:>7}")
    times = [_seconds_to_ready(cluster, f"p{i}") for i in range(PODS)]
    print(f"kubectl create returned to Ready: median {1000 * statistics.median(times):.0f} ms")
    kubectl = kubectl_for(cluster)
    kubectl("create", "deployment", "many", "--image=busybox", "--replicas=0", "--", "sleep", "999")
    node = {u.name: u.cpu_seconds for u in inspect.usage(cluster)}["node"]
    begin = time.monotonic()
    kubectl("scale", "deployment", "many", "--replicas=100")
    kubectl("rollout", "status", "deployment", "many", timeout=300)
    spent = {u.name: u.cpu_seconds for u in inspect.usage(cluster)}["node"] - node
    took = time.monotonic() - begin
    print(f"a Deployment scaled to 100: {took:.1f} s, node CPU {10 * spent:.1f} ms a pod")
    begin = time.monotonic()
    cluster.down()
    print(f"down: {time.monotonic() - begin:.1f} s")
    begin = time.monotonic()
    cluster.up()
    print(f"up again, data of 100 pods: {time.monotonic() - begin:.1f} s")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="sluice-bench-") as directory:
        own = LocalCluster(Path(directory) / "cluster", "bench")
        try:
            measure(own)
        finally:
            own.down(purge=True)
