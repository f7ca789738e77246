"""The router's objects on a real control plane: real Services, real DNS, pods that come and go."""

from __future__ import annotations

import base64
import datetime as dt
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from sluice.api.meta import headless_name, revision_name
from sluice.local.cluster import LocalCluster
from sluice.objects.haproxy_config import RouterShape
from sluice.objects.router import TLS_SECRET, RouterSpec, router_objects
from sluice.objects.router_plan import SlotTarget, Weights
from sluice.traffic import pki

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(180)]

NOW = dt.datetime.now(dt.UTC)
SERVER = """
import http.server, os
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = os.environ["REVISION"].encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    do_POST = do_GET
    def log_message(self, *args): pass
http.server.ThreadingHTTPServer((os.environ["POD_IP"], 8080), Handler).serve_forever()
"""


@dataclass
class Site:
    """A namespace with one router and what is needed to steer it."""

    cluster: LocalCluster
    namespace: str
    kubectl: Callable[..., str]
    eventually: Callable[..., Any]
    folder: Path
    authority: pki.KeyPair
    client: pki.KeyPair
    spec: RouterSpec | None = None
    asked: int = 0

    def k(self, *args: str, **more: Any) -> str:
        return self.kubectl("-n", self.namespace, *args, **more)

    def apply(self, *objects: dict[str, Any]) -> None:
        text = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)})
        self.k("apply", "--server-side", "-f", "-", stdin=text)

    def ask(self, op: str, **request: Any) -> Any:
        self.asked += 1
        path = self.folder / f"request-{self.asked}.json"
        request |= {"op": op, "ca": self.authority.certificate, "pods": self.routers()}
        request["client"] = [self.client.certificate, self.client.key]
        path.write_text(json.dumps(request))
        script = Path(__file__).with_name("router_steer.py")
        return json.loads(self.cluster.exec_python(str(script), str(path)))

    def pods(self, selector: str) -> list[dict[str, Any]]:
        found = json.loads(self.k("get", "pods", "-l", selector, "-o", "json"))["items"]
        return [p for p in found if "deletionTimestamp" not in p["metadata"]]

    def routers(self) -> list[dict[str, str]]:
        return [
            {
                "namespace": self.namespace,
                "name": p["metadata"]["name"],
                "uid": p["metadata"]["uid"],
                "address": p["status"]["podIP"],
            }
            for p in self.pods("sluice.dev/component=router")
            if p.get("status", {}).get("podIP")
        ]

    def revision(self, name: str) -> SlotTarget:
        """Two pods and both Services of a revision."""
        labels = {"sluice.dev/revision": name}
        self.apply(*_revision_objects(self.namespace, name, labels))
        full = revision_name("iris", name)
        self.k("rollout", "status", f"deployment/{full}", "--timeout=60s")
        address = self.k("get", "service", full, "-o", "jsonpath={.spec.clusterIP}")
        host = f"{headless_name('iris', name)}.{self.namespace}.svc.cluster.local"
        return SlotTarget(name, host, address, timeout_ms=3000)

    def addresses(self, revision: str) -> list[str]:
        return [p["status"]["podIP"] for p in self.pods(f"sluice.dev/revision={revision}")]

    def route(self, slot: str, stable: SlotTarget) -> None:
        """Apply the router with ``slot`` as stable."""
        self.spec = RouterSpec(
            "iris", self.namespace, slot, stable, shape=RouterShape(unit_header="X-User-Id")
        )
        self.apply(*router_objects(self.spec))

    def load(self, seconds: float) -> dict[str, int]:
        url = f"http://iris.{self.namespace}.svc.cluster.local/predict"
        seen: dict[str, int] = self.ask("load", url=url, seconds=seconds)
        return seen


def _revision_objects(namespace: str, name: str, labels: dict[str, str]) -> list[dict[str, Any]]:
    container = {
        "name": "model",
        "image": "python:3.11",
        "command": ["python3", "-c", SERVER],
        "env": [
            {"name": "REVISION", "value": name},
            {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
        ],
        "readinessProbe": {"httpGet": {"path": "/readyz", "port": 8080}, "periodSeconds": 1},
    }
    template = {
        "metadata": {"labels": labels},
        "spec": {"terminationGracePeriodSeconds": 1, "containers": [container]},
    }
    port = {"port": 80, "targetPort": 8080}
    full, headless = revision_name("iris", name), headless_name("iris", name)
    meta = {"namespace": namespace}
    return [
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": meta | {"name": full},
            "spec": {"replicas": 2, "selector": {"matchLabels": labels}, "template": template},
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": meta | {"name": full},
            "spec": {"selector": labels, "ports": [port]},
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": meta | {"name": headless},
            "spec": {"selector": labels, "clusterIP": "None", "ports": [{"port": 8080}]},
        },
    ]


@pytest.fixture
def site(
    cluster: LocalCluster,
    namespace: str,
    kubectl: Callable[..., str],
    eventually: Callable[..., Any],
    tmp_path: Path,
) -> Iterator[Site]:
    """Certificates, an old revision, and a ready router that serves it."""
    authority = pki.new_authority(NOW)
    client = pki.new_client(authority, NOW)
    made = Site(cluster, namespace, kubectl, eventually, tmp_path, authority, client)
    leaf = pki.new_router(authority, namespace, NOW)
    data = {"router.pem": leaf.pem, "ca.pem": authority.certificate}
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": TLS_SECRET, "namespace": namespace},
        "data": {k: base64.b64encode(v.encode()).decode() for k, v in data.items()},
    }
    made.apply(secret)
    made.route("a", made.revision("old"))
    made.k("rollout", "status", "deployment/iris-router", "--timeout=60s")
    yield made


def canary(site: Site, weight: int) -> SlotTarget:
    """A new revision on slot b with ``weight`` percent, on every router."""
    target = site.revision("new")
    assert site.ask("point", slot="b", target=asdict(target))["ok"]
    plan = asdict(Weights("a", "b", weight, salt="s1"))
    listed = {"b": site.addresses("new")}
    site.eventually(lambda: site.ask("weigh", weights=plan, listed=listed)["ok"], 20)
    return target


def test_a_canary_a_promotion_and_a_router_that_is_replaced(site: Site) -> None:
    new = canary(site, 90)
    seen = site.load(2)
    assert set(seen) == {"200 old", "200 new"}
    assert 0.75 < seen["200 new"] / sum(seen.values()) < 0.97

    # Promotion in memory, then in the file; the routers say when they have the file.
    plan = asdict(Weights("b", None, 0, "a", 10, holdback_salt="s1"))
    assert site.ask("weigh", weights=plan)["ok"]
    site.route("b", new)
    names = {p["name"] for p in site.routers()}
    site.eventually(
        lambda: all(p["mounted"] == "b" for p in site.ask("read")["pods"].values()), 90, 0.5
    )
    assert {p["name"] for p in site.routers()} == names, "promotion restarted a router"

    # A router is deleted under load: nobody notices, and its successor serves stable only.
    result: dict[str, int] = {}
    sender = threading.Thread(target=lambda: result.update(site.load(12)))
    sender.start()
    site.k("delete", "pod", sorted(names)[0], "--wait=false")
    site.eventually(
        lambda: len(site.routers()) == 2 and {p["name"] for p in site.routers()} != names, 30
    )
    site.k("rollout", "status", "deployment/iris-router", "--timeout=60s")
    sender.join()
    assert set(result) == {"200 old", "200 new"}, result
    pods = site.ask("read")["pods"]
    (fresh,) = set(pods) - names
    assert pods[fresh]["weights"] == asdict(Weights("b"))
    assert pods[fresh]["slots"]["a"]["revision"] == "-"


def test_stable_pods_are_replaced_under_load_without_a_failed_request(site: Site) -> None:
    result: dict[str, int] = {}
    sender = threading.Thread(target=lambda: result.update(site.load(15)))
    sender.start()
    # One after the other, as evictions and updates do it; these servers die without draining.
    for pod in site.pods("sluice.dev/revision=old"):
        name = pod["metadata"]["name"]
        site.k("delete", "pod", name, "--wait=false", "--grace-period=1")
        site.k("wait", "--for=delete", f"pod/{name}", "--timeout=60s")
        site.k("rollout", "status", "deployment/iris-rev-old", "--timeout=60s")
    sender.join()
    assert set(result) == {"200 old"}, result


def test_applying_the_same_objects_again_changes_nothing(site: Site) -> None:
    assert site.spec is not None
    kinds = "configmap/iris-router,deployment/iris-router,service/iris,pdb/iris-router"
    path = "jsonpath={.items[*].metadata.resourceVersion}"

    def versions() -> str:
        text: str = site.k("get", *kinds.split(","), "-o", path)
        return text

    before = versions()
    assert len(before.split()) == 4
    site.apply(*router_objects(site.spec))
    site.apply(*router_objects(replace(site.spec)))
    assert versions() == before
