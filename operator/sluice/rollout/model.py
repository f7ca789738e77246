"""The values that a decision is made from and made of.

``Roles`` and ``Progress`` are durable (ConfigMaps), ``Revision`` mirrors a ModelRevision, the rest
is observation or result.  Everything is immutable; ``decide`` returns new ones.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import Field

from sluice.api.base import Block
from sluice.api.modeldeployment import ModelDeploymentSpec
from sluice.api.modelrevision import PackageInfo, Verdict
from sluice.api.status import (
    CheckStatus,
    Condition,
    EvidenceStatus,
    ExperimentStatus,
    GateStatus,
    LastCommand,
    LastRollback,
)
from sluice.api.trustpolicy import TrustPolicySpec

SLOTS = ("a", "b", "c")

Phase = Literal[
    "Resolving",
    "Validating",
    "Provisioning",
    "Mirroring",
    "Stepping",
    "Experimenting",
    "Promoting",
    "RollingBack",
]

JUDGED: tuple[Phase, ...] = ("Mirroring", "Stepping", "Experimenting", "Promoting")
"""Phases in which the candidate is compared with stable."""


class Roles(Block):
    """Who serves, in which router slot, with which share.

    Committed with the progress in one write; the router's ConfigMap carries the same, so that
    losing the evidence does not lose who serves.  ``left`` says since when a revision that served
    is out of its role.
    """

    schema_version: int = 1
    slots: dict[str, str | None] = Field(default_factory=lambda: dict.fromkeys(SLOTS))
    stable: str | None = None
    candidate: str | None = None
    previous: str | None = None
    weight: int = Field(default=0, ge=0, le=100)
    holdback: int = Field(default=0, ge=0, le=100)
    salt: str = "0"
    holdback_salt: str = "0"
    experiment: str = ""
    left: dict[str, float] = Field(default_factory=dict)
    since_anchor: dict[str, float] = Field(default_factory=dict)
    """Estimated log odds ratio that promotions have added up to, by type of check."""

    def slot_of(self, revision: str | None) -> str | None:
        """The slot that points at ``revision``."""
        return next((s for s, r in self.slots.items() if r is not None and r == revision), None)

    def members(self) -> set[str]:
        """Revisions that hold a role."""
        return {r for r in (self.stable, self.candidate, self.previous) if r}


class Failure(Block):
    """Why a revision is taken back or refused."""

    check: str
    reason: str
    message: str
    scope: Literal["Package", "Revision"] = "Package"
    detected: float = 0.0


class RolloutProgress(Block):
    """One candidate on its way."""

    id: str
    source: str
    revision: str | None = None
    phase: Phase = "Resolving"
    since: float = 0.0
    observed: float = 0.0
    fetched: float = 0.0
    step: int = 0
    step_observed: float = 0.0
    plan: dict[str, Any] = Field(default_factory=dict)
    gates: list[GateStatus] = Field(default_factory=list)
    paused: str = ""
    paused_by_check: bool = False
    pass_step: bool = False
    replaced: str = ""
    """The pod that failed alone and had to go; only one ever has."""
    skip_steps: bool = False
    estimate: str = ""
    """What can be seen at this traffic and how long it takes; said once."""
    by_gates: int = 0
    """Steps passed without a request of the candidate, because the spec says so."""
    mirror_ended: float = 0.0
    """Since when stable's pods are to mirror to nobody, before a user meets the candidate."""
    failure: Failure | None = None
    withdrawn: bool = False
    superseded: bool = False


class ExperimentProgress(Block):
    """An experiment's units, as far as they are known, and what they say.

    The units themselves are in a log of ``log_bytes`` bytes beside it; what is committed here says
    how much of that log counts.  ``cursors`` say up to which record each pod's journal was read,
    ``known`` up to when all journals were, ``closed`` up to when windows have been compared.
    ``source`` says how far a database or Prometheus was read instead.
    """

    id: str
    since: float
    judge: dict[str, Any] = Field(default_factory=dict)
    source: dict[str, Any] = Field(default_factory=dict)
    cursors: dict[str, dict[str, Any]] = Field(default_factory=dict)
    known: float = 0.0
    closed: float = 0.0
    log_bytes: int = 0
    log_crc: int = 0
    open_units: int = 0
    not_counted: int = 0
    lost: int = 0
    message: str = ""
    damaged: str = ""
    """Why the log cannot be read any more; the experiment begins again."""


class WatchProgress(Block):
    """The promoted revision under watch."""

    revision: str
    previous: str
    since: float = 0.0
    observed: float = 0.0
    plan: dict[str, Any] = Field(default_factory=dict)
    duration: float = 0.0
    min_requests: int = 0
    replaced: str = ""
    since_anchor: dict[str, float] = Field(default_factory=dict)
    """The roles' total before this promotion: what holds again when it is undone."""


class Outcome(Block):
    """How the last attempt at a source ended, when it did not end in promotion."""

    source: str
    revision: str | None = None
    reason: str
    message: str
    terminal: bool = True
    retry_at: float = 0.0
    attempts: int = 0


class Resolved(Block):
    """What a source was found to be, while no record says so: its bytes have another address too.

    Without it the fetching job, which is removed once it has answered, would run again and again.
    """

    source: str
    package: PackageInfo


class MirrorSeen(Block):
    """What stable's ready pods said at the last look: how many answered, mirror to the candidate,
    and mirror to nobody any more."""

    at: float
    pods: int
    answered: int
    mirroring: int
    quiet: int
    problem: str = ""


class Quiet(Block):
    """Looks in a row that everybody answered and in which the candidate had no request."""

    looks: int = 0
    seconds: float = 0.0
    stable: int = 0


class Progress(Block):
    """Where the rollout or the watch is.  The evidence ConfigMap, committed with the statistics."""

    schema_version: int = 1
    roles: Roles | None = None
    rollout: RolloutProgress | None = None
    watch: WatchProgress | None = None
    outcome: Outcome | None = None
    resolved: Resolved | None = None
    judge: dict[str, Any] = Field(default_factory=dict)
    snapshot: dict[str, Any] = Field(default_factory=dict)
    metrics: dict[str, Any] = Field(default_factory=dict)
    """How far the sources of metric checks have been read, by check; begins with the snapshot."""
    pod_minutes: dict[str, Any] = Field(default_factory=dict)
    """Minutes of each pod that have been counted (sluice.evidence.pod_minutes)."""
    looks: int = 0
    look_at: float = 0.0
    empty_looks: int = 0
    analysis_error: str = ""
    mirror_seen: MirrorSeen | None = None
    partial: bool = False
    """Somebody did not answer at the last look: what it counted comes later."""
    quiet: Quiet = Field(default_factory=Quiet)
    tick: float = 0.0
    executed: dict[str, str] = Field(default_factory=dict)
    last_command: LastCommand | None = None
    last_rollback: LastRollback | None = None
    last_checks: list[CheckStatus] = Field(default_factory=list)
    last_evidence: EvidenceStatus | None = None
    experiment: ExperimentProgress | None = None
    last_experiment: ExperimentStatus | None = None
    stale_units: int = 0
    """Parts of an ended experiment's log that are still to be removed."""


@dataclass(frozen=True)
class Revision:
    """A ModelRevision as read."""

    hash: str
    source: str
    uri: str
    package: PackageInfo
    runtime_image: str
    identity: dict[str, Any]
    hash_version: int
    verdict: Verdict
    created: str
    deployment: str


@dataclass(frozen=True)
class Trouble:
    """Why pods of a revision are not ready."""

    kind: Literal["Crash", "OutOfMemory", "Fetch", "Image", "Pending", "NotReady"]
    message: str
    models_fault: bool = False


@dataclass(frozen=True)
class PodsView:
    """Pods of one revision."""

    wanted: int = 0
    ready: int = 0
    exists: bool = False
    trouble: Trouble | None = None


@dataclass(frozen=True)
class RouterView:
    """What the routers say.  ``None`` weights: no router answered.

    ``feedback_shut``: some router lets no outcome in, because it has no token.
    """

    pods: int = 0
    reachable: int = 0
    ready: int = 0
    stable: str | None = None
    weight_low: int | None = None
    weight_high: int | None = None
    holdback_low: int | None = None
    holdback_high: int | None = None
    pointed: frozenset[str] = frozenset()
    carrying: frozenset[str] = frozenset()
    feedback_shut: bool = False
    message: str = ""

    @property
    def complete(self) -> bool:
        """Every router pod answered."""
        return self.pods > 0 and self.reachable == self.pods


@dataclass(frozen=True)
class ResolveView:
    """The resolving job of the wanted source."""

    state: Literal["Absent", "Running", "Succeeded", "Failed"] = "Absent"
    package: PackageInfo | None = None
    reason: str = ""
    message: str = ""
    retryable: bool = False


@dataclass(frozen=True)
class GatesView:
    """The gate job of the candidate."""

    state: Literal["Absent", "Running", "Done", "Broken"] = "Absent"
    gates: tuple[GateStatus, ...] = ()
    message: str = ""
    retryable: bool = True


@dataclass(frozen=True)
class Inputs:
    """Everything a decision may look at."""

    name: str
    namespace: str
    generation: int
    spec: ModelDeploymentSpec
    deleting: bool
    annotations: dict[str, str]
    conditions: tuple[Condition, ...]
    revisions: dict[str, Revision]
    roles: Roles
    progress: Progress
    pods: dict[str, PodsView]
    router: RouterView
    resolve: ResolveView
    gates: GatesView
    policies: tuple[TrustPolicySpec, ...]
    policies_readable: bool
    default_image: str
    url: str
    now: float
    conflicts: tuple[str, ...] = ()


@dataclass(frozen=True)
class MirrorOrder:
    """Stable's pods copy ``percent`` of their requests to the candidate, in this rollout."""

    stable: str
    candidate: str
    rollout: str
    percent: int
    tolerance: float


@dataclass(frozen=True)
class NewRevision:
    """A ModelRevision to create."""

    hash: str
    source: str
    uri: str
    package: PackageInfo
    runtime_image: str
    identity: dict[str, Any]


@dataclass(frozen=True)
class Note:
    """An event to post."""

    kind: Literal["Normal", "Warning"]
    reason: str
    message: str


@dataclass(frozen=True)
class Decision:
    """What should be true next.  Applied in one place, sluice.controller.apply."""

    roles: Roles
    progress: Progress
    status: dict[str, Any]
    replicas: dict[str, int] = field(default_factory=dict)
    retire: frozenset[str] = frozenset()
    replace: frozenset[str] = frozenset()
    new_revision: NewRevision | None = None
    verdicts: dict[str, Verdict] = field(default_factory=dict)
    resolve: bool = False
    drop_resolve: bool = False
    gates: str | None = None
    drop_gates: bool = False
    mirror: MirrorOrder | None = None
    executed: tuple[str, ...] = ()
    notes: tuple[Note, ...] = ()
    moves: tuple[Any, ...] = ()
    requeue: float | None = None
