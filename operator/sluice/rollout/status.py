"""The projection people read: roles, step, checks, conditions.  Nothing is decided from it."""

from __future__ import annotations

from typing import Any, Literal

from sluice.api.duration import human
from sluice.api.meta import LABEL_COMPONENT, LABEL_DEPLOYMENT, LABEL_REVISION
from sluice.api.status import (
    Condition,
    ModelDeploymentStatus,
    RevisionSummary,
    Role,
    StepStatus,
    Weight,
)
from sluice.rollout import no_traffic, running_total
from sluice.rollout.checks import shown_checks, shown_evidence
from sluice.rollout.desired import Desired
from sluice.rollout.draft import Draft
from sluice.rollout.experiment import shown
from sluice.rollout.model import JUDGED, Outcome, WatchProgress
from sluice.rollout.plan import Plan
from sluice.rollout.times import rfc3339
from sluice.rollout.trust import admitted, refusal

MAX_REVISIONS = 10
LOOKS_BEFORE_UNHEALTHY = 5
NEEDS_A_PERSON = (
    "ProgressDeadlineExceeded",
    "Inconclusive",
    "GuardrailFailed",
    "GatesCannotRun",
)

Truth = Literal["True", "False", "Unknown"]


def project(draft: Draft, want: Desired) -> dict[str, Any]:
    """The whole status as it goes to the API server, with stable transition times."""
    i = draft.i
    verdict = draft.judgement
    status = ModelDeploymentStatus(
        observed_generation=i.generation,
        replicas=draft.pods(draft.roles.stable).wanted,
        selector=_selector(draft),
        url=i.url,
        stable=_role(draft, draft.roles.stable, 100 - draft.roles.weight - draft.roles.holdback),
        candidate=_role(draft, _candidate(draft), draft.roles.weight),
        previous=_role(draft, draft.roles.previous, draft.roles.holdback),
        step=_step(draft),
        worst_check=verdict.worst if verdict else "",
        worst_evidence=f"{verdict.evidence_percent:.0f}%" if verdict else "",
        checks=shown_checks(verdict) if verdict else list(draft.progress.last_checks),
        evidence=shown_evidence(draft.progress, verdict) or draft.progress.last_evidence,
        experiment=shown(draft),
        gates=list(draft.rollout.gates) if draft.rollout else [],
        revisions=_history(draft),
        since_anchor=running_total.shown(draft),
        last_command=draft.progress.last_command,
        last_rollback=draft.progress.last_rollback,
        conditions=_conditions(draft, want),
    )
    return status.model_dump(by_alias=True, exclude_none=True, mode="json")


def _selector(draft: Draft) -> str:
    if not draft.roles.stable:
        return ""
    return (
        f"{LABEL_DEPLOYMENT}={draft.i.name},{LABEL_REVISION}={draft.roles.stable},"
        f"{LABEL_COMPONENT}=model"
    )


def _candidate(draft: Draft) -> str | None:
    return draft.rollout.revision if draft.rollout is not None else None


def _role(draft: Draft, revision: str | None, desired: int) -> Role | None:
    record = draft.revision(revision)
    if revision is None or record is None:
        return None
    view = draft.pods(revision)
    return Role(
        revision=revision,
        digest=record.package.digest,
        weight=Weight(desired=desired, observed=_observed(draft, revision)),
        ready=f"{view.ready}/{view.wanted}",
    )


def _observed(draft: Draft, revision: str) -> int | None:
    router = draft.i.router
    if not router.complete or router.weight_high is None or router.holdback_high is None:
        return None
    if revision == draft.roles.stable:
        return max(0, 100 - router.weight_high - router.holdback_high)
    if revision == draft.roles.previous:
        return router.holdback_high
    return router.weight_high


def _step(draft: Draft) -> StepStatus | None:
    rollout = draft.rollout
    if rollout is None:
        return None
    plan = Plan.from_json(rollout.plan) if rollout.plan else None
    count = len(plan.steps) if plan else 0
    index = count if rollout.phase in JUDGED else 0
    if rollout.phase == "Stepping" or rollout.phase == "Mirroring":
        index = rollout.step + 1
    return StepStatus(
        index=index,
        count=count,
        summary=draft.waiting or rollout.phase,
        since=rfc3339(rollout.since),
        estimated_seconds=int(draft.eta) if draft.eta is not None else None,
    )


def _history(draft: Draft) -> list[RevisionSummary]:
    newest = sorted(draft.i.revisions.values(), key=lambda r: (r.created, r.hash), reverse=True)
    out = []
    for record in newest[:MAX_REVISIONS]:
        verdict = draft.verdict(record.hash)
        out.append(
            RevisionSummary(
                revision=record.hash,
                digest=record.package.digest,
                verdict=verdict.phase,
                reason=verdict.check or verdict.reason,
                at=verdict.at or record.created,
            )
        )
    return out


def _conditions(draft: Draft, want: Desired) -> list[Condition]:
    outcome = draft.progress.outcome
    stuck = _stuck(draft, outcome)
    rows: list[tuple[str, Truth | Literal[""], str, str]] = [
        ("Ready", *_ready(draft, want, stuck)),
        ("Reconciling", *_reconciling(draft, stuck)),
        ("Stalled", *stuck) if stuck else ("Stalled", "False", "NotStalled", ""),
        ("Available", *_available(draft)),
        ("Promoted", *_promoted(draft, want)),
        ("Validated", *_validated(draft)),
        ("AnalysisHealthy", *_analysis(draft)),
        ("SourceMutable", *_mutable(want)),
        ("CodeTrusted", *_trusted(draft, want)),
    ]
    before = {c.type: c for c in draft.i.conditions}
    out = []
    for kind, truth, reason, message in rows:
        if truth == "":
            continue
        old = before.get(kind)
        kept = old is not None and old.status == truth
        out.append(
            Condition(
                type=kind,
                status=truth,
                observed_generation=draft.i.generation,
                last_transition_time=old.last_transition_time
                if old is not None and kept
                else rfc3339(draft.i.now),
                reason=reason,
                message=message[:512],
            )
        )
    return out


Row = tuple[Truth | Literal[""], str, str]


def _stuck(draft: Draft, outcome: Outcome | None) -> Row | None:
    """What a person must act on."""
    if draft.i.conflicts:
        return ("True", "NameConflict", " ".join(draft.i.conflicts))
    if outcome is not None and outcome.terminal:
        return ("True", outcome.reason, outcome.message)
    if draft.waiting_reason in NEEDS_A_PERSON and draft.waiting:
        return ("True", draft.waiting_reason, draft.waiting)
    return None


def _ready(draft: Draft, want: Desired, stuck: Row | None) -> Row:
    if stuck:
        return ("False", stuck[1], stuck[2])
    outcome = draft.progress.outcome
    if outcome is not None:
        return ("False", outcome.reason, outcome.message)
    rollout = draft.rollout
    if rollout is not None:
        if draft.waiting_reason in ("Held", "Paused"):
            return ("True", "Held", draft.waiting)
        return ("Unknown", "RolloutInFlight", draft.waiting or rollout.phase)
    if draft.roles.stable is None or want.revision != draft.roles.stable:
        return ("Unknown", "Progressing", draft.waiting)
    if draft.watch is not None:
        return ("True", "Watching", _watched(draft.watch))
    missing = _missing(draft)
    if missing:
        return ("Unknown", *missing)
    return ("True", "Serving", f"Revision {draft.roles.stable} serves.")


def _missing(draft: Draft) -> tuple[str, str] | None:
    """What stable still lacks to serve as it was asked for: reason and message."""
    ready, wanted = draft.pods(draft.roles.stable).ready, draft.i.spec.replicas
    if ready < wanted:
        return ("WaitingForPods", f"{ready} of {wanted} pods ready.")
    return _no_router(draft)


def _no_router(draft: Draft) -> tuple[str, str] | None:
    if draft.i.router.ready > 0:
        return None
    return ("RouterNotReady", draft.i.router.message or "No router pod is ready.")


def _watched(watching: WatchProgress) -> str:
    """What the watch waits for; says nothing that changes with every look."""
    return (
        f"Revision {watching.revision} serves; {watching.previous} stays warm for "
        f"{human(watching.duration)} and {watching.min_requests:,} requests."
    )


def _reconciling(draft: Draft, stuck: Row | None) -> Row:
    if stuck:
        return ("False", stuck[1], "")
    held = draft.waiting_reason in ("Held", "Paused")
    outcome = draft.progress.outcome
    if (draft.rollout is not None and not held) or (outcome is not None and not outcome.terminal):
        return ("True", "RolloutInFlight", draft.waiting)
    missing = _missing(draft) if draft.roles.stable is not None else None
    if missing:
        return ("True", missing[0], "")
    return ("False", "UpToDate", "")


def _available(draft: Draft) -> Row:
    view = draft.pods(draft.roles.stable)
    if draft.roles.stable is None:
        return ("False", "NothingServesYet", draft.waiting)
    if draft.i.spec.replicas == 0:
        return ("False", "ScaledToZero", "spec.replicas is 0.")
    if view.ready == 0:
        why = view.trouble.message if view.trouble else "No pod of stable is ready."
        return ("False", "NoReadyPod", why)
    if no_router := _no_router(draft):
        return ("False", *no_router)
    return ("True", "Serving", f"{view.ready} pods of {draft.roles.stable} serve.")


def _promoted(draft: Draft, want: Desired) -> Row:
    if want.revision is not None and want.revision == draft.roles.stable:
        return ("True", "Promoted", f"Revision {want.revision}.")
    outcome = draft.progress.outcome
    if outcome is not None:
        return ("False", outcome.reason, outcome.message)
    return ("False", "RolloutInFlight", "")


def _validated(draft: Draft) -> Row:
    revision = _candidate(draft) or draft.roles.stable
    if revision is None:
        return ("Unknown", "NotYet", "")
    phase = draft.verdict(revision).phase
    if phase in ("Validated", "Passed"):
        if draft.i.spec.validation.quality is None:
            return (
                "True",
                "AnswersOnly",
                "Checked that it answers, not that it is right: no quality dataset is given.",
            )
        return ("True", "GatesPassed", "")
    if phase == "Failed":
        return ("False", "GateFailed", draft.verdict(revision).message)
    return ("Unknown", "GatesPending", "")


def _analysis(draft: Draft) -> Row:
    judging = draft.rollout is not None or draft.watch is not None
    looks = draft.progress.empty_looks
    if draft.rollout is not None and no_traffic.seen(draft):
        step = Plan.from_json(draft.rollout.plan).steps[draft.rollout.step]
        return ("False", "NoData", no_traffic.said(draft, step))
    if judging and draft.progress.analysis_error and looks >= LOOKS_BEFORE_UNHEALTHY:
        return ("False", "NoData", draft.progress.analysis_error)
    silent = draft.judgement.silent if judging and draft.judgement else []
    quiet = [s for s in silent if s.looks >= LOOKS_BEFORE_UNHEALTHY]
    if quiet:
        reason = "MetricUnreadable" if any(s.error for s in quiet) else "NoData"
        return ("False", reason, " ".join(f"{s.check}: {s.said}" for s in quiet))
    return ("True", "Healthy", "")


def _mutable(want: Desired) -> Row:
    if want.package is not None and want.package.mutable_source:
        return (
            "True",
            "Overwritable",
            "The address can be overwritten; pin it with spec.model.digest or sluice push.",
        )
    return ("False", "Pinned", "")


def _trusted(draft: Draft, want: Desired) -> Row:
    i = draft.i
    if want.package is None:
        return ("", "", "")
    trust = admitted(want.package, i.namespace, i.policies, i.now)
    if trust is None:
        reason, _ = refusal(want.package, i.namespace, i.policies, i.policies_readable, i.now)
        still = " It goes on serving." if want.revision == draft.roles.stable else ""
        if reason == "Denied":
            return ("False", reason, f"A TrustPolicy denies this package here.{still}")
        return ("False", "NotTrusted", f"No TrustPolicy admits this package here.{still}")
    if trust.how == "Data":
        return ("", "", "")
    by = f" {trust.signer}" if trust.signer else ""
    until = f", until {rfc3339(trust.until)}" if trust.until is not None else ""
    return (
        "True",
        f"Trust{trust.how}",
        f"trust={trust.how}{by}: class {want.package.trust_class} may load{until}.",
    )
