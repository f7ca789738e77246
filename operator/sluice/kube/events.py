"""``events.k8s.io/v1`` events: what ``kubectl describe`` and ``kubectl events`` show.

``emit`` never waits and never fails: events are a courtesy, no decision depends on them.  The same
note about the same object is one event with a count, written at most once a minute.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from sluice.kube.client import KubeClient
from sluice.kube.errors import KubeError, NotFoundError
from sluice.kube.resources import Object

log = logging.getLogger(__name__)

MAX_NOTE = 1024
MAX_REASON = 128
_REMEMBERED = 2048
_PENDING = 1000
_SERIES_SECONDS = 60.0
_FORGET_SECONDS = 1800.0

_Identity = tuple[str, str, str]
"""(uid of the object, reason, note)"""


@dataclass(slots=True)
class _Series:
    name: str
    namespace: str
    count: int
    written: float
    last: float


class EventRecorder:
    """``emit`` from anywhere in the loop; ``run`` writes in the background."""

    def __init__(
        self,
        client: KubeClient,
        *,
        controller: str = "sluice.dev/operator",
        instance: str = "sluice",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._controller = controller
        self._instance = instance[:128]
        self._clock = clock
        self._known: OrderedDict[_Identity, _Series] = OrderedDict()
        self._pending: asyncio.Queue[Object | _Series] = asyncio.Queue(_PENDING)
        self.dropped = 0

    def emit(
        self, regarding: Object, reason: str, note: str, *, kind: str = "Normal", action: str = ""
    ) -> None:
        """One event about ``regarding``; ``kind`` is ``Normal`` or ``Warning``."""
        metadata = regarding["metadata"]
        note = note if len(note) <= MAX_NOTE else note[: MAX_NOTE - 1] + "…"
        while len(note.encode()) > MAX_NOTE:  # The server counts bytes.
            note = note[:-1]
        identity = (str(metadata.get("uid", metadata["name"])), reason, note)
        now = self._clock()
        series = self._known.get(identity)
        if series is None or now - series.last > _FORGET_SECONDS:
            name = f"{metadata['name'][:200]}.{uuid.uuid4().hex[:16]}"
            namespace = metadata.get("namespace") or "default"
            self._known[identity] = _Series(name, namespace, 1, now, now)
            while len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)
            self._put(self._event(regarding, name, namespace, reason, note, kind, action))
            return
        self._known.move_to_end(identity)
        series.count += 1
        series.last = now
        if now - series.written >= _SERIES_SECONDS:
            series.written = now
            self._put(series)

    def _event(
        self,
        regarding: Object,
        name: str,
        namespace: str,
        reason: str,
        note: str,
        kind: str,
        action: str,
    ) -> Object:
        metadata = regarding["metadata"]
        reference = {
            "apiVersion": regarding.get("apiVersion", ""),
            "kind": regarding.get("kind", ""),
            "name": metadata["name"],
            "namespace": metadata.get("namespace", ""),
            "uid": metadata.get("uid", ""),
        }
        return {
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {"name": name, "namespace": namespace},
            "eventTime": _now(),
            "reportingController": self._controller,
            "reportingInstance": self._instance,
            "action": (action or reason)[:MAX_REASON],
            "reason": reason[:MAX_REASON],
            "regarding": reference,
            "note": note,
            "type": kind,
        }

    def _put(self, what: Object | _Series) -> None:
        try:
            self._pending.put_nowait(what)
        except asyncio.QueueFull:
            self.dropped += 1

    async def run(self) -> None:
        """Writes until cancelled."""
        while True:
            await self._write(await self._pending.get())

    async def drain(self, seconds: float = 2.0) -> None:
        """Writes what is pending, for at most ``seconds``: at shutdown."""
        try:
            async with asyncio.timeout(seconds):
                while not self._pending.empty():
                    await self._write(self._pending.get_nowait())
        except TimeoutError:
            self.dropped += self._pending.qsize()

    async def _write(self, what: Object | _Series) -> None:
        try:
            if not isinstance(what, _Series):
                await self._client.post_event(what)
                return
            # The first occurrence has no series; the server wants a count of at least 2.
            series = {"count": max(2, what.count), "lastObservedTime": _now()}
            await self._client.patch_merge("Event", what.namespace, what.name, {"series": series})
        except NotFoundError:
            log.debug("The event's namespace or the event itself is gone: %s", what)
        except KubeError as error:
            self.dropped += 1
            log.debug("An event was not written: %s", error)
        except Exception:
            self.dropped += 1
            log.exception("An event could not be built; the next ones are written: %s", what)


def _now() -> str:
    return dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
