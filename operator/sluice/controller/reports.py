"""What jobs report by termination message.

Called by observe.  A message that is not one of ours is an honest failure, never a pass.
"""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

from pydantic import ValidationError

from sluice.api.modelrevision import PackageInfo
from sluice.api.status import GateStatus
from sluice.controller.pods import trouble
from sluice.rollout.model import GatesView, ResolveView

Obj = dict[str, Any]


def resolve_view(job: Obj | None, pods: list[Obj]) -> ResolveView:
    """What the resolving job found."""
    if job is None:
        return ResolveView()
    state = _job_state(job)
    message, _ = _termination(pods, "resolve")
    if state == "Running":
        said = _progress(job, pods, "Fetching the package's manifest.")
        return ResolveView("Running", message=said)
    report = _parse(message)
    if report.get("ok") is True:
        try:
            return ResolveView(
                "Succeeded", package=PackageInfo.model_validate(report.get("package"))
            )
        except ValidationError as error:
            return ResolveView(
                "Failed",
                reason="ReportUnreadable",
                message=f"The report of fetching is not understood: {error.errors()[0]['msg']}.",
            )
    return ResolveView(
        "Failed",
        reason=str(report.get("reason") or "FetchFailed")[:128],
        message=str(report.get("message") or message or _job_failure(job))[:512],
        retryable=bool(report.get("retryable", not report)),
    )


def gates_view(job: Obj | None, pods: list[Obj]) -> GatesView:
    """What the gate job found."""
    if job is None:
        return GatesView()
    if _job_state(job) == "Running":
        return GatesView("Running", message=_progress(job, pods, "Gates are running."))
    message, _ = _termination(pods, "gates")
    report = _parse(message)
    try:
        gates = tuple(GateStatus.model_validate(g) for g in report.get("gates") or [])
    except (ValidationError, TypeError):
        gates = ()
    if gates:
        return GatesView("Done", gates=gates)
    broken, retryable = _broken(pods, message, job)
    return GatesView("Broken", message=broken[:512], retryable=retryable)


def _broken(pods: list[Obj], message: str, job: Obj) -> tuple[str, bool]:
    """Why the gates could not even run: an init container that fetches, or the job itself."""
    for pod in pods:
        for status in pod.get("status", {}).get("initContainerStatuses") or []:
            ended = status.get("state", {}).get("terminated")
            if ended and ended.get("exitCode"):
                report = _parse(str(ended.get("message") or ""))
                said = str(report.get("message") or ended.get("message") or ended.get("reason"))
                return f"fetching {status['name']}: {said}", bool(report.get("retryable", True))
    report = _parse(message)  # `sluice validate` says by itself why there is nothing to judge
    if report.get("message"):
        return str(report["message"]), bool(report.get("retryable", False))
    return message or _job_failure(job), True


def _job_state(job: Obj) -> str:
    for entry in job.get("status", {}).get("conditions") or []:
        if entry.get("status") == "True" and entry.get("type") in ("Complete", "Failed"):
            return str(entry["type"])
    return "Running"


def finished_at(job: Obj) -> float | None:
    """When the job ended; None while it runs."""
    for entry in job.get("status", {}).get("conditions") or []:
        if entry.get("status") == "True" and entry.get("type") in ("Complete", "Failed"):
            try:
                return datetime.fromisoformat(str(entry.get("lastTransitionTime"))).timestamp()
            except ValueError:
                return 0.0
    return None


def _job_failure(job: Obj) -> str:
    for entry in job.get("status", {}).get("conditions") or []:
        if entry.get("type") == "Failed" and entry.get("status") == "True":
            return f"The job failed: {entry.get('reason')}: {entry.get('message')}"
    return "The job ended without a report."


def _termination(pods: list[Obj], container: str) -> tuple[str, int | None]:
    for pod in sorted(
        pods, key=lambda p: str(p["metadata"].get("creationTimestamp")), reverse=True
    ):
        for status in pod.get("status", {}).get("containerStatuses") or []:
            ended = status.get("state", {}).get("terminated")
            if status.get("name") == container and ended:
                return str(ended.get("message") or ""), ended.get("exitCode")
    return "", None


def _parse(message: str) -> Obj:
    for line in reversed(message.strip().splitlines()):
        try:
            report = json.loads(line)
        except ValueError:
            continue
        if isinstance(report, dict):
            return report
    return {}


def _progress(job: Obj, pods: list[Obj], fallback: str) -> str:
    if not pods:
        name = job["metadata"]["name"]
        return (
            f"{fallback} Job {name} has no pod yet; if that stays, kubectl describe job/{name} "
            "says why: a quota, an admission policy, a missing account."
        )
    found = trouble(pods)
    if found is not None and found.kind in ("Pending", "Image", "Fetch"):
        return f"{fallback} {found.message}"
    return fallback
