"""Objects as the cache has them, for tests of the controller's pure parts."""

from __future__ import annotations

from typing import Any

from sluice.api.modeldeployment import ModelDeploymentSpec
from sluice.api.modelrevision import PackageInfo, Verdict
from sluice.controller.observe import World
from sluice.objects.common import Obj, Owner
from sluice.rollout.model import Progress, Revision, Roles

OWNER = Owner("iris", "shop", "uid-0")


def revision(name: str, phase: str = "Passed", *, at: str = "", **changes: Any) -> Revision:
    """A record as the decision reads it."""
    scope = {"scope": "Package"} if phase == "Failed" else {}
    fields: dict[str, Any] = {
        "hash": name,
        "source": f"source-{name}",
        "uri": f"s3://models/{name}",
        "package": PackageInfo(digest="sha256:" + "0" * 64),
        "runtime_image": "sluice",
        "identity": {},
        "hash_version": 1,
        "verdict": Verdict.model_validate({"phase": phase, "at": at, **scope}),
        "created": at or "2026-01-01T00:00:00Z",
        "deployment": "iris",
    }
    return Revision(**{**fields, **changes})


def container(
    state: Obj, *, name: str = "model", restarts: int = 0, last: Obj | None = None
) -> Obj:
    """A container's status."""
    return {"name": name, "state": state, "restartCount": restarts, "lastState": last or {}}


def pod(
    name: str,
    *containers: Obj,
    phase: str = "Running",
    ready: bool = False,
    going: bool = False,
    inits: tuple[Obj, ...] = (),
    address: str = "10.0.0.1",
    conditions: tuple[Obj, ...] = (),
) -> Obj:
    """A pod."""
    meta: Obj = {"name": name, "namespace": "shop", "uid": f"uid-{name}"}
    if going:
        meta["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    said = {"type": "Ready", "status": "True" if ready else "False"}
    return {
        "metadata": meta,
        "status": {
            "phase": phase,
            "podIP": address,
            "conditions": [said, *conditions],
            "containerStatuses": list(containers),
            "initContainerStatuses": list(inits),
        },
    }


def running(since: str = "2026-01-01T00:00:00Z") -> Obj:
    """The state of a container that runs."""
    return {"running": {"startedAt": since}}


def ended(code: int, message: str = "", reason: str = "Error") -> Obj:
    """The state of a container that ended."""
    return {"terminated": {"exitCode": code, "message": message, "reason": reason}}


def world(**changes: Any) -> World:
    """A ModelDeployment ``iris`` with nothing around it."""
    spec = ModelDeploymentSpec.model_validate(
        {"model": {"uri": "s3://models/iris"}, **changes.pop("spec", {})}
    )
    fields: dict[str, Any] = {
        "owner": OWNER,
        "mdep": {"metadata": {"name": "iris", "namespace": "shop", "uid": "uid-0"}},
        "spec": spec,
        "revisions": {},
        "roles": Roles(),
        "progress": Progress(),
        "deployments": {},
        "services": {},
        "config_maps": {},
        "jobs": {},
        "pods": {},
        "router_pods": [],
        "job_pods": {},
        "records": {},
    }
    return World(**{**fields, **changes})
