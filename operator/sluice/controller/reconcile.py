"""One reconcile: observe, look, decide, apply.  Level-based and safe to repeat at any time.

Called by the queue's workers for a key (namespace, name); every path through here ends in the same
world when it is interrupted and started again.
"""

from __future__ import annotations

import logging
import time
from datetime import UTC, datetime

from sluice.api.meta import LABEL_COMPONENT
from sluice.controller.apply import Applier
from sluice.controller.certificates import RouterAccess
from sluice.controller.engine import Context
from sluice.controller.ensure import Ensurer, NameConflictError
from sluice.controller.looks import Looker
from sluice.controller.observe import World, inputs_of, read_world, trust_policies
from sluice.controller.report import report
from sluice.controller.route import Router, shape_of, url_of
from sluice.kube.store import Key
from sluice.rollout.decide import decide
from sluice.rollout.model import Roles
from sluice.traffic.router import RouterClient

log = logging.getLogger(__name__)

CONFLICT_RETRY = 30.0
STATUS_RETRY = 5.0
KEEP_QUARANTINED_SECONDS = 30 * 86400.0


class Reconciler:
    """Reconciles ModelDeployments; one per process."""

    def __init__(self, context: Context) -> None:
        self._context = context
        settings, client = context.settings, context.client
        namespace = settings.lease_namespace or client.connection.namespace
        self._access = RouterAccess(client, namespace)
        self._looker = Looker()
        self._conflicts: dict[Key, tuple[str, ...]] = {}

    async def reconcile(self, key: Key) -> float | None:
        """Looks at ``key`` and does what is needed; seconds until the next look, or None."""
        world = read_world(self._context.store, key)
        if world is None:
            self._conflicts.pop(key, None)
            return await self._sweep(key)
        if "deletionTimestamp" in world.mdep["metadata"]:
            return None
        return await self._reconcile(key, world)

    async def _reconcile(self, key: Key, world: World) -> float | None:
        ensurer = Ensurer(
            self._context.client, self._context.store, world.owner.name, world.owner.uid
        )
        router = await self._router(world, ensurer)
        conflicts = await self._base(router, world.roles)
        view = await router.read()
        now = time.time()
        look = await self._looker.look(world, router, view, now)
        world = look.world
        decision = decide(
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
        applier = Applier(
            client=self._context.client,
            store=self._context.store,
            events=self._context.events,
            world=world,
            committed=look.committed,
            router=router,
            ensurer=ensurer,
            default_image=self._context.settings.runtime_image,
            now=now,
        )
        try:
            told = await applier.apply(decision, view)
        except NameConflictError as conflict:
            self._conflicts[key] = (str(conflict),)
            return 0.1
        report(self._context.metrics, world, decision, view)
        if conflicts:
            return CONFLICT_RETRY
        if not told:
            return min(STATUS_RETRY, decision.requeue or STATUS_RETRY)
        return decision.requeue

    async def _router(self, world: World, ensurer: Ensurer) -> Router:
        settings = self._context.settings
        await self._access.certify(world.owner.namespace)
        shape = shape_of(world, settings.dns_nameserver)
        client = RouterClient(await self._access.context(), shape)
        return Router(world, client, ensurer, shape, settings.router_image)

    async def _base(self, router: Router, roles: Roles) -> tuple[str, ...]:
        """The router's objects; what somebody else owns under our names is reported."""
        found = []
        try:
            await router.objects(roles)
        except NameConflictError as conflict:
            found.append(str(conflict))
        return (*found, *self._conflicts.pop(router.world_key, ()))

    # A ModelDeployment that is gone

    async def _sweep(self, key: Key) -> float | None:
        """Removes records of a deleted ModelDeployment, but keeps quarantined ones for 30 days."""
        store, client = self._context.store, self._context.client
        wait = None
        for record in store.owned("ModelRevision", key):
            meta = record["metadata"]
            if meta["labels"].get(LABEL_COMPONENT) != "revision":
                continue
            if record.get("verdict", {}).get("phase") == "Failed":
                left = KEEP_QUARANTINED_SECONDS - _age(record)
                if left > 0:
                    wait = left if wait is None else min(wait, left)
                    continue
            await client.delete("ModelRevision", key[0], meta["name"], uid=meta["uid"])
            store.deleted(record)
        return wait


def _age(record: dict[str, object]) -> float:
    """Seconds since the verdict, or since creation."""
    verdict = record.get("verdict")
    at = verdict.get("at") if isinstance(verdict, dict) else None
    if not at:
        meta = record["metadata"]
        assert isinstance(meta, dict)
        at = meta.get("creationTimestamp")
    try:
        then = datetime.fromisoformat(str(at).replace("Z", "+00:00"))
    except ValueError:
        return 0.0
    return (datetime.now(UTC) - then).total_seconds()
