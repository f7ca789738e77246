"""Apply: the one place where a decision becomes true.

Order matters, because we may be killed between any two writes.  Less traffic is pushed before it is
recorded, more traffic after; verdicts and an experiment's units are written before the commit that
relies on them; the evidence ConfigMap is the commit; everything after it is derived and repaired by
the next reconcile.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sluice.api.duration import seconds
from sluice.api.meta import (
    MANAGER_REPLICAS,
    MANAGER_STATUS,
    MANAGER_VERDICT,
    POD_READINESS_GATE,
    command_annotation,
    evidence_name,
    headless_name,
    revision_name,
)
from sluice.api.modelrevision import RevisionSpec, Verdict
from sluice.controller.ensure import Ensurer, covers
from sluice.controller.experiments import Experiments, UnitsLog
from sluice.controller.history import forgettable
from sluice.controller.observe import World
from sluice.controller.pods import condition
from sluice.controller.records import evidence_map, revision_object
from sluice.controller.reports import finished_at
from sluice.controller.route import Router, addresses_of
from sluice.kube.client import KubeClient
from sluice.kube.errors import ConflictError, KubeError, UnavailableError
from sluice.kube.events import EventRecorder
from sluice.kube.store import Store
from sluice.objects import jobs, revision
from sluice.objects.common import Obj
from sluice.rollout.identity import source_hash
from sluice.rollout.model import Decision, NewRevision, Progress, Revision, Roles, RouterView
from sluice.rollout.times import rfc3339

log = logging.getLogger(__name__)

SERVING_PHASES = ("Validated", "Passed")
GATES_AGAIN = 15.0
"""Seconds until gates that could not run are tried again."""
ASK_SECONDS = 2.0
CONFIRM_SECONDS = 5.0
"""A router that does not confirm a rollback for this long is replaced."""


def doomed(pods: Mapping[str, Sequence[Obj]], names: Collection[str]) -> list[Obj]:
    """Those of ``pods`` (by revision) that are called so, and are not on their way out."""
    every = (pod for members in pods.values() for pod in members)
    named = (pod for pod in every if pod["metadata"]["name"] in names)
    return [pod for pod in named if "deletionTimestamp" not in pod["metadata"]]


def sheds(before: Roles, after: Roles) -> bool:
    """Whether ``after`` takes traffic away from a revision that may be bad."""
    taken_back = before.previous is not None and after.stable == before.previous
    lowered = after.stable == before.stable and after.weight < before.weight
    return taken_back or lowered


async def still_true(client: KubeClient, world: World) -> None:
    """Raises ConflictError when another leader has committed since our cache heard of it.

    A decision that commits is guarded by that write.  One that has nothing to commit asks before it
    tells routers anything: what it believes may be a candidate that is quarantined by now.  With no
    API server there is no other leader to ask after, and a router that is back must still be told.
    """
    name = evidence_name(world.owner.name)
    try:
        async with asyncio.timeout(ASK_SECONDS):
            present = await client.find("ConfigMap", world.owner.namespace, name)
    except (UnavailableError, TimeoutError):
        return
    known = world.config_maps.get(name)
    if _version(present) != _version(known):
        raise ConflictError(f"ConfigMap {name} has changed since it was read; routers are left.")


def _version(obj: Obj | None) -> str:
    return str(obj["metadata"].get("resourceVersion")) if obj is not None else ""


@dataclass
class Applier:
    """Applies decisions for one ModelDeployment."""

    client: KubeClient
    store: Store
    events: EventRecorder
    world: World
    committed: Progress
    router: Router
    ensurer: Ensurer
    experiments: Experiments
    units: UnitsLog | None
    default_image: str
    operator_class: str
    now: float

    async def apply(self, decision: Decision, view: RouterView) -> bool:
        """Makes ``decision`` true, in the order that survives a kill at any point.

        False when people could not be told: the status has to be written again.
        """
        if sheds(self.world.roles, decision.roles):
            await self.router.shed(decision.roles)
        await self._records(decision)
        await self._units()
        committed = await self._commit(decision)
        await self._children(decision)
        await self.router.objects(decision.roles)
        if self.router.differs(decision.roles, view):
            if not committed:
                await still_true(self.client, self.world)
            await self.router.follow(decision.roles)
        await self._replace_deaf_router(decision)
        await self._retire(decision)
        await self._forget(decision)
        await self._mark_pods(decision)
        await self._replace_pods(decision)
        return await self.show(decision)

    async def show(self, decision: Decision) -> bool:
        """Tells people, and nothing else.  False when the status has to be written again."""
        self._tell(decision)
        try:
            await self._status(decision)
            await self._take_commands(decision)
        except ConflictError:
            return False  # It has changed meanwhile: shown again from what it is now.
        except KubeError as error:
            # What is judged and routed must not wait for what is shown.
            log.warning("%s/%s: %s", self.world.owner.namespace, self.world.owner.name, error)
            return False
        return True

    # Records

    async def _records(self, decision: Decision) -> None:
        new = decision.new_revision
        if new is not None:
            record = revision_object(
                self.world.owner, new, self._template(new), self.operator_class
            )
            await self.ensurer.ensure(record)
        for name, verdict in decision.verdicts.items():
            await self._write_verdict(name, verdict)

    async def _units(self) -> None:
        """The log of an experiment, before the commit that says how much of it counts."""
        if self.committed.stale_units:
            await self.experiments.remove(self.world.owner, self.committed.stale_units)
        if self.units is not None:
            await self.experiments.write(self.world.owner, self.units)

    async def _write_verdict(self, name: str, verdict: Verdict) -> None:
        record = self.world.records.get(revision_name(self.world.owner.name, name))
        if record is None:
            return
        meta = record["metadata"]
        body = verdict.model_dump(by_alias=True, exclude_none=True)
        await self.client.apply(
            {
                "apiVersion": record["apiVersion"],
                "kind": "ModelRevision",
                "metadata": {"name": meta["name"], "namespace": meta["namespace"]},
                "verdict": body,
            },
            uid=meta["uid"],
            field_manager=MANAGER_VERDICT,
        )

    def _template(self, new: NewRevision) -> Obj:
        model = self.world.spec.model
        return revision.pod_template(
            name=self.world.owner.name,
            namespace=self.world.owner.namespace,
            revision=new.hash,
            uri=new.uri,
            secret=model.credentials_ref.name if model.credentials_ref else None,
            digest=new.package.digest,
            allow_code=new.package.trust_class != "Data",
            image=new.runtime_image,
            serving=self.world.spec.serving,
        )

    async def _commit(self, decision: Decision) -> bool:
        """Whether there was something to commit."""
        progress = decision.progress.model_copy(update={"roles": decision.roles})
        if progress == self.committed:
            return False
        wanted = evidence_map(self.world.owner, progress)
        present = self.world.config_maps.get(evidence_name(self.world.owner.name))
        if present is not None:
            # Guarded: a second leader that has committed since we read makes this a conflict.
            wanted["metadata"]["resourceVersion"] = present["metadata"]["resourceVersion"]
            await self.client.apply(wanted, uid=present["metadata"]["uid"])
            return True
        await self.ensurer.ensure(wanted)
        return True

    # Children

    async def _children(self, decision: Decision) -> None:
        for name, replicas in decision.replicas.items():
            await self._revision(name, replicas, decision)
        await self._jobs(decision)

    async def _revision(self, name: str, replicas: int, decision: Decision) -> None:
        owner = self.world.owner
        record = self.world.records.get(revision_name(owner.name, name))
        if record is None:
            return
        spec = RevisionSpec.model_validate(record["spec"])
        for service in revision.services(owner, name):
            await self.ensurer.ensure(service)
        if replicas > 1:
            await self.ensurer.ensure(revision.disruption_budget(owner, name))
        verdict = decision.verdicts.get(name) or self.world.revisions[name].verdict
        if any(v.get("name") == "verdict" for v in spec.pod_template["spec"]["volumes"]):
            await self.ensurer.ensure(revision.verdict_map(owner, name, verdict.phase))
        await self.ensurer.ensure(revision.settings_map(owner, name, self._mirror(name, decision)))
        template = revision.placed(spec.pod_template, self.world.spec.serving.pod)
        wanted = revision.deployment(owner, name, template, spec.package.size)
        present = self.world.deployments.get(wanted["metadata"]["name"])
        if present is None:
            wanted["spec"]["replicas"] = replicas
            await self.ensurer.ensure(wanted)
            return
        await self.ensurer.ensure(wanted)
        await self.ensurer.scale(present, replicas, MANAGER_REPLICAS)

    def _mirror(self, name: str, decision: Decision) -> Obj:
        """What the pods of ``name`` read: where to copy requests to, mostly nowhere."""
        order = decision.mirror
        if order is None or order.stable != name:
            return {}
        return revision.mirror_settings(
            rollout=order.rollout,
            revision=order.candidate,
            addresses=addresses_of(self.world, order.candidate),
            percent=order.percent,
            tolerance=order.tolerance,
            timeout=seconds(self.world.spec.serving.timeout),
        )

    async def _jobs(self, decision: Decision) -> None:
        owner, spec = self.world.owner, self.world.spec
        image = self._job_image()
        source = decision.progress.rollout.source if decision.progress.rollout else None
        wanted = set()
        if decision.resolve and source:
            job = jobs.resolve_job(owner, source, spec.model, image)
            wanted.add(job["metadata"]["name"])
            if job["metadata"]["name"] not in self.world.jobs:
                await self.ensurer.ensure(job)
        if decision.gates:
            name = jobs.gates_name(owner.name, decision.gates)
            wanted.add(name)
            record = self.world.revisions.get(decision.gates)
            if name not in self.world.jobs and record is not None:
                await self.ensurer.ensure(self._gates(record, decision))
        keep_resolve = not decision.drop_resolve and decision.progress.outcome is not None
        for name, job in self.world.jobs.items():
            failed_resolve = keep_resolve and "-resolve-" in name
            if name not in wanted and not failed_resolve and not self._too_early(job, decision):
                await self.ensurer.remove("Job", job)

    def _too_early(self, job: Obj, decision: Decision) -> bool:
        """Gates that could not run are tried again after a pause, not at once."""
        rollout = decision.progress.rollout
        if not decision.drop_gates or rollout is None or rollout.phase != "Validating":
            return False
        ended = finished_at(job)
        return ended is not None and self.now - ended < GATES_AGAIN

    def _gates(self, record: Revision, decision: Decision) -> Obj:
        stable = self.world.revisions.get(decision.roles.stable or "")
        return jobs.gates_job(
            self.world.owner,
            record.hash,
            image=record.runtime_image,
            candidate=self._source(record),
            stable=self._source(stable) if stable else None,
            size=record.package.size + (stable.package.size if stable else 0),
            validation=self.world.spec.validation,
            allow_code=record.package.trust_class != "Data"
            or (stable is not None and stable.package.trust_class != "Data"),
            bounded=bool(self.world.spec.serving.resources),
        )

    def _source(self, record: Revision) -> tuple[str, str, str | None]:
        """Where a revision's package is, and the Secret that it was fetched with."""
        found = self.world.records.get(revision_name(self.world.owner.name, record.hash))
        return record.uri, record.package.digest, secret_of(found)

    def _job_image(self) -> str:
        runtime = self.world.spec.serving.runtime
        return (runtime.image if runtime else None) or self.default_image

    async def _retire(self, decision: Decision) -> None:
        owner = self.world.owner
        for name in decision.retire:
            deployment = self.world.deployments.get(revision_name(owner.name, name))
            if deployment is not None:
                await self.ensurer.remove("Deployment", deployment)
            for service in (revision_name(owner.name, name), headless_name(owner.name, name)):
                if service in self.world.services:
                    await self.ensurer.remove("Service", self.world.services[service])
            verdict = self.world.config_maps.get(revision.verdict_name(owner.name, name))
            if verdict is not None:
                await self.ensurer.remove("ConfigMap", verdict)
            settings = self.world.config_maps.get(revision.settings_name(owner.name, name))
            if settings is not None:
                await self.ensurer.remove("ConfigMap", settings)
            budget = self.world.budgets.get(revision_name(owner.name, name))
            if budget is not None:
                await self.ensurer.remove("PodDisruptionBudget", budget)

    async def _forget(self, decision: Decision) -> None:
        """Records that nobody needs any more: beyond ``rollout.history``, or failed long ago."""
        rollout, outcome = decision.progress.rollout, decision.progress.outcome
        named = {x.revision for x in (rollout, outcome) if x is not None and x.revision}
        kept = decision.roles.members() | set(decision.roles.left) | named
        for name in forgettable(
            self.world.revisions.values(),
            kept=kept | {r for r in self.world.revisions if self._runs(r)},
            source=source_hash(self.world.spec.model),
            history=self.world.spec.rollout.history,
            now=self.now,
        ):
            record = self.world.records[revision_name(self.world.owner.name, name)]
            await self.ensurer.remove("ModelRevision", record)

    def _runs(self, name: str) -> bool:
        return revision_name(self.world.owner.name, name) in self.world.deployments

    async def _replace_deaf_router(self, decision: Decision) -> None:
        """A router that does not confirm a decrease in time goes; a new one starts on stable only.

        One at a time, and only while nothing else about the routers moves.
        """
        since = unconfirmed_since(decision.progress)
        if since is None or self.now - since < CONFIRM_SECONDS:
            return
        pod = self.router.replaceable(decision.roles, self.now - CONFIRM_SECONDS)
        if pod is None:
            return
        said = (
            f"Router pod {pod['metadata']['name']} did not confirm the rollback within "
            f"{CONFIRM_SECONDS:g} s."
        )
        self.events.emit(
            self.world.mdep, "RouterReplaced", said, kind="Warning", action="RouterReplaced"
        )
        await self.ensurer.remove("Pod", pod)

    # Pods, status

    async def _mark_pods(self, decision: Decision) -> None:
        """Sets the readiness gate of pods whose revision is validated, at once."""
        for name, pods in self.world.pods.items():
            known = self.world.revisions.get(name)
            verdict = decision.verdicts.get(name) or (known.verdict if known else None)
            serves = name in decision.roles.members()
            if verdict is None or not (verdict.phase in SERVING_PHASES or serves):
                continue
            for pod in pods:
                gates = [g.get("conditionType") for g in pod["spec"].get("readinessGates") or []]
                if POD_READINESS_GATE in gates and condition(pod, POD_READINESS_GATE) != "True":
                    await self._mark(pod)

    async def _replace_pods(self, decision: Decision) -> None:
        """Deletes pods that failed alone; their Deployment makes new ones."""
        for pod in doomed(self.world.pods, decision.replace):
            await self.ensurer.remove("Pod", pod)

    async def _mark(self, pod: Obj) -> None:
        meta = pod["metadata"]
        await self.client.apply(
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": meta["name"], "namespace": meta["namespace"]},
                "status": {
                    "conditions": [
                        {
                            "type": POD_READINESS_GATE,
                            "status": "True",
                            "reason": "Validated",
                            "message": "The revision passed its gates.",
                            "lastTransitionTime": rfc3339(self.now),
                        }
                    ]
                },
            },
            uid=meta["uid"],
            field_manager=MANAGER_VERDICT,
            subresource="status",
        )

    async def _take_commands(self, decision: Decision) -> None:
        """Takes executed annotations away: at 3 a.m. the same line must work a second time."""
        if not decision.executed:
            return
        meta = self.world.mdep["metadata"]
        await self.client.patch_merge(
            "ModelDeployment",
            meta["namespace"],
            meta["name"],
            {
                "metadata": {
                    "annotations": dict.fromkeys(map(command_annotation, decision.executed))
                }
            },
            field_manager=MANAGER_STATUS,
        )

    async def _status(self, decision: Decision) -> None:
        meta = self.world.mdep["metadata"]
        present = self.world.mdep.get("status") or {}
        if _same_status(present, decision.status):
            return
        # The uid is only checked after a write of status; the version is held to.
        await self.client.patch_status(
            "ModelDeployment",
            meta["namespace"],
            meta["name"],
            decision.status,
            uid=meta["uid"],
            resource_version=meta["resourceVersion"],
        )

    def _tell(self, decision: Decision) -> None:
        for note in decision.notes:
            self.events.emit(
                self.world.mdep, note.reason, note.message, kind=note.kind, action=note.reason
            )


def unconfirmed_since(progress: Progress) -> float | None:
    """Since when routers should send nothing to a revision that is taken back, and may still do."""
    last = progress.last_rollback
    if last is not None and not last.traffic_zero_at:
        return datetime.fromisoformat(last.detected_at).timestamp()
    rollout = progress.rollout
    if rollout is not None and rollout.phase == "RollingBack" and rollout.failure is not None:
        return rollout.failure.detected
    return None


def secret_of(record: Obj | None) -> str | None:
    """The Secret that a recorded pod template fetches with."""
    spec = (record or {}).get("spec", {}).get("podTemplate", {}).get("spec", {})
    for init in spec.get("initContainers") or []:
        for source in init.get("envFrom") or []:
            name = (source.get("secretRef") or {}).get("name")
            if name:
                return str(name)
    return None


def _same_status(present: dict[str, Any], wanted: dict[str, Any]) -> bool:
    """Equal both ways: a field that we no longer set must go."""
    return covers(present, wanted) and covers(wanted, present)
