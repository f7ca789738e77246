"""What the real API server refuses and accepts, rule by rule.

Every refused object has a twin that differs in the one field at fault and is accepted.  A last
test proves that no rule of the CRDs is without such a pair.
"""

from __future__ import annotations

import base64
import copy
import json
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from sluice.api.cel import VALIDATIONS
from sluice.api.crd import crd, stale
from sluice.api.kinds import KINDS, MODEL_DEPLOYMENT, MODEL_REVISION, TRUST_POLICY, Kind
from sluice.api.meta import API_VERSION
from sluice.sources.address import parse

pytestmark = pytest.mark.cluster

CRDS = Path(__file__).parents[2] / "crds"
DIGEST = "sha256:" + "9f" * 32
OTHER = "sha256:" + "ab" * 32


class Server:
    """The API server by plain HTTP: a dry run with strict fields takes milliseconds."""

    def __init__(self, kubeconfig: Path) -> None:
        config = yaml.safe_load(kubeconfig.read_text())
        cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
        self.url = cluster["server"]
        authority = base64.b64decode(cluster["certificate-authority-data"]).decode()
        self.tls = ssl.create_default_context(cadata=authority)
        pair = kubeconfig.parent / "api-server-test.pem"
        pair.touch(0o600)
        pair.write_bytes(
            base64.b64decode(user["client-certificate-data"])
            + base64.b64decode(user["client-key-data"])
        )
        self.tls.load_cert_chain(pair)
        pair.unlink()

    def call(
        self, method: str, path: str, body: Any = None, kind: str = "application/json"
    ) -> tuple[int, dict[str, Any]]:
        request = urllib.request.Request(
            self.url + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": kind, "Accept": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, context=self.tls, timeout=30) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            body = error.read()
            # A path that is not served yet is answered in plain text.
            said = body.decode(errors="replace")
            return error.code, json.loads(body) if said.startswith("{") else {"message": said}

    def try_create(self, kind: Kind, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        place = _path(kind, "default")
        return self.call("POST", f"{place}?dryRun=All&fieldValidation=Strict", body)


def _path(kind: Kind, namespace: str) -> str:
    inside = f"namespaces/{namespace}/" if kind.scope == "Namespaced" else ""
    return f"/apis/{API_VERSION}/{inside}{kind.plural}"


@pytest.fixture(scope="module")
def server(cluster: Any) -> Iterator[Server]:
    """A server that knows our kinds."""
    server = Server(Path(cluster.kubeconfig))
    for kind in KINDS:
        name = f"{kind.plural}.sluice.dev"
        path = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}"
        status, answer = server.call(
            "PATCH",
            f"{path}?fieldManager=test&force=true",
            crd(kind),
            "application/apply-patch+yaml",
        )
        assert status in (200, 201), answer
    deadline = time.monotonic() + 30
    for kind in KINDS:
        while server.call("GET", _path(kind, "default"))[0] != 200:
            assert time.monotonic() < deadline, f"{kind.plural} is not served"
            time.sleep(0.05)
    yield server


def minimal(kind: Kind) -> dict[str, Any]:
    """The smallest object of ``kind`` that is accepted."""
    spec: dict[str, Any] = {
        "ModelDeployment": {"model": {"uri": "s3://models/iris"}},
        "ModelRevision": {
            "deployment": "iris",
            "source": "0123456789",
            "uri": "s3://models/iris",
            "package": {"digest": DIGEST},
            "runtimeImage": "sluice:1",
            "hashVersion": 1,
            "identity": {"digest": DIGEST, "env": [{"name": "A"}]},
            "podTemplate": {"spec": {"containers": [{"name": "model"}]}},
        },
        "TrustPolicy": {"namespaces": ["dev"], "admit": [{"packageDigest": DIGEST}]},
    }[kind.kind]
    return {
        "apiVersion": API_VERSION,
        "kind": kind.kind,
        "metadata": {"name": "iris"},
        "spec": copy.deepcopy(spec),
    }


def put(body: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """``body`` with ``value`` at the dotted ``path``."""
    *parents, last = path.split(".")
    place = body
    for parent in parents:
        place = place.setdefault(parent, {})
    place[last] = value
    return body


@dataclass(frozen=True)
class Case:
    """``bad`` at ``at`` is refused with a message that contains ``says``; ``good`` is accepted."""

    at: str
    bad: Any
    good: Any
    says: str
    names: str = ""
    kind: Kind = MODEL_DEPLOYMENT

    @property
    def field(self) -> str:
        """The field that the refusal must name."""
        return self.names or self.at

    def __str__(self) -> str:
        return f"{self.kind.short}-{self.at.rpartition('.')[2]}-{str(self.bad)[:40]}"


MODEL, SERVING, GATES = "spec.model", "spec.serving", "spec.validation"
ROLLOUT, ANALYSIS = "spec.rollout", "spec.analysis"
ERRORS = {"name": "errors", "type": "ErrorRate"}
DATA = {"uri": "s3://data/holdout.parquet"}


def quality(**check: Any) -> dict[str, Any]:
    return {"dataset": DATA, "checks": [check]}


def checks(**check: Any) -> list[dict[str, Any]]:
    return [ERRORS, {"name": "mine", **check}]


def strictly(margin: float) -> dict[str, Any]:
    """A whole spec that asks for non-inferiority at ``margin``."""
    spec = minimal(MODEL_DEPLOYMENT)["spec"]
    checks = [{"name": "latency", "type": "Latency", "margin": 1}, {**ERRORS, "margin": margin}]
    return {**spec, "rollout": {"promotion": "NonInferiority"}, "analysis": {"checks": checks}}


ADDRESSES = [
    Case(f"{MODEL}.uri", "gs://models/iris", "s3://models/iris", "should match"),
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

STEPS = [
    Case(
        f"{ROLLOUT}.steps",
        [{"weight": 25}, {"weight": 5}],
        [{"weight": 5}, {"weight": 25}],
        "weights must rise",
    ),
    Case(
        f"{ROLLOUT}.steps",
        [{"weight": 5}, {"weight": 5}],
        [{"weight": 5}, {"weight": 6}],
        "weights must rise",
    ),
    Case(
        f"{ROLLOUT}.steps",
        [{"weight": 0}],
        [{"weight": 1}],
        "greater than or equal to 1",
        f"{ROLLOUT}.steps[0].weight",
    ),
    Case(
        f"{ROLLOUT}.steps",
        [{"weight": 101}],
        [{"weight": 90}],
        "less than or equal to 100",
        f"{ROLLOUT}.steps[0].weight",
    ),
    Case(
        f"{ROLLOUT}.steps",
        [{"weight": 5}, {"weight": 100}],
        [{"weight": 5}, {"weight": 90}],
        "must not exceed 100 - watch.holdback",
    ),
    Case(
        ROLLOUT,
        {"steps": [{"weight": 98}], "watch": {"holdback": 3}},
        {"steps": [{"weight": 100}], "watch": {"holdback": 0}},
        "must not exceed 100 - watch.holdback",
        f"{ROLLOUT}.steps",
    ),
    Case(f"{ROLLOUT}.steps", [], [{"weight": 50}], "at least 1 items"),
    Case(
        f"{ROLLOUT}.steps",
        [{"weight": 5, "minDuration": "2h", "maxDuration": "1h"}],
        [{"weight": 5, "minDuration": "1h", "maxDuration": "60m"}],
        "minDuration must not exceed maxDuration",
        f"{ROLLOUT}.steps[0].maxDuration",
    ),
    Case(
        f"{ROLLOUT}.steps",
        [{"weight": 25, "maxDuration": "4m"}],
        [{"weight": 9, "maxDuration": "4m"}],
        "minDuration must not exceed maxDuration",
        f"{ROLLOUT}.steps[0].maxDuration",
    ),
    Case(
        ROLLOUT,
        {"strategy": "GatesOnly", "promotion": "NonInferiority"},
        {"strategy": "Canary", "promotion": "NonInferiority"},
        "promotion NonInferiority must not be set with strategy GatesOnly",
        f"{ROLLOUT}.promotion",
    ),
    Case(f"{ROLLOUT}.onNoTraffic", "Promote", "PromoteByGates", "supported values"),
    Case(f"{ROLLOUT}.promotion", "Strict", "BoundedRisk", "supported values"),
    Case(
        "spec",
        strictly(1),
        strictly(1.1),
        "margin of error rates must be above 1",
        f"{ANALYSIS}.checks",
    ),
    Case(
        ROLLOUT,
        {"strategy": "GatesOnly", "steps": [{"weight": 5}]},
        {"strategy": "GatesOnly"},
        "steps must not be set with strategy GatesOnly",
        f"{ROLLOUT}.steps",
    ),
    Case(
        f"{ROLLOUT}.steps",
        [{"weight": 5, "pause": "Forever"}],
        [{"weight": 5, "pause": "Manual"}],
        "supported values",
        f"{ROLLOUT}.steps[0].pause",
    ),
    Case(f"{ROLLOUT}.onFail", "Ignore", "Pause", "supported values"),
    Case(f"{ROLLOUT}.progressDeadline", "0s", "90s", "between 1s and 24h"),
    Case(
        f"{ROLLOUT}.watch",
        {"duration": "9s"},
        {"duration": "10s"},
        "must be at least analysis.interval",
        f"{ROLLOUT}.watch.duration",
    ),
    Case(
        f"{ROLLOUT}.watch",
        {"holdback": 51},
        {"holdback": 50},
        "less than or equal to 50",
        f"{ROLLOUT}.watch.holdback",
    ),
]

JUDGING = [
    Case(f"{ANALYSIS}.interval", "999ms", "1s", "between 1s and 5m"),
    Case(f"{ANALYSIS}.interval", "7d", "5m", "should match"),
    Case(f"{ANALYSIS}.alpha", 0.5, 0.05, "less than or equal to 0.2"),
    Case(f"{ANALYSIS}.alpha", 0, 0.2, "between 0.0001 and 0.2"),
    Case(
        f"{ANALYSIS}.checks",
        [{"name": "slow", "type": "Latency"}],
        [ERRORS, {"name": "slow", "type": "Latency"}],
        "must include a check of type ErrorRate",
    ),
    Case(
        f"{ANALYSIS}.checks",
        checks(type="PredictionShift", margin=1.1),
        checks(type="PredictionShift", max=0.25),
        "margin must not be set for PredictionShift",
        f"{ANALYSIS}.checks[1].margin",
    ),
    Case(
        f"{ANALYSIS}.checks",
        checks(type="PodHealth", max=1),
        checks(type="PodHealth", margin=1.3),
        "max must not be set for Latency and PodHealth",
        f"{ANALYSIS}.checks[1].max",
    ),
    Case(
        f"{ANALYSIS}.checks",
        checks(type="ClientErrorRate", max=5),
        checks(type="ClientErrorRate", max=0.05),
        "write 0.05 for 5 %",
        f"{ANALYSIS}.checks[1].max",
    ),
    Case(
        f"{ANALYSIS}.checks",
        checks(type="PredictionShift", onFail="Rollback"),
        checks(type="PredictionShift", onFail="Hold"),
        "onFail must be Hold",
        f"{ANALYSIS}.checks[1].onFail",
    ),
    Case(
        f"{ANALYSIS}.checks",
        checks(type="ErrorRate", margin=0.5),
        checks(type="ErrorRate", margin=1.5),
        "greater than or equal to 1",
        f"{ANALYSIS}.checks[1].margin",
    ),
    Case(
        f"{ANALYSIS}.checks",
        [ERRORS, ERRORS],
        [ERRORS, {**ERRORS, "name": "b"}],
        "Duplicate value",
        f"{ANALYSIS}.checks[1]",
    ),
    Case(
        f"{ANALYSIS}.checks",
        checks(type="Drift"),
        checks(type="Latency"),
        "supported values",
        f"{ANALYSIS}.checks[1].type",
    ),
]

MIRRORED = {"steps": [{"mirror": 100}, {"weight": 50}]}
DIFFERS = {"name": "differs", "type": "Disagreement"}


def compared(*more: dict[str, Any], **check: Any) -> dict[str, Any]:
    """A whole spec whose mirrored answers are compared."""
    spec = minimal(MODEL_DEPLOYMENT)["spec"]
    return {**spec, "rollout": MIRRORED, "analysis": {"checks": [ERRORS, DIFFERS | check, *more]}}


def compared_case(bad: dict[str, Any], good: dict[str, Any], says: str, field: str) -> Case:
    names = f"{ANALYSIS}.checks[1]{field}"
    return Case("spec", compared(**bad), compared(**good), says, names)


MIRROR = [
    Case(
        f"{ROLLOUT}.steps",
        [{"mirror": 0}, {"weight": 5}],
        [{"mirror": 1}, {"weight": 5}],
        "greater than or equal to 1",
        f"{ROLLOUT}.steps[0].mirror",
    ),
    Case(
        f"{ROLLOUT}.steps",
        [{"mirror": 101}, {"weight": 5}],
        [{"mirror": 100}, {"weight": 5}],
        "less than or equal to 100",
        f"{ROLLOUT}.steps[0].mirror",
    ),
    Case(
        f"{ROLLOUT}.steps",
        [{"mirror": 100, "weight": 5}],
        [{"mirror": 100}, {"weight": 5}],
        "exactly one of weight and mirror",
        f"{ROLLOUT}.steps[0]",
    ),
    Case(
        f"{ROLLOUT}.steps",
        [{"minRequests": 500}, {"weight": 5}],
        [{"mirror": 5, "minRequests": 500}, {"weight": 5}],
        "exactly one of weight and mirror",
        f"{ROLLOUT}.steps[0]",
    ),
    Case(
        f"{ROLLOUT}.steps",
        [{"weight": 5}, {"mirror": 100}, {"weight": 50}],
        [{"mirror": 10}, {"mirror": 100}, {"weight": 5}, {"weight": 50}],
        "must come before the first weight",
    ),
    Case(
        f"{ROLLOUT}.steps",
        [{"mirror": 100}],
        [{"mirror": 100}, {"weight": 90}],
        "and a weight must follow",
    ),
    Case(
        f"{ROLLOUT}.steps",
        [{"mirror": 100}, {"weight": 25}, {"weight": 5}],
        [{"mirror": 100}, {"weight": 5}, {"weight": 25}],
        "weights must rise",
    ),
    Case(
        f"{ROLLOUT}.steps",
        [{"mirror": 100, "maxDuration": "1m"}, {"weight": 5}],
        [{"mirror": 100, "maxDuration": "2m"}, {"weight": 5}],
        "minDuration must not exceed maxDuration",
        f"{ROLLOUT}.steps[0].maxDuration",
    ),
    Case(
        "spec",
        {**compared(), "rollout": {"steps": [{"weight": 50}]}},
        compared(),
        "must not include Disagreement without a step that mirrors",
        f"{ANALYSIS}.checks",
    ),
    Case(
        "spec",
        {k: v for k, v in compared().items() if k != "rollout"},
        compared(),
        "must not include Disagreement without a step that mirrors",
        f"{ANALYSIS}.checks",
    ),
    Case(
        "spec",
        compared({**DIFFERS, "name": "again"}),
        compared({"name": "slow", "type": "Latency"}),
        "must not include more than one check of type Disagreement",
        f"{ANALYSIS}.checks",
    ),
    compared_case({"margin": 1.2}, {"max": 0.2}, "margin must not be set for Disagree", ".margin"),
    compared_case({"max": 5}, {"max": 0.05}, "max must be a share below 1", ".max"),
    compared_case({"max": 1}, {"max": 0}, "max must be a share below 1", ".max"),
    compared_case({"min": 0.5}, {"max": 0.5}, "min must not be set here", ".min"),
    compared_case({"tolerance": 2}, {"tolerance": 0.001}, "less than or equal to 1", ".tolerance"),
    compared_case({"onFail": "Pause"}, {"onFail": "Rollback"}, "supported values", ".onFail"),
    Case(
        f"{ANALYSIS}.checks",
        [{**ERRORS, "tolerance": 0.1}],
        [{**ERRORS, "margin": 1.1}],
        "tolerance must not be set for this type, only for Disagreement",
        f"{ANALYSIS}.checks[0]",
    ),
]

GAUGE = {"url": "http://p:9090", "query": 'delay{revision="{{revision}}"}'}
REFUNDS = 'sum(increase(refunds_total{revision="{{revision}}"}[{{interval}}]))'
ORDERS = 'sum(increase(orders_total{revision="{{revision}}"}[{{interval}}]))'
COUNTED = {"url": "http://p:9090", "events": REFUNDS, "total": ORDERS}
SQL = {"secretRef": {"key": "dwh"}, "query": "SELECT ... WHERE t >= :start AND t < :end"}
LOWER = {"type": "Metric", "direction": "Lower"}
CHECK = f"{ANALYSIS}.checks"
MINE = f"{CHECK}[1]"


def metric_case(bad: dict[str, Any], good: dict[str, Any], says: str, names: str = "") -> Case:
    return Case(CHECK, checks(**bad), checks(**good), says, f"{MINE}{names}")


def source_case(
    bad: dict[str, Any], good: dict[str, Any], says: str, names: str, kind: str = "prometheus"
) -> Case:
    """The same of a Metric's source."""
    return metric_case({**LOWER, kind: bad}, {**LOWER, kind: good}, says, f".{kind}{names}")


METRICS = [
    metric_case(LOWER, {**LOWER, "prometheus": GAUGE}, "exactly one of prometheus and sql"),
    metric_case(
        {**LOWER, "prometheus": GAUGE, "sql": SQL},
        {**LOWER, "sql": SQL},
        "exactly one of prometheus and sql",
    ),
    metric_case(
        {"type": "Metric", "sql": SQL}, {**LOWER, "sql": SQL}, "direction must be set", ".direction"
    ),
    metric_case(
        {**LOWER, "sql": SQL, "compare": "Limit", "max": -2.5},
        {"type": "Metric", "sql": SQL, "compare": "Limit", "max": -2.5},
        "must not with compare: Limit",
        ".direction",
    ),
    metric_case(
        {**LOWER, "sql": SQL, "max": 3},
        {**LOWER, "sql": SQL, "margin": 3},
        "min and max must not be set for a comparison",
    ),
    metric_case(
        {"type": "Metric", "sql": SQL, "compare": "Limit"},
        {"type": "Metric", "sql": SQL, "compare": "Limit", "min": 3},
        "exactly one of min and max",
    ),
    metric_case(
        {"type": "Threshold", "prometheus": GAUGE, "min": 1, "max": 2},
        {"type": "Threshold", "prometheus": GAUGE, "max": 2},
        "exactly one of min and max",
    ),
    metric_case(
        {"type": "Threshold", "prometheus": GAUGE, "max": 2, "margin": 1.5},
        {"type": "Threshold", "prometheus": GAUGE, "max": 2, "minSample": 50},
        "margin must not be set for Threshold",
        ".margin",
    ),
    metric_case(
        {"type": "Threshold", "max": 2},
        {"type": "Threshold", "value": "LatencyP99", "max": 2},
        "exactly one of value and prometheus",
    ),
    metric_case(
        {"type": "Threshold", "value": "LatencyP99", "max": 250},
        {"type": "Threshold", "value": "LatencyP99", "max": 0.25},
        "write 0.25 for 250 ms",
        ".max",
    ),
    metric_case(
        {"type": "Threshold", "value": "ErrorRate", "max": 2},
        {"type": "Threshold", "value": "ErrorRate", "max": 0.02},
        "write 0.05 for 5 %",
        ".max",
    ),
    metric_case(
        {"type": "Threshold", "value": "ErrorRate", "min": 0.1},
        {"type": "Threshold", "prometheus": GAUGE, "min": 0.1},
        "min must not be set here",
        ".min",
    ),
    metric_case(
        {"type": "PredictionShift", "max": 11},
        {"type": "PredictionShift", "max": 10},
        "between 0 and 10",
        ".max",
    ),
    metric_case(
        {"type": "Latency", "mode": "DryRun"},
        {"type": "Metric", "compare": "Limit", "max": 1, "sql": SQL, "mode": "DryRun"},
        "prometheus, minSample, mode, onNoData, onProviderError must not be set",
    ),
    metric_case(
        {"type": "Threshold", "value": "ErrorRate", "max": 0.1, "compare": "Limit"},
        {"type": "Threshold", "value": "ErrorRate", "max": 0.1, "onNoData": "Ignore"},
        "sql, compare, direction must not be set",
    ),
    metric_case(
        {**LOWER, "sql": SQL, "value": "ErrorRate"},
        {**LOWER, "sql": SQL, "onProviderError": "Ignore"},
        "value must not be set for this type",
    ),
    source_case({**GAUGE, **COUNTED}, GAUGE, "either query, or events and total", ""),
    source_case(
        {"url": "http://p", "events": REFUNDS}, COUNTED, "either query, or events and total", ""
    ),
    source_case({**GAUGE, "query": "up"}, GAUGE, "must select one arm with {{revision}}", ".query"),
    source_case(
        {**GAUGE, "query": "x{r='{{revision}}',p='{{pod}}'}"},
        {**GAUGE, "query": "x{r='{{revision}}',n='{{namespace}}',d='{{name}}'}[{{interval}}]"},
        "placeholders must be",
        ".query",
    ),
    source_case(
        {**COUNTED, "events": "up"}, COUNTED, "must select one arm with {{revision}}", ".events"
    ),
    source_case(
        {**COUNTED, "total": REFUNDS.replace("{{interval}}", "5m")},
        {**COUNTED, "total": REFUNDS},
        "must count over [{{interval}}]",
        ".total",
    ),
    source_case(
        {**COUNTED, "events": REFUNDS.replace("{{revision}}", "{{revision}}{{x}}")},
        COUNTED,
        "placeholders must be",
        ".events",
    ),
    source_case(
        {**GAUGE, "url": "http://me:pw@p:9090"},
        {**GAUGE, "url": "https://p.example/prefix/", "tenant": "a|b"},
        "should match",
        ".url",
    ),
    source_case(
        {**GAUGE, "tokenSecretRef": {"name": "mine", "key": "token"}},
        {**GAUGE, "tokenSecretRef": {"name": "sluice-metrics", "key": "token"}},
        "supported values",
        ".tokenSecretRef.name",
    ),
    source_case(
        {**SQL, "query": "SELECT 1"}, SQL, "must use :start and :end", ".query", kind="sql"
    ),
    source_case(
        {**SQL, "delay": "25h"}, {**SQL, "delay": "24h"}, "between 0s and 24h", ".delay", kind="sql"
    ),
]

WHOLE = [
    Case("metadata.name", "a" * 41, "a" * 40, "at most 40 characters", "<nil>"),
    Case("metadata.name", "1iris", "iris1", "must start with a letter", "<nil>"),
    Case("spec", {}, {"model": {"uri": "s3://models/iris"}}, "Required value", MODEL),
]

TRUST = [
    Case(
        "spec.admit",
        [{}],
        [{"packageDigest": DIGEST}],
        "exactly one of packageDigest",
        "spec.admit[0]",
        TRUST_POLICY,
    ),
    Case(
        "spec.admit",
        [{"packageDigest": DIGEST, "anyDigest": True}],
        [{"anyDigest": True}],
        "exactly one of packageDigest",
        "spec.admit[0]",
        TRUST_POLICY,
    ),
    Case(
        "spec.admit",
        [{"anyDigest": False}],
        [{"anyDigest": True, "classes": ["Code"]}],
        "anyDigest must be true or absent",
        "spec.admit[0].anyDigest",
        TRUST_POLICY,
    ),
    Case(
        "spec.admit",
        [{"anyDigest": True, "classes": ["Data"]}],
        [{"anyDigest": True, "classes": ["Restricted"]}],
        "supported values",
        "spec.admit[0].classes[0]",
        TRUST_POLICY,
    ),
    Case("spec.namespaces", [], ["dev"], "at least 1 items", "spec.namespaces", TRUST_POLICY),
    Case(
        "spec.namespaces",
        ["dev", "dev"],
        ["dev", "prod"],
        "Duplicate value",
        "spec.namespaces[1]",
        TRUST_POLICY,
    ),
]

RECORDS = [
    Case(
        "verdict",
        {"phase": "Failed"},
        {"phase": "Failed", "scope": "Package"},
        "scope must be set when phase is Failed",
        "verdict.scope",
        MODEL_REVISION,
    ),
    Case(
        "verdict",
        {"phase": "Good"},
        {"phase": "Passed"},
        "supported values",
        "verdict.phase",
        MODEL_REVISION,
    ),
]

UNIT = {"unit": {"header": "X-User-Id"}}
STUDY = {
    "metric": "conversion",
    "kind": "Conversion",
    "feedback": {"secretRef": {"name": "feedback"}},
}
REST = {key: value for key, value in STUDY.items() if key != "feedback"}


def studied(**blocks: Any) -> dict[str, Any]:
    return {"model": {"uri": "s3://models/iris"}, "traffic": UNIT, "experiment": STUDY, **blocks}


def study_case(
    bad: dict[str, Any], good: dict[str, Any], says: str, field: str = "", rest: Any = STUDY
) -> Case:
    """Two experiments that differ in what is at fault."""
    return Case(
        "spec",
        studied(experiment={**rest, **bad}),
        studied(experiment={**rest, **good}),
        says,
        f"spec.experiment{field}",
    )


EXPERIMENTS = [
    Case("spec", studied(traffic={}), studied(), "needs traffic.unit", "spec.experiment"),
    Case(
        "spec",
        studied(rollout={"strategy": "GatesOnly"}),
        studied(rollout={"strategy": "Canary"}),
        "must not be set with rollout.strategy GatesOnly",
        "spec.experiment",
    ),
    Case(
        "spec",
        studied(rollout={"watch": {"holdback": 40}}, experiment={**STUDY, "weight": 61}),
        studied(rollout={"watch": {"holdback": 40}}, experiment={**STUDY, "weight": 60}),
        "must not exceed 100 - rollout.watch.holdback",
        "spec.experiment.weight",
    ),
    study_case({"weight": 91}, {"weight": 90}, "must not exceed 100 - rollout.watch", ".weight"),
    study_case(
        {"maxDuration": "23h"}, {"maxDuration": "24h"}, "must be at least window", ".maxDuration"
    ),
    study_case({"window": "500ms"}, {"window": "1s"}, "between 1s and 2160h, for example 24h",
               ".window"),
    study_case({"maxDuration": "2161h"}, {"maxDuration": "2160h"}, "for example 336h",
               ".maxDuration"),
    study_case({"margin": 0}, {"margin": 0.02}, "between 0.001 and 0.5", ".margin"),
    study_case({"alpha": 0}, {"alpha": 0.01}, "between 0.001 and 0.2", ".alpha"),
    study_case({"maxUnits": 200_001}, {"maxUnits": 200_000}, "less than or equal", ".maxUnits"),
    study_case({"kind": "Median"}, {"kind": "Ratio"}, "supported values", ".kind"),
    study_case({}, {"sql": SQL}, "exactly one of feedback, sql and prometheus", rest=REST),
    study_case({"sql": SQL}, {}, "exactly one of feedback, sql and prometheus"),
    study_case(
        {"sql": SQL, "kind": "Ratio"}, {"sql": SQL, "kind": "Mean"},
        "must be Conversion or Mean with sql", ".kind", rest=REST,
    ),
    study_case(
        {"prometheus": COUNTED, "kind": "Mean"}, {"prometheus": COUNTED},
        "must be Conversion with prometheus", ".kind", rest=REST,
    ),
    study_case(
        {"prometheus": GAUGE}, {"prometheus": COUNTED},
        "must have events and total here", ".prometheus", rest=REST,
    ),
    study_case(
        {"feedback": {"secretRef": {"name": "a b"}}}, {"feedback": {"secretRef": {"name": "ab"}}},
        "should match", ".feedback.secretRef.name",
    ),
]  # fmt: skip

CASES = [
    *ADDRESSES, *PODS, *VALIDATION, *TRAFFIC, *STEPS, *MIRROR, *JUDGING, *METRICS, *EXPERIMENTS,
    *WHOLE,
    *TRUST, *RECORDS,
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_wrong_value_is_refused_with_field_and_rule_and_its_twin_is_accepted(
    server: Server, case: Case
) -> None:
    status, answer = server.try_create(case.kind, put(minimal(case.kind), case.at, case.bad))
    assert status == 422, answer
    causes = answer["details"]["causes"]
    hits = [cause for cause in causes if case.says.lower() in cause["message"].lower()]
    assert hits, f"no cause says {case.says!r}: {causes}"
    assert case.field in {cause["field"] for cause in hits}, hits

    status, answer = server.try_create(case.kind, put(minimal(case.kind), case.at, case.good))
    assert status == 201, answer
    for part, model in case.kind.parts.items():  # What is stored must be readable.
        model.model_validate(answer.get(part, {}))


TYPOS = [
    (MODEL_DEPLOYMENT, "spec.model.url", "s3://models/iris", "spec.model.url"),
    (MODEL_DEPLOYMENT, "spec.rollout.step", [{"weight": 5}], "spec.rollout.step"),
    (MODEL_DEPLOYMENT, "spec.autoscaling", {"min": 1}, "spec.autoscaling"),
    (TRUST_POLICY, "spec.namespace", ["dev"], "spec.namespace"),
]


@pytest.mark.parametrize(("kind", "at", "value", "named"), TYPOS, ids=lambda v: str(v)[:30])
def test_a_field_that_does_not_exist_is_refused_by_name(
    server: Server, kind: Kind, at: str, value: Any, named: str
) -> None:
    status, answer = server.try_create(kind, put(minimal(kind), at, value))
    assert status == 400
    assert f'unknown field "{named}"' in answer["message"]


def _messages() -> set[str]:
    found: set[str] = set()

    def walk(node: Any) -> None:
        if isinstance(node, dict):
            found.update(rule["message"] for rule in node.get(VALIDATIONS, []))
            for child in node.values():
                walk(child)
        elif isinstance(node, list):
            for child in node:
                walk(child)

    for kind in KINDS:
        walk(crd(kind))
    return found


TRANSITIONS = ("spec must not change", "verdict must not be removed", "must not leave Failed")


def test_every_rule_has_a_case() -> None:
    said = [case.says for case in CASES] + list(TRANSITIONS)
    assert [m for m in _messages() if not any(s.lower() in m.lower() for s in said)] == []


def test_what_the_server_accepts_can_be_fetched_from() -> None:
    for case in ADDRESSES:
        if case.at.endswith(".uri"):
            assert parse(case.good).uri, case


def test_the_committed_files_are_what_the_models_say() -> None:
    assert stale(CRDS) == []


@pytest.fixture
def change(server: Server, namespace: str) -> Callable[..., tuple[int, dict[str, Any]]]:
    """Makes a ModelRevision, then patches it."""
    place = _path(MODEL_REVISION, namespace)

    def changed(first: dict[str, Any], then: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        status, answer = server.call("POST", place, {**minimal(MODEL_REVISION), **first})
        assert status == 201, answer
        return server.call("PATCH", f"{place}/iris", then, "application/merge-patch+json")

    return changed


FAILED = {"verdict": {"phase": "Failed", "scope": "Package", "reason": "GateFailed"}}


@pytest.mark.parametrize(
    ("first", "then", "says"),
    [
        ({}, {"spec": {"uri": "s3://models/other"}}, "spec must not change"),
        ({}, {"spec": {"package": {"digest": OTHER}}}, "spec must not change"),
        ({}, {"spec": {"identity": {"digest": OTHER}}}, "spec must not change"),
        ({}, {"spec": {"podTemplate": {"spec": {"containers": []}}}}, "spec must not change"),
        ({}, {"spec": {"identity": {"more": 1}}}, "spec must not change"),
        (FAILED, {"verdict": {"phase": "Passed"}}, "must not leave Failed"),
        (FAILED, {"verdict": {"phase": "New"}}, "must not leave Failed"),
        (FAILED, {"verdict": {"phase": None}}, "must not leave Failed"),
        (FAILED, {"verdict": None}, "verdict must not be removed"),
    ],
    ids=str,
)
def test_a_record_is_not_rewritten(
    change: Callable[..., tuple[int, dict[str, Any]]],
    first: dict[str, Any],
    then: dict[str, Any],
    says: str,
) -> None:
    status, answer = change(first, then)
    assert status == 422, answer
    assert says in answer["message"]


@pytest.mark.parametrize(
    ("first", "then"),
    [
        ({}, {"metadata": {"labels": {"team": "a"}}}),
        ({}, {"verdict": {"phase": "Validated"}}),
        ({"verdict": {"phase": "Validated"}}, FAILED),
        (FAILED, {"verdict": {"message": "told again"}}),
        (FAILED, {"verdict": {"phase": "New", "retries": 1}}),
        ({"verdict": {"phase": "Withdrawn"}}, {"verdict": {"phase": "New", "attempts": 1}}),
    ],
    ids=str,
)
def test_what_may_change_in_a_record(
    change: Callable[..., tuple[int, dict[str, Any]]], first: dict[str, Any], then: dict[str, Any]
) -> None:
    status, answer = change(first, then)
    assert status == 200, answer


def test_a_new_object_is_not_yet_observed_and_scales(server: Server, namespace: str) -> None:
    place = _path(MODEL_DEPLOYMENT, namespace)
    status, made = server.call("POST", place, minimal(MODEL_DEPLOYMENT))
    assert status == 201, made
    assert made["status"] == {"observedGeneration": -1}
    assert made["spec"] == {"model": {"uri": "s3://models/iris"}, "replicas": 2}
    status, scale = server.call("GET", f"{place}/iris/scale")
    assert (status, scale["spec"]["replicas"]) == (200, 2)


def test_objects_are_found_by_digest(server: Server, namespace: str) -> None:
    status, _ = server.call("POST", _path(MODEL_REVISION, namespace), minimal(MODEL_REVISION))
    assert status == 201
    place = _path(MODEL_REVISION, namespace)
    for digest, expected in ((DIGEST, 1), (OTHER, 0)):
        _, found = server.call("GET", f"{place}?fieldSelector=spec.package.digest={digest}")
        assert len(found["items"]) == expected


EXAMPLES = sorted((CRDS.parent / "manifests" / "examples").glob("*.yaml"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_every_example_is_accepted(server: Server, path: Path) -> None:
    kinds = {kind.kind: kind for kind in KINDS}
    ours = [b for b in yaml.safe_load_all(path.read_text()) if b["kind"] in kinds]
    assert ours
    for body in ours:
        status, answer = server.try_create(kinds[body["kind"]], body)
        assert status == 201, answer


def test_columns_read_well(server: Server, namespace: str, kubectl: Callable[..., str]) -> None:
    place = _path(MODEL_DEPLOYMENT, namespace)
    assert server.call("POST", place, minimal(MODEL_DEPLOYMENT))[0] == 201
    role = {"digest": DIGEST, "ready": "2/2"}
    status = {
        "observedGeneration": 1,
        "url": f"http://iris.{namespace}.svc",
        "stable": {**role, "revision": "1f3a9c0b2d", "weight": {"desired": 75, "observed": 75}},
        "candidate": {**role, "revision": "77e01ab9c4", "weight": {"desired": 25, "observed": 25}},
        "step": {"index": 2, "count": 4, "summary": "25 %: 180 of 250 requests, about 40 s"},
        "worstCheck": "latency",
        "worstEvidence": "12%",
        "conditions": [
            _condition("Ready", "Unknown", "RolloutInFlight"),
            _condition("Validated", "True", "AnswersOnly"),
        ],
    }
    code, answer = server.call(
        "PATCH", f"{place}/iris/status", {"status": status}, "application/merge-patch+json"
    )
    assert code == 200, answer
    head, row = kubectl("get", "mdep", "-n", namespace).splitlines()
    assert head.split() == ["NAME", "READY", "STABLE", "CANDIDATE", "WEIGHT", "REASON", "AGE"]
    assert row.split()[:6] == [
        "iris", "Unknown", "1f3a9c0b2d", "77e01ab9c4", "25", "RolloutInFlight",
    ]  # fmt: skip
    wide = kubectl("get", "mdep", "-n", namespace, "-o", "wide")
    assert "iris" in kubectl("get", "sluice", "-n", namespace)
    for shown in ("180 of 250 requests", "latency", "12%", "AnswersOnly", f"iris.{namespace}.svc"):
        assert shown in wide


def _condition(kind: str, status: str, reason: str) -> dict[str, Any]:
    return {"type": kind, "status": status, "reason": reason, "message": "",
            "observedGeneration": 1, "lastTransitionTime": "2026-01-01T00:00:00Z"}  # fmt: skip


def test_explain_reads_well(server: Server, kubectl: Callable[..., str]) -> None:
    said = kubectl("explain", "mdep.spec.rollout.steps")
    for wanted in ("Shares of traffic in rising order", "Instead of weight", "minDuration",
                   "enum: Manual", "Default 2m below 10"):  # fmt: skip
        assert wanted in said
    everything = kubectl("explain", "mdep", "--recursive")
    assert "holdback" in everything
