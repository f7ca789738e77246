"""The operator's CA and client key, and a router certificate per namespace, in Secrets.

Called by reconcile.  The CA key and the client key stay in the operator's namespace; routers get a
leaf under one fixed Secret name, so that RBAC can name it.
"""

from __future__ import annotations

import asyncio
import base64
import datetime as dt
import ssl
import time
from collections.abc import Mapping

from sluice.api.meta import LABEL_MANAGED
from sluice.kube.client import KubeClient
from sluice.kube.errors import ConflictError
from sluice.objects.common import Obj
from sluice.objects.router import TLS_SECRET
from sluice.traffic import pki

CA_SECRET = "sluice-operator-ca"  # noqa: S105 - the name of a Secret
RECHECK_SECONDS = 3600.0


class RouterAccess:
    """Hands out the TLS context towards routers and keeps their certificates fresh."""

    def __init__(self, client: KubeClient, namespace: str) -> None:
        self._client = client
        self._namespace = namespace
        self._authority: pki.KeyPair | None = None
        self._context: ssl.SSLContext | None = None
        self._checked: dict[str, float] = {}
        self._lock = asyncio.Lock()

    async def context(self) -> ssl.SSLContext:
        """The operator's side of mutual TLS.  Makes the CA on first use."""
        async with self._lock:
            if self._context is None:
                await self._load()
            assert self._context is not None
            return self._context

    async def certify(self, namespace: str) -> None:
        """Makes sure that ``namespace`` has a router certificate with enough life left."""
        await self.context()
        if time.monotonic() - self._checked.get(namespace, -RECHECK_SECONDS) < RECHECK_SECONDS:
            return
        assert self._authority is not None
        now = dt.datetime.now(dt.UTC)
        found = await self._client.find("Secret", namespace, TLS_SECRET)
        if found is not None:
            pem = _text(found, "router.pem")
            pair = _split(pem)
            if pair is not None and not pki.needs_renewal(pair, self._authority, now):
                self._checked[namespace] = time.monotonic()
                return
        leaf = pki.new_router(self._authority, namespace, now)
        data = {"router.pem": leaf.pem, "ca.pem": self._authority.certificate}
        await self._store(namespace, TLS_SECRET, data, found)
        self._checked[namespace] = time.monotonic()

    async def _load(self) -> None:
        now = dt.datetime.now(dt.UTC)
        found = await self._client.find("Secret", self._namespace, CA_SECRET)
        if found is None:
            authority = pki.new_authority(now)
            client = pki.new_client(authority, now)
            data = {
                "ca.crt": authority.certificate,
                "ca.key": authority.key,
                "client.crt": client.certificate,
                "client.key": client.key,
            }
            try:
                await self._store(self._namespace, CA_SECRET, data, None)
            except ConflictError:
                found = await self._client.get("Secret", self._namespace, CA_SECRET)
        if found is not None:
            authority = pki.KeyPair(_text(found, "ca.crt"), _text(found, "ca.key"))
            client = pki.KeyPair(_text(found, "client.crt"), _text(found, "client.key"))
            if pki.needs_renewal(client, authority, now):
                client = pki.new_client(authority, now)
        self._authority = authority
        self._context = pki.client_context(authority.certificate, client)

    async def _store(
        self, namespace: str, name: str, data: Mapping[str, str], found: Obj | None
    ) -> None:
        obj: Obj = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {
                "name": name,
                "namespace": namespace,
                "labels": {LABEL_MANAGED: "true"},
            },
            "type": "Opaque",
            "data": {k: base64.b64encode(v.encode()).decode() for k, v in data.items()},
        }
        if found is None:
            await self._client.create(obj)
        else:
            await self._client.apply(obj, uid=found["metadata"]["uid"])


def _text(secret: Obj, key: str) -> str:
    return base64.b64decode(secret.get("data", {}).get(key, "")).decode(errors="replace")


def _split(pem: str) -> pki.KeyPair | None:
    end = "-----END CERTIFICATE-----\n"
    if end not in pem:
        return None
    certificate, key = pem.split(end, 1)
    return pki.KeyPair(certificate + end, key)
