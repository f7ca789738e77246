"""The operator at work on a local cluster: `make bench ONLY=operator`.

One operator, real pods, routers and users: what it costs to bring a ModelDeployment to Ready, to
take a new revision through a step, to look at an object that has not changed, and how fast a bad
revision loses its traffic.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from tests.bench import idle
from tests.bench.rows import Row, Use, at_most, descendants, use
from tests.integration.conftest import kubectl_for
from tests.integration.loop import ROOT, Loop, loop_in, rows

from sluice.local.cluster import LocalCluster

NAMESPACE = "bench"
PROBE = Path(__file__).with_name("reconcile_once.py")
LOOK_MS = 1.0

IMPORTS = (
    "import time; begun = time.process_time(); import sluice.controller.reconcile,"
    " sluice.controller.shell; import json;"
    " pages = int(open('/proc/self/statm').read().split()[1]);"
    " print(json.dumps([time.process_time() - begun, pages * 4096 / 1e6]))"
)


@contextlib.contextmanager
def place() -> Iterator[Loop]:
    """A cluster of its own with an empty namespace."""
    with tempfile.TemporaryDirectory(prefix="sluice-bench-") as directory:
        cluster = LocalCluster(Path(directory) / "cluster", "bench")
        try:
            cluster.up(tied=True)
            kubectl = kubectl_for(cluster)
            kubectl("create", "namespace", NAMESPACE)
            with loop_in(cluster, NAMESPACE, kubectl) as loop:
                yield loop
        finally:
            cluster.down(purge=True)


def operator_use(loop: Loop) -> Use:
    """What the operator's process has used."""
    assert loop.operator is not None
    below = descendants(loop.operator.popen.pid)
    return use(below[-1] if below else loop.operator.popen.pid)


def run(quick: bool) -> list[Row]:
    """In this order: each part needs what the one before it made."""
    out = [_imports()]
    with place() as loop:
        loop.start()
        loop.until(lambda: "caches are filled" in _log(loop), 30, "the operator's caches")
        out += _to_ready(loop, 2 if quick else 4)
        out.append(_idle(loop, 8 if quick else 60))
        out += _new_revision(loop, quick)
        out += _taken_back(loop)
        out += _unchanged(loop)
        template = idle.capture(loop, "iris1")
    return out + idle.many(template, (100,) if quick else (100, 1000), 8 if quick else 60)


def _log(loop: Loop) -> str:
    path = loop.directory / "operator.log"
    return path.read_text() if path.exists() else ""


def _imports() -> Row:
    env = {**os.environ, "PYTHONPATH": str(ROOT / "operator")}
    done = subprocess.run(
        [sys.executable, "-c", IMPORTS], env=env, check=True, capture_output=True, text=True
    )
    cpu, memory = json.loads(done.stdout)
    return Row("operator: imports", "", f"{cpu:.2f} CPU s, {memory:.0f} MB")


def _to_ready(loop: Loop, count: int) -> list[Row]:
    uri = loop.package("v1", bias=0.1)
    empty = operator_use(loop)
    for number in range(count):
        name = "iris" if number == 0 else f"iris{number}"
        loop.apply(uri, name)
        loop.until(lambda name=name: loop.serves("v1", name), 90, f"{name} serves")  # type: ignore[misc]
    spent = 1000 * (operator_use(loop).cpu - empty.cpu) / count
    said = f"{spent:.0f} ms, mean of {count}"
    return [
        Row("operator: memory without ModelDeployments", "", f"{empty.memory:.0f} MB"),
        at_most("operator CPU, apply -> Ready", "< 24 ms (Argo: 24-26)", 24.0, spent, said),
    ]


def _idle(loop: Loop, seconds: int) -> Row:
    before = operator_use(loop)
    time.sleep(seconds)
    after = operator_use(loop)
    share = 100 * (after.cpu - before.cpu) / seconds
    said = f"{share:.2f} % of a core, {after.memory:.0f} MB"
    return Row(f"operator idle, {len(loop.list('ModelDeployment'))} with their pods", "", said)


def _new_revision(loop: Loop, quick: bool) -> list[Row]:
    users = loop.users(rows(), rate=50)
    before, looks = operator_use(loop).cpu, 0
    steps = [{"weight": 50, "minRequests": 50, "minDuration": "4s" if quick else "15s"}]
    loop.apply(loop.package("v2", bias=0.15), rollout={"steps": steps})

    def over() -> bool:
        nonlocal looks
        looks = max(looks, int(loop.progress().get("looks") or 0))
        return loop.serves("v2") and not loop.phase()

    loop.until(over, 120, "v2 is promoted")
    spent = 1000 * (operator_use(loop).cpu - before)
    failed = {k: n for k, n in users.stop()["causes"].items() if k != "ok"}
    said = f"{spent:.0f} ms with {looks} looks (an interval of 1 s)"
    target = "< 54 ms + 1 ms a look (Argo, one pause step: 54)"
    return [
        at_most("operator CPU, rollout of a revision", target, 54 + LOOK_MS * looks, spent, said),
        Row("requests failed in a rollout, under load", "0", f"{failed or 0}", met=not failed),
    ]


def _taken_back(loop: Loop) -> list[Row]:
    """30 % of its answers are errors, at 10 of 20 requests a second."""
    users = loop.users(rows(missing=1 / 3), rate=20)
    loop.apply(loop.package("bad", bias=0.2, impute=False))
    loop.until(lambda: loop.is_true("Stalled"), 120, "the bad revision is taken back")
    last: dict[str, Any] = loop.until(
        lambda: _complete(loop.status().get("lastRollback")), 20, "its traffic is zero"
    )
    began = users.totals()["twentieth"].get(loop.revision("bad"))
    totals = users.stop()
    routing = {k: n for k, n in totals["causes"].items() if k.startswith(("routing", "connection"))}
    detected, zero = _unix(last["detectedAt"]), _unix(last["trafficZeroAt"])
    out = [
        at_most("hard regression: detected -> weight 0", "<= 5 s", 5.0, zero - detected,
                f"{zero - detected:.1f} s"),
        Row("requests failed by routing in a rollback", "0", f"{routing or 0}", met=not routing),
    ]  # fmt: skip
    if began is None:
        said = "detected before 20 candidate requests had failed"
        return [Row("hard regression: bad evidence -> detected", "<= 20 s", said, met=True), *out]
    took = detected - began
    said = f"{took:.1f} s after the 20th failed request of 10 a second"
    what = "hard regression: bad evidence -> detected"
    return [at_most(what, "<= 20 s", 20.0, max(0.0, took), said), *out]


def _complete(last: Any) -> dict[str, Any]:
    return dict(last) if last and last.get("trafficZeroAt") else {}


def _unix(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def _unchanged(loop: Loop) -> list[Row]:
    """In a process of its own beside the API server, when nothing else works."""
    loop.kill()
    out = loop.cluster.exec_python(str(PROBE), str(loop.cluster.kubeconfig), NAMESPACE, "iris1")
    found = json.loads(out.strip().splitlines()[-1])
    said = f"{found['settled_ms']:.3f} ms, {found['settled_requests']} requests"
    full = f"{found['full_ms']:.1f} ms with two routers read, {found['full_requests']} requests"
    none = found["settled_requests"] == 0
    return [
        at_most("one reconcile of an unchanged object", "<= 0.5 ms, 0 requests",
                0.5 if none else 0.0001, found["settled_ms"], said),
        Row("the same, when it has to look at everything", "", full),
    ]  # fmt: skip
