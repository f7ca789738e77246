"""The whole loop for tests: an operator that can be killed, users that count what they get.

``Loop`` is a namespace with the CRDs in the cluster; its operator and ``Users`` are processes in
the cluster's network that the test owns.  Times are short: an interval of 1 s, one or two steps.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

from tests.tools.packages import linear_package

from sluice.local.cluster import LocalCluster

ROOT = Path(__file__).resolve().parents[2]
T = TypeVar("T")
Obj = dict[str, Any]

PATIENCE = 2
"""How many times longer than usual anything may take on a busy machine; costs nothing else."""

CHECKS = [
    {"name": "errors", "type": "ErrorRate"},
    {"name": "rejects", "type": "ClientErrorRate"},
]
QUICK: Obj = {
    "replicas": 2,
    "traffic": {"routerReplicas": 2},
    "rollout": {
        "steps": [{"weight": 50, "minRequests": 50, "minDuration": "2s"}],
        "watch": {"duration": "2s", "holdback": 10, "minRequests": 20},
    },
    "analysis": {"interval": "1s", "checks": CHECKS},
}
"""A spec without the model: one step, a short watch, no latency on a shared machine."""

PATHS = {
    "Deployment": "/apis/apps/v1/namespaces/{}/deployments",
    "Service": "/api/v1/namespaces/{}/services",
    "ConfigMap": "/api/v1/namespaces/{}/configmaps",
    "Pod": "/api/v1/namespaces/{}/pods",
    "Job": "/apis/batch/v1/namespaces/{}/jobs",
    "PodDisruptionBudget": "/apis/policy/v1/namespaces/{}/poddisruptionbudgets",
    "ModelDeployment": "/apis/sluice.dev/v1alpha1/namespaces/{}/modeldeployments",
    "ModelRevision": "/apis/sluice.dev/v1alpha1/namespaces/{}/modelrevisions",
}


def merged(base: Obj, changes: Obj) -> Obj:
    """``base`` with ``changes`` laid over it, blocks into blocks."""
    out = dict(base)
    for key, value in changes.items():
        deeper = isinstance(value, dict) and isinstance(out.get(key), dict)
        out[key] = merged(out[key], value) if deeper else value
        if value is None:
            del out[key]
    return out


class Process:
    """A command inside the cluster's network, with its output in a file."""

    def __init__(self, cluster: LocalCluster, argv: list[str], output: Path) -> None:
        env = {**os.environ, "PYTHONPATH": f"{ROOT / 'operator'}:{ROOT}"}
        self.output = output
        with output.open("ab") as out:
            self.popen = subprocess.Popen(
                cluster.enter([sys.executable, *argv]), stdout=out, stderr=out, env=env, cwd=ROOT
            )

    def end(self, number: int = signal.SIGTERM, wait: float = 15) -> None:
        """Send a signal and wait."""
        if self.popen.poll() is None:
            self.popen.send_signal(number)
            try:
                self.popen.wait(wait)
            except subprocess.TimeoutExpired:
                self.popen.kill()
                self.popen.wait(5)


class Users:
    """A steady stream of requests; ``totals()`` is what they got so far, by cause."""

    def __init__(self, loop: Loop, rows: list[Obj], rate: float, name: str) -> None:
        path = loop.directory / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        self.output = loop.directory / f"users-{time.monotonic_ns()}.jsonl"
        url = f"http://{name}.{loop.namespace}.svc.cluster.local/predict"
        argv = ["-m", "demo.load", url, str(path), "--rate", str(rate)]
        self.process = Process(loop.cluster, argv, self.output)

    def totals(self) -> Obj:
        """The last whole line of totals."""
        lines = [x for x in self.output.read_bytes().split(b"\n")[:-1] if x.startswith(b"{")]
        return dict(json.loads(lines[-1])) if lines else {"causes": {}, "byRevision": {}}

    def ok(self) -> int:
        """Requests answered well so far."""
        return int(self.totals()["causes"].get("ok", 0))

    def got(self, revision: str) -> int:
        """Requests that ``revision`` answered so far, in any way."""
        return sum(self.totals()["byRevision"].get(revision, {}).values())

    def stop(self) -> Obj:
        """No more requests; the final totals."""
        self.process.end(signal.SIGINT)
        return self.totals()


def not_by_the_model(totals: Obj) -> Obj:
    """Causes that only routing can be blamed for."""
    return {
        cause: n
        for cause, n in totals["causes"].items()
        if cause.startswith(("routing:", "connection:"))
    }


@dataclass
class Loop:
    """One namespace, its operator, its packages."""

    cluster: LocalCluster
    namespace: str
    kubectl: Callable[..., str]
    directory: Path
    operator: Process | None = None
    processes: list[Process] = field(default_factory=list)
    digests: dict[str, str] = field(default_factory=dict)

    # Processes

    def start(self, *options: str) -> Process:
        """An operator for this namespace; the previous one must have ended."""
        argv = [
            "-m", "sluice.cli", "operator", "--namespace", self.namespace, "--no-lease",
            "--lease-namespace", self.namespace, "--metrics-port", "0", "--health-port", "0",
            "--host", "127.0.0.1", *options,
        ]  # fmt: skip
        self.operator = Process(self.cluster, argv, self.directory / "operator.log")
        self.processes.append(self.operator)
        return self.operator

    def kill(self) -> None:
        """kill -9 the operator."""
        assert self.operator is not None
        self.operator.end(signal.SIGKILL)

    def users(self, rows: list[Obj], *, rate: float = 100, name: str = "iris") -> Users:
        """Begin to send, and wait until answers come."""
        users = Users(self, rows, rate, name)
        self.processes.append(users.process)
        self.until(lambda: users.ok() > 10, 20, "users get answers")
        return users

    def close(self) -> None:
        """End what runs."""
        for process in reversed(self.processes):
            process.end(signal.SIGKILL)

    # Models

    def package(self, name: str, **options: Any) -> str:
        """A package; its uri."""
        path = self.directory / name
        self.digests[name] = linear_package(path, **{"name": "iris", **options})
        return f"file://{path}"

    def apply(self, uri: str, name: str = "iris", **changes: Any) -> None:
        """Apply the ModelDeployment with this model."""
        model = {"uri": uri, **changes.pop("model", {})}
        self.put(
            {
                "apiVersion": "sluice.dev/v1alpha1",
                "kind": "ModelDeployment",
                "metadata": {"name": name, "namespace": self.namespace},
                "spec": merged(QUICK, {"model": model, **changes}),
            }
        )

    def put(self, *objects: Obj) -> None:
        """Server-side apply, as a user."""
        text = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)})
        self.kubectl("-n", self.namespace, "apply", "--server-side", "-f", "-", stdin=text)

    # Seeing

    def list(self, kind: str) -> list[Obj]:
        """All objects of a kind in the namespace."""
        return list(self.cluster.api(PATHS[kind].format(self.namespace))["items"])

    def mdep(self, name: str = "iris") -> Obj:
        """The ModelDeployment, or nothing."""
        return next((o for o in self.list("ModelDeployment") if o["metadata"]["name"] == name), {})

    def status(self, name: str = "iris") -> Obj:
        """Its status, if it is about the present spec."""
        found = self.mdep(name)
        status: Obj = found.get("status") or {}
        if status.get("observedGeneration") != found.get("metadata", {}).get("generation"):
            return {}
        return status

    def condition(self, kind: str, name: str = "iris") -> Obj:
        """One condition of the present spec."""
        rows = self.status(name).get("conditions", [])
        return next((dict(c) for c in rows if c["type"] == kind), {})

    def progress(self, name: str = "iris") -> Obj:
        """What the operator has committed."""
        for found in self.list("ConfigMap"):
            if found["metadata"]["name"] == f"{name}-evidence":
                return dict(json.loads(found["data"]["progress.json"]))
        return {}

    def phase(self, name: str = "iris") -> str:
        """The rollout's phase; ``Watching`` or nothing without one."""
        progress = self.progress(name)
        if progress.get("rollout"):
            return str(progress["rollout"]["phase"])
        return "Watching" if progress.get("watch") else ""

    def revision(self, package: str, name: str = "iris") -> str:
        """The revision of a package of ``name``; empty when there is no record."""
        for record in self.list("ModelRevision"):
            known = record["spec"]["deployment"] == name
            if known and record["spec"]["package"]["digest"] == self.digests[package]:
                return str(record["metadata"]["name"]).rsplit("-", 1)[-1]
        return ""

    def serves(self, package: str, name: str = "iris") -> bool:
        """The package is stable and nothing is on its way."""
        status = self.status(name)
        stable = status.get("stable", {}).get("digest") == self.digests[package]
        return stable and "candidate" not in status and self.is_true("Ready", name)

    def is_true(self, kind: str, name: str = "iris") -> bool:
        """Whether a condition is True."""
        return self.condition(kind, name).get("status") == "True"

    def until(self, check: Callable[[], T], seconds: float, what: str) -> T:
        """Poll; says what the world was when it does not come true."""
        seconds *= PATIENCE
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            try:
                if found := check():
                    return found
            except (OSError, AssertionError):
                pass
            time.sleep(0.1)
        raise AssertionError(f"{what}: not within {seconds:g} s.\n{self.describe()}")

    def stays(self, check: Callable[[], bool], seconds: float, what: str) -> None:
        """It is so all the time."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            assert check(), f"{what}: it is not so any more.\n{self.describe()}"
            time.sleep(0.2)

    def describe(self) -> str:
        """What a person would look at first."""
        mdeps = self.list("ModelDeployment")
        said = [json.dumps(m.get("status"), indent=1)[:3500] for m in mdeps]
        for pod in self.list("Pod"):
            rows = pod.get("status", {}).get("conditions", [])
            ready = next((c["status"] for c in rows if c["type"] == "Ready"), "?")
            said.append(f"{pod['metadata']['name']} {pod['status'].get('phase')} ready={ready}")
        said.append(json.dumps({k: v for k, v in self.progress().items() if k in KEYS})[:1500])
        said += [log.read_text()[-3000:] for log in sorted(self.directory.glob("*.log"))]
        return "\n".join(said)


KEYS = ("rollout", "watch", "outcome", "roles", "analysisError", "lastRollback")


def rows(missing: float = 0.0, count: int = 200) -> list[Obj]:
    """Requests; a share of them lacks ``b``."""
    step = round(1 / missing) if missing else count + 1
    return [
        {"a": (i % 19) / 10 - 0.9, "b": None if i % step == step - 1 else (i % 17) / 9 - 0.9}
        for i in range(count)
    ]


@contextmanager
def loop_in(cluster: LocalCluster, namespace: str, kubectl: Callable[..., str]) -> Iterator[Loop]:
    """A loop with the CRDs installed; its processes end with it."""
    kubectl("apply", "--server-side", "--force-conflicts", "-f", str(ROOT / "crds"))
    kubectl("wait", "--for=condition=Established", "crd", "modeldeployments.sluice.dev")
    # Not under /tmp: pods have a /tmp of their own, and read packages by file://.
    (ROOT / "build").mkdir(exist_ok=True)
    with TemporaryDirectory(prefix="loop-", dir=ROOT / "build") as made:
        directory = Path(made)
        directory.chmod(0o755)
        loop = Loop(cluster, namespace, kubectl, directory)
        try:
            yield loop
        finally:
            loop.close()
