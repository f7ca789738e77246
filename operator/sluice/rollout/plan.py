"""The analysis plan: every default of the judge filled in, from a ModelDeployment's spec.

Snapshotted as JSON when a rollout starts, so that an edit of the spec never changes the rules in
the middle of a verdict.  Called by sluice.rollout and sluice.controller; read by
sluice.rollout.judge.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from sluice.api.checks import Check, CheckType, PrometheusSource, SqlSource
from sluice.api.duration import human, seconds
from sluice.api.experiment import Experiment
from sluice.api.modeldeployment import ModelDeploymentSpec
from sluice.api.rollout import Step, Watch

VERSION = 4
OwnValue = Literal["ErrorRate", "ClientErrorRate", "LatencyP50", "LatencyP90", "LatencyP99"]
Action = Literal["Rollback", "Hold", "Show"]
Silence = Literal["Hold", "Ignore"]
MetricKind = Literal["Conversion", "Mean", "Ratio"]
Direction = Literal["Higher", "Lower"]
Design = Literal["Sequential", "GroupSequential"]
Promotion = Literal["BoundedRisk", "NonInferiority"]
DEFAULT_WEIGHTS = (5, 25, 50)
DEFAULT_CHECKS: tuple[CheckType, ...] = (
    "ErrorRate",
    "ClientErrorRate",
    "Latency",
    "PredictionShift",
)
DEFAULT_NAMES = {
    "ErrorRate": "errors",
    "ClientErrorRate": "client-errors",
    "Latency": "latency",
    "PredictionShift": "prediction-shift",
}
DEFAULT_MARGINS = {"ErrorRate": 1.2, "ClientErrorRate": 1.2, "Latency": 1.1, "PodHealth": 1.2}
DEFAULT_LIMITS = {"PredictionShift": 0.25, "Disagreement": 0.05}
HOLDS = ("PredictionShift", "Disagreement")
"""Other answers are not yet wrong answers: a person decides, unless the spec says otherwise."""

DEFAULT_TOLERANCE = 0.01
MIRROR_REQUESTS = 500
MIRROR_SECONDS = 120.0
MIRROR_RISK = 0.02
"""Excluded with the default number of copies when nothing fails; no user bears it meanwhile."""
EVENTS_MARGIN = 1.2
VALUE_MARGIN = 1.1
MIN_COUNT = 100
MIN_LOOKS = 30
"""Looks of a Prometheus query without which its noise is not known."""

PROMOTION_ALPHA = 0.025
COMPARATOR_WEIGHT = 50
"""The share of a judged step when the spec leaves stable nothing to compare with."""


@dataclass(frozen=True)
class SourcePlan:
    """Where a metric is read.  Secrets by key of ``sluice-metrics`` only, never their contents.

    Prometheus: ``query``, or ``events`` and ``total``.  Sql: ``query``, its address under
    ``address_key``, and ``delay``, the seconds that rows take to arrive.
    """

    kind: Literal["Prometheus", "Sql"]
    url: str = ""
    query: str = ""
    events: str = ""
    total: str = ""
    tenant: str = ""
    token_key: str = ""
    ca_key: str = ""
    address_key: str = ""
    delay: float = 0.0

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys of the Secret that it needs."""
        return tuple(key for key in (self.token_key, self.ca_key, self.address_key) if key)


@dataclass(frozen=True)
class CheckPlan:
    """One check with its defaults filled in.

    ``action`` is what a failure does; Show is only evidence for promotion, or a dry run.
    ``lower`` says that less is better.  ``limit`` of a Metric or a Threshold is the last value that
    is good.  ``tolerance``: relative difference of two values that a Disagreement overlooks.
    ``value`` is what a Threshold limits of our own numbers, ``source`` where the numbers
    of others are read.
    """

    name: str
    type: CheckType
    margin: float
    limit: float | None
    action: Action
    lower: bool = True
    min_sample: int = 0
    value: OwnValue | None = None
    source: SourcePlan | None = None
    on_no_data: Silence = "Hold"
    on_provider_error: Silence = "Hold"
    tolerance: float = DEFAULT_TOLERANCE

    @property
    def condemns(self) -> Literal["Package", "Revision"]:
        """What a failure quarantines: time, crashes and memory are a revision's own."""
        own = self.type in ("Latency", "PodHealth") or (self.value or "").startswith("Latency")
        return "Revision" if own else "Package"


@dataclass(frozen=True)
class StepPlan:
    """One judged step: a share of traffic, or ``mirror`` percent of stable's requests as copies at
    weight 0.  ``risk`` is tau, the excess failure rate that must be excluded; at the last
    step it is the widest that may be taken.  ``ratio`` is the multiple of stable's own rate that is
    tolerated as well."""

    weight: int
    min_requests: int
    min_duration: float
    max_duration: float | None
    pause_manual: bool
    risk: float
    ratio: float
    latency_margin: float
    last: bool
    mirror: int = 0

    @property
    def share(self) -> float:
        """The candidate's part of the answers that are judged: copies are one for one."""
        return 0.5 if self.mirror else self.weight / 100.0

    @property
    def load(self) -> int:
        """Percent of all requests that the candidate answers, whoever hears the answers."""
        return self.mirror or self.weight

    @property
    def where(self) -> str:
        """What the step is, after "Step 1 of 4"."""
        return f"mirroring {self.mirror} %" if self.mirror else f"at {self.weight} %"


@dataclass(frozen=True)
class ExperimentPlan:
    """A comparison of units on a business metric after the steps, at one weight.

    ``margin`` is relative: a metric worse by less is not worse; 0: nothing is tolerated.  ``alpha``
    is two-sided.
    """

    metric: str
    kind: MetricKind
    direction: Direction
    weight: int
    window_seconds: float
    max_units: int
    max_seconds: float
    margin: float
    alpha: float
    on_win: str
    on_loss: str
    on_inconclusive: str
    design: Design = "Sequential"
    source: SourcePlan | None = None
    """Where the arms are counted; None: by us, from what pods and /feedback saw."""

    @property
    def has_units(self) -> bool:
        """Whether what is counted are units, each once."""
        return self.source is None or self.source.kind == "Sql"


@dataclass(frozen=True)
class Plan:
    """How a rollout is judged, from the first step to the end of the watch."""

    version: int
    interval_seconds: float
    alpha_canary: float
    alpha_watch: float
    alpha_promotion: float
    sticky: bool
    checks: tuple[CheckPlan, ...]
    steps: tuple[StepPlan, ...]
    final_weight: int
    watch_seconds: float
    watch_requests: int
    experiment: ExperimentPlan | None = None
    promotion: Promotion = "BoundedRisk"

    @property
    def planned_watch_looks(self) -> int:
        """Looks that the watch takes at its interval."""
        return max(1, round(self.watch_seconds / self.interval_seconds))

    @property
    def first_weight(self) -> int:
        """Index of the first step in which users meet the candidate."""
        return next(i for i, step in enumerate(self.steps) if not step.mirror)

    @property
    def tolerance(self) -> float:
        """Relative difference up to which mirrored answers agree."""
        tolerances = [c.tolerance for c in self.checks if c.type == "Disagreement"]
        return tolerances[0] if tolerances else DEFAULT_TOLERANCE

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        data = asdict(self)
        return {
            **data,
            "checks": [dict(c) for c in data["checks"]],
            "steps": [dict(s) for s in data["steps"]],
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Plan:
        """The plan again; ValueError when it was written by an unknown version."""
        if data.get("version") != VERSION:
            raise ValueError(f"analysis plan of version {data.get('version')!r}, not {VERSION}")
        return cls(
            **{
                **data,
                "checks": tuple(_check_again(c) for c in data["checks"]),
                "steps": tuple(StepPlan(**s) for s in data["steps"]),
                "experiment": data["experiment"] and _experiment_again(data["experiment"]),
            }
        )

    @classmethod
    def read(cls, data: dict[str, Any]) -> Plan | None:
        """The plan again; None when another version of the operator wrote it."""
        try:
            return cls.from_json(data)
        except (ValueError, TypeError, KeyError):
            return None


def _check_again(data: dict[str, Any]) -> CheckPlan:
    source = data["source"]
    return CheckPlan(**{**data, "source": None if source is None else SourcePlan(**source)})


def analysis_plan(spec: ModelDeploymentSpec) -> Plan:
    """The plan that ``spec`` stands for."""
    watch = spec.rollout.watch or Watch()
    final = 100 - watch.holdback
    alpha = spec.analysis.alpha
    experiment = spec.experiment
    return Plan(
        version=VERSION,
        interval_seconds=min(300.0, max(1.0, seconds(spec.analysis.interval))),
        alpha_canary=alpha / 2,
        alpha_watch=alpha / 2,
        alpha_promotion=PROMOTION_ALPHA,
        sticky=spec.traffic.unit is not None,
        checks=_checks(spec.analysis.checks),
        steps=_steps(spec.rollout.steps, final, experiment.weight if experiment else None),
        final_weight=final,
        watch_seconds=seconds(watch.duration),
        watch_requests=watch.min_requests,
        experiment=None if experiment is None else _experiment(experiment),
        promotion=spec.rollout.promotion,
    )


def describe(step: StepPlan) -> str:
    """The step in a few words."""
    share = f"{step.mirror} % mirrored" if step.mirror else f"{step.weight} %"
    return f"{share} for {human(step.min_duration)} and {step.min_requests:,} requests"


def _checks(checks: list[Check] | None) -> tuple[CheckPlan, ...]:
    if checks is None:
        return tuple(_check(DEFAULT_NAMES[kind], kind) for kind in DEFAULT_CHECKS)
    planned = tuple(
        _external(c) if c.type in ("Metric", "Threshold") else _check(c.name, c.type, c)
        for c in checks
    )
    if any(c.type == "ErrorRate" for c in planned):
        return planned
    # Promotion needs a positive verdict on errors, also where nobody asked for a guardrail.
    shown = CheckPlan("sluice-errors", "ErrorRate", DEFAULT_MARGINS["ErrorRate"], None, "Show")
    return (*planned, shown)


def _check(name: str, kind: CheckType, check: Check | None = None) -> CheckPlan:
    margin = check.margin if check else None
    limit = check.max if check else None
    tolerance = check.tolerance if check else None
    on_fail: Action | None = check.on_fail if check else None
    return CheckPlan(
        name=name,
        type=kind,
        margin=DEFAULT_MARGINS.get(kind, 1.0) if margin is None else margin,
        limit=DEFAULT_LIMITS.get(kind) if limit is None else limit,
        action=on_fail or ("Hold" if kind in HOLDS else "Rollback"),
        tolerance=DEFAULT_TOLERANCE if tolerance is None else tolerance,
    )


def _external(check: Check) -> CheckPlan:
    """A Metric or a Threshold: what is measured elsewhere, or limited in plain numbers."""
    source = _source(check.prometheus, check.sql)
    looks = source is not None and source.kind == "Prometheus" and bool(source.query)
    limit = check.min if check.min is not None else check.max
    margin = EVENTS_MARGIN if source is not None and source.events else VALUE_MARGIN
    least = MIN_LOOKS if looks else MIN_COUNT
    return CheckPlan(
        name=check.name,
        type=check.type,
        margin=margin if check.margin is None else check.margin,
        limit=limit,
        action="Show" if check.mode == "DryRun" else check.on_fail or "Rollback",
        lower=check.max is not None if limit is not None else check.direction != "Higher",
        min_sample=max(check.min_sample or least, MIN_LOOKS if looks else 1),
        value=check.value,
        source=source,
        on_no_data=check.on_no_data,
        on_provider_error=check.on_provider_error,
    )


def _source(prometheus: PrometheusSource | None, sql: SqlSource | None) -> SourcePlan | None:
    if prometheus is not None:
        token, ca = prometheus.token_secret_ref, prometheus.ca_secret_ref
        return SourcePlan(
            kind="Prometheus",
            url=prometheus.url,
            query=prometheus.query or "",
            events=prometheus.events or "",
            total=prometheus.total or "",
            tenant=prometheus.tenant or "",
            token_key=token.key if token else "",
            ca_key=ca.key if ca else "",
        )
    if sql is not None:
        return SourcePlan(
            kind="Sql",
            query=sql.query,
            address_key=sql.secret_ref.key,
            ca_key=sql.ca_secret_ref.key if sql.ca_secret_ref else "",
            delay=seconds(sql.delay),
        )
    return None


def _experiment(experiment: Experiment) -> ExperimentPlan:
    return ExperimentPlan(
        metric=experiment.metric,
        kind=experiment.kind,
        direction=experiment.direction,
        weight=experiment.weight,
        window_seconds=seconds(experiment.window),
        max_units=experiment.max_units,
        max_seconds=seconds(experiment.max_duration),
        margin=experiment.margin or 0.0,
        alpha=experiment.alpha,
        on_win=experiment.on_win,
        on_loss=experiment.on_loss,
        on_inconclusive=experiment.on_inconclusive,
        design=experiment.design,
        source=_source(experiment.prometheus, experiment.sql),
    )


def _experiment_again(data: dict[str, Any]) -> ExperimentPlan:
    source = data["source"]
    return ExperimentPlan(**{**data, "source": source and SourcePlan(**source)})


def _steps(steps: list[Step] | None, final: int, most: int | None) -> tuple[StepPlan, ...]:
    """The judged steps: those that mirror, then those below the final weight, at which the rollout
    is promoted, and not above ``most``, at which it is experimented with."""
    wanted = steps or [Step(weight=w) for w in DEFAULT_WEIGHTS]
    mirrored = [s for s in wanted if s.mirror]
    weighted = [s for s in wanted if not s.mirror]
    judged = [
        s for s in weighted if (s.weight or 0) < final and (most is None or (s.weight or 0) <= most)
    ]
    if not judged:
        # Everyone at once still needs a verdict, and a verdict needs a comparator.
        share = most or (final if final < 100 else COMPARATOR_WEIGHT)
        judged = [*weighted, Step()][:1]
        judged = [judged[0].model_copy(update={"weight": share})]
    return (
        *map(_mirror_step, mirrored),
        *(_step(s, s.weight or 0, last=i == len(judged) - 1) for i, s in enumerate(judged)),
    )


def _mirror_step(step: Step) -> StepPlan:
    requests, duration = step.min_requests, step.min_duration
    return StepPlan(
        weight=0,
        min_requests=MIRROR_REQUESTS if requests is None else requests,
        min_duration=MIRROR_SECONDS if duration is None else seconds(duration),
        max_duration=None if step.max_duration is None else seconds(step.max_duration),
        pause_manual=step.pause == "Manual",
        risk=MIRROR_RISK,
        ratio=1.5,
        latency_margin=1.0,
        last=False,
        mirror=step.mirror or 0,
    )


def _step(step: Step, weight: int, *, last: bool) -> StepPlan:
    size = 0 if weight < 10 else 1 if weight < 40 else 2
    tight = 2 if last else size
    requests, duration = step.min_requests, step.min_duration
    return StepPlan(
        weight=weight,
        min_requests=(100, 250, 1000)[size] if requests is None else requests,
        min_duration=(120.0, 300.0, 600.0)[size] if duration is None else seconds(duration),
        max_duration=None if step.max_duration is None else seconds(step.max_duration),
        pause_manual=step.pause == "Manual",
        risk=(0.05, 0.02, 0.005)[tight],
        ratio=1.2 if last else 1.5,
        latency_margin=(1.5, 1.25, 1.1)[tight],
        last=last,
    )
