"""What `sluice local` costs: `make bench ONLY=local`."""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from pathlib import Path

from tests.bench.rows import Row, at_most
from tests.integration.conftest import kubectl_for

from sluice.controller.pods import is_ready
from sluice.local import inspect
from sluice.local.cluster import LocalCluster

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
        if is_ready(cluster.api(f"/api/v1/namespaces/default/pods/{name}")):
            return time.monotonic() - begin
        time.sleep(0.005)


def run(quick: bool) -> list[Row]:
    """Start, idleness, pods."""
    with tempfile.TemporaryDirectory(prefix="sluice-bench-") as directory:
        cluster = LocalCluster(Path(directory) / "cluster", "bench")
        try:
            return [*_start_and_idle(cluster, 15 if quick else 60), _pods(cluster, quick)]
        finally:
            cluster.down(purge=True)


def _start_and_idle(cluster: LocalCluster, seconds: int) -> list[Row]:
    begin = time.monotonic()
    cluster.up()
    started = time.monotonic() - begin
    time.sleep(10 if seconds < 60 else 20)  # the start's own aftermath
    before = {u.name: u for u in inspect.usage(cluster)}
    time.sleep(seconds)
    after = {u.name: u for u in inspect.usage(cluster)}
    spent = {n: u.cpu_seconds - before[n].cpu_seconds for n, u in after.items()}
    share = 100 * sum(spent.values()) / seconds
    most = max(spent, key=lambda n: spent[n])
    said = f"{share:.1f} % of a core, {share * 0.6:.1f} CPU s a minute (most: {most})"
    memory = sum(u.memory for u in after.values()) / 1e9
    return [
        at_most("sluice local: up, cold", "4 s", 4.0, started, f"{started:.1f} s"),
        at_most("sluice local, idle: CPU", "<= 4 % of a core", 4.0, share, said),
        at_most("sluice local, idle: memory", "0.6 GB", 0.6, memory, f"{memory:.2f} GB"),
    ]


def _pods(cluster: LocalCluster, quick: bool) -> Row:
    times = [_seconds_to_ready(cluster, f"p{i}") for i in range(3 if quick else PODS)]
    said = f"median {1000 * statistics.median(times):.0f} ms"
    return Row("sluice local: kubectl create to a pod that is Ready", "", said)
