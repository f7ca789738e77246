"""The operator dies and is away: nothing is lost, nobody is refused, and the end is the same."""

from __future__ import annotations

import json
import random
import re
import signal
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.integration.loop import Loop, Obj, loop_in, not_by_the_model, rows

from sluice.controller.pods import is_ready
from sluice.local.cluster import LocalCluster

pytestmark = [pytest.mark.cluster, pytest.mark.load, pytest.mark.timeout(300)]

STEPS = [
    {"weight": 20, "minRequests": 50, "minDuration": "3s"},
    {"weight": 50, "minRequests": 50, "minDuration": "3s"},
]
ROLLOUT = {"steps": STEPS, "watch": {"duration": "3s", "holdback": 10, "minRequests": 50}}
SEED = 20131
KILLS = 10
AWAY_SECONDS = 10.0
MOST_IN_A_PHASE = 3
"""Instead of the ten minutes of the promise: nothing in the path of requests knows the time."""


@pytest.fixture
def loop(cluster: LocalCluster, namespace: str, kubectl: Callable[..., str]) -> Iterator[Loop]:
    with loop_in(cluster, namespace, kubectl) as made:
        yield made


@pytest.fixture
def calm(cluster: LocalCluster, kubectl: Callable[..., str]) -> Iterator[Loop]:
    """A second namespace, whose operator is left alone."""
    name = f"t-{uuid.uuid4().hex[:8]}"
    kubectl("create", "namespace", name)
    with loop_in(cluster, name, kubectl) as made:
        yield made
    kubectl("delete", "namespace", name, "--wait=false")


def test_ten_kills_in_a_canary_change_nothing_and_absence_stops_nobody(
    loop: Loop, calm: Loop
) -> None:
    first, second = loop.package("v1", bias=0.1), loop.package("v2", bias=0.2)
    calm.digests = loop.digests
    for each in (loop, calm):
        each.start()
        each.apply(first)
    loop.apply(first, "probe", serving={"readinessGate": "Probe"})
    for each in (loop, calm):
        each.until(lambda each=each: each.serves("v1"), 60, "v1 serves")  # type: ignore[misc]
    users, others = loop.users(rows(), rate=80), calm.users(rows(), rate=80)
    for each in (loop, calm):
        each.apply(second, rollout=ROLLOUT)
    _kill_again_and_again(loop)
    other = loop.operator
    loop.start()  # Two that both think they lead do no harm either.
    for each in (loop, calm):
        each.until(lambda each=each: _settled(each, "v2"), 90, "v2 is promoted")  # type: ignore[misc]
    assert other is not None
    other.end(signal.SIGKILL)
    assert not_by_the_model(others.stop()) == {}
    disturbed, undisturbed = _shape(loop), _shape(calm)
    assert sorted(disturbed) == sorted(undisturbed)
    for name, body in undisturbed.items():
        assert disturbed[name] == body, name
    calm.kill()
    loop.until(lambda: loop.serves("v1", "probe"), 60, "the other model serves")
    _away(loop, users)
    totals = users.stop()
    assert not_by_the_model(totals) == {}, totals
    assert set(totals["causes"]) == {"ok"}, totals


def _kill_again_and_again(loop: Loop) -> None:
    """At random moments, but not all of them in the phase that lasts longest."""
    moments = random.Random(SEED)
    seen: Counter[str] = Counter()
    for number in range(KILLS):
        phase = loop.phase()
        if phase and seen[phase] >= MOST_IN_A_PHASE:
            loop.until(lambda p=phase: loop.phase() != p, 60, f"{phase} ends")  # type: ignore[misc]
        time.sleep(moments.uniform(0.2, 1.5))
        phase = loop.phase()
        seen[phase] += 1
        print(f"kill {number + 1} in phase {phase or 'none'}")
        loop.kill()
        loop.start()


def _settled(loop: Loop, package: str) -> bool:
    return loop.serves(package) and "previous" not in loop.status()


def _away(loop: Loop, users: Any) -> None:
    """Serving goes on; a new pod waits for the operator, or, under Probe, does not."""
    loop.kill()
    gone = time.monotonic()
    before = users.ok()
    native, probe = _pods(loop, "iris")[0], _pods(loop, "probe")[0]
    for pod in (native, probe):
        loop.kubectl("-n", loop.namespace, "delete", "pod", pod, "--wait=false")
    loop.until(lambda: len(_ready(loop, "probe") - {probe}) == 2, 40, "Probe needs no operator")
    assert len(_ready(loop, "iris") - {native}) == 1, "a new pod waits for its verdict"
    time.sleep(max(0.0, gone + AWAY_SECONDS - time.monotonic()))
    assert users.ok() - before > 20 * AWAY_SECONDS
    log = loop.directory / "operator.log"
    starts = log.read_text().count("The caches are filled")
    loop.start()
    loop.until(lambda: log.read_text().count("caches are filled") > starts, 60, "it is back")
    loop.until(lambda: len(_ready(loop, "iris") - {native}) == 2, 30, "the new pod is ready")


def _pods(loop: Loop, name: str) -> list[str]:
    """Serving pods of stable."""
    stable = loop.mdep(name)["status"]["stable"]["revision"]
    prefix = f"{name}-rev-{stable}-"
    return [n for p in loop.list("Pod") if (n := p["metadata"]["name"]).startswith(prefix)]


def _ready(loop: Loop, name: str) -> set[str]:
    names = set(_pods(loop, name))
    return {n for p in loop.list("Pod") if (n := p["metadata"]["name"]) in names and is_ready(p)}


def _shape(loop: Loop) -> Obj:
    """Everything that belongs to ``iris``, without what differs between any two of its kind.

    Nor what stands without a role: it is kept for a while after it has lost it, and then goes.
    """
    out: Obj = {}
    gone = {f"iris-rev-{r}" for r in loop.progress()["roles"]["left"]}
    for kind in ("Deployment", "Service", "ConfigMap", "Job", "PodDisruptionBudget"):
        for found in loop.list(kind):
            labels = found["metadata"].get("labels", {})
            leaves = any(found["metadata"]["name"].startswith(name) for name in gone)
            if labels.get("sluice.dev/deployment") == "iris" and not leaves:
                body = {k: found[k] for k in ("spec", "data") if k in found}
                out[f"{kind}/{found['metadata']['name']}"] = [labels, _plain(loop, body)]
    for record in loop.list("ModelRevision"):
        if record["spec"]["deployment"] == "iris":
            verdict = {k: record["verdict"].get(k) for k in ("phase", "reason", "scope")}
            spec = _plain(loop, record["spec"])
            out[f"ModelRevision/{record['metadata']['name']}"] = [spec, verdict]
    roles = {k: v for k, v in loop.progress()["roles"].items() if "alt" not in k and k != "left"}
    rest = {k: loop.progress().get(k) for k in ("rollout", "watch", "outcome")}
    out["ConfigMap/iris-evidence"] = [roles, rest]
    return out


def _plain(loop: Loop, body: Obj) -> Any:
    text = json.dumps(body).replace(loop.namespace, "NAMESPACE")
    for drop in ("clusterIP", "clusterIPs", "healthCheckNodePort"):
        text = re.sub(rf'"{drop}": (\[[^]]*\]|"[0-9.]+"),? ?', "", text)
    text = re.sub(r"\b\d+\.\d+\.\d+\.\d+\b", "ADDRESS", text)
    return re.sub(r'([sS]alt\\": ?\\")[0-9a-z]+', r"\1", text)
