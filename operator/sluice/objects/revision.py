"""One revision: its pod template, Deployment, ClusterIP Service and headless Service."""

from __future__ import annotations

import json
from typing import Any

from sluice.api.meta import (
    LABEL_COMPONENT,
    LABEL_DEPLOYMENT,
    LABEL_REVISION,
    POD_READINESS_GATE,
    PORT_ADMIN,
    PORT_SERVING,
    headless_name,
    revision_name,
)
from sluice.api.serving import PodOverrides, Serving
from sluice.objects.common import (
    CODE_MEMORY,
    POD_SECURITY,
    Obj,
    Owner,
    container,
    labels,
    metadata,
)
from sluice.objects.fetching import claim_volumes, fetch_seconds, fetcher

VERDICT_DIR = "/sluice/verdict"
SETTINGS_DIR = "/sluice/settings"
MIRROR_FILE = "mirror.json"
MIRROR_SCHEMA = 1
MIRROR_SLACK = 1.0
"""Seconds that a copy may take beyond the candidate's own time-out: its 504 must arrive."""

MAX_MIRROR_ADDRESSES = 64
PACKAGE_DIR = "/model/package"
DRAIN_SECONDS = 3
GRACE_SECONDS = 30
PROGRESS_SECONDS = 600


def verdict_name(deployment: str, revision: str) -> str:
    """The ConfigMap that ``readinessGate: Probe`` waits for."""
    return f"{revision_name(deployment, revision)}-verdict"


def settings_name(deployment: str, revision: str) -> str:
    """The ConfigMap that a revision's pods read again while they run."""
    return f"{revision_name(deployment, revision)}-settings"


def pod_template(
    *,
    name: str,
    namespace: str,
    revision: str,
    uri: str,
    secret: str | None,
    digest: str,
    allow_code: bool,
    image: str,
    serving: Serving,
) -> Obj:
    """The template that identifies the revision.  Rendered once and recorded, never re-rendered."""
    probe = serving.readiness_gate == "Probe"
    volumes: list[Obj] = [
        {"name": "model", "emptyDir": {}},
        {"name": "tmp", "emptyDir": {}},
        {
            "name": "settings",
            "configMap": {"name": settings_name(name, revision), "optional": True},
        },
        *claim_volumes(uri),
    ]
    if probe:
        volumes.append({"name": "verdict", "configMap": {"name": verdict_name(name, revision)}})
    fetch = fetcher(
        "fetch",
        image,
        uri,
        ["--to", PACKAGE_DIR, "--digest", digest],
        [{"name": "model", "mountPath": "/model"}],
        secret,
    )
    spec: Obj = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": GRACE_SECONDS,
        "securityContext": POD_SECURITY,
        "initContainers": [fetch],
        "containers": [
            _server(name, namespace, revision, digest, allow_code, image, serving, probe)
        ],
        "volumes": volumes,
    }
    if not probe:
        spec["readinessGates"] = [{"conditionType": POD_READINESS_GATE}]
    return {"metadata": {"labels": labels(name, "model", revision)}, "spec": spec}


def _server(
    name: str,
    namespace: str,
    revision: str,
    digest: str,
    allow_code: bool,
    image: str,
    serving: Serving,
    probe: bool,
) -> Obj:
    args = [
        "serve",
        PACKAGE_DIR,
        "--host=$(POD_IP)",
        f"--port={PORT_SERVING}",
        f"--admin-port={PORT_ADMIN}",
        f"--digest={digest}",
        f"--revision={revision}",
        f"--deployment={name}",
        f"--namespace={namespace}",
        f"--timeout={serving.timeout}",
        f"--mirror-file={SETTINGS_DIR}/{MIRROR_FILE}",
    ]
    if allow_code:
        args.append("--allow-code")
    mounts: list[Obj] = [
        {"name": "model", "mountPath": "/model", "readOnly": True},
        {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108
        {"name": "settings", "mountPath": SETTINGS_DIR, "readOnly": True},
    ]
    if probe:
        args.append(f"--verdict-file={VERDICT_DIR}/verdict")
        mounts.append({"name": "verdict", "mountPath": VERDICT_DIR, "readOnly": True})
    env: list[Obj] = [
        {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
        *(e.model_dump(by_alias=True) for e in serving.env or []),
    ]
    return container(
        "model",
        image,
        args,
        env=env,
        ports=[
            {"name": "http", "containerPort": PORT_SERVING},
            {"name": "admin", "containerPort": PORT_ADMIN},
        ],
        resources=_resources(serving, allow_code),
        volumeMounts=mounts,
        startupProbe=_probe("/startupz", period=1, failures=600),
        readinessProbe=_probe("/readyz", period=2, failures=2),
        livenessProbe=_probe("/livez", period=10, failures=3),
        lifecycle={"preStop": {"sleep": {"seconds": DRAIN_SECONDS}}},
    )


def _resources(serving: Serving, code: bool) -> Obj:
    if serving.resources:
        return serving.resources.model_dump(by_alias=True, exclude_none=True)
    requests: Obj = {"requests": {"cpu": "100m", "memory": "128Mi"}}
    return {**requests, "limits": {"memory": CODE_MEMORY}} if code else requests


def _probe(path: str, *, period: int, failures: int) -> Obj:
    return {
        "httpGet": {"path": path, "port": "http"},
        "periodSeconds": period,
        "timeoutSeconds": 2,
        "failureThreshold": failures,
    }


def placed(template: dict[str, Any], pod: PodOverrides | None) -> Obj:
    """``template`` with placement and decoration, which are not part of the identity."""
    if pod is None:
        return template
    meta = dict(template["metadata"])
    spec = dict(template["spec"])
    written = pod.model_dump(by_alias=True, exclude_none=True)
    meta["labels"] = {**written.get("labels", {}), **meta["labels"]}
    if written.get("annotations"):
        meta["annotations"] = written["annotations"]
    for key in ("nodeSelector", "tolerations", "serviceAccountName"):
        if written.get(key):
            spec[key] = written[key]
    return {"metadata": meta, "spec": spec}


def deployment(owner: Owner, revision: str, template: Obj, size: int = 0) -> Obj:
    """The revision's Deployment without ``replicas``, which have a field manager of their own.

    ``size`` is the package's, in bytes: pods that fetch more may take longer.
    """
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata(owner, revision_name(owner.name, revision), "model", revision),
        "spec": {
            "revisionHistoryLimit": 1,
            "progressDeadlineSeconds": PROGRESS_SECONDS + fetch_seconds(size),
            "strategy": {
                "type": "RollingUpdate",
                "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1},
            },
            "selector": {"matchLabels": _selector(owner.name, revision)},
            "template": template,
        },
    }


def services(owner: Owner, revision: str) -> list[Obj]:
    """The ClusterIP and the headless Service of a revision."""
    selector = _selector(owner.name, revision)
    port = {"name": "http", "port": 80, "targetPort": "http", "protocol": "TCP"}
    return [
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": metadata(owner, revision_name(owner.name, revision), "model", revision),
            "spec": {"selector": selector, "ports": [port]},
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": metadata(owner, headless_name(owner.name, revision), "model", revision),
            "spec": {
                "clusterIP": "None",
                "selector": selector,
                "ports": [{**port, "port": PORT_SERVING}],
            },
        },
    ]


def disruption_budget(owner: Owner, revision: str) -> Obj:
    """A drained node takes one pod at a time; one that is not ready never blocks a drain."""
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": metadata(owner, revision_name(owner.name, revision), "model", revision),
        "spec": {
            "maxUnavailable": 1,
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
            "selector": {"matchLabels": _selector(owner.name, revision)},
        },
    }


def verdict_map(owner: Owner, revision: str, verdict: str) -> Obj:
    """The ConfigMap that pods under ``readinessGate: Probe`` read."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata(owner, verdict_name(owner.name, revision), "verdict", revision),
        "data": {"verdict": verdict},
    }


def settings_map(owner: Owner, revision: str, mirror: Obj) -> Obj:
    """The ConfigMap that pods read again while they run: where to mirror, ``{}`` for nowhere."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata(owner, settings_name(owner.name, revision), "settings", revision),
        "data": {MIRROR_FILE: json.dumps(mirror, sort_keys=True)},
    }


def mirror_settings(
    *,
    rollout: str,
    revision: str,
    addresses: list[str],
    percent: int,
    tolerance: float,
    timeout: float,
) -> Obj:
    """What ``sluice.runtime.mirror`` reads.  ``{}`` while nobody is there to be mirrored to."""
    if not addresses:
        return {}
    return {
        "schema": MIRROR_SCHEMA,
        "id": rollout,
        "revision": revision,
        "addresses": sorted(addresses)[:MAX_MIRROR_ADDRESSES],
        "percent": percent,
        "tolerance": tolerance,
        "timeout": timeout + MIRROR_SLACK,
    }


def _selector(name: str, revision: str) -> dict[str, str]:
    return {LABEL_DEPLOYMENT: name, LABEL_REVISION: revision, LABEL_COMPONENT: "model"}
