"""Checks: the questions that are asked of live traffic again and again.

Read by sluice.api.analysis (spec.analysis.checks) and by sluice.rollout.plan.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from sluice.api.base import Block, ObjectName
from sluice.api.cel import count, must, rules, within
from sluice.api.duration import Duration
from sluice.api.meta import METRICS_SECRET
from sluice.api.query import MAX_QUERY, PLACEHOLDERS

CheckType = Literal[
    "ErrorRate",
    "ClientErrorRate",
    "Latency",
    "PodHealth",
    "PredictionShift",
    "Disagreement",
    "Metric",
    "Threshold",
]

_KNOWN = "".join(".replace('{{" + name + "}}', '')" for name in PLACEHOLDERS)
_PLACEHOLDERS_KNOWN = must(
    "!self" + _KNOWN + ".contains('{{')",
    "placeholders must be {{revision}}, {{namespace}}, {{name}} or {{interval}}, without spaces, "
    'for example sum(rate(refunds_total{revision="{{revision}}"}[5m]))',
)
_BY_REVISION = must(
    "self.contains('{{revision}}')",
    "must select one arm with {{revision}}, or both arms would always be alike, "
    'for example refunds_total{revision="{{revision}}"}',
)
_SINCE_ANCHOR = must(
    "self.contains('[{{interval}}]')",
    "must count over [{{interval}}], which reaches back to the first look at this weight, "
    'for example sum(increase(refunds_total{revision="{{revision}}"}[{{interval}}]))',
)

Gauge = Annotated[
    str,
    Field(
        min_length=1,
        max_length=MAX_QUERY,
        json_schema_extra=rules(_BY_REVISION, _PLACEHOLDERS_KNOWN),
    ),
]
RunningTotal = Annotated[
    str,
    Field(
        min_length=1,
        max_length=MAX_QUERY,
        json_schema_extra=rules(_BY_REVISION, _SINCE_ANCHOR, _PLACEHOLDERS_KNOWN),
    ),
]


class SecretKeyRef(Block):
    """One key of the Secret that the operator may read in this namespace."""

    name: Literal["sluice-metrics"] = Field(
        default=METRICS_SECRET,
        description="Name of the Secret. The operator may read this one and no other.",
    )
    key: str = Field(
        min_length=1,
        max_length=253,
        pattern=r"^[-._a-zA-Z0-9]+$",
        description="Key in the Secret's data.",
    )


class PrometheusSource(Block):
    """A Prometheus server, or one that answers like it, and what to ask."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            must(
                f"{count('query', 'events')} == 1 && has(self.events) == has(self.total)",
                "either query, or events and total together must be set: events and total are "
                "counts and give the surest evidence; query is a value, for example a mean",
            ),
        )
    )

    url: str = Field(
        min_length=1,
        max_length=512,
        pattern=r"^https?://[^\s/?#@]+(/[^\s?#@]*)?$",
        description="Address, for example http://prometheus.monitoring.svc:9090; /api/v1/query is "
        "added. No user, no password: those are in tokenSecretRef.",
    )
    query: Gauge | None = Field(
        default=None,
        description="PromQL that gives one number for the revision named {{revision}}, read once a "
        "look. Its noise is known only from how it moves, which takes many looks; counts (events "
        "and total) need fewer.",
    )
    events: RunningTotal | None = Field(
        default=None,
        description="PromQL for the number of events since the comparison began: increase(...) "
        "over [{{interval}}].",
    )
    total: RunningTotal | None = Field(
        default=None,
        description="PromQL for the number of things that the events are a part of, likewise.",
    )
    tenant: str | None = Field(
        default=None,
        min_length=1,
        max_length=150,
        pattern=r"^[A-Za-z0-9!._*'()|-]+$",
        description="Tenant, sent as X-Scope-OrgID, for servers that hold many.",
    )
    token_secret_ref: SecretKeyRef | None = Field(default=None, description="Bearer token to send.")
    ca_secret_ref: SecretKeyRef | None = Field(
        default=None, description="Certificates (PEM) to trust instead of the system's."
    )


class SqlSource(Block):
    """A PostgreSQL database, and what to ask."""

    secret_ref: SecretKeyRef = Field(
        description="Address with user and password: postgresql://USER:PASSWORD@HOST/DATABASE. "
        "Give it a user that may only read."
    )
    query: str = Field(
        min_length=1,
        max_length=MAX_QUERY,
        description="SELECT with one row per arm: arm or revision, n, and either events (a rate) "
        "or sum and sumsq (a mean), of rows from :start (included) to :end (not included). "
        ":stable and :candidate are the revisions' names.",
        json_schema_extra=rules(
            must(
                "self.contains(':start') && self.contains(':end')",
                "must use :start and :end, or rows would be counted twice, for example "
                "WHERE closed_at >= :start AND closed_at < :end",
            )
        ),
    )
    delay: Duration = Field(
        default="30s",
        description="How long rows may take to arrive: a window of time is read when it has been "
        "closed for this long; 0s to 24h.",
        json_schema_extra=rules(within("0s", "24h", "30s")),
    )
    ca_secret_ref: SecretKeyRef | None = Field(
        default=None, description="Certificates (PEM) to trust; sslmode is then verify-full."
    )


_RATES = "['ErrorRate', 'ClientErrorRate']"
_RATE_VALUES = "(has(self.value) && self.value in ['ErrorRate', 'ClientErrorRate'])"
_LIMITED = "(self.type == 'Threshold' || has(self.compare) && self.compare == 'Limit')"


def _only(types: str, shown: str, example: str, *fields: str) -> dict[str, str]:
    unset = " && ".join(f"!has(self.{name})" for name in fields)
    return must(
        f"self.type in {types} || {unset}",
        f"{', '.join(fields)} must not be set for this type, only for {shown}, "
        f"for example {example}",
        reason="FieldValueForbidden",
    )


class Check(Block):
    """A question asked of live traffic again and again."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            must(
                "!has(self.margin) || self.type != 'PredictionShift'",
                "margin must not be set for PredictionShift, which compares with the revision's "
                "own profile; use max, for example max: 0.25",
                field=".margin",
                reason="FieldValueForbidden",
            ),
            must(
                "!has(self.max) || !(self.type in ['Latency', 'PodHealth'])",
                "max must not be set for Latency and PodHealth, which are relative to stable; use "
                "margin, for example margin: 1.1, or the gate validation.latency.p99",
                field=".max",
                reason="FieldValueForbidden",
            ),
            must(
                f"!has(self.max) || !(self.type in {_RATES} || {_RATE_VALUES}) || "
                "self.max >= 0.0 && self.max <= 1.0",
                "max must be a share between 0 and 1 for ErrorRate and ClientErrorRate: "
                "write 0.05 for 5 %",
                field=".max",
            ),
            must(
                "!has(self.max) || self.type != 'PredictionShift' || "
                "self.max >= 0.0 && self.max <= 10.0",
                "max must be between 0 and 10 for PredictionShift, for example max: 0.25",
                field=".max",
            ),
            must(
                "!has(self.max) || !has(self.value) || !self.value.startsWith('Latency') || "
                "self.max > 0.0 && self.max <= 100.0",
                "max must be seconds above 0 and up to 100 for a latency: write 0.25 for 250 ms",
                field=".max",
            ),
            must(
                "!has(self.onFail) || self.type != 'PredictionShift' || self.onFail == 'Hold'",
                "onFail must be Hold for PredictionShift: other scores are not yet wrong scores, "
                "so a person decides; write onFail: Hold or leave it out",
                field=".onFail",
            ),
            must(
                f"self.type != 'Metric' || {count('prometheus', 'sql')} == 1",
                "exactly one of prometheus and sql must be set for Metric, for example "
                "sql: {secretRef: {key: dwh}, query: ...}",
                reason="FieldValueRequired",
            ),
            must(
                f"self.type != 'Threshold' || {count('value', 'prometheus')} == 1",
                "exactly one of value and prometheus must be set for Threshold, for example "
                "{value: LatencyP99, max: 0.25}",
                reason="FieldValueRequired",
            ),
            must(
                f"!{_LIMITED} || {count('min', 'max')} == 1",
                "exactly one of min and max must be set for Threshold and for compare: Limit, "
                "for example max: 0.25",
                reason="FieldValueRequired",
            ),
            must(
                f"{_LIMITED} || self.type != 'Metric' || {count('min', 'max')} == 0",
                "min and max must not be set for a comparison with stable; use margin, or write "
                "compare: Limit",
                reason="FieldValueForbidden",
            ),
            must(
                f"!has(self.margin) || !{_LIMITED}",
                "margin must not be set for Threshold and for compare: Limit, which know no "
                "stable to be relative to; use max or min, for example max: 0.25",
                field=".margin",
                reason="FieldValueForbidden",
            ),
            must(
                f"self.type != 'Metric' || {_LIMITED} == !has(self.direction)",
                "direction must be set for Metric when it is compared with stable (Lower: less is "
                "better, Higher: more is better), and must not with compare: Limit, where max or "
                "min says it; for example direction: Lower",
                field=".direction",
                reason="FieldValueRequired",
            ),
            must(
                "!has(self.min) || self.type in ['Metric', 'Threshold'] && !has(self.value)",
                "min must not be set here: of errors and latency less is better; use max, "
                "for example max: 0.05",
                field=".min",
                reason="FieldValueForbidden",
            ),
            _only(
                "['Metric', 'Threshold']",
                "Metric and Threshold",
                "type: Metric",
                *("prometheus", "minSample", "mode", "onNoData", "onProviderError"),
            ),
            _only("['Metric']", "Metric", "type: Metric", "sql", "compare", "direction"),
            _only("['Threshold']", "Threshold", "{type: Threshold, max: 0.05}", "value"),
            must(
                "!has(self.margin) || self.type != 'Disagreement'",
                "margin must not be set for Disagreement, which is a share of answers; use max, "
                "for example max: 0.05",
                field=".margin",
                reason="FieldValueForbidden",
            ),
            must(
                "!has(self.max) || self.type != 'Disagreement' || "
                "self.max >= 0.0 && self.max < 1.0",
                "max must be a share below 1 for Disagreement: write 0.05 for 5 %",
                field=".max",
            ),
            _only(
                "['Disagreement']", "Disagreement", "{type: Disagreement, max: 0.05}", "tolerance"
            ),
        )
    )

    name: ObjectName = Field(description="Name in status, events and metrics.")
    type: CheckType = Field(
        description="ErrorRate: the model's own failures. ClientErrorRate: 4xx answers. "
        "Latency: p50, p90 and p99 against stable's. "
        "PodHealth: minutes in which a pod crashed, ran out of memory or was not ready any more. "
        "PredictionShift: live scores against the revision's own reference profile. "
        "Disagreement: answers to the same mirrored requests that differ from stable's. "
        "Metric: a business metric from Prometheus or SQL, against stable or a limit. "
        "Threshold: a plain limit that the candidate must surely be beyond, and stable surely not."
    )
    margin: float | None = Field(
        default=None,
        ge=1,
        le=10,
        description="How many times worse than stable is still tolerated: odds for rates "
        "and PodHealth (default 1.2), time for Latency (default 1.1), odds for a Metric of events "
        "(default 1.2), "
        "the value itself for any other Metric (default 1.1).",
    )
    min: float | None = Field(
        default=None,
        ge=-1e12,
        le=1e12,
        description="Smallest value that is good, of a Metric with compare: Limit or a Threshold.",
    )
    max: float | None = Field(
        default=None,
        ge=-1e12,
        le=1e12,
        description="Hard limit, enforced only while stable is below it: a rate (0 to 1) for "
        "ErrorRate and ClientErrorRate, PSI for PredictionShift (default 0.25), the share of "
        "answers for Disagreement (default 0.05), seconds for a latency, "
        "the metric's own unit for Metric and Threshold.",
    )
    on_fail: Literal["Rollback", "Hold"] | None = Field(
        default=None,
        description="Rollback takes the candidate back (default); Hold keeps the weight and waits "
        "for a person (always so for PredictionShift, default for Disagreement).",
    )
    tolerance: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="Relative difference up to which two values of a regression agree (Disagreement"
        "; default 0.01). Labels agree or they do not.",
    )
    prometheus: PrometheusSource | None = Field(
        default=None, description="Where a Metric or a Threshold gets its numbers."
    )
    sql: SqlSource | None = Field(
        default=None, description="Where a Metric gets its numbers, from a database."
    )
    value: (
        Literal["ErrorRate", "ClientErrorRate", "LatencyP50", "LatencyP90", "LatencyP99"] | None
    ) = Field(
        default=None, description="What a Threshold limits, when it is measured by Sluice itself."
    )
    compare: Literal["Stable", "Limit"] | None = Field(
        default=None,
        description="Stable: a Metric is compared with stable's at the same time (default). "
        "Limit: with min or max.",
    )
    direction: Literal["Lower", "Higher"] | None = Field(
        default=None, description="Which is better, of a Metric that is compared with stable."
    )
    min_sample: int | None = Field(
        default=None,
        ge=1,
        le=1_000_000_000,
        description="Candidate's sample before a Metric or a Threshold may fail, and that each "
        "step must see before it passes: things counted (default 100), or looks for a Prometheus "
        "query (default 30, and never fewer).",
    )
    mode: Literal["Enforce", "DryRun"] = Field(
        default="Enforce",
        description="DryRun: a Metric or a Threshold is shown and never acts, to try it out.",
    )
    on_no_data: Literal["Hold", "Ignore"] = Field(
        default="Hold",
        description="What a source without data for an arm does. Hold: nothing is promoted "
        "meanwhile. Neither ever takes a candidate back.",
    )
    on_provider_error: Literal["Hold", "Ignore"] = Field(
        default="Hold",
        description="What a source that cannot be read does. Hold: nothing is promoted meanwhile. "
        "Neither ever takes a candidate back.",
    )
