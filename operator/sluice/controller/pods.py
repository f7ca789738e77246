"""Pods of a revision as the decision sees them: how many are ready, and whose fault if not.

Called by observe.  Pure on pod objects.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sluice.rollout.model import PodsView, Trouble

Obj = dict[str, Any]

CRASHED_PODS = 2
RESTARTS = 3


def is_ready(pod: Obj) -> bool:
    """Ready and not on its way out."""
    return condition(pod, "Ready") == "True" and "deletionTimestamp" not in pod["metadata"]


def condition(pod: Obj, kind: str) -> str:
    """The status of a pod condition, empty when absent."""
    for entry in pod.get("status", {}).get("conditions", []):
        if entry.get("type") == kind:
            return str(entry.get("status", ""))
    return ""


def view(deployment: Obj | None, pods: Iterable[Obj]) -> PodsView:
    """One revision's pods."""
    live = [p for p in pods if "deletionTimestamp" not in p["metadata"]]
    wanted = int((deployment or {}).get("spec", {}).get("replicas") or 0)
    ready = sum(map(is_ready, live))
    return PodsView(
        wanted=wanted,
        ready=ready,
        exists=deployment is not None,
        trouble=None if ready >= wanted else trouble(live, deployment),
    )


def trouble(pods: list[Obj], deployment: Obj | None = None) -> Trouble | None:
    """The most telling reason why pods are not ready, or why there are none."""
    crashes = [c for p in pods for c in _model_exits(p)]
    if crashes:
        return _crash(pods, crashes)
    for pod in pods:
        waiting = _waiting(pod)
        if waiting is not None:
            return waiting
    refused = _refused(deployment)
    if refused:
        return Trouble("Pending", refused)
    pending = [p for p in pods if p.get("status", {}).get("phase") == "Pending"]
    if pending:
        return Trouble("Pending", _unscheduled(pending[0]))
    return Trouble("NotReady", "pods run but are not ready") if pods else None


def _statuses(pod: Obj, key: str) -> list[Obj]:
    return list(pod.get("status", {}).get(key) or [])


def _model_exits(pod: Obj) -> list[Obj]:
    """Ends of the model's own container."""
    out = []
    for status in _statuses(pod, "containerStatuses"):
        if status.get("name") != "model":
            continue
        ended = status.get("state", {}).get("terminated") or status.get("lastState", {}).get(
            "terminated"
        )
        if ended and (ended.get("exitCode") or ended.get("reason") == "OOMKilled"):
            out.append({**ended, "restarts": int(status.get("restartCount") or 0)})
    return out


def _crash(pods: list[Obj], crashes: list[Obj]) -> Trouble:
    restarts = sum(c["restarts"] for c in crashes)
    fault = len(crashes) >= CRASHED_PODS or restarts >= RESTARTS
    last = crashes[-1]
    oom = last.get("reason") == "OOMKilled"
    said = " ".join(str(last.get("message") or "").split())[-300:]
    message = (
        f"the model's container exits with code {last.get('exitCode')}"
        f"{' (out of memory)' if oom else ''} on {len(crashes)} of {len(pods)} pods, "
        f"{restarts} restarts"
    )
    return Trouble(
        "OutOfMemory" if oom else "Crash",
        f"{message}: {said}" if said else message,
        models_fault=fault,
    )


def _waiting(pod: Obj) -> Trouble | None:
    for status in _statuses(pod, "initContainerStatuses"):
        ended = status.get("state", {}).get("terminated") or status.get("lastState", {}).get(
            "terminated"
        )
        if ended and ended.get("exitCode"):
            said = " ".join(str(ended.get("message") or "").split())[:300]
            return Trouble("Fetch", f"fetching failed: {said or ended.get('reason', '')}")
    for key in ("initContainerStatuses", "containerStatuses"):
        for status in _statuses(pod, key):
            waiting = status.get("state", {}).get("waiting") or {}
            reason = str(waiting.get("reason") or "")
            if reason and reason not in ("PodInitializing", "ContainerCreating"):
                kind = "Image" if "Image" in reason else "Pending"
                said = str(waiting.get("message") or "")[:200]
                return Trouble(kind, f"{reason}: {said}" if said else reason)  # type: ignore[arg-type]
    return None


def _refused(deployment: Obj | None) -> str:
    """Why pods cannot even be created: a quota, an admission policy, a missing account."""
    for entry in (deployment or {}).get("status", {}).get("conditions") or []:
        if entry.get("type") == "ReplicaFailure" and entry.get("status") == "True":
            return f"pods cannot be created: {str(entry.get('message') or '')[:350]}"
    return ""


def _unscheduled(pod: Obj) -> str:
    for entry in pod.get("status", {}).get("conditions", []):
        if entry.get("type") == "PodScheduled" and entry.get("status") == "False":
            return f"not scheduled: {str(entry.get('message') or '')[:250]}"
    return "pods are starting"
