"""The plan fills in what the API's descriptions promise."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.unit.looks import plan_of

from sluice.rollout.plan import CheckPlan, Plan, describe


def test_defaults_are_those_of_the_api() -> None:
    plan = plan_of()
    assert [(s.weight, s.min_requests, s.min_duration) for s in plan.steps] == [
        (5, 100, 120.0),
        (25, 250, 300.0),
        (50, 1000, 600.0),
    ]
    assert [s.risk for s in plan.steps] == [0.05, 0.02, 0.005]
    assert [s.last for s in plan.steps] == [False, False, True]
    assert [(c.type, c.action, c.margin) for c in plan.checks] == [
        ("ErrorRate", "Rollback", 1.2),
        ("ClientErrorRate", "Rollback", 1.2),
        ("Latency", "Rollback", 1.1),
        ("PredictionShift", "Hold", 1.0),
    ]
    assert plan.checks[3].limit == 0.25
    assert plan.final_weight == 90
    assert (plan.alpha_canary, plan.alpha_watch, plan.alpha_promotion) == (0.005, 0.005, 0.025)
    assert plan.planned_watch_looks == 360
    assert describe(plan.steps[0]) == "5 % for 2 min and 100 requests"


def test_plan_survives_json() -> None:
    plan = plan_of(
        rollout={"steps": [{"weight": 10, "maxDuration": "1h", "pause": "Manual"}]},
        traffic={"unit": {"header": "X-User-Id"}},
    )
    again = Plan.from_json(json.loads(json.dumps(plan.to_json())))
    assert again == plan and again.sticky and again.steps[0].pause_manual
    assert again.steps[0].max_duration == 3600.0


def test_a_plan_of_another_version_is_refused() -> None:
    with pytest.raises(ValueError, match="version 7"):
        Plan.from_json({**plan_of().to_json(), "version": 7})


def test_the_last_step_is_tight_at_any_weight() -> None:
    (only,) = plan_of(rollout={"steps": [{"weight": 5}]}).steps
    assert (only.weight, only.risk, only.ratio, only.last) == (5, 0.005, 1.2, True)


@pytest.mark.parametrize(
    ("steps", "holdback", "judged"),
    [
        ([5, 50, 100], 10, [5, 50]),
        ([5, 90], 10, [5]),
        ([100], 10, [90]),
        ([100], 0, [50]),
        ([5, 25, 50], 50, [5, 25]),
    ],
)
def test_every_judged_step_leaves_stable_something_to_compare(
    steps: list[int], holdback: int, judged: list[int]
) -> None:
    plan = plan_of(
        rollout={"steps": [{"weight": w} for w in steps], "watch": {"holdback": holdback}}
    )
    assert [s.weight for s in plan.steps] == judged


def test_checks_as_written_and_evidence_for_promotion_always() -> None:
    plan = plan_of(
        analysis={"checks": [{"name": "p", "type": "PredictionShift", "onFail": "Rollback"}]}
    )
    assert [(c.name, c.action) for c in plan.checks] == [
        ("p", "Rollback"),
        ("sluice-errors", "Show"),
    ]
    limited = plan_of(analysis={"checks": [{"name": "e", "type": "ErrorRate", "max": 0.02}]})
    assert [(c.name, c.limit) for c in limited.checks] == [("e", 0.02)]


COUNTED = {
    "url": "http://p:9090",
    "events": 'refunds{revision="{{revision}}"}[{{interval}}]',
    "total": 'orders{revision="{{revision}}"}[{{interval}}]',
    "tokenSecretRef": {"key": "token"},
    "caSecretRef": {"key": "ca"},
    "tenant": "team-a",
}
GAUGE = {"url": "http://p:9090", "query": 'delay{revision="{{revision}}"}'}
SQL = {"secretRef": {"key": "dwh"}, "query": "SELECT ... :start ... :end", "delay": "5m"}


def external(**check: Any) -> CheckPlan:
    """The plan of one Metric or Threshold."""
    errors = {"name": "errors", "type": "ErrorRate"}
    plan = plan_of(analysis={"checks": [errors, {"name": "mine", **check}]})
    again = Plan.from_json(json.loads(json.dumps(plan.to_json())))
    assert again == plan
    return again.checks[1]


def test_a_metric_of_events_is_planned_with_its_source() -> None:
    check = external(type="Metric", direction="Lower", prometheus=COUNTED)
    assert (check.margin, check.limit, check.action, check.lower) == (1.2, None, "Rollback", True)
    assert (check.min_sample, check.on_no_data, check.on_provider_error) == (100, "Hold", "Hold")
    assert check.source is not None
    assert (check.source.kind, check.source.url) == ("Prometheus", "http://p:9090")
    assert check.source.events.startswith("refunds") and check.source.total.startswith("orders")
    assert check.source.keys == ("token", "ca") and check.source.tenant == "team-a"


def test_a_metric_of_values_wants_thirty_looks_at_least() -> None:
    check = external(type="Metric", direction="Higher", prometheus=GAUGE, minSample=3, margin=2)
    assert (check.min_sample, check.margin, check.lower) == (30, 2.0, False)
    more = external(type="Metric", direction="Higher", prometheus=GAUGE, minSample=300)
    assert more.min_sample == 300


def test_a_metric_of_rows_is_planned_without_its_address() -> None:
    check = external(type="Metric", direction="Lower", sql=SQL, onNoData="Ignore", onFail="Hold")
    assert check.source is not None
    assert (check.source.kind, check.source.keys, check.source.delay) == ("Sql", ("dwh",), 300.0)
    assert (check.margin, check.action, check.on_no_data) == (1.1, "Hold", "Ignore")


def test_limits_say_which_way_is_better() -> None:
    top = external(type="Metric", compare="Limit", max=3, sql=SQL)
    assert (top.limit, top.lower) == (3.0, True)
    bottom = external(type="Threshold", prometheus=GAUGE, min=0)
    assert (bottom.limit, bottom.lower) == (0.0, False)
    own = external(type="Threshold", value="LatencyP99", max=0.25)
    assert (own.value, own.source, own.condemns, own.min_sample) == (
        "LatencyP99",
        None,
        "Revision",
        100,
    )


def test_a_dry_run_is_only_shown() -> None:
    assert external(type="Metric", direction="Lower", sql=SQL, mode="DryRun").action == "Show"


def test_a_plan_from_before_sources_is_made_anew() -> None:
    old = plan_of().to_json()
    del old["checks"][0]["source"]
    assert Plan.read({**old, "version": 1}) is None
    assert Plan.read(old) is None
