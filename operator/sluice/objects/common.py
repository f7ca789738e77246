"""Labels, ownership and security that every child shares."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sluice.api.meta import (
    API_VERSION,
    LABEL_COMPONENT,
    LABEL_DEPLOYMENT,
    LABEL_MANAGED,
    LABEL_REVISION,
)

TERMINATION_LOG = "/sluice/termination-log"
CODE_MEMORY, CODE_GATES_MEMORY = "2Gi", "4Gi"
"""What a model of class Code may use where nobody said; its gates hold stable and rows as well."""

Obj = dict[str, Any]


@dataclass(frozen=True)
class Owner:
    """The ModelDeployment that owns the children."""

    name: str
    namespace: str
    uid: str

    def reference(self) -> Obj:
        """The controller ownerReference."""
        return {
            "apiVersion": API_VERSION,
            "kind": "ModelDeployment",
            "name": self.name,
            "uid": self.uid,
            "controller": True,
            "blockOwnerDeletion": True,
        }


def labels(name: str, component: str, revision: str | None = None) -> dict[str, str]:
    """Labels of a child; selectors use a subset that never changes."""
    out = {LABEL_MANAGED: "true", LABEL_DEPLOYMENT: name, LABEL_COMPONENT: component}
    if revision is not None:
        out[LABEL_REVISION] = revision
    return out


def metadata(
    owner: Owner, name: str, component: str, revision: str | None = None, *, owned: bool = True
) -> Obj:
    """Metadata of a child."""
    out: Obj = {
        "name": name,
        "namespace": owner.namespace,
        "labels": labels(owner.name, component, revision),
    }
    if owned:
        out["ownerReferences"] = [owner.reference()]
    return out


POD_SECURITY: Obj = {
    "runAsNonRoot": True,
    "runAsUser": 65532,
    "runAsGroup": 65532,
    "fsGroup": 65532,
    "seccompProfile": {"type": "RuntimeDefault"},
}

CONTAINER_SECURITY: Obj = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}


def container(name: str, image: str, args: list[str], **extra: Any) -> Obj:
    """A container that reports how it ended and may write nothing but its volumes."""
    env = [{"name": "SLUICE_TERMINATION_LOG", "value": TERMINATION_LOG}, *extra.pop("env", [])]
    return {
        "name": name,
        "image": image,
        "args": args,
        "env": env,
        "terminationMessagePath": TERMINATION_LOG,
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": CONTAINER_SECURITY,
        **extra,
    }
