"""Condition types, their reasons, and how generic tools read them.

Written into status by the controller, read by ``kubectl wait``, Argo CD, Flux and Helm.  Reasons
are CamelCase words that scripts may depend on; sentences for people go into the message.
`compute` is what kstatus (the library behind Flux, Helm and ``kubectl wait``-like tools) makes of
an object, ported so that tests can hold our status against it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

READY = "Ready"
RECONCILING = "Reconciling"
STALLED = "Stalled"
AVAILABLE = "Available"
PROMOTED = "Promoted"
VALIDATED = "Validated"
ANALYSIS_HEALTHY = "AnalysisHealthy"
SOURCE_MUTABLE = "SourceMutable"

TYPES: dict[str, str] = {
    READY: "The spec is in effect: its model serves everyone, or is held where a person put it. "
    "Unknown while a new one is on its way.",
    RECONCILING: "A new revision is on its way; absent when nothing is.",
    STALLED: "A person must act; the message says how. Absent when nothing is wrong.",
    AVAILABLE: "Users are served, whatever else happens.",
    PROMOTED: "The revision in spec is stable.",
    VALIDATED: "The gates have passed. Reason AnswersOnly: that it answers, not that it is right.",
    ANALYSIS_HEALTHY: "Evidence arrives and can be trusted.",
    SOURCE_MUTABLE: "The model's address can be overwritten with other bytes.",
}
"""Every condition type with its meaning; the reference page is made from it."""

# Ready, Reconciling: where the revision is.
RESOLVING = "Resolving"
VALIDATING = "Validating"
PROVISIONING = "Provisioning"
ROUTING = "Routing"
OBSERVING = "Observing"
PROMOTING = "Promoting"
WATCHING = "Watching"
ROLLING_BACK = "RollingBack"
STABLE = "Stable"
HELD = "Held"
SUPERSEDED = "Superseded"
WITHDRAWN = "Withdrawn"
PLAN_PENDING = "PlanPending"

# Stalled: why a person must act.
REVISION_QUARANTINED = "RevisionQuarantined"
GATE_FAILED = "GateFailed"
NO_SAFE_TARGET = "NoSafeTarget"
PROGRESS_DEADLINE = "ProgressDeadlineExceeded"
NAME_CONFLICT = "NameConflict"
NOT_TRUSTED = "NotTrusted"
TRUST_UNREADABLE = "TrustUnreadable"
INVALID_PACKAGE = "InvalidPackage"
FETCH_FAILED = "FetchFailed"
INVALID = "Invalid"
ABORTED = "Aborted"

# Validated.
GATES_PASSED = "GatesPassed"
ANSWERS_ONLY = "AnswersOnly"

# AnalysisHealthy.
EVIDENCE_ARRIVES = "EvidenceArrives"
NO_EVIDENCE = "NoEvidence"
SAMPLE_RATIO_MISMATCH = "SampleRatioMismatch"
ROUTER_UNREACHABLE = "RouterUnreachable"

# Available, SourceMutable.
SERVING = "Serving"
NOTHING_SERVES = "NothingServes"
CAN_BE_OVERWRITTEN = "CanBeOverwritten"

KStatus = Literal["Terminating", "InProgress", "Failed", "Current"]


def find(conditions: Iterable[Mapping[str, Any]], kind: str) -> Mapping[str, Any] | None:
    """The condition of type ``kind``."""
    return next((c for c in conditions if c.get("type") == kind), None)


def compute(body: Mapping[str, Any]) -> KStatus:
    """What kstatus makes of ``body``: the order of the questions is kstatus's own."""
    metadata, status = body.get("metadata", {}), body.get("status", {})
    if metadata.get("deletionTimestamp"):
        return "Terminating"
    observed = status.get("observedGeneration")
    if observed is not None and observed != metadata.get("generation"):
        return "InProgress"
    for condition in status.get("conditions", []):
        if condition["type"] == RECONCILING and condition["status"] == "True":
            return "InProgress"
        if condition["type"] == STALLED and condition["status"] == "True":
            return "Failed"
    ready = find(status.get("conditions", []), READY)
    return "Current" if ready is None or ready["status"] == "True" else "InProgress"
