"""A namespace that has no room: said in status, and over when there is room again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.integration.loop import Loop, loop_in

from sluice.local.cluster import LocalCluster

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(180)]


@pytest.fixture
def loop(cluster: LocalCluster, namespace: str, kubectl: Callable[..., str]) -> Iterator[Loop]:
    with loop_in(cluster, namespace, kubectl) as made:
        yield made


def quota(**hard: str) -> dict[str, Any]:
    """Room for so many."""
    named = {k.replace("_", "/"): v for k, v in hard.items()}
    meta = {"name": "small"}
    return {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": meta, "spec": {"hard": named}}


def test_a_quota_is_named_until_there_is_room(loop: Loop) -> None:
    loop.put(quota(count_services="0"))
    loop.until(lambda: "count/services" in _used(loop), 20, "the quota counts")
    uri = loop.package("v1", bias=0.1)
    loop.start()
    loop.apply(uri, replicas=1, traffic={"routerReplicas": 1})
    loop.until(lambda: loop.condition("Stalled").get("reason") == "Forbidden", 30, "refused")
    said = loop.condition("Stalled")["message"]
    assert "exceeded quota" in said and "Service" in said, said

    loop.put(quota(count_pods="0"))
    loop.until(lambda: "count/pods" in _used(loop), 20, "the quota counts pods")
    loop.until(lambda: "describe job/" in loop.condition("Ready")["message"], 40, "no pod")
    loop.kubectl("-n", loop.namespace, "delete", "resourcequota", "small")
    loop.until(lambda: loop.serves("v1"), 90, "there is room")
    assert not loop.is_true("Stalled")


def _used(loop: Loop) -> dict[str, str]:
    found = loop.cluster.api(f"/api/v1/namespaces/{loop.namespace}/resourcequotas/small")
    return dict(found.get("status", {}).get("used", {}))
