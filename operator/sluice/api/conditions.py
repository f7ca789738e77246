"""Condition types, their reasons, and how generic tools read them.

Written into status by the controller, read by ``kubectl wait``, Argo CD, Flux and Helm.  Reasons
are CamelCase words that scripts may depend on; sentences for people go into the message.
The reference page is made from the two tables, and a test holds the rollout to them.
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
CODE_TRUSTED = "CodeTrusted"

TYPES: dict[str, str] = {
    READY: "The spec is in effect: its model serves everyone, or is held where a person put it. "
    "Unknown while a new one is on its way.",
    RECONCILING: "A new revision is on its way.",
    STALLED: "A person must act; the message says how.",
    AVAILABLE: "Users are served, whatever else happens.",
    PROMOTED: "The revision in spec is stable.",
    VALIDATED: "The gates have passed. Reason AnswersOnly: that it answers, not that it is right.",
    ANALYSIS_HEALTHY: "Evidence arrives and can be trusted.",
    SOURCE_MUTABLE: "The model's address can be overwritten with other bytes.",
    CODE_TRUSTED: "Whether a package that runs code when it is loaded is admitted, and by what. "
    "Absent for packages that are data, unless they are denied.",
}
"""Every condition type with its meaning; the reference page is made from it."""

REASONS: dict[str, str] = {
    "Progressing": "The address is being resolved and the package fetched.",
    "RolloutInFlight": "Gates, pods or steps; the message says which, what is missing and how "
    "long it takes.",
    "WaitingForPods": "Pods are not ready.",
    "Held": "A check or a step asks for a person, or the rollout is paused.",
    "Watching": "Promoted, and compared with the previous revision.",
    "Serving": "The revision in spec serves.",
    "UpToDate": "Nothing is on its way.",
    "NotStalled": "Nobody needs to act.",
    "RevisionQuarantined": "A gate or check failed; the message has the check, both values and "
    "the command to retry.",
    "Withdrawn": "Both revisions failed or the environment is suspected: no verdict, tried again.",
    "GuardrailFailed": "A guardrail failed and rollout.onFail is Pause: weight 0 until a person "
    "decides.",
    "Inconclusive": "A step reached maxDuration undecided and rollout.onInconclusive holds.",
    "ProgressDeadlineExceeded": "No progress within rollout.progressDeadline; the message says "
    "what is missing.",
    "NameConflict": "Something under one of our names belongs to somebody else and is left alone.",
    "InvalidSpec": "This operator cannot read the spec: it may be older than the object.",
    "RecordUnreadable": "A ModelRevision or a ConfigMap of ours is damaged; what serves goes on "
    "serving, and the message says what to restore or delete.",
    "Forbidden": "The API server refuses what is needed: a quota, an admission policy or a missing "
    "right, named in the message; tried again with growing pauses.",
    "Invalid": "The API server does not accept an object made from this spec.",
    "NotTrusted": "The package runs code when it is loaded and no TrustPolicy admits it here.",
    "Denied": "A TrustPolicy denies this package here, whatever else admits it.",
    "TrustUnreadable": "The operator may not read TrustPolicies, so such packages are refused.",
    "TrustAny": "A TrustPolicy admits every package here: for development clusters.",
    "TrustDigest": "A TrustPolicy admits exactly this package.",
    "TrustSigner": "A TrustPolicy admits the key that this package is signed with; the message "
    "names the signer.",
    "FetchFailed": "The package could not be fetched; the message says whether it is tried again.",
    "NothingServesYet": "No revision has been promoted yet.",
    "NoReadyPod": "No pod of stable is ready.",
    "RouterNotReady": "No router pod is ready.",
    "ScaledToZero": "spec.replicas is 0.",
    "Promoted": "The revision in spec is stable.",
    "GatesPending": "Gates have not been run.",
    "GatesPassed": "All gates passed, with a quality dataset.",
    "AnswersOnly": "All gates passed, without a quality dataset: it answers; that it is right is "
    "not known.",
    "GateFailed": "A gate failed.",
    "GatesCannotRun": "The gates could not run and would not run another time; no verdict.",
    "NotYet": "Nothing has been validated yet.",
    "Healthy": "Evidence arrives.",
    "NoData": "Looks found no evidence several times in a row: the weight is frozen.",
    "Pinned": "The address cannot change what is served.",
    "Overwritable": "The address can be overwritten; new pods refuse other bytes.",
}
"""Reasons of conditions with their meaning.  A package that cannot be used brings its own reason:
Missing, Truncated, Corrupt, DigestMismatch, TooLarge, UnknownFormat, EnvironmentMismatch."""

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
