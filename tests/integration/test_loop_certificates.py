"""Routers' certificates: made once however many ask, renewed before they end, without a restart."""

from __future__ import annotations

import asyncio
import base64
import datetime as dt
import json
import ssl
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.integration.loop import Loop, loop_in

from sluice.controller.certificates import CA_SECRET, RouterAccess
from sluice.kube.client import KubeClient
from sluice.local.cluster import LocalCluster
from sluice.objects.router import TLS_SECRET
from sluice.traffic import pki

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(180)]


@pytest.fixture
def loop(cluster: LocalCluster, namespace: str, kubectl: Callable[..., str]) -> Iterator[Loop]:
    with loop_in(cluster, namespace, kubectl) as made:
        yield made


def test_two_instances_at_once_make_one_certificate(loop: Loop) -> None:
    async def run() -> set[str]:
        async with KubeClient.connect(str(loop.cluster.kubeconfig)) as client:
            both = [RouterAccess(client, loop.namespace) for _ in range(2)]
            tasks = [a.certify(loop.namespace) for a in both for _ in range(4)]
            leaves = await asyncio.gather(*tasks)
            for each in both:
                each.close()
            return {leaf.pem for leaf in leaves}

    assert asyncio.run(run()) == {secret(loop, TLS_SECRET)["router.pem"]}


def test_a_certificate_is_renewed_in_routers_that_run(loop: Loop) -> None:
    uri = loop.package("v1", bias=0.1)
    loop.start()
    loop.apply(uri, replicas=1, traffic={"routerReplicas": 1})
    loop.until(lambda: loop.serves("v1"), 60, "v1 serves")
    loop.kill()
    authority = secret(loop, CA_SECRET)
    pair = pki.KeyPair(authority["ca.crt"], authority["ca.key"])
    then = dt.datetime.now(dt.UTC) - dt.timedelta(days=70)
    old = pki.new_router(pair, loop.namespace, then)
    data = {"router.pem": base64.b64encode(old.pem.encode()).decode()}
    patch = json.dumps({"data": data})
    loop.kubectl("-n", loop.namespace, "patch", "secret", TLS_SECRET, "--type=merge", "-p", patch)
    router = next(p for p in loop.list("Pod") if "-router-" in p["metadata"]["name"])
    before = served(loop, router, authority)
    loop.start()
    loop.until(lambda: served(loop, router, authority) != before, 30, "the router has a new one")
    renewed = secret(loop, TLS_SECRET)["router.pem"]
    assert renewed != old.pem
    assert served(loop, router, authority) in renewed
    assert loop.list("Pod")[0]["status"]["containerStatuses"][0]["restartCount"] == 0


def secret(loop: Loop, name: str) -> dict[str, str]:
    """A Secret's texts."""
    found: Any = loop.cluster.api(f"/api/v1/namespaces/{loop.namespace}/secrets/{name}")
    return {k: base64.b64decode(v).decode() for k, v in found["data"].items()}


def served(loop: Loop, router: dict[str, Any], authority: dict[str, str]) -> str:
    """The certificate that the router shows, as PEM."""
    client = pki.KeyPair(authority["client.crt"], authority["client.key"])
    context = pki.client_context(authority["ca.crt"], client)
    name = pki.router_server_name(loop.namespace)
    with (
        loop.cluster.connect(router["status"]["podIP"], 9999) as raw,
        context.wrap_socket(raw, server_hostname=name) as tls,
    ):
        shown = tls.getpeercert(binary_form=True)
    assert shown is not None
    return ssl.DER_cert_to_PEM_cert(shown)
