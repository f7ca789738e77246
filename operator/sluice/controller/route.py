"""One ModelDeployment's router: its objects, what it says, and making it follow the roles.

Called by reconcile and apply.  Translates between revisions (what the decision speaks of) and slots
(what routers know).
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass, field
from datetime import datetime

from sluice.api.duration import seconds
from sluice.api.meta import PORT_SERVING, headless_name, revision_name, router_name
from sluice.controller.ensure import Ensurer
from sluice.controller.observe import World
from sluice.controller.pods import is_ready, trouble
from sluice.kube.store import Key
from sluice.objects.common import Obj
from sluice.objects.haproxy_config import RouterShape, servers_for
from sluice.objects.router import RouterSpec, router_objects
from sluice.objects.router_plan import SlotTarget, Weights, unset_target
from sluice.rollout.model import SLOTS, Roles, RouterView
from sluice.traffic.observation import RouterObservation
from sluice.traffic.router import RouterClient, RouterPod

TIMEOUT_SLACK_MS = 1000
PORT_SERVICE = 80


@dataclass
class Router:
    """The router of one ModelDeployment."""

    world: World
    client: RouterClient
    ensurer: Ensurer
    shape: RouterShape
    image: str
    observation: RouterObservation = field(default_factory=RouterObservation)

    @property
    def world_key(self) -> Key:
        """(namespace, name) of the ModelDeployment."""
        return (self.world.owner.namespace, self.world.owner.name)

    # Objects

    async def objects(self, roles: Roles) -> None:
        """Makes the router's objects true; the file names stable only."""
        world = self.world
        slot = roles.slot_of(roles.stable) or SLOTS[0]
        spec = RouterSpec(
            name=world.owner.name,
            namespace=world.owner.namespace,
            stable_slot=slot,
            stable=self._target(roles.stable),
            roles=roles.model_dump(by_alias=True, mode="json", exclude={"left"}),
            shape=self.shape,
            replicas=world.spec.traffic.router_replicas,
            image=self.image,
            owner=world.owner.reference(),
        )
        for obj in router_objects(spec):
            await self.ensurer.ensure(obj)

    # Reading

    async def read(self) -> RouterView:
        """What every router pod says, in revisions."""
        pods = self.pods()
        ready = sum(map(is_ready, self.world.router_pods))
        if not pods:
            return RouterView(ready=ready, message=self._none_runs())
        self.observation = await self.client.read(pods)
        return self._view(len(pods), ready)

    def _none_runs(self) -> str:
        found = trouble(
            self.world.router_pods, self.world.deployments.get(router_name(self.world.owner.name))
        )
        return f"No router pod runs yet: {found.message}" if found else "No router pod runs yet."

    def _view(self, pods: int, ready: int) -> RouterView:
        seen = self.observation
        errors = [e.message for e in seen.errors.values()]
        roles = self.world.roles
        slots = self._revisions_by_slot()
        weights = [_shares(p.weights, slots, roles) for p in seen.pods]
        return RouterView(
            pods=pods,
            reachable=len(seen.pods),
            ready=ready,
            stable=slots.get(seen.weights.stable) if seen.weights else None,
            weight_low=min((w for w, _ in weights), default=None),
            weight_high=max((w for w, _ in weights), default=None),
            holdback_low=min((h for _, h in weights), default=None),
            holdback_high=max((h for _, h in weights), default=None),
            pointed=self._pointed(),
            carrying=frozenset(r for s in seen.carrying if (r := slots.get(s))),
            feedback_shut=self.shape.feedback is not None
            and not all(p.feedback for p in seen.pods),
            message=errors[0][:300] if errors else "",
        )

    def _revisions_by_slot(self) -> dict[str, str]:
        """What the routers themselves have in each slot; ours where they say nothing."""
        out = {s: r for s, r in self.world.roles.slots.items() if r}
        for pod in self.observation.pods:
            for slot, state in pod.slots.items():
                if state.revision and state.revision != "-":
                    out[slot] = state.revision
        return out

    def _pointed(self) -> frozenset[str]:
        """Revisions that every router lists, with nothing else in their slot."""
        out = set()
        for slot, revision in self.world.roles.slots.items():
            if revision is None or not self.observation.complete:
                continue
            addresses = self._addresses(revision)
            states = [p.slots[slot] for p in self.observation.pods]
            if all(
                s.points_at(self._target(revision)) and not s.not_ready(addresses) for s in states
            ):
                out.add(revision)
        return frozenset(out)

    # Following

    def differs(self, roles: Roles, view: RouterView) -> bool:
        """Whether some router does not do what ``roles`` say."""
        if view.pods == 0:
            return False
        for pod in self.observation.pods:
            if roles.stable is not None and pod.weights != self.weights(roles):
                return True
            for slot, revision in roles.slots.items():
                if revision and not pod.slots[slot].points_at(self._target(revision)):
                    return True
        return bool(self.observation.errors)

    async def follow(self, roles: Roles) -> str:
        """Makes every router that answers do what ``roles`` say; returns what went wrong.

        One that did not answer a moment ago is not waited for again; it follows when it answers.
        """
        pods = [p for p in self.pods() if p.uid not in self.observation.errors]
        if not pods:
            return "No router pod runs yet."
        problems = []
        weights = self.weights(roles)
        carrying = weights.carrying() | self.observation.carrying
        for slot, revision in roles.slots.items():
            if revision and (slot not in carrying or self._wrong(slot, revision)):
                result = await self.client.point_slot(pods, slot, self._target(revision))
                problems += [result.message] if not result.ok else []
        if roles.stable is None:
            return " ".join(problems)
        listed = {s: self._addresses(r) for s, r in roles.slots.items() if r}
        result = await self.client.set_weights(pods, weights, listed=listed)
        if not result.ok:
            problems.append(result.message)
        return " ".join(problems)

    async def shed(self, roles: Roles) -> str:
        """Less traffic for somebody: weights only, at once, and also to routers on their way out.

        Those finish what they have and what the network still sends them; nobody waits for them,
        and what they answer does not matter.
        """
        if roles.stable is None:
            return ""
        weights = self.weights(roles)
        listed = {s: self._addresses(r) for s, r in roles.slots.items() if r}
        result, _ = await asyncio.gather(
            self.client.set_weights(self.pods(), weights, listed=listed),
            self.client.set_weights(self.pods(leaving=True), weights, check=False),
        )
        return result.message

    def deaf(self, roles: Roles) -> list[Obj]:
        """Router pods that neither confirm what ``roles`` say nor are on their way out."""
        if roles.stable is None:
            return []  # Nobody has told them anything yet.
        heard = {p.pod.uid for p in self.observation.pods if p.weights == self.weights(roles)}
        asked = {p.uid for p in self.pods()}
        return [
            p
            for p in self.world.router_pods
            if p["metadata"]["uid"] in asked and p["metadata"]["uid"] not in heard
        ]

    def replaceable(self, roles: Roles, before: float) -> Obj | None:
        """A deaf router that has run since ``before``, while no other one starts or ends."""
        deaf = [p for p in self.deaf(roles) if (started_at(p) or before) < before]
        rest = [p for p in self.world.router_pods if p not in deaf]
        return deaf[0] if deaf and all(map(is_ready, rest)) else None

    def _wrong(self, slot: str, revision: str) -> bool:
        target = self._target(revision)
        return any(not p.slots[slot].points_at(target) for p in self.observation.pods)

    def weights(self, roles: Roles) -> Weights:
        """The split that ``roles`` stand for."""
        stable = roles.slot_of(roles.stable) or SLOTS[0]
        candidate = roles.slot_of(roles.candidate) if roles.weight else None
        holdback = roles.slot_of(roles.previous) if roles.holdback else None
        return Weights(
            stable=stable,
            candidate=candidate,
            weight=roles.weight if candidate else 0,
            holdback=holdback,
            holdback_percent=roles.holdback if holdback else 0,
            salt=roles.salt,
            holdback_salt=roles.holdback_salt,
            experiment=roles.experiment or None if roles.weight and candidate else None,
        )

    def _target(self, revision: str | None) -> SlotTarget:
        if revision is None:
            return unset_target(self.shape.cluster_domain)
        owner = self.world.owner
        service = self.world.services.get(revision_name(owner.name, revision), {})
        host = f"{headless_name(owner.name, revision)}.{owner.namespace}.svc"
        return SlotTarget(
            revision=revision,
            host=f"{host}.{self.shape.cluster_domain}",
            cluster_ip=cluster_ip(service),
            timeout_ms=int(seconds(self.world.spec.serving.timeout) * 1000) + TIMEOUT_SLACK_MS,
        )

    def _addresses(self, revision: str) -> set[str]:
        pods = self.world.pods.get(revision, [])
        return {ip for p in pods if (ip := p.get("status", {}).get("podIP"))}

    def pods(self, *, leaving: bool = False) -> list[RouterPod]:
        """Router pods that run: those that stay, or those that are on their way out."""
        out = []
        for pod in self.world.router_pods:
            meta, status = pod["metadata"], pod.get("status", {})
            going = "deletionTimestamp" in meta
            if status.get("podIP") and started_at(pod) is not None and going is leaving:
                out.append(self._router_pod(meta, status["podIP"]))
        return out

    def _router_pod(self, meta: Obj, address: str) -> RouterPod:
        return RouterPod(
            meta["namespace"], meta["name"], meta["uid"], address, self.shape.admin_port
        )


def cluster_ip(service: Obj) -> str | None:
    """A Service's address; None where Services have none that leads anywhere."""
    address = service.get("spec", {}).get("clusterIP")
    return str(address) if address and not address.startswith("127.") else None


def addresses_of(world: World, revision: str) -> list[str]:
    """``host:port`` of a revision: its ClusterIP's, or its ready pods' where that leads nowhere."""
    address = cluster_ip(world.services.get(revision_name(world.owner.name, revision), {}))
    if address is not None:
        return [_at(address, PORT_SERVICE)]
    ready = [p["status"] for p in world.pods.get(revision, []) if is_ready(p)]
    return [_at(status["podIP"], PORT_SERVING) for status in ready if status.get("podIP")]


def _at(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def started_at(pod: Obj) -> float | None:
    """When the container that runs now started; None while none does."""
    for status in pod.get("status", {}).get("containerStatuses") or []:
        running = (status.get("state") or {}).get("running")
        if running is not None:
            try:
                return datetime.fromisoformat(str(running.get("startedAt"))).timestamp()
            except ValueError:
                return 0.0
    return None


def _shares(weights: Weights, slots: dict[str, str], roles: Roles) -> tuple[int, int]:
    """(candidate's weight, previous' share) in percent, whoever has the role by ``roles``.

    A candidate's weight is of what the holdback leaves, as in the roles.
    """

    def share(revision: str | None) -> int:
        if revision is None:
            return 0
        return round(sum(weights.share(s) for s, r in slots.items() if r == revision))

    named = weights.candidate and slots.get(weights.candidate) == roles.candidate
    alone = weights.holdback != weights.candidate
    weight = weights.weight if named and alone else share(roles.candidate)
    return weight, share(roles.previous)


def shape_of(world: World, dns: str) -> RouterShape:
    """The router's shape from the spec and the operator's settings.

    The number of servers a slot has only grows: fewer replicas never replace routers.
    """
    unit = world.spec.traffic.unit
    files = world.config_maps.get(router_name(world.owner.name), {}).get("data", {})
    present = [int(n) for n in re.findall(r"server-template s 1-(\d+) ", "".join(files.values()))]
    return RouterShape(
        unit_header=unit.header if unit else None,
        unit_cookie=unit.cookie if unit else None,
        feedback=_token(world),
        dns=dns or None,
        servers_per_slot=max([servers_for(world.spec.replicas), *present]),
    )


def _token(world: World) -> tuple[str, str] | None:
    """The Secret and key that open ``/feedback``."""
    experiment = world.spec.experiment
    if experiment is None or experiment.feedback is None:
        return None
    return experiment.feedback.secret_ref.name, experiment.feedback.secret_ref.key


def url_of(world: World) -> str:
    """Where users find the model inside the cluster."""
    return f"http://{world.owner.name}.{world.owner.namespace}.svc.cluster.local"
