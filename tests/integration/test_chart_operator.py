"""The chart's own operator, as pods with their ServiceAccount, serves the first example.

It is confined to the test's namespace, so that tests beside it are left alone.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.integration.conftest import eventually
from tests.integration.loop import Loop, Users
from tests.tools.helm import CHART, ROOT, helm

from sluice.api.conditions import compute

pytestmark = pytest.mark.cluster

EXAMPLE = ROOT / "manifests" / "examples" / "iris.yaml"
ROW = {
    "sepal_length_cm": 5.1,
    "sepal_width_cm": 3.5,
    "petal_length_cm": 1.4,
    "petal_width_cm": 0.2,
}

CANARY = {
    "spec": {
        "model": {"uri": "http://iris-models/iris/v2"},
        "rollout": {"steps": [{"weight": 20, "minDuration": "1h"}]},
    }
}

Kubectl = Callable[..., str]


class Release:
    """One Helm release in one namespace."""

    def __init__(self, cluster: Any, namespace: str) -> None:
        self._where = ("--kubeconfig", str(cluster.kubeconfig), "--namespace", namespace)
        self._values = ("--set", f"watchNamespaces={{{namespace}}}", "--wait", "--timeout", "120s")

    def put(self, verb: str, *more: str) -> None:
        helm(verb, "sluice", str(CHART), *self._values, *more, *self._where)

    def remove(self) -> None:
        helm("uninstall", "sluice", "--wait", "--timeout", "60s", *self._where, check=False)


@pytest.fixture
def release(cluster: Any, namespace: str) -> Iterator[Release]:
    """The chart, installed."""
    release = Release(cluster, namespace)
    release.put("install")
    yield release
    release.remove()


def serving(kubectl: Kubectl, namespace: str) -> dict[str, str]:
    """Serving pods and routers of iris, by name: uid and restarts."""
    pods = json.loads(
        kubectl("get", "pods", "-n", namespace, "-l", "sluice.dev/deployment=iris", "-o", "json")
    )["items"]
    return {
        pod["metadata"]["name"]: f"{pod['metadata']['uid']}"
        f" {sum(c['restartCount'] for c in pod['status'].get('containerStatuses', []))}"
        for pod in pods
        if pod["status"]["phase"] == "Running"
    }


def ask(cluster: Any, namespace: str) -> Any:
    """The model's answer at the address that status names."""
    answer = cluster.http(
        f"http://iris.{namespace}.svc.cluster.local/predict", method="POST", json_body=ROW
    )
    assert answer.status == 200, answer.text
    return answer.json()["predictions"][0]


def managers_of_spec(kubectl: Kubectl, namespace: str) -> set[str]:
    """Who wrote something below spec."""
    body = json.loads(
        kubectl("get", "mdep/iris", "-n", namespace, "-o", "json", "--show-managed-fields")
    )
    fields = body["metadata"]["managedFields"]
    return {entry["manager"] for entry in fields if "f:spec" in entry["fieldsV1"]}


def weight(kubectl: Kubectl, namespace: str) -> int:
    """The candidate's share as routers report it."""
    path = "jsonpath={.status.candidate.weight.observed}"
    return int(kubectl("get", "mdep/iris", "-n", namespace, "-o", path) or 0)


@contextmanager
def users(cluster: Any, namespace: str, kubectl: Kubectl, directory: Path) -> Iterator[Users]:
    """Twenty requests a second until the block ends."""
    loop = Loop(cluster, namespace, kubectl, directory)
    try:
        yield loop.users([ROW], rate=20)
    finally:
        loop.close()


def test_install_serve_upgrade_uninstall(
    cluster: Any, namespace: str, kubectl: Kubectl, release: Release, tmp_path: Path
) -> None:
    kubectl("apply", "--server-side", "-n", namespace, "-f", str(EXAMPLE))
    kubectl(
        "wait", "--for=condition=Ready", "mdep/iris", "-n", namespace, "--timeout=120s",
        timeout=150,
    )  # fmt: skip
    assert ask(cluster, namespace)["label"] == "setosa"
    assert f"iris.{namespace}.svc" in kubectl("get", "mdep", "-n", namespace, "-o", "wide")

    body = json.loads(kubectl("get", "mdep/iris", "-n", namespace, "-o", "json"))
    assert compute(body) == "Current"

    # What Git applied is what is there: no difference, and no field of spec is ours.
    assert managers_of_spec(kubectl, namespace) == {"kubectl"}
    kubectl("diff", "--server-side", "-n", namespace, "-f", str(EXAMPLE))

    # A canary is on its way all the while, and users never stop asking.
    with users(cluster, namespace, kubectl, tmp_path) as asking:
        kubectl("patch", "mdep/iris", "-n", namespace, "--type=merge", "-p", json.dumps(CANARY))
        eventually(lambda: weight(kubectl, namespace) == 20, 120)
        before = serving(kubectl, namespace)
        assert len(before) == 5, before  # The candidate has as many pods as its share needs.

        release.put("upgrade", "--set", "podAnnotations.restarted=now")
        assert serving(kubectl, namespace) == before
        held = kubectl("get", "mdep/iris", "-n", namespace, "-o", "jsonpath={.status.step.index}")
        assert held == "1"

        logs_are_clean(kubectl, namespace)
        release.remove()
        seen = asking.ok()
        eventually(lambda: asking.ok() > seen + 100, 30)
        assert serving(kubectl, namespace) == before
        totals = asking.stop()
    assert set(totals["causes"]) == {"ok"}, totals
    assert len(totals["byRevision"]) == 2
    assert ask(cluster, namespace)["label"] == "setosa"
    kubectl("get", "mdep/iris", "-n", namespace)


def logs_are_clean(kubectl: Kubectl, namespace: str) -> None:
    """Nothing was forbidden and nothing went wrong in the operator's pods."""
    logs = kubectl(
        "logs", "-n", namespace, "-l", "app.kubernetes.io/component=operator", "--tail=500"
    )
    assert "orbidden" not in logs
    assert "Traceback" not in logs
