"""One reconcile: observe, look, decide, apply.  Level-based and safe to repeat at any time.

Called by the queue's workers for a key (namespace, name); every path through here ends in the same
world when it is interrupted and started again.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Coroutine
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from sluice.api.meta import LABEL_COMPONENT, LABEL_OPERATOR_CLASS
from sluice.controller.apply import Applier, sheds
from sluice.controller.certificates import RouterAccess
from sluice.controller.engine import Context
from sluice.controller.ensure import Ensurer, NameConflictError
from sluice.controller.experiments import Experiments
from sluice.controller.history import left
from sluice.controller.looks import Looked, Looker
from sluice.controller.observe import World, inputs_of, read_world, trust_policies
from sluice.controller.pods import is_ready
from sluice.controller.records import revision_of
from sluice.controller.report import report
from sluice.controller.route import Router, shape_of, started_at, url_of
from sluice.controller.stalled import stalled
from sluice.errors import InvalidInputError, SluiceError
from sluice.kube.errors import ForbiddenError, InvalidObjectError, UnavailableError
from sluice.kube.store import Key
from sluice.objects.common import Obj
from sluice.rollout.decide import decide
from sluice.rollout.model import Decision, Progress, RouterView
from sluice.traffic.router import RouterClient

log = logging.getLogger(__name__)

T = TypeVar("T")

CONFLICT_RETRY = 30.0
STATUS_RETRY = 5.0
UNSEEN_RETRY = 15.0
"""A router that could not be read, or was only now told what to do: no event says when it does."""

LONGEST_WAIT = 86400.0
UNWRITTEN_RETRY = 1.0
APPLY_SECONDS = 8.0
"""An API server that hangs must not keep us from looking at users again."""
REMEMBERED_ROUTERS = 10_000


@dataclass(frozen=True)
class Unrecorded:
    """What we have not seen written down yet; forgotten once the cache shows more than ``base``.

    A ``decision`` that routers follow already is repeated: from the old state nobody's traffic must
    be given back.  Without one, looks go on from ``seen``: an API server that hangs after a step
    must not keep us comparing with the time before it.  A process that dies in between begins again
    at ``base``; counters are cumulative, so nothing is lost or counted twice.
    """

    base: Progress
    seen: Progress
    decision: Decision | None = None


class Reconciler:
    """Reconciles ModelDeployments; one per process."""

    def __init__(self, context: Context) -> None:
        self._context = context
        settings, client = context.settings, context.client
        namespace = settings.lease_namespace or client.connection.namespace
        self._access = RouterAccess(client, namespace)
        self._experiments = Experiments(client)
        self._looker = Looker(client, self._experiments)
        self._conflicts: dict[Key, tuple[str, ...]] = {}
        self._unrecorded: dict[Key, Unrecorded] = {}
        self._renewed: OrderedDict[tuple[str, float], None] = OrderedDict()

    async def reconcile(self, key: Key) -> float | None:
        """Looks at ``key`` and does what is needed; seconds until the next look, or None."""
        try:
            world = read_world(self._context.store, key)
        except InvalidInputError as error:
            return await self._stall(key, error)
        if world is None:
            self._conflicts.pop(key, None)
            self._unrecorded.pop(key, None)
            self._experiments.forget(key)
            return await self._sweep(key)
        if "deletionTimestamp" in world.mdep["metadata"]:
            return None
        try:
            return await self._reconcile(key, world)
        except (ForbiddenError, InvalidObjectError) as error:
            # A quota, a policy, a missing right: trying again alone will not help.
            await self._stall(key, error)
            raise

    async def close(self) -> None:
        """Ends connections to routers and pods; a later reconcile opens new ones."""
        self._access.close()
        await self._looker.close()

    async def _stall(self, key: Key, error: SluiceError) -> float | None:
        """What cannot be read or written is left as it runs, and its owner is told."""
        mdep = self._context.store.get("ModelDeployment", *key)
        if mdep is None or "deletionTimestamp" in mdep["metadata"]:
            return None
        status = stalled(mdep, error, time.time())
        if status != mdep.get("status"):
            meta = mdep["metadata"]
            await self._context.client.patch_status(
                "ModelDeployment",
                *key,
                status,
                uid=meta["uid"],
                resource_version=meta["resourceVersion"],
            )
            log.warning("%s/%s: %s", *key, error)
            self._context.events.emit(
                mdep, error.reason, str(error), kind="Warning", action=error.reason
            )
        return None

    async def _reconcile(self, key: Key, world: World) -> float | None:
        ensurer = Ensurer(
            self._context.client, self._context.store, world.owner.name, world.owner.uid
        )
        router = await self._router(world, ensurer)
        conflicts = await self._base(router, world)
        view = await router.read()
        await self._renew(router)
        now = time.time()
        known = self._unrecorded.pop(key, None)
        if known is not None and known.base != world.progress:
            known = None
        if known is not None and known.decision is not None:
            # Users are already spared; what led to it must not be judged anew, but written down.
            look, decision = Looked(world, world.progress), known.decision
        else:
            seen = replace(world, progress=known.seen) if known is not None else world
            look = await self._looker.look(seen, router, view, now, committed=world.progress)
            world = look.world
            decision = self._decide(world, view, now, conflicts)
        applier = Applier(
            client=self._context.client,
            store=self._context.store,
            events=self._context.events,
            world=world,
            committed=look.committed,
            router=router,
            ensurer=ensurer,
            experiments=self._experiments,
            units=look.units,
            default_image=self._context.settings.runtime_image,
            operator_class=self._context.settings.operator_class,
            now=now,
        )
        if conflicts:
            # Nothing was decided, and what is not ours is not touched.
            await applier.show(decision)
            return CONFLICT_RETRY
        unwritten = Unrecorded(look.committed, world.progress)
        if sheds(world.roles, decision.roles):
            self._unrecorded[key] = unwritten = replace(unwritten, decision=decision)
        try:
            told = await _in_time(applier.apply(decision, view))
        except NameConflictError as conflict:
            self._conflicts[key] = (str(conflict),)
            return 0.1
        except UnavailableError as error:
            if not _judges(world):
                raise
            # Looked at again soon, however long this lasts.
            self._unrecorded[key] = unwritten
            log.warning("%s/%s: what was decided is not written down: %s", *key, error)
            return UNWRITTEN_RETRY
        report(self._context.metrics, world, decision, view)
        if not told:
            return min(STATUS_RETRY, decision.requeue or STATUS_RETRY)
        if decision.requeue is None and router.differs(decision.roles, view):
            return UNSEEN_RETRY
        return decision.requeue

    def _decide(
        self, world: World, view: RouterView, now: float, conflicts: tuple[str, ...]
    ) -> Decision:
        return decide(
            inputs_of(
                world,
                view,
                policies=trust_policies(self._context.store),
                policies_readable=self._context.store.trust_readable,
                default_image=self._context.settings.runtime_image,
                url=url_of(world),
                now=now,
                conflicts=conflicts,
            )
        )

    async def _router(self, world: World, ensurer: Ensurer) -> Router:
        settings = self._context.settings
        none_ready = not any(map(is_ready, world.router_pods))
        await self._access.certify(world.owner.namespace, doubt=none_ready)
        shape = shape_of(world, settings.dns_nameserver)
        client = RouterClient(await self._access.pool(), shape)
        return Router(world, client, ensurer, shape, settings.router_image)

    async def _renew(self, router: Router) -> None:
        """Gives a renewed certificate to routers that started with the one before."""
        namespace = router.world_key[0]
        leaf = await self._access.certify(namespace)
        started = {p["metadata"]["uid"]: started_at(p) or 0.0 for p in router.world.router_pods}
        late = [
            o.pod
            for o in router.observation.pods
            if leaf.missed_by(started[o.pod.uid]) and (o.pod.uid, leaf.since) not in self._renewed
        ]
        if not late:
            return
        result = await router.client.renew_certificate(late, leaf.pem)
        for one in result.results:
            if one.ok:
                self._renewed[one.pod.uid, leaf.since] = None
            else:
                log.warning("%s/%s: %s", *router.world_key, one.error)
        while len(self._renewed) > REMEMBERED_ROUTERS:
            self._renewed.popitem(last=False)

    async def _base(self, router: Router, world: World) -> tuple[str, ...]:
        """The router's objects; what somebody else owns under our names is reported."""
        found = []
        try:
            await _in_time(router.objects(world.roles))
        except NameConflictError as conflict:
            found.append(str(conflict))
        except UnavailableError as error:
            if not _judges(world):
                raise
            log.warning("%s/%s: the router's objects may differ: %s", *router.world_key, error)
        return (*found, *self._conflicts.pop(router.world_key, ()))

    # A ModelDeployment that is gone

    async def _sweep(self, key: Key) -> float | None:
        """Removes records of a deleted ModelDeployment, but keeps quarantined ones for 30 days."""
        store, client = self._context.store, self._context.client
        wait, gone = None, []
        for record in store.owned("ModelRevision", key):
            keep = self._keep(record)
            if keep > 0:
                wait = keep if wait is None else min(wait, keep)
            else:
                gone.append(record)
        # Asked, not remembered: our cache lacks what another install works on.
        if not gone or await client.find("ModelDeployment", *key) is not None:
            return None
        for record in gone:
            meta = record["metadata"]
            await client.delete("ModelRevision", key[0], meta["name"], uid=meta["uid"])
            store.deleted(record)
        return None if wait is None else min(wait, LONGEST_WAIT)

    def _keep(self, record: Obj) -> float:
        """Seconds until the record of a deleted ModelDeployment may go."""
        labels = record["metadata"].get("labels") or {}
        ours = labels.get(LABEL_OPERATOR_CLASS, "") == self._context.settings.operator_class
        if labels.get(LABEL_COMPONENT) != "revision" or not ours:
            return LONGEST_WAIT
        try:
            revision = revision_of(record)
        except InvalidInputError:
            return LONGEST_WAIT  # Perhaps a quarantine; somebody who can read it decides.
        return left(revision, time.time()) if revision.verdict.phase == "Failed" else 0.0


def _judges(world: World) -> bool:
    """Whether somebody has traffic to be judged by, however the API server is."""
    return world.progress.rollout is not None or world.progress.watch is not None


async def _in_time(work: Coroutine[Any, Any, T]) -> T:
    try:
        async with asyncio.timeout(APPLY_SECONDS):
            return await work
    except TimeoutError as error:
        raise UnavailableError(
            f"The API server did not take what was decided within {APPLY_SECONDS:g} s.",
            hint="It is tried again; check the API server.",
            status=0,
        ) from error
