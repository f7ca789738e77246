"""Many idle ModelDeployments: copies of one that serves, in an API server where nothing else runs.

Called by bench_operator.  No controller and no node touches the copies, so what is measured is the
operator alone: its caches, its feeds, its relists.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.bench.rows import Row, at_most, use
from tests.integration.kube_api_server import ApiServer
from tests.integration.loop import PATHS, ROOT, Loop

from sluice.kube.client import KubeClient
from sluice.kube.connection import load_connection
from sluice.kube.resources import resource

Obj = dict[str, Any]

NAMESPACE = "idle"
OF_THE_SERVER = ("uid", "resourceVersion", "creationTimestamp", "managedFields", "generation")
KINDS = [kind for kind in PATHS if kind not in ("ModelDeployment", "Job")]


def capture(loop: Loop, name: str) -> list[Obj]:
    """The ModelDeployment and everything that belongs to it, ready to be made again."""
    found = [loop.mdep(name)]
    for kind in KINDS:
        found += (
            {"kind": kind, **obj}
            for obj in loop.list(kind)
            if obj["metadata"].get("labels", {}).get("sluice.dev/deployment") == name
        )
    api = {kind: resource(kind).api_version for kind in PATHS}
    out = []
    for obj in found:
        kind = obj.get("kind", "ModelDeployment")
        metadata = {k: v for k, v in obj["metadata"].items() if k not in OF_THE_SERVER}
        if kind == "Service":
            for field in ("clusterIP", "clusterIPs"):
                if obj["spec"].get(field) not in ("None", ["None"]):
                    obj["spec"].pop(field, None)
        if kind == "Pod":
            # A record only: there is nobody at its address.
            for field in ("podIP", "podIPs", "hostIP", "hostIPs"):
                obj["status"].pop(field, None)
        out.append({**obj, "apiVersion": api[kind], "kind": kind, "metadata": metadata})
    return out


class Copies:
    """Makes copies under other names, their status included."""

    def __init__(self, client: KubeClient, objects: list[Obj]) -> None:
        self._client = client
        self._name = objects[0]["metadata"]["name"]
        space = objects[0]["metadata"]["namespace"]
        self._text = json.dumps(objects).replace(f'"{space}"', f'"{NAMESPACE}"')

    async def make(self, first: int, last: int) -> None:
        """Copies ``first`` to ``last - 1``, eight at a time."""
        gate = asyncio.Semaphore(8)

        async def one(number: int) -> None:
            async with gate:
                await self._one(f"m{number:05d}")

        await asyncio.gather(*(one(n) for n in range(first, last)))

    async def _one(self, name: str) -> None:
        parent, *children = json.loads(self._text.replace(self._name, name))
        made = await self._put(parent)
        for child in children:
            for owner in child["metadata"].get("ownerReferences", []):
                owner["uid"] = made["metadata"]["uid"]
            await self._put(child)

    async def _put(self, obj: Obj) -> Obj:
        status = obj.pop("status", None)
        made = await self._client.create(obj, field_manager="sluice-children")
        meta = obj["metadata"]
        if status and obj["kind"] == "ModelDeployment":
            await self._client.patch_status(obj["kind"], meta["namespace"], meta["name"], status)
        elif status:
            await self._client.patch_merge(
                obj["kind"], meta["namespace"], meta["name"], {"status": status},
                field_manager="sluice-status", subresource="status",
            )  # fmt: skip
        return made


def many(template: list[Obj], counts: tuple[int, ...], seconds: int) -> list[Row]:
    """Memory and CPU with each count of idle ModelDeployments, then a restart with the last."""
    with tempfile.TemporaryDirectory(prefix="sluice-bench-") as directory:
        server = ApiServer(Path(directory))
        try:
            server.start()
            server.namespace(NAMESPACE)
            return asyncio.run(_many(server, Path(directory), template, counts, seconds))
        finally:
            server.stop()


async def _many(
    server: ApiServer, directory: Path, template: list[Obj], counts: tuple[int, ...], seconds: int
) -> list[Row]:
    kubeconfig = server.kubeconfig()
    log = directory / "operator.log"
    out: list[Row] = []
    made = 0
    for count in counts:
        # Before the operator: it meets them as after a restore, and has nothing to do.
        async with KubeClient(load_connection(kubeconfig)) as client:
            await Copies(client, template).make(made, count)
        made = count
        operator = _operator(kubeconfig, log)
        try:
            out += await _one_count(operator.pid, count, seconds)
        finally:
            _end(operator)
            if "KEEP_LOG" in os.environ:
                print(log.read_text()[-3000:], file=sys.stderr)
    return out


async def _one_count(pid: int, count: int, seconds: int) -> list[Row]:
    await _quiet(pid)
    before, begun = use(pid), time.monotonic()
    await asyncio.sleep(seconds)
    after = use(pid)
    share = 100 * (after.cpu - before.cpu) / (time.monotonic() - begun)
    return _rows(count, share, before.cpu, after.memory)


def _rows(count: int, share: float, start: float, memory: float) -> list[Row]:
    what = f"operator, {count:,} idle ModelDeployments"
    cpu, held = f"{share:.3f} % of a core", f"{memory:.0f} MB"
    begun = f"{start:.1f} CPU s to start"
    if count < 1000:
        return [Row(what, "", f"{cpu}, {held}, {begun}")]
    return [
        at_most(f"{what}: CPU", "<= 0.1 % of a core (Argo: 0.05 %)", 0.1, share, cpu),
        at_most(f"{what}: memory", "<= 160 MB (Argo: 163)", 160, memory, held),
        at_most(f"{what}: restart", "(Argo: 2.4 CPU s)", 2.4, start, begun),
    ]


def _operator(kubeconfig: str, log: Path) -> subprocess.Popen[bytes]:
    argv = [
        sys.executable, "-m", "sluice.cli", "operator", "--kubeconfig", kubeconfig, "--no-lease",
        "--lease-namespace", NAMESPACE, "--metrics-port", "0", "--health-port", "0",
        "--host", "127.0.0.1",
    ]  # fmt: skip
    env = {**os.environ, "PYTHONPATH": str(ROOT / "operator")}
    with log.open("ab") as out:
        return subprocess.Popen(argv, stdout=out, stderr=out, env=env)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


async def _quiet(pid: int, patience: float = 180.0) -> None:
    """Until the process hardly works for three seconds."""
    deadline = time.monotonic() + patience
    await asyncio.sleep(4)
    while time.monotonic() < deadline:
        before = use(pid).cpu
        await asyncio.sleep(3)
        if use(pid).cpu - before <= 0.03:
            return
