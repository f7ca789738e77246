"""The router's Kubernetes objects: ConfigMap, Deployment, Service and PodDisruptionBudget.

Pure; called by the controller with what it decided.  The pod template depends on ``RouterShape``
only: flipping stable's slot changes the ConfigMap and restarts nobody, because what routers do now
is in their memory and the file is what they do after a restart.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from sluice.api.meta import (
    GROUP,
    LABEL_COMPONENT,
    LABEL_DEPLOYMENT,
    LABEL_MANAGED,
    router_name,
    service_name,
)
from sluice.objects.haproxy_config import (
    CONFIG_DIR,
    RUN_DIR,
    STOP_SECONDS,
    TLS_DIR,
    TOKEN_ENV,
    RouterShape,
    config_files,
)
from sluice.objects.router_plan import SlotTarget

COMPONENT = "router"
TLS_SECRET = "sluice-router-tls"  # noqa: S105 - the name of a Secret, not a secret
"""One per namespace: keys ``router.pem`` (certificate and key) and ``ca.pem``."""

USERS_PORT = 80
LEAVE_SECONDS = 5
"""Endpoints forget a pod in this time; only then does it stop listening."""

GRACE_SECONDS = LEAVE_SECONDS + STOP_SECONDS + 10
ANNOTATION_SHAPE = f"{GROUP}/router-shape"
HAPROXY_UID = 99
"""The user of the official haproxy image."""

Object = dict[str, Any]


@dataclass(frozen=True)
class RouterSpec:
    """One ModelDeployment's router.

    ``roles`` is what the operator wants to find again in ``roles.json``; ``owner`` is an
    ownerReference; ``labels`` are added to every object, never to selectors.
    """

    name: str
    namespace: str
    stable_slot: str
    stable: SlotTarget
    roles: Mapping[str, object] = field(default_factory=dict)
    shape: RouterShape = field(default_factory=RouterShape)
    replicas: int = 2
    image: str = "haproxy"
    labels: Mapping[str, str] = field(default_factory=dict)
    owner: Mapping[str, object] | None = None


def router_objects(spec: RouterSpec) -> list[Object]:
    """Everything of the router, ready to be applied, ConfigMap first."""
    objects = [router_config_map(spec), router_deployment(spec), users_service(spec)]
    if spec.replicas > 1:
        objects.append(router_disruption_budget(spec))
    return objects


def selector(name: str) -> dict[str, str]:
    """Labels of a ModelDeployment's router pods, and of nothing else."""
    return {LABEL_DEPLOYMENT: name, LABEL_COMPONENT: COMPONENT}


@functools.cache
def shape_hash(shape: RouterShape) -> str:
    """Changes when router pods must be replaced to follow."""
    text = json.dumps(asdict(shape), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def router_config_map(spec: RouterSpec) -> Object:
    """The files a router reads when it starts."""
    files = config_files(spec.shape, spec.stable_slot, spec.stable, spec.roles)
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": _metadata(spec, router_name(spec.name)),
        "data": files,
    }


def router_deployment(spec: RouterSpec) -> Object:
    """The router's pods: replaced one at a time, never fewer than wanted."""
    template = {
        "metadata": {
            "labels": {**spec.labels, LABEL_MANAGED: "true", **selector(spec.name)},
            "annotations": {ANNOTATION_SHAPE: shape_hash(spec.shape)},
        },
        "spec": _pod_spec(spec),
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": _metadata(spec, router_name(spec.name)),
        "spec": {
            "replicas": spec.replicas,
            "selector": {"matchLabels": selector(spec.name)},
            "strategy": {
                "type": "RollingUpdate",
                "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1},
            },
            "template": template,
        },
    }


def users_service(spec: RouterSpec) -> Object:
    """The Service that users call."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _metadata(spec, service_name(spec.name)),
        "spec": {
            "selector": selector(spec.name),
            "ports": [
                {
                    "name": "http",
                    "port": USERS_PORT,
                    "targetPort": spec.shape.port,
                    "protocol": "TCP",
                }
            ],
        },
    }


def router_disruption_budget(spec: RouterSpec) -> Object:
    """A drained node takes one router at a time."""
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": _metadata(spec, router_name(spec.name)),
        "spec": {"maxUnavailable": 1, "selector": {"matchLabels": selector(spec.name)}},
    }


def _metadata(spec: RouterSpec, name: str) -> Object:
    metadata: Object = {
        "name": name,
        "namespace": spec.namespace,
        "labels": {**spec.labels, LABEL_MANAGED: "true", **selector(spec.name)},
    }
    if spec.owner is not None:
        metadata["ownerReferences"] = [dict(spec.owner)]
    return metadata


def _pod_spec(spec: RouterSpec) -> Object:
    return {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": GRACE_SECONDS,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": HAPROXY_UID,
            "runAsGroup": HAPROXY_UID,
            "fsGroup": HAPROXY_UID,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "topologySpreadConstraints": [
            {
                "maxSkew": 1,
                "topologyKey": "kubernetes.io/hostname",
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": selector(spec.name)},
            }
        ],
        "containers": [_container(spec)],
        "volumes": [
            {"name": "config", "configMap": {"name": router_name(spec.name)}},
            {"name": "tls", "secret": {"secretName": TLS_SECRET, "defaultMode": 0o440}},
            {"name": "run", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
        ],
    }


def _container(spec: RouterSpec) -> Object:
    return {
        "name": "haproxy",
        "image": spec.image,
        "args": ["-db", "-f", f"{CONFIG_DIR}/haproxy.cfg"],
        "env": [
            {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
            *_token(spec.shape),
        ],
        "ports": [
            {"name": "http", "containerPort": spec.shape.port, "protocol": "TCP"},
            {"name": "admin", "containerPort": spec.shape.admin_port, "protocol": "TCP"},
            {"name": "health", "containerPort": spec.shape.health_port, "protocol": "TCP"},
        ],
        "readinessProbe": _probe(spec.shape.health_port, period=1, failures=3),
        "livenessProbe": {
            "tcpSocket": {"port": spec.shape.health_port},
            "periodSeconds": 10,
            "timeoutSeconds": 2,
            "failureThreshold": 3,
        },
        # The image's stop signal (SIGUSR1) then lets requests in flight finish, and one more on
        # each connection.
        "lifecycle": {"preStop": {"sleep": {"seconds": LEAVE_SECONDS}}},
        "resources": {
            "requests": {"cpu": "50m", "memory": "32Mi"},
            "limits": {"memory": "256Mi"},
        },
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [
            {"name": "config", "mountPath": CONFIG_DIR, "readOnly": True},
            {"name": "tls", "mountPath": TLS_DIR, "readOnly": True},
            {"name": "run", "mountPath": RUN_DIR},
        ],
    }


def _token(shape: RouterShape) -> list[Object]:
    """The token of ``/feedback``; a missing Secret must not keep routers from serving users."""
    if shape.feedback is None:
        return []
    name, key = shape.feedback
    source = {"secretKeyRef": {"name": name, "key": key, "optional": True}}
    return [{"name": TOKEN_ENV, "valueFrom": source}]


def _probe(port: int, *, period: int, failures: int) -> Object:
    return {
        "httpGet": {"path": "/healthz", "port": port, "scheme": "HTTP"},
        "periodSeconds": period,
        "timeoutSeconds": 1,
        "successThreshold": 1,
        "failureThreshold": failures,
    }
