"""Resolving and validating as the operator has it done: real Jobs, a real S3 server behind a
Service, credentials from a Secret, reports by termination message."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.tools.packages import linear_package
from tests.tools.s3server import build

from sluice.api.model import Model
from sluice.api.validation import Validation
from sluice.controller.reports import gates_view, resolve_view
from sluice.local.cluster import LocalCluster
from sluice.objects.common import Owner
from sluice.objects.jobs import gates_job, resolve_job

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

KEYS = {"AWS_ACCESS_KEY_ID": "reader", "AWS_SECRET_ACCESS_KEY": "hush-hush"}


@dataclass
class Site:
    """A namespace with an S3 server in it."""

    namespace: str
    kubectl: Callable[..., str]
    eventually: Callable[..., Any]

    @property
    def owner(self) -> Owner:
        return Owner("iris", self.namespace, "0")

    def apply(self, *objects: dict[str, Any]) -> None:
        for each in objects:
            # No ModelDeployment owns them here: garbage collection would take them for orphans.
            each["metadata"].pop("ownerReferences", None)
        text = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)})
        self.kubectl("-n", self.namespace, "apply", "--server-side", "-f", "-", stdin=text)

    def secret(self, name: str, **changes: str) -> None:
        endpoint = f"http://s3.{self.namespace}.svc.cluster.local"
        data = {**KEYS, "AWS_REGION": "us-east-1", "AWS_ENDPOINT_URL": endpoint, **changes}
        meta = {"name": name, "namespace": self.namespace}
        self.apply({"apiVersion": "v1", "kind": "Secret", "metadata": meta, "stringData": data})

    def finished(self, job: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """The Job when it has ended, and its pods."""
        name = job["metadata"]["name"]

        def ended() -> Any:
            found = json.loads(self._get("job", name))
            conditions = found.get("status", {}).get("conditions") or []
            return found if any(c["type"] in ("Complete", "Failed") for c in conditions) else None

        found = self.eventually(ended, 120)
        pods = json.loads(self._get("pods", "-l", f"sluice.dev/job={name}"))["items"]
        return found, pods

    def _get(self, *what: str) -> str:
        return self.kubectl("-n", self.namespace, "get", *what, "-o", "json")

    def push(self, package: Path, name: str) -> str:
        """Publish from a pod, as CI would; returns the address."""
        self.apply(
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": name, "namespace": self.namespace},
                "spec": {
                    "restartPolicy": "Never",
                    "containers": [
                        {
                            "name": "push",
                            "image": "sluice",
                            "args": ["push", "/package", "s3://models/iris"],
                            "envFrom": [{"secretRef": {"name": "s3"}}],
                            "volumeMounts": [{"name": "package", "mountPath": "/package"}],
                        }
                    ],
                    "volumes": [{"name": "package", "hostPath": {"path": str(package)}}],
                },
            }
        )
        phase = ("get", "pod", name, "-o", "jsonpath={.status.phase}")

        def ended() -> str:
            now = self.kubectl("-n", self.namespace, *phase)
            return now if now in ("Succeeded", "Failed") else ""

        log = ("-n", self.namespace, "logs", name)
        assert self.eventually(ended, 60) == "Succeeded", self.kubectl(*log) + self._get(
            "pod", name
        )
        lines = self.kubectl(*log).splitlines()
        return next(line.split()[1] for line in lines if line.startswith("uri:"))


def s3_objects(namespace: str, program: Path, buckets: Path) -> list[dict[str, Any]]:
    start = [
        "/s3/versitygw", "--quiet", "--port", ":7070",
        "posix", "--sidecar", "/buckets/metadata", "/buckets/data",
    ]  # fmt: skip
    container = {
        "name": "s3",
        "image": "python:3.11",
        "command": ["python3", "-c", f"import os; os.execv('/s3/versitygw', {start!r})"],
        "env": [
            {"name": "ROOT_ACCESS_KEY_ID", "value": KEYS["AWS_ACCESS_KEY_ID"]},
            {"name": "ROOT_SECRET_ACCESS_KEY", "value": KEYS["AWS_SECRET_ACCESS_KEY"]},
        ],
        "readinessProbe": {"tcpSocket": {"port": 7070}, "periodSeconds": 1},
        "volumeMounts": [
            {"name": "program", "mountPath": "/s3"},
            {"name": "buckets", "mountPath": "/buckets"},
        ],
    }
    volumes = [
        {"name": "program", "hostPath": {"path": str(program.parent)}},
        {"name": "buckets", "hostPath": {"path": str(buckets)}},
    ]
    meta = {"name": "s3", "namespace": namespace}
    return [
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {**meta, "labels": {"app": "s3"}},
            "spec": {
                "containers": [container],
                "volumes": volumes,
                "terminationGracePeriodSeconds": 1,
            },
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": dict(meta),
            "spec": {"selector": {"app": "s3"}, "ports": [{"port": 80, "targetPort": 7070}]},
        },
    ]


@pytest.fixture
def site(
    cluster: LocalCluster,
    namespace: str,
    kubectl: Callable[..., str],
    eventually: Callable[..., Any],
    tmp_path: Path,
) -> Site:
    site = Site(namespace, kubectl, eventually)
    program = tmp_path / "program" / "versitygw"
    program.parent.mkdir()
    shutil.copy(build(), program)
    buckets = tmp_path / "buckets"
    (buckets / "data" / "models").mkdir(parents=True)
    (buckets / "metadata").mkdir()
    holdout(buckets / "data" / "models" / "holdout.parquet")
    site.apply(*s3_objects(namespace, program, buckets))
    site.secret("s3")
    kubectl("-n", namespace, "wait", "--for=condition=Ready", "pod/s3", "--timeout=60s")
    return site


def holdout(file: Path) -> None:
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=2000), rng.normal(size=2000)
    label = (rng.random(2000) < 1 / (1 + np.exp(-(a - 2 * b)))).astype(int)
    pq.write_table(pa.table({"a": a, "b": b, "late": label}), file)


def model(uri: str, secret: str = "s3", **more: Any) -> Model:
    return Model.model_validate({"uri": uri, "credentialsRef": {"name": secret}, **more})


def test_from_push_to_verdict(site: Site, tmp_path: Path) -> None:
    digests = [
        linear_package(tmp_path / "v1"),
        linear_package(tmp_path / "v2", weights={"a": 1.05, "b": -2.0}),
        linear_package(tmp_path / "v3", weights={"a": -1.0, "b": -2.0}),
    ]
    uris = [site.push(tmp_path / f"v{n}", f"push-v{n}") for n in (1, 2, 3)]
    assert [uri.rpartition("-")[2] for uri in uris] == [d.removeprefix("sha256:") for d in digests]

    job = resolve_job(site.owner, "one", model(uris[0]), "sluice")
    site.apply(job)
    view = resolve_view(*site.finished(job))
    assert view.state == "Succeeded", view
    assert view.package is not None
    assert (view.package.digest, view.package.trust_class) == (digests[0], "Data")
    assert view.package.mutable_source is False

    quality = {
        "dataset": {
            "uri": "s3://models/holdout.parquet",
            "label": "late",
            "credentialsRef": {"name": "s3"},
        },
        "checks": [{"metric": "rocAuc", "min": 0.8, "maxDropVsStable": 0.01}],
    }
    validation = Validation.model_validate({"quality": quality, "latency": {"p99": "1s"}})
    for number, failed in ((1, []), (2, ["quality"])):
        job = gates_job(
            site.owner,
            f"r{number}",
            image="sluice",
            candidate=(uris[number], digests[number], "s3"),
            stable=(uris[0], digests[0], "s3"),
            validation=validation,
            allow_code=False,
        )
        pod = job["spec"]["template"]["spec"]
        assert all("envFrom" not in c for c in pod["containers"]), "the model sees no credentials"
        site.apply(job)
        gates = gates_view(*site.finished(job))
        assert gates.state == "Done", gates
        assert [g.name for g in gates.gates] == ["smoke", "schema", "golden", "quality", "latency"]
        assert [g.name for g in gates.gates if g.verdict != "Pass"] == failed, gates

    # What is no verdict on the model: the dataset has no such column.
    quality["dataset"]["label"] = "later"
    job = gates_job(
        site.owner,
        "r3",
        image="sluice",
        candidate=(uris[1], digests[1], "s3"),
        stable=None,
        validation=Validation.model_validate({"quality": quality}),
        allow_code=False,
    )
    site.apply(job)
    gates = gates_view(*site.finished(job))
    assert (gates.state, gates.gates, gates.retryable) == ("Broken", (), False)
    assert gates.message.startswith("The dataset has no column 'later' (it has a, b, late).")


HOLDOUT = "s3://models/holdout.parquet"
NOBODY = {"AWS_ENDPOINT_URL": "http://nobody.invalid"}
BAD: dict[str, tuple[str, dict[str, str], dict[str, Any], str, bool]] = {
    "key": ("s3://models/nope", {}, {}, "Missing", False),
    "bucket": ("s3://nobucket/nope", {}, {}, "Missing", False),
    "keys": ("s3://models/x", {"AWS_SECRET_ACCESS_KEY": "wrong"}, {}, "AccessDenied", False),
    "host": ("s3://models/x", NOBODY, {}, "Unreachable", True),
    "digest": (HOLDOUT, {}, {"digest": f"sha256:{0:064}"}, "DigestMismatch", False),
    "format": (HOLDOUT, {}, {}, "UnknownFormat", False),
}


def test_what_cannot_be_resolved(site: Site) -> None:
    jobs = {}
    for name, (uri, changes, more, _, _) in BAD.items():
        site.secret(name, **changes)
        jobs[name] = resolve_job(site.owner, name, model(uri, name, **more), "sluice")
        site.apply(jobs[name])
    for name, (_, _, _, reason, retryable) in BAD.items():
        view = resolve_view(*site.finished(jobs[name]))
        assert (view.state, view.reason, view.retryable) == ("Failed", reason, retryable), view
        assert "hush" not in view.message and "wrong" not in view.message
