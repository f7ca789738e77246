"""Experiments on the cluster: real users through the router, real feedback, planted effects."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.integration.loop import Loop, Obj, Process, loop_in

from sluice.local.cluster import LocalCluster

pytestmark = [pytest.mark.cluster, pytest.mark.load, pytest.mark.timeout(400)]

TOKEN = "open-for-tests-only"
STUDY: Obj = {
    "metric": "conversion",
    "kind": "Conversion",
    "weight": 50,
    "window": "3s",
    "maxUnits": 30_000,
    "maxDuration": "10m",
    "feedback": {"secretRef": {"name": "feedback"}},
}
QUIET: Obj = {"checks": [{"name": "errors", "type": "ErrorRate"}], "interval": "1s"}


@pytest.fixture
def loop(cluster: LocalCluster, namespace: str, kubectl: Callable[..., str]) -> Iterator[Loop]:
    with loop_in(cluster, namespace, kubectl) as made:
        made.put(
            {
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": {"name": "feedback", "namespace": namespace},
                "stringData": {"token": TOKEN},
            }
        )
        yield made


class Shop:
    """Users that come and buy; ``plan`` may change while they do."""

    def __init__(self, loop: Loop, *, rate: int = 100, pool: int = 0) -> None:
        self._plan = loop.directory / "shop.json"
        self._output = loop.directory / "shoppers.jsonl"
        self.plan({})
        url = f"http://iris.{loop.namespace}.svc.cluster.local"
        argv = ["-m", "tests.tools.shoppers", url, TOKEN, str(self._plan)]
        argv += ["--rate", str(rate), "--pool", str(pool)]
        self.process = Process(loop.cluster, argv, self._output)
        loop.processes.append(self.process)

    def plan(self, plan: Obj) -> None:
        """Written beside and moved: the shoppers never read half of it."""
        part = Path(f"{self._plan}.part")
        part.write_text(json.dumps(plan))
        part.replace(self._plan)

    def totals(self) -> Obj:
        lines = [x for x in self._output.read_bytes().split(b"\n")[:-1] if x.startswith(b"{")]
        return dict(json.loads(lines[-1])["totals"]) if lines else {}


def experiment(loop: Loop) -> Obj:
    return dict(loop.status().get("experiment") or {})


def parts(loop: Loop) -> list[str]:
    names = [o["metadata"]["name"] for o in loop.list("ConfigMap")]
    return sorted(n for n in names if n.startswith("iris-exp-"))


def began(loop: Loop, *, buys: float, pool: int = 0, step: str = "2s", **study: object) -> Shop:
    """v1 serves and sells to 80 % of its users; v2 has passed its step and sells to ``buys``."""
    loop.start()
    changes: Obj = {
        "traffic": {"unit": {"header": "X-User-Id"}, "routerReplicas": 1},
        "replicas": 1,
        "experiment": {**STUDY, **study},
        "analysis": QUIET,
        "rollout": {"steps": [{"weight": 50, "minRequests": 50, "minDuration": step}]},
    }
    loop.apply(loop.package("v1", bias=0.1), **changes)
    loop.until(lambda: loop.serves("v1"), 60, "v1 serves")
    shop = Shop(loop, pool=pool)
    loop.apply(loop.package("v2", bias=0.2), **changes)
    loop.until(lambda: loop.revision("v2"), 30, "v2 is known")
    shop.plan({"buy": {loop.revision("v1"): 0.8, loop.revision("v2"): buys}})
    loop.until(lambda: loop.phase() == "Experimenting", 60, "the experiment begins")
    return shop


def test_a_tenth_more_conversions_are_superior_and_promoted(loop: Loop) -> None:
    shop = began(loop, buys=0.88)
    loop.until(lambda: parts(loop) == ["iris-exp-0"], 60, "units are written down")
    assert loop.condition("Ready")["reason"] == "Held"
    loop.until(lambda: loop.phase() in ("Promoting", "Watching", ""), 150, "a verdict")
    loop.until(lambda: loop.serves("v2"), 60, "v2 serves")
    result = experiment(loop)
    assert result["verdict"] == "Superior", result
    assert result["low"] > 1.0
    assert result["candidate"]["value"] > result["stable"]["value"]
    loop.until(lambda: parts(loop) == [], 20, "its log is removed")
    assert set(shop.totals()) <= {"predict:200", "feedback:202"}, shop.totals()
    print(f"planted +10 %: {result}")


def test_equal_arms_are_not_told_apart_and_a_killed_operator_loses_no_unit(loop: Loop) -> None:
    # With the default, one in twenty of such tests may end otherwise.
    shop = began(loop, buys=0.8, maxUnits=4000, alpha=0.001)
    loop.until(lambda: experiment(loop).get("candidate", {}).get("count", 0) > 100, 60, "units")
    before = experiment(loop)["exposed"]
    loop.kill()
    assert feedback_without_a_token(loop) == "401"
    loop.start()
    loop.until(lambda: experiment(loop).get("exposed", 0) > before + 300, 60, "it goes on")

    loop.until(lambda: loop.condition("Stalled").get("status") == "True", 120, "its end")
    assert loop.condition("Stalled")["reason"] == "Inconclusive"
    assert loop.phase() == "Experimenting"
    result = experiment(loop)
    assert result["verdict"] == "Inconclusive", result
    assert result["exposed"] == 4000
    assert (result["crossed"], result["sampleRatio"]["log10Evidence"] < 3) == (0, True)
    assert result["stable"]["count"] + result["candidate"]["count"] == 4000
    for arm in ("stable", "candidate"):
        assert 0.76 < result[arm]["value"] < 0.84, "outcomes were lost or counted twice"
    assert set(shop.totals()) <= {"predict:200", "feedback:202"}, shop.totals()
    print(f"A/A: {result}")


def feedback_without_a_token(loop: Loop) -> str:
    code = (
        "import urllib.request, urllib.error\n"
        f"request = urllib.request.Request('http://iris.{loop.namespace}.svc.cluster.local"
        "/feedback', data=b'{\"value\": 1}', headers={'X-User-Id': 'u'})\n"
        "try:\n    urllib.request.urlopen(request)\n"
        "except urllib.error.HTTPError as error:\n    print(error.code)\n"
    )
    return str(loop.cluster.exec_python("-c", code)).strip()


def test_users_that_leave_one_arm_are_untrusted_and_nothing_is_promoted(loop: Loop) -> None:
    shop = began(loop, buys=0.95, pool=1200, step="15s")
    shop.plan({
        "buy": {loop.revision("v1"): 0.8, loop.revision("v2"): 0.95},
        "away": {loop.revision("v2"): 0.5},
    })  # fmt: skip
    loop.until(lambda: experiment(loop).get("verdict") == "Untrusted", 90, "it is noticed")
    loop.stays(lambda: loop.phase() == "Experimenting", 5, "nothing is decided")
    result = experiment(loop)
    assert result["verdict"] == "Untrusted", result
    assert "nothing is promoted" in loop.condition("Ready")["message"]
    assert result["sampleRatio"]["observed"] < 0.5
    print(f"sample ratio fault: {result}")
