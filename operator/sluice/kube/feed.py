"""The feed: list, watch, and list again, for ever, into the store.

One ``Informer`` per kind and namespace.  Started by ``controller.shell``.  It never raises and
never gives up: an API server that is away costs a jittered backoff, a 410 a new list, and every new
list is compared with the cache, so that what was deleted during a gap is noticed.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Iterable

from sluice.kube.client import KubeClient
from sluice.kube.errors import ForbiddenError, GoneError, KubeError, NotFoundError
from sluice.kube.resources import Object
from sluice.kube.store import Change, Key, Store

log = logging.getLogger(__name__)

OnChanges = Callable[[Iterable[Change], Object | None], None]
"""Told of differences; the object comes along when it was one event."""

STUCK_SECONDS = 180.0
"""An informer that neither heard nor tried anything for so long is broken: restart the process."""

_SURE_AFTER = 4
"""An API server that is being upgraded may say 403 for a moment; after so many it is meant."""


class Informer:
    """Keeps ``store`` equal to the server for one kind in one namespace (None: everywhere)."""

    def __init__(
        self,
        client: KubeClient,
        store: Store,
        kind: str,
        on_changes: OnChanges,
        *,
        namespace: str | None = None,
        label_selector: str = "",
        relist_seconds: float = 300.0,
        on_readable: Callable[[bool], None] | None = None,
    ) -> None:
        self.kind = kind
        self.namespace = namespace
        self.synced = asyncio.Event()
        self.relists = 0
        self.failures = 0
        self._client = client
        self._store = store
        self._on_changes = on_changes
        self._selector = label_selector
        self._relist = relist_seconds
        self._on_readable = on_readable
        self._tried_at = time.monotonic()

    def age(self) -> float:
        """Seconds since it last heard from the server or tried to."""
        return time.monotonic() - self._tried_at

    async def run(self) -> None:
        """Until cancelled."""
        version = ""
        relist_at = 0.0
        while True:
            self._tried_at = time.monotonic()
            try:
                if not version or time.monotonic() >= relist_at:
                    version = await self.relist()
                    relist_at = time.monotonic() + self._relist * random.uniform(0.9, 1.1)  # noqa: S311
                version = await self._watch(version, relist_at)
                self.failures = 0
            except GoneError:
                version = ""
            except KubeError as error:
                if error.status not in (0, 429, 503):
                    version = ""  # The stream said something odd: begin anew.
                await self._back_off(error)
            except Exception as error:
                # A fault of ours, or an object like no other: a feed that ends would be worse.
                log.exception("The feed of %s stumbled and begins anew.", self.kind)
                version = ""
                await self._back_off(error)

    async def relist(self) -> str:
        """Lists everything, takes the differences in; returns the version to watch from."""
        listed: set[Key] = set()
        version = ""
        async for page in self._client.pages(
            self.kind, self.namespace, label_selector=self._selector
        ):
            version = page.resource_version
            changes = []
            for obj in page.items:
                metadata = obj["metadata"]
                listed.add((metadata.get("namespace", ""), metadata["name"]))
                if change := self._store.put(self.kind, obj):
                    changes.append(change)
            self._tell(changes, None)
            self._tried_at = time.monotonic()
        gone = self._store.prune(self.kind, listed, namespace=self.namespace, version=version)
        self._tell(gone, None)
        self.relists += 1
        if self._on_readable is not None:
            self._on_readable(True)
        self.synced.set()
        return version

    async def _watch(self, version: str, relist_at: float) -> str:
        left = relist_at - time.monotonic()
        seconds = max(1, min(int(left) + 1, random.randint(240, 360)))  # noqa: S311
        async for event, obj in self._client.watch(
            self.kind, self.namespace, version, label_selector=self._selector, seconds=seconds
        ):
            self._tried_at = time.monotonic()
            self.failures = 0
            version = obj["metadata"]["resourceVersion"]
            if event == "BOOKMARK":
                continue
            obj.setdefault("kind", self.kind)
            if change := self._store.apply_event(self.kind, event, obj):
                self._tell([change], obj)
        return version

    def _tell(self, changes: list[Change], obj: Object | None) -> None:
        if changes:
            self._on_changes(changes, obj)

    async def _back_off(self, error: Exception) -> None:
        self.failures += 1
        missing = isinstance(error, ForbiddenError | NotFoundError)
        sure = self.failures >= _SURE_AFTER or not self.synced.is_set()
        if missing and sure and self._on_readable is not None:
            # An optional kind: what cannot be read is treated as absent, and tried now and then.
            self._on_readable(False)
            self._tell(self._store.prune(self.kind, set(), namespace=self.namespace), None)
            self.synced.set()
        if self.failures in (1, 10) or self.failures % 100 == 0:
            log.warning("The feed of %s is interrupted and goes on: %s", self.kind, error)
        delay = min(30.0, 0.25 * 2.0 ** min(self.failures, 8))
        await asyncio.sleep(delay * random.uniform(0.5, 1.0))  # noqa: S311
