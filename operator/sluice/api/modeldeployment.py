"""ModelDeployment: which model should serve, and how a new one gets there."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from sluice.api.base import Block, Digest, ObjectName
from sluice.api.duration import Duration

Percent = Annotated[int, Field(ge=0, le=100)]
Quantity = Annotated[
    str, Field(pattern=r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?$", max_length=20)
]
LabelMap = Annotated[dict[str, Annotated[str, Field(max_length=63)]], Field(max_length=16)]
AnnotationMap = Annotated[dict[str, Annotated[str, Field(max_length=1024)]], Field(max_length=16)]


class SecretRef(Block):
    """A Secret in the same namespace."""

    name: ObjectName = Field(description="Name of the Secret, in the ModelDeployment's namespace.")


class Model(Block):
    """Where the model is."""

    uri: str = Field(
        min_length=1,
        max_length=2048,
        pattern=r"^(file|pvc|https?|s3)://[^\s]+$",
        description="Address of a model package or a bare model file: file:///path, "
        "pvc://claim/path, http(s)://host/path or s3://bucket/key. "
        "Changing it makes a new revision: gated, stepped, judged and watched.",
    )
    digest: Digest | None = Field(
        default=None,
        description="sha256 of the bytes as published: of sluice.json for a package, of the file "
        "for a bare model. Anything else at the address is refused.",
    )
    credentials_ref: SecretRef | None = Field(
        default=None,
        description="Secret whose keys become environment variables of the fetching container, "
        "and of no other.",
    )


class ResourceList(Block):
    """Amounts of compute."""

    cpu: Quantity | None = Field(default=None, description="CPU, for example 250m.")
    memory: Quantity | None = Field(default=None, description="Memory, for example 256Mi.")


class Resources(Block):
    """What a serving pod asks for and may use."""

    requests: ResourceList | None = Field(default=None, description="What the pod is given.")
    limits: ResourceList | None = Field(default=None, description="What the pod may not exceed.")


class Toleration(Block):
    """A node taint that pods accept."""

    key: str | None = Field(default=None, max_length=253, description="Taint key.")
    operator: Literal["Exists", "Equal"] | None = Field(default=None, description="How to match.")
    value: str | None = Field(default=None, max_length=63, description="Taint value.")
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = Field(
        default=None, description="Taint effect."
    )


class EnvVar(Block):
    """An environment variable of the model's container."""

    name: str = Field(
        min_length=1,
        max_length=128,
        pattern=r"^[A-Za-z_][A-Za-z0-9_]*$",
        description="Variable name.",
    )
    value: str = Field(default="", max_length=4096, description="Variable value.")


class PodOverrides(Block):
    """Placement and decoration of serving pods. Not part of a revision's identity."""

    node_selector: LabelMap | None = Field(default=None, description="Node labels pods need.")
    tolerations: Annotated[list[Toleration], Field(max_length=16)] | None = Field(
        default=None, description="Node taints pods accept."
    )
    labels: LabelMap | None = Field(default=None, description="Extra pod labels.")
    annotations: AnnotationMap | None = Field(default=None, description="Extra pod annotations.")
    service_account_name: ObjectName | None = Field(
        default=None, description="ServiceAccount of serving pods; no token is mounted either way."
    )


class Runtime(Block):
    """The program that serves the package."""

    image: str | None = Field(
        default=None,
        min_length=1,
        max_length=512,
        description="Runtime image. Absent: the one the operator was installed with. "
        "It is part of the revision, so an operator upgrade never changes running models.",
    )


class Serving(Block):
    """How pods serve the model."""

    resources: Resources | None = Field(default=None, description="Compute of each serving pod.")
    timeout: Duration = Field(
        default="2s", description="A request that takes longer is answered 504."
    )
    readiness_gate: Literal["Native", "Probe"] = Field(
        default="Native",
        description="Native: pods become Ready when the operator marks them validated. "
        "Probe: /readyz waits for the verdict itself, so that a replacement pod needs no operator.",
    )
    runtime: Runtime | None = Field(default=None, description="The program that serves.")
    env: Annotated[list[EnvVar], Field(max_length=64)] | None = Field(
        default=None,
        description="Environment of the model's container.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
    )
    pod: PodOverrides | None = Field(default=None, description="Placement and decoration of pods.")


class SmokeGate(Block):
    """The package loads, answers, answers the same twice, and a batch equals its rows."""


class SchemaGate(Block):
    """The candidate accepts what stable accepts."""

    breaking: Literal["Refuse", "Allow"] = Field(
        default="Refuse",
        description="What to do about a new required, removed, renamed or retyped input.",
    )


class GoldenGate(Block):
    """Examples inside the package are answered as recorded."""

    tolerance: float = Field(
        default=1e-9, ge=0, le=1, description="Largest allowed absolute difference of a score."
    )


class Dataset(Block):
    """Rows with labels."""

    uri: str = Field(
        min_length=1,
        max_length=2048,
        pattern=r"^(file|pvc|https?|s3)://[^\s]+$",
        description="Address of a parquet or CSV file.",
    )
    digest: Digest | None = Field(default=None, description="sha256 of the file.")
    label: str = Field(
        default="label", min_length=1, max_length=128, description="Column that holds the truth."
    )
    credentials_ref: SecretRef | None = Field(
        default=None, description="Secret for fetching the dataset."
    )


class QualityCheck(Block):
    """One metric on the dataset."""

    metric: Literal["rocAuc", "accuracy", "logLoss", "f1", "rmse", "mae", "r2"] = Field(
        description="Metric; logLoss, rmse and mae are better when lower."
    )
    min: float | None = Field(
        default=None, ge=-1e12, le=1e12, description="Smallest value that passes."
    )
    max: float | None = Field(
        default=None, ge=-1e12, le=1e12, description="Largest value that passes."
    )
    max_drop_vs_stable: float | None = Field(
        default=None,
        ge=0,
        le=1e12,
        description="How much worse than stable, on the same rows, still passes.",
    )


class QualityGate(Block):
    """The model is right often enough on rows with known labels."""

    dataset: Dataset = Field(description="Rows with labels.")
    checks: Annotated[list[QualityCheck], Field(min_length=1, max_length=16)] = Field(
        description="All must pass.",
        json_schema_extra={
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["metric"],
        },
    )


class LatencyGate(Block):
    """The model answers fast enough, one request after another."""

    p99: Duration = Field(description="Largest allowed 99th percentile.")
    requests: int = Field(default=500, ge=50, le=100000, description="Requests to send.")


class Validation(Block):
    """Gates: all must pass before the first user request."""

    smoke: SmokeGate | None = Field(default=None, description="Loads, answers, is deterministic.")
    schema_: SchemaGate | None = Field(
        default=None, alias="schema", description="Accepts what stable accepts."
    )
    golden: GoldenGate | None = Field(default=None, description="Recorded examples are answered.")
    quality: QualityGate | None = Field(default=None, description="Right often enough.")
    latency: LatencyGate | None = Field(default=None, description="Fast enough.")
    initial: Literal["Required", "SmokeOnly"] = Field(
        default="Required",
        description="Whether the very first revision passes every gate, or smoke only.",
    )


class Unit(Block):
    """What is assigned to an arm as a whole."""

    header: str | None = Field(
        default=None,
        min_length=1,
        max_length=64,
        pattern=r"^[A-Za-z][A-Za-z0-9-]*$",
        description="Request header that names the unit, for example X-User-Id.",
    )
    cookie: str | None = Field(
        default=None,
        min_length=1,
        max_length=64,
        pattern=r"^[A-Za-z][A-Za-z0-9_-]*$",
        description="Cookie that names the unit.",
    )


class Traffic(Block):
    """How requests reach the arms."""

    unit: Unit | None = Field(
        default=None, description="What is assigned as a whole; absent: each request at random."
    )
    router_replicas: int = Field(default=2, ge=1, le=10, description="Router pods.")


class Step(Block):
    """One share of traffic and what must be seen there."""

    weight: int = Field(ge=1, le=100, description="Percent of traffic for the candidate.")
    min_requests: int | None = Field(
        default=None,
        ge=0,
        le=100_000_000,
        description="Candidate requests before the step can pass. "
        "Default 100 below 10 %, 250 below 40 %, 1000 from there on.",
    )
    min_duration: Duration | None = Field(
        default=None,
        description="Observed time before the step can pass. "
        "Default 2m below 10 %, 5m below 40 %, 10m from there on.",
    )
    max_duration: Duration | None = Field(
        default=None, description="After this without a verdict, onInconclusive decides."
    )
    pause: Literal["Manual"] | None = Field(
        default=None, description="Manual: wait for sluice.dev/promote after the step has passed."
    )


class Watch(Block):
    """After promotion the previous revision stays warm and keeps a share."""

    duration: Duration = Field(default="1h", description="Observed time of the watch.")
    holdback: int = Field(
        default=10, ge=0, le=50, description="Percent of traffic kept on the previous revision."
    )
    min_requests: int = Field(
        default=1000,
        ge=0,
        le=100_000_000,
        description="The watch ends after its duration and this many requests.",
    )


class Rollout(Block):
    """From the gates to everyone, and back."""

    strategy: Literal["Canary", "GatesOnly"] = Field(
        default="Canary",
        description="Canary: gates, steps, watch. GatesOnly: gates, then everyone, then watch.",
    )
    steps: Annotated[list[Step], Field(min_length=1, max_length=20)] | None = Field(
        default=None,
        description="Shares of traffic in rising order. Default 5, 25, 50 and then everyone but "
        "the holdback.",
        json_schema_extra={"x-kubernetes-list-type": "atomic"},
    )
    on_fail: Literal["Rollback", "Pause"] = Field(
        default="Rollback", description="What a failed guardrail does."
    )
    on_inconclusive: Literal["Hold", "Rollback", "Promote"] = Field(
        default="Hold", description="What happens when a step reaches maxDuration undecided."
    )
    progress_deadline: Duration = Field(
        default="10m",
        description="After this without progress, counted from the package being fetched, "
        "Stalled says what is missing.",
    )
    watch: Watch | None = Field(default=None, description="After promotion.")
    history: int = Field(default=5, ge=1, le=50, description="Passed revisions to remember.")


class Check(Block):
    """A question asked of live traffic again and again."""

    name: ObjectName = Field(description="Name in status, events and metrics.")
    type: Literal["ErrorRate", "ClientErrorRate", "Latency", "PredictionShift"] = Field(
        description="ErrorRate: the model's own failures. ClientErrorRate: 4xx answers. "
        "Latency: p50, p90 and p99 against stable's. "
        "PredictionShift: live scores against the revision's own reference profile."
    )
    margin: float | None = Field(
        default=None,
        ge=1,
        le=10,
        description="How many times worse than stable is still tolerated: odds for rates "
        "(default 1.2), time for Latency (default 1.1).",
    )
    max: float | None = Field(
        default=None,
        ge=0,
        le=10,
        description="Hard limit, enforced only while stable is below it: a rate (0 to 1) for "
        "ErrorRate and ClientErrorRate, PSI for PredictionShift (default 0.25).",
    )
    on_fail: Literal["Rollback", "Hold"] | None = Field(
        default=None,
        description="Rollback (default) takes the candidate back; Hold waits for a person "
        "(default of PredictionShift).",
    )


class Analysis(Block):
    """How live traffic is judged."""

    interval: Duration = Field(default="10s", description="Time between looks, 1s to 5m.")
    alpha: float = Field(
        default=0.01,
        ge=0.0001,
        le=0.2,
        description="Chance of taking back a candidate that is not worse, over a whole rollout: "
        "half for the canary, half for the watch.",
    )
    checks: Annotated[list[Check], Field(max_length=16)] | None = Field(
        default=None,
        description="Default: ErrorRate, ClientErrorRate and Latency as guardrails, "
        "PredictionShift that holds.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
    )


class ModelDeploymentSpec(Block):
    """What should serve, and how a change gets there."""

    replicas: int = Field(default=2, ge=0, le=500, description="Serving pods of stable.")
    model: Model = Field(description="Where the model is.")
    serving: Serving = Field(default_factory=Serving, description="How pods serve the model.")
    validation: Validation = Field(
        default_factory=Validation, description="Gates before the first user request."
    )
    traffic: Traffic = Field(default_factory=Traffic, description="How requests reach the arms.")
    rollout: Rollout = Field(default_factory=Rollout, description="Steps, promotion and watch.")
    analysis: Analysis = Field(default_factory=Analysis, description="How traffic is judged.")
