"""The model server as a pod: its verdict, ``sluice call``, and the reason of a failed start."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sluice.controller.pods import is_ready
from sluice.local import binaries
from sluice.local.cluster import LocalCluster

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))

import runtime_support as support

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(180)]

Kubectl = Callable[..., str]


@pytest.fixture(scope="module")
def iris(tmp_path_factory: pytest.TempPathFactory) -> support.Built:
    return support.build_iris(tmp_path_factory.mktemp("iris"))


def pod(name: str, package: Path, *arguments: str) -> dict[str, Any]:
    """A pod as a revision's Deployment makes it, with the package on the node."""
    container = {
        "name": "server",
        "image": "sluice",
        "args": [
            "serve", "/model", "--host=$(POD_IP)", "--deployment=iris", "--revision=r1",
            "--verdict-file=/verdict/verdict", *arguments,
        ],
        "env": [
            {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
            {"name": "SLUICE_TERMINATION_LOG", "value": "/sluice/termination-log"},
        ],
        "ports": [{"name": "http", "containerPort": 8080}],
        "terminationMessagePath": "/sluice/termination-log",
        "readinessProbe": {"httpGet": {"path": "/readyz", "port": "http"}, "periodSeconds": 1},
        "securityContext": {"readOnlyRootFilesystem": True},
        "volumeMounts": [
            {"name": "model", "mountPath": "/model", "readOnly": True},
            {"name": "verdict", "mountPath": "/verdict"},
        ],
    }  # fmt: skip
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {
            "containers": [container],
            "restartPolicy": "Never",
            "volumes": [
                {"name": "model", "hostPath": {"path": str(package)}},
                {"name": "verdict", "configMap": {"name": "verdict"}},
            ],
        },
    }


SERVICE = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"name": "iris"},
    "spec": {"selector": {"app": "iris"}, "ports": [{"port": 80, "targetPort": "http"}]},
}


def verdict(text: str) -> str:
    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "verdict"},
            "data": {"verdict": text},
        }
    )


def test_a_pod_waits_for_its_verdict_and_is_called_by_name(
    cluster: LocalCluster,
    kubectl: Kubectl,
    namespace: str,
    eventually: Callable[..., Any],
    iris: support.Built,
    tmp_path: Path,
) -> None:
    kubectl("apply", "-n", namespace, "-f", "-", stdin=verdict("Pending"))
    objects = {"apiVersion": "v1", "kind": "List", "items": [pod("iris", iris.path), SERVICE]}
    kubectl("apply", "-n", namespace, "-f", "-", stdin=json.dumps(objects))

    def ready() -> bool:
        return is_ready(json.loads(kubectl("get", "pod", "iris", "-n", namespace, "-o", "json")))

    eventually(lambda: "serving http" in kubectl("logs", "iris", "-n", namespace), 60)
    assert not ready()
    kubectl("apply", "-n", namespace, "-f", "-", stdin=verdict("Passed"))
    eventually(ready, 90)

    row = tmp_path / "row.json"
    row.write_text(json.dumps(iris.rows[0]))
    path = f"{binaries.path('kubectl').parent}:{os.environ['PATH']}"
    done = subprocess.run(
        [sys.executable, "-m", "sluice.cli", "call", "iris", "-d", str(row), "-n", namespace],
        env={**os.environ, "PYTHONPATH": "operator", "KUBECONFIG": str(cluster.kubeconfig),
             "PATH": path},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["revision"] == "r1"
    assert answer["predictions"][0]["label"] == "setosa"

    kubectl("delete", "pod", "iris", "-n", namespace, "--wait=false")
    eventually(lambda: "NotFound" in kubectl_error(kubectl, namespace), 30)


def kubectl_error(kubectl: Kubectl, namespace: str) -> str:
    try:
        kubectl("get", "pod", "iris", "-n", namespace)
    except AssertionError as error:
        return str(error)
    return ""


def test_a_start_that_fails_is_in_the_pods_status(
    kubectl: Kubectl, namespace: str, eventually: Callable[..., Any], iris: support.Built
) -> None:
    kubectl("apply", "-n", namespace, "-f", "-", stdin=verdict("Passed"))
    wrong = pod("wrong", iris.path, "--digest=sha256:" + "0" * 64)
    kubectl("apply", "-n", namespace, "-f", "-", stdin=json.dumps(wrong))

    def terminated() -> dict[str, Any]:
        status = json.loads(kubectl("get", "pod", "wrong", "-n", namespace, "-o", "json"))["status"]
        found: dict[str, Any] = status["containerStatuses"][0]["state"]["terminated"]
        return found

    state = eventually(terminated, 60)
    assert state["exitCode"] == 3
    assert state["message"].startswith("DigestMismatch: The package at /model has digest ")
