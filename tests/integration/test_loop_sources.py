"""A package on a PersistentVolumeClaim goes all the way to users."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from tests.integration.loop import Loop, loop_in

from sluice.local.cluster import LocalCluster

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(180)]


@pytest.fixture
def loop(cluster: LocalCluster, namespace: str, kubectl: Callable[..., str]) -> Iterator[Loop]:
    with loop_in(cluster, namespace, kubectl) as made:
        yield made
        kubectl("delete", "pv", namespace, "--ignore-not-found", "--wait=false")


def test_a_claim_holds_the_package(loop: Loop, namespace: str) -> None:
    loop.package("p1")
    size = {"storage": "1Gi"}
    loop.put(
        {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": namespace},
            "spec": {
                "capacity": size,
                "accessModes": ["ReadWriteMany"],
                "hostPath": {"path": str(loop.directory)},
                "storageClassName": "",
                "claimRef": {"name": "models", "namespace": namespace},
            },
        },
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": "models"},
            "spec": {
                "accessModes": ["ReadWriteMany"],
                "resources": {"requests": size},
                "storageClassName": "",
                "volumeName": namespace,
            },
        },
    )
    loop.start()
    loop.apply("pvc://models/p1", replicas=1, traffic={"routerReplicas": 1})
    loop.until(lambda: loop.is_true("Ready"), 60, "the package on the claim serves")
