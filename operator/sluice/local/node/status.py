"""What the node reports about a pod.  Pure: container states in, the status patch out."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field
from typing import Any

Object = dict[str, Any]


def now() -> str:
    """The time as Kubernetes writes it."""
    return dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass
class ContainerState:
    """What is known about one container."""

    name: str
    image: str
    state: Object = field(default_factory=lambda: {"waiting": {"reason": "PodInitializing"}})
    last: Object = field(default_factory=dict)
    restarts: int = 0
    ready: bool = False
    started: bool = False
    container_id: str = ""

    @property
    def terminated(self) -> Object | None:
        """The end of the present run, if it ended."""
        found: Object | None = self.state.get("terminated")
        return found

    @property
    def running(self) -> bool:
        """Whether it runs now."""
        return "running" in self.state

    def report(self) -> Object:
        """As ``containerStatuses`` has it."""
        status: Object = {
            "name": self.name,
            "image": self.image,
            "imageID": self.image,
            "ready": self.ready,
            "started": self.started,
            "restartCount": self.restarts,
            "state": self.state,
            "lastState": self.last,
        }
        if self.container_id:
            status["containerID"] = self.container_id
        return status


def phase(
    containers: list[ContainerState], *, initialized: bool, init_failed: bool, policy: str
) -> str:
    """The pod's phase, as the kubelet derives it."""
    if init_failed:
        return "Failed"
    if not initialized:
        return "Pending"
    ends = [c.terminated for c in containers]
    if all(ends) and policy != "Always":
        failed = any(e is not None and e["exitCode"] for e in ends)
        if not failed:
            return "Succeeded"
        if policy == "Never":
            return "Failed"
    begun = any(c.running or c.terminated or c.last for c in containers)
    return "Running" if begun else "Pending"


def conditions(
    pod: Object, *, phase: str, initialized: bool, sandbox: bool, containers_ready: bool
) -> list[Object]:
    """The conditions that the node owns; transition times change only with the status."""
    known = {c["type"]: c for c in pod.get("status", {}).get("conditions", [])}
    gates = [g["conditionType"] for g in pod["spec"].get("readinessGates", [])]
    closed = [g for g in gates if known.get(g, {}).get("status") != "True"]
    ended = phase in ("Succeeded", "Failed")
    not_ready = "PodCompleted" if phase == "Succeeded" else "ContainersNotReady"
    ready_reason, message = not_ready, ""
    if containers_ready and closed:
        ready_reason = "ReadinessGatesNotReady"
        message = f"corresponding condition of pod readiness gate {closed[0]!r} is not True"
    wanted = (
        ("PodReadyToStartContainers", sandbox and not ended, "", ""),
        ("Initialized", initialized, "ContainersNotInitialized", ""),
        ("ContainersReady", containers_ready, not_ready, ""),
        ("Ready", containers_ready and not closed, ready_reason, message),
    )
    result = []
    for kind, holds, reason, text in wanted:
        value = str(holds)
        before = known.get(kind, {})
        same = before.get("status") == value and before.get("lastTransitionTime")
        result.append(
            {
                "type": kind,
                "status": value,
                "lastProbeTime": None,
                "lastTransitionTime": before["lastTransitionTime"] if same else now(),
                "reason": reason if not holds and reason else None,
                "message": text if not holds and text else None,
                "observedGeneration": pod["metadata"].get("generation", 1),
            }
        )
    return result


def is_ready(report: list[Object]) -> bool:
    """Whether the Ready condition among ``report`` is True."""
    return any(c["type"] == "Ready" and c["status"] == "True" for c in report)
