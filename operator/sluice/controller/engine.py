"""The engine: feed -> store -> queue -> workers, with a lease in front of the workers.

Started and stopped by ``shell`` (or by a test without kopf).  Caches are warm on every replica;
only the one that holds the lease works.  A key is handed to the reconciler only after the cache has
seen everything that this process wrote for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections import defaultdict
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from sluice.api.meta import LABEL_MANAGED, LABEL_OPERATOR_CLASS
from sluice.controller.health import Finding
from sluice.controller.metrics import Metrics, QueueMeter
from sluice.controller.settings import Settings
from sluice.errors import SluiceError
from sluice.kube.client import KubeClient
from sluice.kube.errors import KubeError
from sluice.kube.events import EventRecorder
from sluice.kube.feed import STUCK_SECONDS, Informer
from sluice.kube.lease import LeaseElector, default_identity
from sluice.kube.queue import KeyedQueue, Priority, Workers
from sluice.kube.resources import Object
from sluice.kube.store import Change, Key, Store

log = logging.getLogger(__name__)

PARENT = "ModelDeployment"
TRUST = "TrustPolicy"
CHILDREN = ("Deployment", "Service", "ConfigMap", "Job", "Pod", "PodDisruptionBudget")
KINDS = (PARENT, "ModelRevision", TRUST, *CHILDREN)

_BEHIND_SECONDS = 1.0
"""Looking again at a key whose cache is behind, in case the event that would tell never comes."""

_BURST_SECONDS = 0.2
"""Changes of children that follow work on their key so closely are taken together."""

_TRUSTED_SECONDS = 3600.0
"""For so long, a key that asked for nothing and whose objects did not change is not worked on.

What is not in the cache (a router's memory, certificates) is looked at this often.
"""


class Reconciler(Protocol):
    """Looks at one ModelDeployment and does what is needed: level-based, safe to repeat."""

    async def reconcile(self, key: Key) -> float | None:
        """Works on ``key``; returns the seconds after which to look again.

        None: nothing but a change of one of its objects can make a difference now.
        """
        ...

    async def close(self) -> None:
        """Ends what it keeps open; it may be used again."""
        ...


@dataclass(frozen=True, slots=True)
class Context:
    """What a reconciler works with."""

    settings: Settings
    client: KubeClient
    store: Store
    queue: KeyedQueue[Key]
    events: EventRecorder
    metrics: Metrics
    is_leader: Callable[[], bool]


ReconcilerFactory = Callable[[Context], Reconciler]


class Engine:
    """One per process; ``start`` and ``stop`` may be called again after each other."""

    def __init__(
        self, settings: Settings, factory: ReconcilerFactory, client: KubeClient, metrics: Metrics
    ) -> None:
        self.settings = settings
        self.client = client
        self.metrics = metrics
        self.store = Store(KINDS)
        self.identity = default_identity()
        client.on_write = self.store.wrote
        self.queue: KeyedQueue[Key] = KeyedQueue(metrics=QueueMeter(metrics))
        self.events = EventRecorder(client, instance=self.identity)
        self.workers: Workers[Key] = Workers(
            self.queue,
            self._work,
            count=settings.workers,
            allowed=self.may_work,
            on_error=self._failed,
            on_result=lambda _, result: metrics.reconciles.inc("modeldeployment", result),
        )
        self.context = Context(
            settings, client, self.store, self.queue, self.events, metrics, self.may_work
        )
        self.reconciler = factory(self.context)
        self.elector: LeaseElector | None = None
        self._trust: dict[str, set[str]] = defaultdict(set)
        self._worked: dict[Key, float] = {}
        self._behind: set[Key] = set()
        self._soon: set[Key] = set()
        self._settled: dict[Key, tuple[float, tuple[int, int, bool]]] = {}
        self._relist_now = asyncio.Event()
        self._working = False
        self._tasks: list[asyncio.Task[None]] = []
        self.parents: list[Informer] = []
        self.informers: list[Informer] = []
        self._make_informers()
        metrics.max_workers.set(settings.workers, "modeldeployment")

    def _make_informers(self) -> None:
        managed = f"{LABEL_MANAGED}=true"
        own = self.settings.deployment_selector()
        for scope in self.settings.scopes():
            self.parents.append(self._informer(PARENT, scope, own))
            self.informers.append(self._informer("ModelRevision", scope, ""))
            self.informers.extend(self._informer(kind, scope, managed) for kind in CHILDREN)
        self.informers.append(self._informer(TRUST, None, "", self._trust_is_readable))

    def _informer(
        self,
        kind: str,
        namespace: str | None,
        selector: str,
        on_readable: Callable[[bool], None] | None = None,
    ) -> Informer:
        return Informer(
            self.client,
            self.store,
            kind,
            self._changed,
            namespace=namespace,
            label_selector=selector,
            relist_seconds=self.settings.relist_seconds,
            on_readable=on_readable,
        )

    # Life

    def start(self) -> None:
        """Starts the feeds and, once they are synced, the leadership and the workers."""
        self._spawn("events", self.events.run())
        for informer in (*self.parents, *self.informers):
            informer.synced.clear()  # After a stop, the caches are from before it.
        for informer in self.informers:
            self._spawn(f"feed of {informer.kind}", informer.run())
        for informer in self.parents:
            self._spawn(f"relist of {informer.kind}", self._relist(informer))
        self._spawn("leadership", self._lead())

    async def stop(self) -> None:
        """Stops the work, releases the lease, stops the feeds, writes the last events."""
        for task in reversed(self._tasks):
            task.cancel()
            await asyncio.wait([task])
        self._tasks.clear()
        await self._stop_work()
        await self.reconciler.close()
        await self.events.drain()

    def _spawn(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        self._tasks.append(asyncio.create_task(work, name=name))

    async def _lead(self) -> None:
        """Waits for full caches, then works while the lease allows it."""
        for informer in [*self.parents, *self.informers]:
            await informer.synced.wait()
        log.info("The caches are filled: %s.", self._counts())
        if not self.settings.lease:
            await self._start_work()
            await asyncio.Event().wait()
        self.elector = LeaseElector(
            self.client,
            self.settings.lease_namespace or self.client.connection.namespace,
            self.settings.lease_name,
            started=self._start_work,
            stopped=self._stop_work,
            identity=self.identity,
            times=self.settings.lease_times,
        )
        await self.elector.run()

    async def _start_work(self) -> None:
        self._working = True
        self._settled.clear()  # Another instance may have worked meanwhile.
        for key in self.store.deployments():
            self.queue.add(key, Priority.RESYNC)
        self.workers.start()

    async def _stop_work(self) -> None:
        still_ours = self.may_work()
        self._working = False
        await self.workers.stop(self.settings.stop_seconds if still_ours else 0.0)

    def may_work(self) -> bool:
        """Whether this instance leads, at this moment."""
        if not self._working:
            return False
        return not self.settings.lease or (self.elector is not None and self.elector.is_leader())

    # Feeding

    def feed_parent(self, event: str | None, obj: Object) -> None:
        """One ModelDeployment event from kopf; ``event`` None means that kopf listed anew."""
        obj.setdefault("kind", PARENT)
        change = self.store.apply_event(PARENT, event or "ADDED", obj)
        if event is None and all(informer.synced.is_set() for informer in self.parents):
            self._relist_now.set()  # Something may have been deleted in the gap.
        if change is not None:
            self._changed([change], obj)

    async def _relist(self, informer: Informer) -> None:
        """Compares ModelDeployments with a full list now and then, and after each gap."""
        while True:
            try:
                await informer.relist()
                informer.failures = 0
                wait = self.settings.relist_seconds * random.uniform(0.9, 1.1)  # noqa: S311
            except KubeError as error:
                informer.failures += 1
                if informer.failures in (1, 10) or informer.failures % 100 == 0:
                    log.warning("ModelDeployments cannot be listed: %s", error)
                wait = min(30.0, 0.5 * 2.0 ** min(informer.failures, 6))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._relist_now.wait()
                    await asyncio.sleep(1.0)  # The new list comes as many events.
            self._relist_now.clear()

    def _changed(self, changes: Iterable[Change], obj: Object | None) -> None:
        priority = Priority.CHANGE if self._working or obj is not None else Priority.RESYNC
        for change in changes:
            if change.kind == TRUST:
                self._trust_changed(change)
            elif change.kind == PARENT and change.type == "Deleted":
                self.metrics.forget(change.namespace, change.name)
                self.queue.add((change.namespace, change.name), priority)
            elif change.key is not None and self._ours(change):
                self._enqueue(change, change.key, priority)

    def _enqueue(self, change: Change, key: Key, priority: Priority) -> None:
        """At once; in a moment after work on the same key; not for what we only hear back."""
        behind = key in self._behind
        if change.echo and not behind:
            return
        wait = self._worked.get(key, 0.0) + _BURST_SECONDS - time.monotonic()
        if behind or change.kind == PARENT or wait <= 0:
            self.queue.add(key, priority)
        elif key not in self._soon:
            self._soon.add(key)
            asyncio.get_running_loop().call_later(wait, self._now, key, priority)

    def _now(self, key: Key, priority: Priority) -> None:
        self._soon.discard(key)
        self.queue.add(key, priority)

    def _ours(self, change: Change) -> bool:
        """Children of another install's parents, which our store lacks, are none of our work."""
        if self.store.has(PARENT, change.namespace, change.owner) or change.type == "Deleted":
            return True
        obj = self.store.get(change.kind, change.namespace, change.name)
        labels = (obj or {}).get("metadata", {}).get("labels") or {}
        return bool(labels.get(LABEL_OPERATOR_CLASS, "") == self.settings.operator_class)

    def _trust_changed(self, change: Change) -> None:
        """Looks again at every ModelDeployment in the namespaces the policy names or named."""
        policy = self.store.get(TRUST, None, change.name)
        now = set(((policy or {}).get("spec") or {}).get("namespaces") or [])
        affected = self._trust.pop(change.name, set()) | now
        if policy is not None:
            self._trust[change.name] = now
        for key in self.store.deployments():
            if key[0] in affected:
                self.queue.add(key)

    def _trust_is_readable(self, readable: bool) -> None:
        if self.store.trust_readable != readable:
            self.store.trust_readable = readable
            for key in self.store.deployments():
                self.queue.add(key, Priority.RESYNC)

    # Working

    async def _work(self, key: Key) -> float | None:
        if not self.store.caught_up(key):
            self._behind.add(key)
            return _BEHIND_SECONDS
        self._behind.discard(key)
        try:
            return await self._work_on(key)
        finally:
            self._worked[key] = time.monotonic()
            if not self.store.has(PARENT, *key):
                self._worked.pop(key)

    async def _work_on(self, key: Key) -> float | None:
        state = self.store.state(key)
        if not self._is_settled(key, state):
            again = await self.reconciler.reconcile(key)
            if again is not None:
                return again
            self._settled[key] = (time.monotonic(), state)
        if not self.store.has(PARENT, *key):
            self._settled.pop(key, None)
            return None
        return self.settings.resync_seconds * random.uniform(0.8, 1.2)  # noqa: S311

    def _is_settled(self, key: Key, state: tuple[int, int, bool]) -> bool:
        """Whether nothing was left to do after the last work and nothing has changed since."""
        since, seen = self._settled.pop(key, (0.0, None))
        if seen != state or time.monotonic() - since > _TRUSTED_SECONDS:
            return False
        self._settled[key] = (since, seen)
        return True

    def _failed(self, key: Key, error: Exception, delay: float) -> None:
        self.metrics.reconcile_errors.inc("modeldeployment")
        about = {"k8s_ref": {"kind": PARENT, "namespace": key[0], "name": key[1]}}
        name = "/".join(key)
        if isinstance(error, SluiceError):
            log.warning("%s: %s Again in %.1f s.", name, error, delay, extra=about)
        else:
            said = "%s: an unexpected error; again in %.1f s."
            log.error(said, name, delay, exc_info=error, extra=about)

    # Being asked

    def live_findings(self) -> list[Finding]:
        """For ``/livez``: is any feed stuck?"""
        found = [_feed_finding(informer, STUCK_SECONDS) for informer in self.informers]
        patience = STUCK_SECONDS + self.settings.relist_seconds * 1.1
        found += [_feed_finding(informer, patience) for informer in self.parents]
        dead = [t.get_name() for t in self._tasks if t.done() and not t.cancelled()]
        return [*found, Finding("tasks", not dead, ", ".join(dead))]

    def ready_findings(self) -> list[Finding]:
        """For ``/readyz``: are all caches filled?"""
        found = [
            Finding(_title(i), i.synced.is_set(), "" if i.synced.is_set() else "not listed yet")
            for i in (*self.parents, *self.informers)
        ]
        holder = self.elector.holder if self.elector else ""
        role = "leads" if self.may_work() else f"stands by; {holder or 'nobody'} leads"
        return [*found, Finding("leadership", True, role)]

    def refresh_metrics(self) -> None:
        """Sets the gauges that are only known when asked."""
        m, name = self.metrics, "modeldeployment"
        m.leader.set(1.0 if self.may_work() else 0.0, self.settings.lease_name)
        m.active_workers.set(self.queue.in_flight, name)
        m.queue_unfinished.set(self.queue.unfinished(), name)
        m.queue_longest.set(self.queue.longest_running(), name)
        ages: dict[str, float] = {}
        for informer in (*self.parents, *self.informers):
            ages[informer.kind] = max(informer.age(), ages.get(informer.kind, 0.0))
        for kind, age in ages.items():
            m.feed_age.set(age, kind)
            m.feed_objects.set(self.store.count(kind), kind)

    def _counts(self) -> str:
        return ", ".join(f"{self.store.count(kind)} {kind}" for kind in KINDS)


def _title(informer: Informer) -> str:
    return f"feed of {informer.kind}" + (f" in {informer.namespace}" if informer.namespace else "")


def _feed_finding(informer: Informer, patience: float) -> Finding:
    age = informer.age()
    return Finding(_title(informer), age < patience, f"heard or tried {age:.0f} s ago")


__all__ = ["KINDS", "Context", "Engine", "Reconciler", "ReconcilerFactory"]
