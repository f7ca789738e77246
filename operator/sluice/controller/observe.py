"""Observe: everything a decision may look at, from the cache and from the routers.

Called by reconcile.  Reads the store and asks routers; writes nothing.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from sluice.api.meta import (
    LABEL_COMPONENT,
    LABEL_REVISION,
    evidence_name,
    revision_name,
    router_name,
)
from sluice.api.modeldeployment import ModelDeploymentSpec
from sluice.api.status import Condition
from sluice.api.trustpolicy import TrustPolicySpec
from sluice.controller import pods as podviews
from sluice.controller.records import progress_of, revision_of, roles_of
from sluice.controller.reports import gates_view, resolve_view
from sluice.errors import InvalidInputError
from sluice.kube.store import Key, Store
from sluice.objects.common import Obj, Owner
from sluice.objects.jobs import gates_name, resolve_name
from sluice.rollout.identity import source_hash
from sluice.rollout.model import (
    GatesView,
    Inputs,
    PodsView,
    Progress,
    ResolveView,
    Revision,
    Roles,
    RouterView,
)


@dataclass(frozen=True)
class World:
    """One ModelDeployment's objects as the cache has them."""

    owner: Owner
    mdep: Obj
    spec: ModelDeploymentSpec
    revisions: dict[str, Revision]
    roles: Roles
    progress: Progress
    deployments: dict[str, Obj]
    services: dict[str, Obj]
    config_maps: dict[str, Obj]
    jobs: dict[str, Obj]
    pods: dict[str, list[Obj]]
    router_pods: list[Obj]
    job_pods: dict[str, list[Obj]]
    records: dict[str, Obj]
    budgets: dict[str, Obj] = field(default_factory=dict)


def read_world(store: Store, key: Key) -> World | None:
    """Everything the cache knows about ``key``; None when the ModelDeployment is gone."""
    namespace, name = key
    mdep = store.get("ModelDeployment", namespace, name)
    if mdep is None:
        return None
    records = _named(store.owned("ModelRevision", key))
    revisions = {r.hash: r for r in map(revision_of, records.values())}
    config_maps = _named(store.owned("ConfigMap", key))
    progress = progress_of(config_maps.get(evidence_name(name)))
    roles = progress.roles or roles_of(config_maps.get(router_name(name)))
    model_pods, job_pods, router_pods = _sorted_pods(store.owned("Pod", key))
    return World(
        owner=Owner(name, namespace, mdep["metadata"]["uid"]),
        mdep=mdep,
        spec=read_spec(mdep),
        revisions=revisions,
        roles=_known_roles(roles, revisions),
        progress=progress,
        deployments=_named(store.owned("Deployment", key)),
        services=_named(store.owned("Service", key)),
        config_maps=config_maps,
        jobs=_named(store.owned("Job", key)),
        pods=model_pods,
        router_pods=router_pods,
        job_pods=job_pods,
        records=records,
        budgets=_named(store.owned("PodDisruptionBudget", key)),
    )


def read_spec(mdep: Obj) -> ModelDeploymentSpec:
    """The spec; the API server has validated it, an older operator may still not know a value."""
    try:
        return ModelDeploymentSpec.model_validate(mdep.get("spec") or {})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(p) for p in first["loc"])
        raise InvalidInputError(
            f"spec.{where}: {first['msg']}.",
            hint="This operator may be older than the object; upgrade it or change the field.",
            reason="InvalidSpec",
        ) from error


def inputs_of(
    world: World, router: RouterView, *, policies: tuple[TrustPolicySpec, ...],
    policies_readable: bool, default_image: str, url: str, now: float,
    conflicts: tuple[str, ...] = (),
) -> Inputs:  # fmt: skip
    """The value that ``decide`` takes."""
    meta = world.mdep["metadata"]
    return Inputs(
        name=world.owner.name,
        namespace=world.owner.namespace,
        generation=int(meta.get("generation") or 0),
        spec=world.spec,
        deleting="deletionTimestamp" in meta,
        annotations=dict(meta.get("annotations") or {}),
        conditions=_conditions(world.mdep),
        revisions=world.revisions,
        roles=world.roles,
        progress=world.progress,
        pods=pod_views(world),
        router=router,
        resolve=_resolve(world),
        gates=_gates(world),
        policies=policies,
        policies_readable=policies_readable,
        default_image=default_image,
        url=url,
        now=now,
        conflicts=conflicts,
    )


def pod_views(world: World) -> dict[str, PodsView]:
    """Pods of every revision that has a Deployment or a pod."""
    out = {}
    for revision in world.revisions:
        deployment = world.deployments.get(revision_name(world.owner.name, revision))
        pods = world.pods.get(revision, [])
        if deployment is not None or pods:
            out[revision] = podviews.view(deployment, pods)
    return out


def trust_policies(store: Store) -> tuple[TrustPolicySpec, ...]:
    """Every TrustPolicy that can be read."""
    out = []
    for obj in store.each("TrustPolicy"):
        try:
            out.append(TrustPolicySpec.model_validate(obj.get("spec") or {}))
        except ValidationError:
            continue  # One that cannot be read admits nothing.
    return tuple(out)


def _named(objects: list[Obj]) -> dict[str, Obj]:
    return {o["metadata"]["name"]: o for o in objects}


def _sorted_pods(
    pods: list[Obj],
) -> tuple[dict[str, list[Obj]], dict[str, list[Obj]], list[Obj]]:
    models: dict[str, list[Obj]] = defaultdict(list)
    jobs: dict[str, list[Obj]] = defaultdict(list)
    routers = []
    for pod in pods:
        labels = pod["metadata"].get("labels", {})
        component = labels.get(LABEL_COMPONENT)
        if component == "model":
            models[labels.get(LABEL_REVISION, "")].append(pod)
        elif component == "router":
            routers.append(pod)
        elif "sluice.dev/job" in labels:
            jobs[labels["sluice.dev/job"]].append(pod)
    return models, jobs, routers


def _known_roles(roles: Roles, revisions: dict[str, Revision]) -> Roles:
    """Roles without revisions whose record is gone: nothing may serve without one."""
    gone = [r for r in roles.members() if r not in revisions]
    if not gone:
        return roles
    changes: dict[str, Any] = {
        role: None for role in ("stable", "candidate", "previous") if getattr(roles, role) in gone
    }
    if "candidate" in changes:
        changes["weight"] = 0
    if "previous" in changes:
        changes["holdback"] = 0
    return roles.model_copy(update=changes)


def _conditions(mdep: Obj) -> tuple[Condition, ...]:
    out = []
    for entry in mdep.get("status", {}).get("conditions") or []:
        try:
            out.append(Condition.model_validate(entry))
        except ValidationError:
            continue  # Only transition times are taken from here.
    return tuple(out)


def _resolve(world: World) -> ResolveView:
    name = resolve_name(world.owner.name, source_hash(world.spec.model))
    return resolve_view(world.jobs.get(name), world.job_pods.get(name, []))


def _gates(world: World) -> GatesView:
    rollout = world.progress.rollout
    if rollout is None or rollout.revision is None:
        return GatesView()
    name = gates_name(world.owner.name, rollout.revision)
    return gates_view(world.jobs.get(name), world.job_pods.get(name, []))
