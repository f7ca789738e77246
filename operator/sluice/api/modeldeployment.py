"""ModelDeployment: which model should serve, and how a new one gets there.

Defaults live here and not in stored objects (but for ``replicas``, which the scale subresource
reads), so that a later version may improve one without rewriting what users wrote.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from sluice.api.base import Block, Digest, ObjectName, Quantity, Uri
from sluice.api.cel import ATOMIC, FROZEN, count, keyed, must, rules, within
from sluice.api.checks import Check
from sluice.api.duration import Duration
from sluice.api.experiment import Experiment

_KEY = "^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$"
_VALUE = "^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$"
_RESERVED = (
    "^(([-a-z0-9.]+[.])?sluice[.]dev/|argocd[.]argoproj[.]io/|([-a-z0-9]+[.])*helm[.]sh/|"
    "([-a-z0-9]+[.])*fluxcd[.]io/|app[.]kubernetes[.]io/(instance|managed-by)$|pod-template-hash$)"
)

_KEYS_VALID = must(
    f"self.all(k, k.size() <= 317 && k.matches('{_KEY}'))",
    "keys must be Kubernetes label keys, for example team or example.com/team",
)
_VALUES_VALID = must(
    f"self.all(k, self[k].matches('{_VALUE}'))",
    "values must be Kubernetes label values: letters, digits, '-', '_' and '.', for example gold",
)
_NOT_RESERVED = must(
    f"self.all(k, !k.matches('{_RESERVED}'))",
    "keys must not be ones that Sluice, Argo CD, Flux or Helm own (sluice.dev/..., "
    "argocd.argoproj.io/..., app.kubernetes.io/instance); use your own prefix, "
    "for example example.com/team",
    reason="FieldValueForbidden",
)

_LabelValues = dict[str, Annotated[str, Field(max_length=63)]]
NodeSelector = Annotated[
    _LabelValues, Field(max_length=16, json_schema_extra=rules(_KEYS_VALID, _VALUES_VALID))
]
LabelMap = Annotated[
    _LabelValues,
    Field(max_length=16, json_schema_extra=rules(_KEYS_VALID, _VALUES_VALID, _NOT_RESERVED)),
]
AnnotationMap = Annotated[
    dict[str, Annotated[str, Field(max_length=1024)]],
    Field(max_length=16, json_schema_extra=rules(_KEYS_VALID, _NOT_RESERVED)),
]

_CREDENTIALS = must(
    "!has(self.credentialsRef) || self.uri.matches('^(https?|s3)://')",
    "credentialsRef must not be set for file:// and pvc:// addresses: they are mounted, "
    "not fetched; remove it or use, for example, s3://bucket/key",
    field=".credentialsRef",
    reason="FieldValueForbidden",
)


class SecretRef(Block):
    """A Secret in the same namespace."""

    name: ObjectName = Field(description="Name of the Secret, in the ModelDeployment's namespace.")


class Model(Block):
    """Where the model is. Changing it makes a new revision."""

    model_config = ConfigDict(json_schema_extra=rules(_CREDENTIALS))

    uri: Uri = Field(
        description="Address of a model package or a bare model file: s3://bucket/key, "
        "pvc://claim/path, https://host/path or file:///path. "
        "Changing it makes a new revision: gated, stepped, judged and watched.",
    )
    digest: Digest | None = Field(
        default=None,
        description="sha256 of the bytes as published: of sluice.json for a package, of the file "
        "for a bare model. Anything else at the address is refused. Absent: what is found first "
        "is pinned.",
    )
    credentials_ref: SecretRef | None = Field(
        default=None,
        description="Secret whose keys become environment variables of the fetching container, "
        "and of no other: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION, AWS_ENDPOINT_URL "
        "for s3; SLUICE_HTTP_TOKEN, or SLUICE_HTTP_USERNAME and SLUICE_HTTP_PASSWORD, for http(s).",
    )


class ResourceList(Block):
    """Amounts of compute."""

    cpu: Quantity | None = Field(default=None, description="CPU, for example 250m or 2.")
    memory: Quantity | None = Field(default=None, description="Memory, for example 256Mi.")


def _fits(resource: str) -> dict[str, str]:
    return must(
        f"!has(self.requests) || !has(self.requests.{resource}) || !has(self.limits) || "
        f"!has(self.limits.{resource}) || quantity(string(self.requests.{resource}))"
        f".compareTo(quantity(string(self.limits.{resource}))) <= 0",
        f"requests.{resource} must not exceed limits.{resource}; raise the limit or lower the "
        "request, for example requests 256Mi and limits 512Mi",
        field=f".requests.{resource}",
    )


class Resources(Block):
    """What a serving pod asks for and may use."""

    model_config = ConfigDict(json_schema_extra=rules(_fits("cpu"), _fits("memory")))

    requests: ResourceList | None = Field(
        default=None, description="What each pod is given for certain; scheduling counts it."
    )
    limits: ResourceList | None = Field(
        default=None,
        description="What each pod may not exceed; over the memory limit it is killed.",
    )


class Toleration(Block):
    """A node taint that pods accept."""

    key: str | None = Field(default=None, max_length=253, description="Taint key; absent: any.")
    operator: Literal["Exists", "Equal"] | None = Field(
        default=None, description="Exists: any value. Equal: the value below. Default Equal."
    )
    value: str | None = Field(default=None, max_length=63, description="Taint value, for Equal.")
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = Field(
        default=None, description="Taint effect; absent: any."
    )


class EnvVar(Block):
    """An environment variable of the model's container."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            must(
                "!self.name.startsWith('SLUICE_')",
                "name must not begin with SLUICE_, which the runtime uses itself; "
                "for example MODEL_MODE",
                field=".name",
                reason="FieldValueForbidden",
            )
        )
    )

    name: str = Field(
        min_length=1,
        max_length=128,
        pattern=r"^[A-Za-z_][A-Za-z0-9_]*$",
        description="Variable name; SLUICE_ names are the runtime's own.",
    )
    value: str = Field(
        default="",
        max_length=4096,
        description="Variable value. Part of the revision: not the place for a secret.",
    )


class PodOverrides(Block):
    """Placement and decoration of serving pods. Not part of a revision's identity."""

    node_selector: NodeSelector | None = Field(
        default=None, description="Labels that a node must have to run a serving pod."
    )
    tolerations: Annotated[list[Toleration], Field(max_length=16)] | None = Field(
        default=None, description="Node taints that serving pods accept."
    )
    labels: LabelMap | None = Field(
        default=None, description="Labels added to serving pods, for example for a mesh or costs."
    )
    annotations: AnnotationMap | None = Field(
        default=None, description="Annotations added to serving pods."
    )
    service_account_name: ObjectName | None = Field(
        default=None,
        description="ServiceAccount of serving pods; no token is mounted either way.",
    )


class Runtime(Block):
    """The program that serves the package."""

    image: str | None = Field(
        default=None,
        min_length=1,
        max_length=512,
        pattern=r"^[a-z0-9][A-Za-z0-9._:/@-]*$",
        description="Runtime image. Absent: the one the operator was installed with. "
        "It is part of the revision, so an operator upgrade never changes running models.",
    )


class Serving(Block):
    """How pods serve the model."""

    resources: Resources | None = Field(default=None, description="Compute of each serving pod.")
    timeout: Duration = Field(
        default="2s",
        description="A request that takes longer is answered 504; 10ms to 10m.",
        json_schema_extra=rules(within("10ms", "10m", "2s")),
    )
    readiness_gate: Literal["Native", "Probe"] = Field(
        default="Native",
        description="Native: pods become Ready when the operator marks them validated. "
        "Probe: /readyz waits for the verdict itself, so that a replacement pod needs no operator.",
    )
    runtime: Runtime | None = Field(
        default=None, description="The program that serves the package."
    )
    env: Annotated[list[EnvVar], Field(max_length=64)] | None = Field(
        default=None,
        description="Environment of the model's container. Part of the revision.",
        json_schema_extra=keyed("name"),
    )
    pod: PodOverrides | None = Field(
        default=None,
        description="Placement and decoration of serving pods. Changing it makes no new revision.",
    )


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

    model_config = ConfigDict(json_schema_extra=rules(_CREDENTIALS))

    uri: Uri = Field(
        description="Address of a parquet or CSV file, written as in spec.model.uri.",
    )
    digest: Digest | None = Field(
        default=None, description="sha256 of the file; other bytes are refused."
    )
    label: str = Field(
        default="label", min_length=1, max_length=128, description="Column that holds the truth."
    )
    credentials_ref: SecretRef | None = Field(
        default=None,
        description="Secret whose keys become environment variables of the fetching container.",
    )


_SHARE = "['rocAuc', 'accuracy', 'f1']"
_HIGHER = "['rocAuc', 'accuracy', 'f1', 'r2']"
_LOWER = "['logLoss', 'rmse', 'mae']"


class QualityCheck(Block):
    """One metric on the dataset, with what still passes."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            must(
                f"!(self.metric in {_HIGHER}) || has(self.min) || has(self.maxDropVsStable)",
                "min or maxDropVsStable must be set for rocAuc, accuracy, f1 and r2, "
                "for example {metric: rocAuc, min: 0.80}",
                reason="FieldValueRequired",
            ),
            must(
                f"!(self.metric in {_LOWER}) || has(self.max) || has(self.maxDropVsStable)",
                "max or maxDropVsStable must be set for logLoss, rmse and mae, which are better "
                "when lower, for example {metric: rmse, max: 12}",
                reason="FieldValueRequired",
            ),
            must(
                "!has(self.min) || !has(self.max) || self.min <= self.max",
                "min must not exceed max, for example min: 0.80 and max: 0.99",
                field=".min",
            ),
            must(
                f"!(self.metric in {_SHARE}) || !has(self.min) || self.min >= 0.0 && "
                "self.min <= 1.0",
                "min must be between 0 and 1 for rocAuc, accuracy and f1: write 0.80, not 80",
                field=".min",
            ),
            must(
                f"!(self.metric in {_SHARE}) || !has(self.max) || self.max >= 0.0 && "
                "self.max <= 1.0",
                "max must be between 0 and 1 for rocAuc, accuracy and f1: write 0.99, not 99",
                field=".max",
            ),
        )
    )

    metric: Literal["rocAuc", "accuracy", "logLoss", "f1", "rmse", "mae", "r2"] = Field(
        description="Metric; logLoss, rmse and mae are better when lower, the others when higher."
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

    dataset: Dataset = Field(description="Rows with labels, never seen in training.")
    checks: Annotated[list[QualityCheck], Field(min_length=1, max_length=16)] = Field(
        description="Metrics on the dataset; all must pass.", json_schema_extra=keyed("metric")
    )


class LatencyGate(Block):
    """The model answers fast enough, one request after another."""

    p99: Duration = Field(
        description="Largest allowed 99th percentile, for example 50ms; 1ms to 10m.",
        json_schema_extra=rules(within("1ms", "10m", "50ms")),
    )
    requests: int = Field(
        default=500, ge=50, le=100000, description="Requests to send, drawn from the examples."
    )


class Validation(Block):
    """Gates: all must pass before the first user request."""

    smoke: SmokeGate | None = Field(
        default=None,
        description="The package loads, answers, answers the same twice, and a batch equals its "
        "rows. Always on.",
    )
    schema_: SchemaGate | None = Field(
        default=None,
        alias="schema",
        description="The candidate accepts what stable accepts. Always on.",
    )
    golden: GoldenGate | None = Field(
        default=None,
        description="Examples inside the package are answered as recorded. Always on.",
    )
    quality: QualityGate | None = Field(
        default=None,
        description="The model is right often enough on rows with known labels. Absent: it is "
        "checked that it answers, not that it is right.",
    )
    latency: LatencyGate | None = Field(
        default=None, description="The model answers fast enough before it meets users."
    )
    initial: Literal["Required", "SmokeOnly"] = Field(
        default="Required",
        description="Whether the very first revision passes every gate, or smoke only.",
    )


class Unit(Block):
    """What is assigned to an arm as a whole: the same user always sees the same model."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            must(
                f"{count('header', 'cookie')} == 1",
                "exactly one of header and cookie must be set, for example {header: X-User-Id}",
            ),
            must(
                "!has(self.header) || !self.header.lowerAscii().startsWith('x-sluice-')",
                "header must not begin with X-Sluice-: the router overwrites those; "
                "for example X-User-Id",
                field=".header",
                reason="FieldValueForbidden",
            ),
        )
    )

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
    """How requests reach the revisions."""

    unit: Unit | None = Field(
        default=None,
        description="What is assigned to a revision as a whole, such as a user. Absent: each "
        "request at random, which needs the fewest requests for a verdict.",
    )
    router_replicas: int = Field(
        default=2, ge=1, le=10, description="Router pods; one is a single point of failure."
    )


_STEP_DURATION = (
    "duration(has(self.minDuration) ? self.minDuration : "
    "!has(self.weight) || self.weight < 10 ? '2m' : self.weight < 40 ? '5m' : '10m')"
)


class Step(Block):
    """One share of traffic, or of copies of it, and what must be seen there."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            must(
                f"{count('weight', 'mirror')} == 1",
                "exactly one of weight and mirror must be set, for example {weight: 5}, or "
                "{mirror: 100} before the first weight",
                reason="FieldValueRequired",
            ),
            must(
                f"!has(self.maxDuration) || {_STEP_DURATION} <= duration(self.maxDuration)",
                "minDuration must not exceed maxDuration, for example minDuration: 5m and "
                "maxDuration: 1h; minDuration defaults to 2m below 10 %, 5m below 40 %, 10m above",
                field=".maxDuration",
            ),
        )
    )

    weight: int | None = Field(
        default=None,
        ge=1,
        le=100,
        description="Percent of traffic that the candidate answers in this step.",
    )
    mirror: int | None = Field(
        default=None,
        ge=1,
        le=100,
        description="Instead of weight: percent of stable's requests that are copied to the "
        "candidate after stable has answered. No user gets the candidate's answers; they are "
        "compared with stable's.",
    )
    min_requests: int | None = Field(
        default=None,
        ge=0,
        le=100_000_000,
        description="Candidate requests before the step can pass, or compared copies. "
        "Default 100 below 10 %, 250 below 40 %, 1000 from there on, 500 when mirroring.",
    )
    min_duration: Duration | None = Field(
        default=None,
        description="Observed time before the step can pass, for example 5m. "
        "Default 2m below 10 % and when mirroring, 5m below 40 %, 10m from there on.",
    )
    max_duration: Duration | None = Field(
        default=None,
        description="After this much observed time without a verdict, rollout.onInconclusive "
        "decides. Absent: the step waits.",
    )
    pause: Literal["Manual"] | None = Field(
        default=None,
        description="Manual: after the step has passed, wait for "
        "`kubectl annotate mdep/NAME sluice.dev/promote=DIGEST`.",
    )


class Watch(Block):
    """After promotion the previous revision stays warm and keeps a share."""

    duration: Duration = Field(
        default="1h",
        description="Observed time of the watch, for example 24h; at least analysis.interval.",
    )
    holdback: int = Field(
        default=10,
        ge=0,
        le=50,
        description="Percent of traffic kept on the previous revision, to compare with.",
    )
    min_requests: int = Field(
        default=1000,
        ge=0,
        le=100_000_000,
        description="The watch ends after its duration and this many requests to the new revision.",
    )


_HOLDBACK = "(has(self.watch) && has(self.watch.holdback) ? self.watch.holdback : 10)"


class Rollout(Block):
    """From the gates to everyone, and back."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            must(
                "!(has(self.strategy) && self.strategy == 'GatesOnly' && has(self.steps))",
                "steps must not be set with strategy GatesOnly, which has none; remove steps or "
                "write strategy: Canary",
                field=".steps",
                reason="FieldValueForbidden",
            ),
            must(
                "!(has(self.strategy) && self.strategy == 'GatesOnly' && has(self.promotion) && "
                "self.promotion == 'NonInferiority')",
                "promotion NonInferiority must not be set with strategy GatesOnly, which compares "
                "nobody; write strategy: Canary",
                field=".promotion",
                reason="FieldValueForbidden",
            ),
            must(
                f"!has(self.steps) || self.steps.size() == 0 || "
                f"!has(self.steps[self.steps.size() - 1].weight) || "
                f"self.steps[self.steps.size() - 1].weight <= 100 - {_HOLDBACK}",
                "the last step's weight must not exceed 100 - watch.holdback (90 by default): the "
                "holdback stays on the previous revision; write, for example, weight: 90, or "
                "watch: {holdback: 0}",
                field=".steps",
            ),
        )
    )

    strategy: Literal["Canary", "GatesOnly"] = Field(
        default="Canary",
        description="Canary: gates, steps, watch. GatesOnly: gates, then everyone, then watch, "
        "for endpoints with too little traffic to judge a share of it.",
    )
    steps: Annotated[list[Step], Field(min_length=1, max_length=20)] | None = Field(
        default=None,
        description="Shares of traffic in rising order, and before them copies of it (mirror). "
        "In each the candidate is judged against stable; the last is followed by promotion. "
        "Default 5, 25, 50 and then everyone but the holdback.",
        json_schema_extra=rules(
            must(
                "self.filter(s, has(s.weight)).map(s, s.weight).isSorted() && "
                "self.all(a, !has(a.weight) || "
                "self.exists_one(b, has(b.weight) && b.weight == a.weight))",
                "weights must rise from step to step, for example 5, 25, 50",
            ),
            must(
                "self.map(s, has(s.mirror) ? 0 : 1).isSorted() && "
                "(self.size() == 0 || !has(self[self.size() - 1].mirror))",
                "steps that mirror must come before the first weight, and a weight must follow, "
                "for example [{mirror: 100}, {weight: 5}, {weight: 50}]",
            ),
            **ATOMIC,
        ),
    )
    promotion: Literal["BoundedRisk", "NonInferiority"] = Field(
        default="BoundedRisk",
        description="What a step must show before it passes. BoundedRisk: the candidate does not "
        "fail by more than the step's points above stable. NonInferiority: its odds of failing are "
        "at most the check's margin times stable's, at every step; that takes hours to weeks, and "
        "never ends where nothing fails.",
    )
    on_fail: Literal["Rollback", "Pause"] = Field(
        default="Rollback",
        description="What a failed guardrail does. Rollback: weight 0, and the package or revision "
        "is quarantined. Pause: the weight stays and a person decides.",
    )
    on_inconclusive: Literal["Hold", "Rollback", "Promote"] = Field(
        default="Hold",
        description="What happens when a step reaches maxDuration undecided.",
    )
    on_no_traffic: Literal["Wait", "PromoteByGates"] = Field(
        default="Wait",
        description="What a step does that no request reaches. Wait: it waits, and status names "
        "the ways out. PromoteByGates: after minDuration without a request it passes because the "
        "gates have passed; an Event says so. A source that cannot be read is waited for.",
    )
    progress_deadline: Duration = Field(
        default="10m",
        description="After this without progress, counted from the package being fetched, "
        "Stalled says what is missing; 1s to 24h.",
        json_schema_extra=rules(within("1s", "24h", "10m")),
    )
    watch: Watch | None = Field(
        default=None,
        description="After promotion the previous revision stays warm and keeps a share, so that "
        "taking the new one back needs no pod start.",
    )
    history: int = Field(
        default=5, ge=1, le=50, description="Passed revisions to remember as rollback targets."
    )


class Analysis(Block):
    """How live traffic is judged."""

    interval: Duration = Field(
        default="10s",
        description="Time between looks, 1s to 5m.",
        json_schema_extra=rules(within("1s", "5m", "10s")),
    )
    alpha: float = Field(
        default=0.01,
        ge=0.0001,
        le=0.2,
        description="Chance of taking back a candidate that is not worse, over a whole rollout: "
        "half for the canary, half for the watch.",
        json_schema_extra=rules(
            # The API server compares a whole number with the bound's whole part: 0 would pass.
            must("self >= 0.0001 && self <= 0.2", "must be between 0.0001 and 0.2: write 0.01")
        ),
    )
    checks: Annotated[list[Check], Field(min_length=1, max_length=16)] | None = Field(
        default=None,
        description="What is judged; replaces the default: ErrorRate, ClientErrorRate and Latency "
        "as guardrails, PredictionShift that holds.",
        json_schema_extra=rules(
            must(
                "self.exists(c, c.type == 'ErrorRate')",
                "must include a check of type ErrorRate, without which a failing model would be "
                "promoted; add, for example, {name: errors, type: ErrorRate}",
                reason="FieldValueRequired",
            ),
            must(
                "self.filter(c, c.type == 'Disagreement').size() <= 1",
                "must not include more than one check of type Disagreement: answers are compared "
                "once; keep one, for example the one with the lower max",
                reason="FieldValueForbidden",
            ),
            **keyed("name"),
        ),
    )


class ModelDeploymentSpec(Block):
    """What should serve, and how a change gets there."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            must(
                "!has(self.rollout) || !has(self.rollout.watch) || "
                "duration(has(self.rollout.watch.duration) ? self.rollout.watch.duration : '1h') "
                ">= duration(has(self.analysis) && has(self.analysis.interval) ? "
                "self.analysis.interval : '10s')",
                "rollout.watch.duration must be at least analysis.interval (10s by default), or "
                "the watch would end before its first look; for example 1h",
                field=".rollout.watch.duration",
            ),
            must(
                "!has(self.validation) || !has(self.validation.latency) || "
                "duration(self.validation.latency.p99) <= duration(has(self.serving) && "
                "has(self.serving.timeout) ? self.serving.timeout : '2s')",
                "validation.latency.p99 must not exceed serving.timeout (2s by default): slower "
                "requests are answered 504; for example p99: 50ms",
                field=".validation.latency.p99",
            ),
            must(
                "!has(self.analysis) || !has(self.analysis.checks) || "
                "!self.analysis.checks.exists(c, c.type == 'Disagreement') || "
                "has(self.rollout) && has(self.rollout.steps) && "
                "self.rollout.steps.exists(s, has(s.mirror))",
                "analysis.checks must not include Disagreement without a step that mirrors, where "
                "both answer the same requests; add, for example, {mirror: 100} as the first of "
                "rollout.steps",
                field=".analysis.checks",
            ),
            must(
                "!has(self.rollout) || !has(self.rollout.promotion) || "
                "self.rollout.promotion != 'NonInferiority' || "
                "!has(self.analysis) || !has(self.analysis.checks) || "
                "self.analysis.checks.all(c, !(c.type in ['ErrorRate', 'ClientErrorRate']) || "
                "!has(c.margin) || c.margin > 1.0)",
                "margin of error rates must be above 1 with rollout.promotion NonInferiority, or "
                "no candidate could ever pass; for example margin: 1.2",
                field=".analysis.checks",
            ),
            must(
                "!has(self.experiment) || has(self.traffic) && has(self.traffic.unit)",
                "experiment needs traffic.unit: a user must stay with one arm to be compared; "
                "for example traffic: {unit: {header: X-User-Id}}",
                field=".experiment",
                reason="FieldValueRequired",
            ),
            must(
                "!has(self.experiment) || !has(self.rollout) || !has(self.rollout.strategy) || "
                "self.rollout.strategy == 'Canary'",
                "experiment must not be set with rollout.strategy GatesOnly, which compares "
                "nobody; write strategy: Canary",
                field=".experiment",
                reason="FieldValueForbidden",
            ),
            must(
                "!has(self.experiment) || "
                "(has(self.experiment.weight) ? self.experiment.weight : 50) <= 100 - "
                "(has(self.rollout) && has(self.rollout.watch) && "
                "has(self.rollout.watch.holdback) ? self.rollout.watch.holdback : 10)",
                "experiment.weight must not exceed 100 - rollout.watch.holdback (90 by default), "
                "or promotion would take users back; for example weight: 50",
                field=".experiment.weight",
            ),
        )
    )

    replicas: int = Field(
        default=2,
        ge=0,
        le=500,
        description="Serving pods of stable; a candidate gets what its share needs.",
        json_schema_extra=FROZEN,
    )
    model: Model = Field(description="Where the model is. Changing it makes a new revision.")
    serving: Serving = Field(default_factory=Serving, description="How pods serve the model.")
    validation: Validation = Field(
        default_factory=Validation,
        description="Gates: all must pass before the first user request.",
    )
    traffic: Traffic = Field(
        default_factory=Traffic, description="How requests reach the revisions."
    )
    rollout: Rollout = Field(
        default_factory=Rollout, description="Steps, promotion, watch, and the way back."
    )
    analysis: Analysis = Field(default_factory=Analysis, description="How live traffic is judged.")
    experiment: Experiment | None = Field(
        default=None,
        description="After the steps: compare a business metric of both revisions' users, for "
        "hours to weeks, before promotion. Guardrails stay on. Two arms; more are not built.",
    )
