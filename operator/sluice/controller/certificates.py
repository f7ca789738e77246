"""The operator's CA and client key, and a router certificate per namespace, in Secrets.

Called by reconcile.  The CA key and the client key stay in the operator's namespace; routers get a
leaf under one fixed Secret name, so that RBAC can name it.
"""

from __future__ import annotations

import asyncio
import base64
import datetime as dt
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from sluice.api.meta import LABEL_MANAGED
from sluice.kube.client import KubeClient
from sluice.kube.errors import ConflictError, KubeError
from sluice.objects.common import Obj
from sluice.objects.router import TLS_SECRET
from sluice.traffic import pki
from sluice.traffic.admin import AdminPool

CA_SECRET = "sluice-operator-ca"  # noqa: S105 - the name of a Secret
RECHECK_SECONDS = 3600.0
DOUBT_SECONDS = 30.0
CHECK_SECONDS = 3.0
MOUNT_LAG = 120.0
"""Seconds after which a router that starts has certainly read the renewed Secret."""


@dataclass(frozen=True)
class Leaf:
    """A namespace's router certificate with its key, and since when it is in the Secret."""

    pem: str
    since: float

    def missed_by(self, started: float) -> bool:
        """Whether a router that started then may have read the one before."""
        return started < self.since + MOUNT_LAG


class RouterAccess:
    """Hands out connections to routers and keeps everybody's certificates fresh."""

    def __init__(self, client: KubeClient, namespace: str) -> None:
        self._client = client
        self._namespace = namespace
        self._authority: pki.KeyPair | None = None
        self._pair: pki.KeyPair | None = None
        self._pool: AdminPool | None = None
        self._leaves: dict[str, tuple[Leaf, float]] = {}
        self._lock = asyncio.Lock()
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def pool(self) -> AdminPool:
        """Connections with the operator's side of mutual TLS.  Makes the CA on first use."""
        async with self._lock:
            if self._pool is None:
                await self._load()
            assert self._pool is not None
            return self._pool

    async def certify(self, namespace: str, *, doubt: bool = False) -> Leaf:
        """Makes sure that ``namespace`` has a router certificate with enough life left.

        ``doubt``: no router runs; perhaps somebody deleted the Secret, which nobody watches.
        """
        async with self._locks[namespace]:
            known = self._leaves.get(namespace)
            patience = DOUBT_SECONDS if doubt else RECHECK_SECONDS
            if known is not None and time.monotonic() - known[1] < patience:
                return known[0]
            try:
                async with asyncio.timeout(CHECK_SECONDS if known else None):
                    await self.pool()
                    await self._renew_client()
                    leaf = await self._leaf(namespace)
            except (KubeError, TimeoutError):
                if known is None:
                    raise
                return known[0]  # Good for weeks; routers must be reachable without the API.
            self._leaves[namespace] = (leaf, time.monotonic())
            return leaf

    def close(self) -> None:
        """Ends the connections; the next use opens new ones."""
        if self._pool is not None:
            self._pool.close()

    async def _leaf(self, namespace: str) -> Leaf:
        assert self._authority is not None
        now = dt.datetime.now(dt.UTC)
        found = await self._client.find("Secret", namespace, TLS_SECRET)
        if found is not None and (leaf := self._good(found, now)) is not None:
            return leaf
        made = pki.new_router(self._authority, namespace, now)
        data = {"router.pem": made.pem, "ca.pem": self._authority.certificate}
        try:
            await self._store(namespace, TLS_SECRET, data, found)
        except ConflictError as error:
            if error.reason != "AlreadyExists":
                raise
            # Another instance was faster; what it made is as good, or is replaced.
            found = await self._client.get("Secret", namespace, TLS_SECRET)
            if (leaf := self._good(found, now)) is not None:
                return leaf
            await self._store(namespace, TLS_SECRET, data, found)
        return Leaf(made.pem, now.timestamp())

    def _good(self, secret: Obj, now: dt.datetime) -> Leaf | None:
        """The leaf in the Secret, unless it has to be replaced."""
        assert self._authority is not None
        pair = split(_text(secret, "router.pem"))
        if pair is None or pki.needs_renewal(pair, self._authority, now):
            return None
        return Leaf(pair.pem, pki.valid_since(pair).timestamp() + pki.BACKDATE.total_seconds())

    async def _load(self) -> None:
        now = dt.datetime.now(dt.UTC)
        found = await self._client.find("Secret", self._namespace, CA_SECRET)
        if found is None:
            found = await self._make_authority(now)
        authority = pki.KeyPair(_text(found, "ca.crt"), _text(found, "ca.key"))
        client = pki.KeyPair(_text(found, "client.crt"), _text(found, "client.key"))
        if pki.needs_renewal(client, authority, now):
            client = pki.new_client(authority, now)
        self._authority = authority
        self._use(client)

    async def _make_authority(self, now: dt.datetime) -> Obj:
        authority = pki.new_authority(now)
        client = pki.new_client(authority, now)
        data = {
            "ca.crt": authority.certificate,
            "ca.key": authority.key,
            "client.crt": client.certificate,
            "client.key": client.key,
        }
        try:
            return await self._store(self._namespace, CA_SECRET, data, None)
        except ConflictError:
            return await self._client.get("Secret", self._namespace, CA_SECRET)

    async def _renew_client(self) -> None:
        """A process that runs for a year needs a new certificate of its own."""
        now = dt.datetime.now(dt.UTC)
        assert self._authority is not None
        assert self._pair is not None
        if pki.needs_renewal(self._pair, self._authority, now):
            self._use(pki.new_client(self._authority, now))

    def _use(self, client: pki.KeyPair) -> None:
        assert self._authority is not None
        self.close()
        self._pair = client
        self._pool = AdminPool(pki.client_context(self._authority.certificate, client))

    async def _store(
        self, namespace: str, name: str, data: Mapping[str, str], found: Obj | None
    ) -> Obj:
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
            return await self._client.create(obj)
        return await self._client.apply(obj, uid=found["metadata"]["uid"])


def split(pem: str) -> pki.KeyPair | None:
    """A certificate followed by its key, as HAProxy reads them; None when it is not that."""
    end = "-----END CERTIFICATE-----\n"
    if end not in pem:
        return None
    certificate, key = pem.split(end, 1)
    return pki.KeyPair(certificate + end, key)


def _text(secret: Obj, key: str) -> str:
    return base64.b64decode(secret.get("data", {}).get(key, "")).decode(errors="replace")
