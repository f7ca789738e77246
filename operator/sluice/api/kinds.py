"""The kinds of group sluice.dev as the API server should present them.

Read by the CRD generator (`sluice.api.crd`) and by the page generator (`sluice.api.reference`);
says nothing about what the fields mean, that is said beside the fields.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from sluice.api.base import Block
from sluice.api.cel import must
from sluice.api.meta import MAX_NAME
from sluice.api.modeldeployment import ModelDeploymentSpec
from sluice.api.modelrevision import RevisionSpec, Verdict
from sluice.api.status import ModelDeploymentStatus
from sluice.api.trustpolicy import TrustPolicySpec


@dataclass(frozen=True)
class Column:
    """A column of ``kubectl get``; a wide one is shown with ``-o wide`` only."""

    name: str
    path: str
    kind: str = "string"
    wide: bool = False


@dataclass(frozen=True)
class Kind:
    """A kind: its names, its parts, and what ``kubectl`` shows of it."""

    kind: str
    plural: str
    short: str
    scope: str
    description: str
    parts: dict[str, type[Block]]
    required: tuple[str, ...]
    columns: tuple[Column, ...]
    selectable: tuple[str, ...] = ()
    rules: tuple[dict[str, str], ...] = ()
    scale: bool = False
    defaults: dict[str, object] = field(default_factory=dict)

    @property
    def singular(self) -> str:
        """The name a person may type instead of the short one."""
        return self.kind.lower()


def _condition(kind: str, key: str) -> str:
    return f'.status.conditions[?(@.type=="{kind}")].{key}'


_AGE = Column("AGE", ".metadata.creationTimestamp", "date")

MODEL_DEPLOYMENT = Kind(
    kind="ModelDeployment",
    plural="modeldeployments",
    short="mdep",
    scope="Namespaced",
    description="A model that should serve. A changed model is validated, takes traffic in "
    "measured steps, is watched, and is taken back when it is worse.",
    parts={"spec": ModelDeploymentSpec, "status": ModelDeploymentStatus},
    required=("spec",),
    defaults={"status": {"observedGeneration": -1}},
    scale=True,
    selectable=(".spec.model.digest", ".spec.model.uri", ".status.stable.digest"),
    rules=(
        must(
            f"self.metadata.name.size() <= {MAX_NAME}",
            f"metadata.name must have at most {MAX_NAME} characters, for example iris: "
            "names of Services and pods are made from it",
        ),
        must(
            "self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
            "metadata.name must start with a letter and use only a-z, 0-9 and -, for example "
            "churn-v2: it becomes the name of a Service",
        ),
    ),
    columns=(
        Column("READY", _condition("Ready", "status")),
        Column("STABLE", ".status.stable.revision"),
        Column("CANDIDATE", ".status.candidate.revision"),
        Column("WEIGHT", ".status.candidate.weight.observed", "integer"),
        Column("REASON", _condition("Ready", "reason")),
        _AGE,
        Column("URL", ".status.url", wide=True),
        Column("STEP", ".status.step.summary", wide=True),
        Column("WORST-CHECK", ".status.worstCheck", wide=True),
        Column("EVIDENCE", ".status.worstEvidence", wide=True),
        Column("VALIDATED", _condition("Validated", "reason"), wide=True),
    ),
)

MODEL_REVISION = Kind(
    kind="ModelRevision",
    plural="modelrevisions",
    short="mrev",
    scope="Namespaced",
    description="The record of a revision that ran and what became of it. Made by the operator; "
    "spec never changes. A failed one outlives its ModelDeployment, so that deleting and applying "
    "again does not bring a bad model back.",
    parts={"spec": RevisionSpec, "verdict": Verdict},
    required=("spec",),
    selectable=(".spec.deployment", ".spec.package.digest", ".verdict.phase"),
    rules=(
        must(
            "self.spec == oldSelf.spec",
            "spec must not change: a revision is a record; for a new one write another "
            "spec.model.uri into the ModelDeployment",
            field=".spec",
            reason="FieldValueForbidden",
        ),
        must(
            "!has(oldSelf.verdict) || has(self.verdict)",
            "verdict must not be removed: delete the ModelRevision to forget it",
            reason="FieldValueRequired",
        ),
        must(
            "!has(oldSelf.verdict) || !has(oldSelf.verdict.phase) || "
            "oldSelf.verdict.phase != 'Failed' || "
            "!has(self.verdict) || has(self.verdict.phase) && self.verdict.phase == 'Failed' || "
            "(has(self.verdict.retries) ? self.verdict.retries : 0) > "
            "(has(oldSelf.verdict.retries) ? oldSelf.verdict.retries : 0)",
            "verdict.phase must not leave Failed unless verdict.retries rises: write "
            "kubectl annotate mdep/NAME sluice.dev/retry=DIGEST",
            field=".verdict",
            reason="FieldValueForbidden",
        ),
    ),
    columns=(
        Column("DEPLOYMENT", ".spec.deployment"),
        Column("DIGEST", ".spec.package.digest"),
        Column("VERDICT", ".verdict.phase"),
        Column("REASON", ".verdict.reason"),
        _AGE,
        Column("CHECK", ".verdict.check", wide=True),
        Column("MESSAGE", ".verdict.message", wide=True),
    ),
)

TRUST_POLICY = Kind(
    kind="TrustPolicy",
    plural="trustpolicies",
    short="trust",
    scope="Cluster",
    description="Which packages that run code when they are loaded (pickle, joblib) an "
    "administrator admits, by digest or by the key that signed them, and in which namespaces; and "
    "which packages and keys are denied. Without one such packages are refused.",
    parts={"spec": TrustPolicySpec},
    required=("spec",),
    columns=(
        Column("NAMESPACES", ".spec.namespaces"),
        Column("ANY", ".spec.admit[*].anyDigest"),
        Column("SIGNERS", ".spec.admit[*].signer.name"),
        _AGE,
    ),
)

KINDS = (MODEL_DEPLOYMENT, MODEL_REVISION, TRUST_POLICY)
