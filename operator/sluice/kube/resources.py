"""Where each kind lives in the API: a table and the paths made from it.

Used by the client, the feed and the store.  Kinds are named as Kubernetes names them; ``Event`` is
the one of ``events.k8s.io``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sluice.api import meta
from sluice.errors import InvalidInputError

Object = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Resource:
    """One kind: how to address it."""

    kind: str
    group: str
    version: str
    plural: str
    namespaced: bool = True

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str | None = None, name: str = "", subresource: str = "") -> str:
        """The URL path of the collection (no name), an object, or its subresource."""
        parts = ["/apis", self.group, self.version] if self.group else ["/api", self.version]
        if self.namespaced and namespace:
            parts += ["namespaces", namespace]
        parts.append(self.plural)
        if name:
            parts.append(name)
        if subresource:
            parts.append(subresource)
        return "/".join(parts)


_TABLE = (
    Resource("ModelDeployment", meta.GROUP, meta.VERSION, "modeldeployments"),
    Resource("ModelRevision", meta.GROUP, meta.VERSION, "modelrevisions"),
    Resource("ModelPipeline", meta.GROUP, meta.VERSION, "modelpipelines"),
    Resource("TrustPolicy", meta.GROUP, meta.VERSION, "trustpolicies", namespaced=False),
    Resource("Deployment", "apps", "v1", "deployments"),
    Resource("ReplicaSet", "apps", "v1", "replicasets"),
    Resource("Service", "", "v1", "services"),
    Resource("ConfigMap", "", "v1", "configmaps"),
    Resource("Secret", "", "v1", "secrets"),
    Resource("Pod", "", "v1", "pods"),
    Resource("Namespace", "", "v1", "namespaces", namespaced=False),
    Resource("Node", "", "v1", "nodes", namespaced=False),
    Resource("ServiceAccount", "", "v1", "serviceaccounts"),
    Resource("PersistentVolumeClaim", "", "v1", "persistentvolumeclaims"),
    Resource("Job", "batch", "v1", "jobs"),
    Resource("CronJob", "batch", "v1", "cronjobs"),
    Resource("PodDisruptionBudget", "policy", "v1", "poddisruptionbudgets"),
    Resource("HorizontalPodAutoscaler", "autoscaling", "v2", "horizontalpodautoscalers"),
    Resource("NetworkPolicy", "networking.k8s.io", "v1", "networkpolicies"),
    Resource("Ingress", "networking.k8s.io", "v1", "ingresses"),
    Resource("HTTPRoute", "gateway.networking.k8s.io", "v1", "httproutes"),
    Resource("Lease", "coordination.k8s.io", "v1", "leases"),
    Resource("Event", "events.k8s.io", "v1", "events"),
    Resource(
        "CustomResourceDefinition",
        "apiextensions.k8s.io",
        "v1",
        "customresourcedefinitions",
        namespaced=False,
    ),
)

RESOURCES: dict[str, Resource] = {r.kind: r for r in _TABLE}


def resource(kind: str) -> Resource:
    """The table's row for ``kind``."""
    found = RESOURCES.get(kind)
    if found is None:
        raise InvalidInputError(
            f"The kind {kind!r} is not one that Sluice works with.",
            hint="Add it to sluice/kube/resources.py and to the operator's RBAC.",
        )
    return found
