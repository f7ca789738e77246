"""What the real API server refuses and accepts of spec.analysis and spec.experiment."""

from __future__ import annotations

from typing import Any

import pytest
from tests.integration.crd_rules import ANALYSIS, ERRORS, Case, Server, assert_told_apart, minimal

from sluice.api.kinds import MODEL_DEPLOYMENT

pytestmark = pytest.mark.cluster


def checks(**check: Any) -> list[dict[str, Any]]:
    return [ERRORS, {"name": "mine", **check}]


JUDGING = [
    Case(f"{ANALYSIS}.interval", "999ms", "1s", "between 1s and 5m"),
    Case(f"{ANALYSIS}.interval", "7d", "5m", "should match"),
    Case(f"{ANALYSIS}.alpha", 0.5, 0.05, "less than or equal to 0.2"),
    Case(f"{ANALYSIS}.alpha", 0, 0.2, "between 0.0001 and 0.2"),
    Case(
        f"{ANALYSIS}.checks",
        [{"name": "slow", "type": "Latency"}],
        [ERRORS, {"name": "slow", "type": "Latency"}],
        "must include a check of type ErrorRate",
    ),
    Case(
        f"{ANALYSIS}.checks",
        checks(type="PredictionShift", margin=1.1),
        checks(type="PredictionShift", max=0.25),
        "margin must not be set for PredictionShift",
        f"{ANALYSIS}.checks[1].margin",
    ),
    Case(
        f"{ANALYSIS}.checks",
        checks(type="PodHealth", max=1),
        checks(type="PodHealth", margin=1.3),
        "max must not be set for Latency and PodHealth",
        f"{ANALYSIS}.checks[1].max",
    ),
    Case(
        f"{ANALYSIS}.checks",
        checks(type="ClientErrorRate", max=5),
        checks(type="ClientErrorRate", max=0.05),
        "write 0.05 for 5 %",
        f"{ANALYSIS}.checks[1].max",
    ),
    Case(
        f"{ANALYSIS}.checks",
        checks(type="PredictionShift", onFail="Rollback"),
        checks(type="PredictionShift", onFail="Hold"),
        "onFail must be Hold",
        f"{ANALYSIS}.checks[1].onFail",
    ),
    Case(
        f"{ANALYSIS}.checks",
        checks(type="ErrorRate", margin=0.5),
        checks(type="ErrorRate", margin=1.5),
        "greater than or equal to 1",
        f"{ANALYSIS}.checks[1].margin",
    ),
    Case(
        f"{ANALYSIS}.checks",
        [ERRORS, ERRORS],
        [ERRORS, {**ERRORS, "name": "b"}],
        "Duplicate value",
        f"{ANALYSIS}.checks[1]",
    ),
    Case(
        f"{ANALYSIS}.checks",
        checks(type="Drift"),
        checks(type="Latency"),
        "supported values",
        f"{ANALYSIS}.checks[1].type",
    ),
]

MIRRORED = {"steps": [{"mirror": 100}, {"weight": 50}]}
DIFFERS = {"name": "differs", "type": "Disagreement"}


def compared(*more: dict[str, Any], **check: Any) -> dict[str, Any]:
    """A whole spec whose mirrored answers are compared."""
    spec = minimal(MODEL_DEPLOYMENT)["spec"]
    return {**spec, "rollout": MIRRORED, "analysis": {"checks": [ERRORS, DIFFERS | check, *more]}}


def compared_case(bad: dict[str, Any], good: dict[str, Any], says: str, field: str) -> Case:
    names = f"{ANALYSIS}.checks[1]{field}"
    return Case("spec", compared(**bad), compared(**good), says, names)


DISAGREEMENT = [
    Case(
        "spec",
        {**compared(), "rollout": {"steps": [{"weight": 50}]}},
        compared(),
        "must not include Disagreement without a step that mirrors",
        f"{ANALYSIS}.checks",
    ),
    Case(
        "spec",
        {k: v for k, v in compared().items() if k != "rollout"},
        compared(),
        "must not include Disagreement without a step that mirrors",
        f"{ANALYSIS}.checks",
    ),
    Case(
        "spec",
        compared({**DIFFERS, "name": "again"}),
        compared({"name": "slow", "type": "Latency"}),
        "must not include more than one check of type Disagreement",
        f"{ANALYSIS}.checks",
    ),
    compared_case({"margin": 1.2}, {"max": 0.2}, "margin must not be set for Disagree", ".margin"),
    compared_case({"max": 5}, {"max": 0.05}, "max must be a share below 1", ".max"),
    compared_case({"max": 1}, {"max": 0}, "max must be a share below 1", ".max"),
    compared_case({"min": 0.5}, {"max": 0.5}, "min must not be set here", ".min"),
    compared_case({"tolerance": 2}, {"tolerance": 0.001}, "less than or equal to 1", ".tolerance"),
    compared_case({"onFail": "Pause"}, {"onFail": "Rollback"}, "supported values", ".onFail"),
    Case(
        f"{ANALYSIS}.checks",
        [{**ERRORS, "tolerance": 0.1}],
        [{**ERRORS, "margin": 1.1}],
        "tolerance must not be set for this type, only for Disagreement",
        f"{ANALYSIS}.checks[0]",
    ),
]

GAUGE = {"url": "http://p:9090", "query": 'delay{revision="{{revision}}"}'}
REFUNDS = 'sum(increase(refunds_total{revision="{{revision}}"}[{{interval}}]))'
ORDERS = 'sum(increase(orders_total{revision="{{revision}}"}[{{interval}}]))'
COUNTED = {"url": "http://p:9090", "events": REFUNDS, "total": ORDERS}
SQL = {"secretRef": {"key": "dwh"}, "query": "SELECT ... WHERE t >= :start AND t < :end"}
LOWER = {"type": "Metric", "direction": "Lower"}
CHECK = f"{ANALYSIS}.checks"
MINE = f"{CHECK}[1]"


def metric_case(bad: dict[str, Any], good: dict[str, Any], says: str, names: str = "") -> Case:
    return Case(CHECK, checks(**bad), checks(**good), says, f"{MINE}{names}")


def source_case(
    bad: dict[str, Any], good: dict[str, Any], says: str, names: str, kind: str = "prometheus"
) -> Case:
    """The same of a Metric's source."""
    return metric_case({**LOWER, kind: bad}, {**LOWER, kind: good}, says, f".{kind}{names}")


METRICS = [
    metric_case(LOWER, {**LOWER, "prometheus": GAUGE}, "exactly one of prometheus and sql"),
    metric_case(
        {**LOWER, "prometheus": GAUGE, "sql": SQL},
        {**LOWER, "sql": SQL},
        "exactly one of prometheus and sql",
    ),
    metric_case(
        {"type": "Metric", "sql": SQL}, {**LOWER, "sql": SQL}, "direction must be set", ".direction"
    ),
    metric_case(
        {**LOWER, "sql": SQL, "compare": "Limit", "max": -2.5},
        {"type": "Metric", "sql": SQL, "compare": "Limit", "max": -2.5},
        "must not with compare: Limit",
        ".direction",
    ),
    metric_case(
        {**LOWER, "sql": SQL, "max": 3},
        {**LOWER, "sql": SQL, "margin": 3},
        "min and max must not be set for a comparison",
    ),
    metric_case(
        {"type": "Metric", "sql": SQL, "compare": "Limit"},
        {"type": "Metric", "sql": SQL, "compare": "Limit", "min": 3},
        "exactly one of min and max",
    ),
    metric_case(
        {"type": "Threshold", "prometheus": GAUGE, "min": 1, "max": 2},
        {"type": "Threshold", "prometheus": GAUGE, "max": 2},
        "exactly one of min and max",
    ),
    metric_case(
        {"type": "Threshold", "prometheus": GAUGE, "max": 2, "margin": 1.5},
        {"type": "Threshold", "prometheus": GAUGE, "max": 2, "minSample": 50},
        "margin must not be set for Threshold",
        ".margin",
    ),
    metric_case(
        {"type": "Threshold", "max": 2},
        {"type": "Threshold", "value": "LatencyP99", "max": 2},
        "exactly one of value and prometheus",
    ),
    metric_case(
        {"type": "Threshold", "value": "LatencyP99", "max": 250},
        {"type": "Threshold", "value": "LatencyP99", "max": 0.25},
        "write 0.25 for 250 ms",
        ".max",
    ),
    metric_case(
        {"type": "Threshold", "value": "ErrorRate", "max": 2},
        {"type": "Threshold", "value": "ErrorRate", "max": 0.02},
        "write 0.05 for 5 %",
        ".max",
    ),
    metric_case(
        {"type": "Threshold", "value": "ErrorRate", "min": 0.1},
        {"type": "Threshold", "prometheus": GAUGE, "min": 0.1},
        "min must not be set here",
        ".min",
    ),
    metric_case(
        {"type": "PredictionShift", "max": 11},
        {"type": "PredictionShift", "max": 10},
        "between 0 and 10",
        ".max",
    ),
    metric_case(
        {"type": "Latency", "mode": "DryRun"},
        {"type": "Metric", "compare": "Limit", "max": 1, "sql": SQL, "mode": "DryRun"},
        "prometheus, minSample, mode, onNoData, onProviderError must not be set",
    ),
    metric_case(
        {"type": "Threshold", "value": "ErrorRate", "max": 0.1, "compare": "Limit"},
        {"type": "Threshold", "value": "ErrorRate", "max": 0.1, "onNoData": "Ignore"},
        "sql, compare, direction must not be set",
    ),
    metric_case(
        {**LOWER, "sql": SQL, "value": "ErrorRate"},
        {**LOWER, "sql": SQL, "onProviderError": "Ignore"},
        "value must not be set for this type",
    ),
    source_case({**GAUGE, **COUNTED}, GAUGE, "either query, or events and total", ""),
    source_case(
        {"url": "http://p", "events": REFUNDS}, COUNTED, "either query, or events and total", ""
    ),
    source_case({**GAUGE, "query": "up"}, GAUGE, "must select one arm with {{revision}}", ".query"),
    source_case(
        {**GAUGE, "query": "x{r='{{revision}}',p='{{pod}}'}"},
        {**GAUGE, "query": "x{r='{{revision}}',n='{{namespace}}',d='{{name}}'}[{{interval}}]"},
        "placeholders must be",
        ".query",
    ),
    source_case(
        {**COUNTED, "events": "up"}, COUNTED, "must select one arm with {{revision}}", ".events"
    ),
    source_case(
        {**COUNTED, "total": REFUNDS.replace("{{interval}}", "5m")},
        {**COUNTED, "total": REFUNDS},
        "must count over [{{interval}}]",
        ".total",
    ),
    source_case(
        {**COUNTED, "events": REFUNDS.replace("{{revision}}", "{{revision}}{{x}}")},
        COUNTED,
        "placeholders must be",
        ".events",
    ),
    source_case(
        {**GAUGE, "url": "http://me:pw@p:9090"},
        {**GAUGE, "url": "https://p.example/prefix/", "tenant": "a|b"},
        "should match",
        ".url",
    ),
    source_case(
        {**GAUGE, "tokenSecretRef": {"name": "mine", "key": "token"}},
        {**GAUGE, "tokenSecretRef": {"name": "sluice-metrics", "key": "token"}},
        "supported values",
        ".tokenSecretRef.name",
    ),
    source_case(
        {**SQL, "query": "SELECT 1"}, SQL, "must use :start and :end", ".query", kind="sql"
    ),
    source_case(
        {**SQL, "delay": "25h"}, {**SQL, "delay": "24h"}, "between 0s and 24h", ".delay", kind="sql"
    ),
]

UNIT = {"unit": {"header": "X-User-Id"}}
STUDY = {
    "metric": "conversion",
    "kind": "Conversion",
    "feedback": {"secretRef": {"name": "feedback"}},
}
REST = {key: value for key, value in STUDY.items() if key != "feedback"}


def studied(**blocks: Any) -> dict[str, Any]:
    return {"model": {"uri": "s3://models/iris"}, "traffic": UNIT, "experiment": STUDY, **blocks}


def study_case(
    bad: dict[str, Any], good: dict[str, Any], says: str, field: str = "", rest: Any = STUDY
) -> Case:
    """Two experiments that differ in what is at fault."""
    return Case(
        "spec",
        studied(experiment={**rest, **bad}),
        studied(experiment={**rest, **good}),
        says,
        f"spec.experiment{field}",
    )


EXPERIMENTS = [
    Case("spec", studied(traffic={}), studied(), "needs traffic.unit", "spec.experiment"),
    Case(
        "spec",
        studied(rollout={"strategy": "GatesOnly"}),
        studied(rollout={"strategy": "Canary"}),
        "must not be set with rollout.strategy GatesOnly",
        "spec.experiment",
    ),
    Case(
        "spec",
        studied(rollout={"watch": {"holdback": 40}}, experiment={**STUDY, "weight": 61}),
        studied(rollout={"watch": {"holdback": 40}}, experiment={**STUDY, "weight": 60}),
        "must not exceed 100 - rollout.watch.holdback",
        "spec.experiment.weight",
    ),
    study_case({"weight": 91}, {"weight": 90}, "must not exceed 100 - rollout.watch", ".weight"),
    study_case(
        {"maxDuration": "23h"}, {"maxDuration": "24h"}, "must be at least window", ".maxDuration"
    ),
    study_case({"window": "500ms"}, {"window": "1s"}, "between 1s and 2160h, for example 24h",
               ".window"),
    study_case({"maxDuration": "2161h"}, {"maxDuration": "2160h"}, "for example 336h",
               ".maxDuration"),
    study_case({"margin": 0}, {"margin": 0.02}, "between 0.001 and 0.5", ".margin"),
    study_case({"alpha": 0}, {"alpha": 0.01}, "between 0.001 and 0.2", ".alpha"),
    study_case({"maxUnits": 200_001}, {"maxUnits": 200_000}, "less than or equal", ".maxUnits"),
    study_case({"kind": "Median"}, {"kind": "Ratio"}, "supported values", ".kind"),
    study_case({}, {"sql": SQL}, "exactly one of feedback, sql and prometheus", rest=REST),
    study_case({"sql": SQL}, {}, "exactly one of feedback, sql and prometheus"),
    study_case(
        {"sql": SQL, "kind": "Ratio"}, {"sql": SQL, "kind": "Mean"},
        "must be Conversion or Mean with sql", ".kind", rest=REST,
    ),
    study_case(
        {"prometheus": COUNTED, "kind": "Mean"}, {"prometheus": COUNTED},
        "must be Conversion with prometheus", ".kind", rest=REST,
    ),
    study_case(
        {"prometheus": GAUGE}, {"prometheus": COUNTED},
        "must have events and total here", ".prometheus", rest=REST,
    ),
    study_case(
        {"feedback": {"secretRef": {"name": "a b"}}}, {"feedback": {"secretRef": {"name": "ab"}}},
        "should match", ".feedback.secretRef.name",
    ),
]  # fmt: skip

CASES = [*JUDGING, *DISAGREEMENT, *METRICS, *EXPERIMENTS]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_wrong_value_is_refused_with_field_and_rule_and_its_twin_is_accepted(
    crd_server: Server, case: Case
) -> None:
    assert_told_apart(crd_server, case)
