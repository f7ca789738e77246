"""Apply: the one place where a decision becomes true.

Order matters, because we may be killed between any two writes.  Less traffic is pushed before it is
recorded, more traffic after; verdicts are written before the commit that relies on them; the
evidence ConfigMap is the commit; everything after it is derived and repaired by the next reconcile.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

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
from sluice.controller.observe import World
from sluice.controller.pods import condition
from sluice.controller.records import evidence_map, revision_object
from sluice.controller.route import Router
from sluice.kube.client import KubeClient
from sluice.kube.errors import KubeError
from sluice.kube.events import EventRecorder
from sluice.kube.store import Store
from sluice.objects import jobs, revision
from sluice.objects.common import Obj
from sluice.rollout.model import Decision, NewRevision, Progress, Revision, Roles, RouterView
from sluice.rollout.times import rfc3339

log = logging.getLogger(__name__)

SERVING_PHASES = ("Validated", "Passed")


def sheds(before: Roles, after: Roles) -> bool:
    """Whether ``after`` takes traffic away from a revision that may be bad."""
    taken_back = before.previous is not None and after.stable == before.previous
    lowered = after.stable == before.stable and after.weight < before.weight
    return taken_back or lowered


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
    default_image: str
    now: float

    async def apply(self, decision: Decision, view: RouterView) -> bool:
        """Makes ``decision`` true, in the order that survives a kill at any point.

        False when people could not be told: the status has to be written again.
        """
        if sheds(self.world.roles, decision.roles):
            await self.router.follow(decision.roles)
        await self._records(decision)
        await self._commit(decision)
        await self._children(decision)
        await self.router.objects(decision.roles)
        if self.router.differs(decision.roles, view):
            await self.router.follow(decision.roles)
        await self._retire(decision)
        await self._mark_pods(decision)
        self._tell(decision)
        try:
            await self._answer(decision)
            await self._status(decision)
        except KubeError as error:
            # What is judged and routed must not wait for what is shown.
            log.warning("%s/%s: %s", self.world.owner.namespace, self.world.owner.name, error)
            return False
        return True

    # Records

    async def _records(self, decision: Decision) -> None:
        new = decision.new_revision
        if new is not None:
            await self.ensurer.ensure(revision_object(self.world.owner, new, self._template(new)))
        for name, verdict in decision.verdicts.items():
            await self._write_verdict(name, verdict)

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

    async def _commit(self, decision: Decision) -> None:
        progress = decision.progress.model_copy(update={"roles": decision.roles})
        if progress == self.committed:
            return
        wanted = evidence_map(self.world.owner, progress)
        present = self.world.config_maps.get(evidence_name(self.world.owner.name))
        if present is not None:
            # Guarded: a second leader that has committed since we read makes this a conflict.
            wanted["metadata"]["resourceVersion"] = present["metadata"]["resourceVersion"]
            await self.client.apply(wanted, uid=present["metadata"]["uid"])
            return
        await self.ensurer.ensure(wanted)

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
        verdict = decision.verdicts.get(name) or self.world.revisions[name].verdict
        if any(v.get("name") == "verdict" for v in spec.pod_template["spec"]["volumes"]):
            await self.ensurer.ensure(revision.verdict_map(owner, name, verdict.phase))
        template = revision.placed(spec.pod_template, self.world.spec.serving.pod)
        wanted = revision.deployment(owner, name, template)
        present = self.world.deployments.get(wanted["metadata"]["name"])
        if present is None:
            wanted["spec"]["replicas"] = replicas
            await self.ensurer.ensure(wanted)
            return
        await self.ensurer.ensure(wanted)
        await self.ensurer.scale(present, replicas, MANAGER_REPLICAS)

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
            if name not in wanted and not failed_resolve:
                await self.ensurer.remove("Job", job)

    def _gates(self, record: Revision, decision: Decision) -> Obj:
        stable = self.world.revisions.get(decision.roles.stable or "")
        return jobs.gates_job(
            self.world.owner,
            record.hash,
            image=record.runtime_image,
            candidate=(record.uri, record.package.digest, self._secret()),
            stable=(stable.uri, stable.package.digest, self._secret()) if stable else None,
            validation=self.world.spec.validation,
            allow_code=record.package.trust_class != "Data"
            or (stable is not None and stable.package.trust_class != "Data"),
        )

    def _secret(self) -> str | None:
        ref = self.world.spec.model.credentials_ref
        return ref.name if ref else None

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

    # Pods, answers, status

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

    async def _answer(self, decision: Decision) -> None:
        """Removes executed annotations, so that the same command can be given again."""
        if not decision.executed:
            return
        meta = self.world.mdep["metadata"]
        annotations = dict.fromkeys(map(command_annotation, decision.executed))
        await self.client.patch_merge(
            "ModelDeployment",
            meta["namespace"],
            meta["name"],
            {"metadata": {"annotations": annotations, "uid": meta["uid"]}},
            field_manager=MANAGER_STATUS,
        )

    async def _status(self, decision: Decision) -> None:
        meta = self.world.mdep["metadata"]
        present = self.world.mdep.get("status") or {}
        if _same_status(present, decision.status):
            return
        await self.client.patch_status(
            "ModelDeployment", meta["namespace"], meta["name"], decision.status, uid=meta["uid"]
        )

    def _tell(self, decision: Decision) -> None:
        for note in decision.notes:
            self.events.emit(
                self.world.mdep, note.reason, note.message, kind=note.kind, action=note.reason
            )


def _same_status(present: dict[str, Any], wanted: dict[str, Any]) -> bool:
    """Equal both ways: a field that we no longer set must go."""
    return covers(present, wanted) and covers(wanted, present)
