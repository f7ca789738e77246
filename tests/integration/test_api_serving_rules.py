"""What the real API server refuses and accepts of model, serving, validation and traffic."""

from __future__ import annotations

from typing import Any

import pytest
from tests.integration.crd_rules import (
    DIGEST,
    GATES,
    MODEL,
    SERVING,
    Case,
    Server,
    assert_told_apart,
)

from sluice.sources.address import parse

pytestmark = pytest.mark.cluster

DATA = {"uri": "s3://data/holdout.parquet"}


def quality(**check: Any) -> dict[str, Any]:
    return {"dataset": DATA, "checks": [check]}


ADDRESSES = [
    Case(f"{MODEL}.uri", "gcs://models/iris", "gs://models/iris", "should match"),
    Case(f"{MODEL}.uri", "gs://models", "gs://models/iris", "gs://bucket/key"),
    Case(f"{MODEL}.uri", "az://models//iris", "az://models/iris/v2/", "az://container/key"),
    Case(f"{MODEL}.uri", "oci://r.example", "oci://r.example:5000/a/b-c", "oci://registry/"),
    Case(f"{MODEL}.uri", "oci://r.example/UPPER", "oci://r.example/a:V1", "oci://registry/"),
    Case(f"{MODEL}.uri", "oci://r/a@sha256:12", f"oci://[::1]:5000/a@{DIGEST}", "oci://registry/"),
    Case(f"{MODEL}.uri", "oci://r/a:v1:v2", f"oci://r/a:v1@{DIGEST}", "oci://registry/"),
    Case(f"{MODEL}.uri", "oci://me:pw@r/a", "oci://r/a", "credentialsRef"),
    Case(f"{MODEL}.uri", "hf://acme/iris", "hf://acme/iris/model.onnx", "hf://org/"),
    Case(f"{MODEL}.uri", "hf://acme/iris@/m", "hf://acme/iris@v2/a/m.onnx", "hf://org/"),
    Case(f"{MODEL}.uri", "hf://acme/iris/../m", "hf://acme/iris/..m", "'..' segment"),
    Case(f"{MODEL}.uri", "mlflow://models/churn", "mlflow://models/churn@prod", "mlflow://models/"),
    Case(f"{MODEL}.uri", "mlflow://models/a/b", "mlflow://models/a%20b/3", "mlflow://models/"),
    Case(f"{MODEL}.uri", "mlflow://runs/a/3", "mlflow://models/a/3", "mlflow://models/"),
    Case(f"{MODEL}.uri", "models/iris", "file:///models/iris", "should match"),
    Case(f"{MODEL}.uri", "s3://models", "s3://models/iris", "s3://bucket/key"),
    Case(f"{MODEL}.uri", "pvc://claim", "pvc://claim/iris", "pvc://claim/path"),
    Case(f"{MODEL}.uri", "file://models/iris", "file:///models/iris", "file:///path"),
    Case(f"{MODEL}.uri", "https://m.example", "https://m.example/iris", "https://host/path"),
    Case(f"{MODEL}.uri", "http://m.example/", "http://m.example:8000/a?b=c", "https://host/path"),
    Case(f"{MODEL}.uri", "file:///a/../b", "file:///a/..b/c", "'..' segment"),
    Case(f"{MODEL}.uri", "pvc://claim/a/..", "pvc://claim/a/b..", "'..' segment"),
    Case(f"{MODEL}.uri", "s3://b/%2e%2E/k", "s3://b/%2e%2e%2e/k", "'..' segment"),
    Case(f"{MODEL}.uri", "https://me:pw@m.example/a", "https://m.example/@a", "credentialsRef"),
    Case(f"{MODEL}.uri", "s3://key:secret@bucket/a", "s3://bucket/a@b", "credentialsRef"),
    Case(f"{MODEL}.uri", "file:///a/./b", "file:///a/.b/c", "'..' segment"),
    Case(f"{MODEL}.uri", "pvc://claim/a%2f..%2fb", "pvc://claim/a%2fb", "'..' segment"),
    Case(f"{MODEL}.uri", "s3://b//k", "s3://b/k/", "s3://bucket/key"),
    Case(f"{MODEL}.uri", "s3://b/k?versionId=1", "s3://b/k=1", "s3://bucket/key"),
    Case(f"{MODEL}.uri", "http://h:port/a", "http://[::1]:80/a", "https://host/path"),
    Case(f"{MODEL}.uri", "file:///a\\b", "file:///a%5Cb", "should match"),
    Case(f"{MODEL}.digest", "sha256:9F2C", DIGEST, "should match"),
    Case(
        MODEL,
        {"uri": "pvc://claim/iris", "credentialsRef": {"name": "key"}},
        {"uri": "s3://models/iris", "credentialsRef": {"name": "key"}},
        "must not be set for file:// and pvc://",
        f"{MODEL}.credentialsRef",
    ),
    Case(
        f"{GATES}.quality",
        {"dataset": {"uri": "s3://data"}, "checks": [{"metric": "f1", "min": 0.5}]},
        {"dataset": DATA, "checks": [{"metric": "f1", "min": 0.5}]},
        "s3://bucket/key",
        f"{GATES}.quality.dataset.uri",
    ),
]

PODS = [
    Case("spec.replicas", -1, 0, "greater than or equal to 0"),
    Case(f"{SERVING}.timeout", "5ms", "10ms", "between 10ms and 10m"),
    Case(f"{SERVING}.timeout", "11m", "10m", "between 10ms and 10m"),
    Case(f"{SERVING}.timeout", "2 s", "1s500ms", "should match"),
    Case(f"{SERVING}.readinessGate", "native", "Probe", "supported values"),
    Case(
        f"{SERVING}.runtime",
        {"image": "a b"},
        {"image": "r.example:5000/a/sluice:1"},
        "should",
        f"{SERVING}.runtime.image",
    ),
    Case(
        f"{SERVING}.env",
        [{"name": "SLUICE_TOKEN"}],
        [{"name": "MY_SLUICE_"}],
        "SLUICE_",
        f"{SERVING}.env[0].name",
    ),
    Case(
        f"{SERVING}.env",
        [{"name": "A"}, {"name": "A"}],
        [{"name": "A"}, {"name": "B"}],
        "Duplicate value",
        f"{SERVING}.env[1]",
    ),
    Case(
        f"{SERVING}.env",
        [{"name": "1A"}],
        [{"name": "_1A"}],
        "should match",
        f"{SERVING}.env[0].name",
    ),
    Case(
        f"{SERVING}.resources",
        {"requests": {"cpu": "1"}, "limits": {"cpu": "900m"}},
        {"requests": {"cpu": "900m"}, "limits": {"cpu": 1}},
        "must not exceed limits.cpu",
        f"{SERVING}.resources.requests.cpu",
    ),
    Case(
        f"{SERVING}.resources",
        {"requests": {"memory": "1Gi"}, "limits": {"memory": "1000Mi"}},
        {"requests": {"memory": "1Gi"}, "limits": {"memory": "1024Mi"}},
        "must not exceed limits.memory",
        f"{SERVING}.resources.requests.memory",
    ),
    Case(
        f"{SERVING}.resources",
        {"limits": {"cpu": "a lot"}},
        {"limits": {"cpu": "0.5"}},
        "must be a Kubernetes quantity",
        f"{SERVING}.resources.limits.cpu",
    ),
    Case(
        f"{SERVING}.pod.labels",
        {"sluice.dev/revision": "a"},
        {"example.com/sluice": "a"},
        "Argo CD, Flux or Helm own",
    ),
    Case(
        f"{SERVING}.pod.labels",
        {"app.kubernetes.io/instance": "a"},
        {"app.kubernetes.io/part-of": "a"},
        "Argo CD, Flux or Helm own",
    ),
    Case(f"{SERVING}.pod.labels", {"team": "a b"}, {"team": "a-b"}, "label values"),
    Case(f"{SERVING}.pod.labels", {"my team": "a"}, {"my.org/team": "a"}, "label keys"),
    Case(
        f"{SERVING}.pod.annotations",
        {"argocd.argoproj.io/tracking-id": "a"},
        {"prometheus.io/scrape": "true"},
        "Argo CD, Flux or Helm own",
    ),
    Case(f"{SERVING}.pod.annotations", {"a/b/c": "a"}, {"a/b": "any text, 100 %"}, "label keys"),
    Case(
        f"{SERVING}.pod.nodeSelector",
        {"disk type": "ssd"},
        {"kubernetes.io/arch": "amd64"},
        "label keys",
    ),
    Case(f"{SERVING}.pod.nodeSelector", {"disk": "a/b"}, {"disk": ""}, "label values"),
    Case(
        f"{SERVING}.pod.tolerations",
        [{"operator": "Is"}],
        [{"operator": "Exists"}],
        "supported values",
        f"{SERVING}.pod.tolerations[0].operator",
    ),
]

VALIDATION = [
    Case(
        f"{GATES}.quality",
        quality(metric="rocAuc"),
        quality(metric="rocAuc", min=0.8),
        "min or maxDropVsStable must be set",
        f"{GATES}.quality.checks[0]",
    ),
    Case(
        f"{GATES}.quality",
        quality(metric="r2", max=0.9),
        quality(metric="r2", maxDropVsStable=0.01),
        "min or maxDropVsStable must be set",
        f"{GATES}.quality.checks[0]",
    ),
    Case(
        f"{GATES}.quality",
        quality(metric="rmse", min=1),
        quality(metric="rmse", max=12),
        "max or maxDropVsStable must be set",
        f"{GATES}.quality.checks[0]",
    ),
    Case(
        f"{GATES}.quality",
        quality(metric="f1", min=0.9, max=0.8),
        quality(metric="f1", min=0.8, max=0.9),
        "min must not exceed max",
        f"{GATES}.quality.checks[0].min",
    ),
    Case(
        f"{GATES}.quality",
        quality(metric="accuracy", min=80),
        quality(metric="accuracy", min=0.80),
        "write 0.80, not 80",
        f"{GATES}.quality.checks[0].min",
    ),
    Case(
        f"{GATES}.quality",
        quality(metric="rocAuc", min=0.8, max=99),
        quality(metric="rocAuc", min=0.8, max=1),
        "write 0.99, not 99",
        f"{GATES}.quality.checks[0].max",
    ),
    Case(
        f"{GATES}.quality",
        {"dataset": DATA, "checks": []},
        quality(metric="mae", max=3),
        "at least 1 items",
        f"{GATES}.quality.checks",
    ),
    Case(
        f"{GATES}.latency",
        {"p99": "0s"},
        {"p99": "1ms"},
        "between 1ms and 10m",
        f"{GATES}.latency.p99",
    ),
    Case(
        f"{GATES}.latency",
        {"p99": "3s"},
        {"p99": "2s"},
        "must not exceed serving.timeout",
        f"{GATES}.latency.p99",
    ),
    Case(
        f"{GATES}.golden",
        {"tolerance": -1},
        {"tolerance": 0.001},
        "greater than or equal to 0",
        f"{GATES}.golden.tolerance",
    ),
    Case(f"{GATES}.initial", "Never", "SmokeOnly", "supported values"),
]

TRAFFIC = [
    Case("spec.traffic.unit", {}, {"cookie": "sid"}, "exactly one of header and cookie"),
    Case(
        "spec.traffic.unit",
        {"header": "X-User", "cookie": "sid"},
        {"header": "X-User"},
        "exactly one of header and cookie",
    ),
    Case(
        "spec.traffic.unit",
        {"header": "x-sluice-bucket"},
        {"header": "X-Sluicegate"},
        "the router overwrites those",
        "spec.traffic.unit.header",
    ),
    Case("spec.traffic.routerReplicas", 0, 1, "greater than or equal to 1"),
]

CASES = [*ADDRESSES, *PODS, *VALIDATION, *TRAFFIC]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_wrong_value_is_refused_with_field_and_rule_and_its_twin_is_accepted(
    crd_server: Server, case: Case
) -> None:
    assert_told_apart(crd_server, case)


def test_what_the_server_accepts_can_be_fetched_from() -> None:
    for case in ADDRESSES:
        if case.at.endswith(".uri"):
            assert parse(case.good).uri, case
