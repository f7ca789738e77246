"""What the real API server refuses and accepts of spec.rollout: steps, mirroring, watch."""

from __future__ import annotations

from typing import Any

import pytest
from tests.integration.crd_rules import (
    ANALYSIS,
    ERRORS,
    ROLLOUT,
    Case,
    Server,
    assert_told_apart,
    minimal,
)

from sluice.api.kinds import MODEL_DEPLOYMENT

pytestmark = pytest.mark.cluster


def strictly(margin: float) -> dict[str, Any]:
    """A whole spec that asks for non-inferiority at ``margin``."""
    spec = minimal(MODEL_DEPLOYMENT)["spec"]
    checks = [{"name": "latency", "type": "Latency", "margin": 1}, {**ERRORS, "margin": margin}]
    return {**spec, "rollout": {"promotion": "NonInferiority"}, "analysis": {"checks": checks}}


STEPS = [
    Case(
        f"{ROLLOUT}.steps",
        [{"weight": 25}, {"weight": 5}],
        [{"weight": 5}, {"weight": 25}],
        "weights must rise",
    ),
    Case(
        f"{ROLLOUT}.steps",
        [{"weight": 5}, {"weight": 5}],
        [{"weight": 5}, {"weight": 6}],
        "weights must rise",
    ),
    Case(
        f"{ROLLOUT}.steps",
        [{"weight": 0}],
        [{"weight": 1}],
        "greater than or equal to 1",
        f"{ROLLOUT}.steps[0].weight",
    ),
    Case(
        f"{ROLLOUT}.steps",
        [{"weight": 101}],
        [{"weight": 90}],
        "less than or equal to 100",
        f"{ROLLOUT}.steps[0].weight",
    ),
    Case(
        f"{ROLLOUT}.steps",
        [{"weight": 5}, {"weight": 100}],
        [{"weight": 5}, {"weight": 90}],
        "must not exceed 100 - watch.holdback",
    ),
    Case(
        ROLLOUT,
        {"steps": [{"weight": 98}], "watch": {"holdback": 3}},
        {"steps": [{"weight": 100}], "watch": {"holdback": 0}},
        "must not exceed 100 - watch.holdback",
        f"{ROLLOUT}.steps",
    ),
    Case(f"{ROLLOUT}.steps", [], [{"weight": 50}], "at least 1 items"),
    Case(
        f"{ROLLOUT}.steps",
        [{"weight": 5, "minDuration": "2h", "maxDuration": "1h"}],
        [{"weight": 5, "minDuration": "1h", "maxDuration": "60m"}],
        "minDuration must not exceed maxDuration",
        f"{ROLLOUT}.steps[0].maxDuration",
    ),
    Case(
        f"{ROLLOUT}.steps",
        [{"weight": 25, "maxDuration": "4m"}],
        [{"weight": 9, "maxDuration": "4m"}],
        "minDuration must not exceed maxDuration",
        f"{ROLLOUT}.steps[0].maxDuration",
    ),
    Case(
        ROLLOUT,
        {"strategy": "GatesOnly", "promotion": "NonInferiority"},
        {"strategy": "Canary", "promotion": "NonInferiority"},
        "promotion NonInferiority must not be set with strategy GatesOnly",
        f"{ROLLOUT}.promotion",
    ),
    Case(f"{ROLLOUT}.onNoTraffic", "Promote", "PromoteByGates", "supported values"),
    Case(f"{ROLLOUT}.promotion", "Strict", "BoundedRisk", "supported values"),
    Case(
        "spec",
        strictly(1),
        strictly(1.1),
        "margin of error rates must be above 1",
        f"{ANALYSIS}.checks",
    ),
    Case(
        ROLLOUT,
        {"strategy": "GatesOnly", "steps": [{"weight": 5}]},
        {"strategy": "GatesOnly"},
        "steps must not be set with strategy GatesOnly",
        f"{ROLLOUT}.steps",
    ),
    Case(
        f"{ROLLOUT}.steps",
        [{"weight": 5, "pause": "Forever"}],
        [{"weight": 5, "pause": "Manual"}],
        "supported values",
        f"{ROLLOUT}.steps[0].pause",
    ),
    Case(f"{ROLLOUT}.onFail", "Ignore", "Pause", "supported values"),
    Case(f"{ROLLOUT}.progressDeadline", "0s", "90s", "between 1s and 24h"),
    Case(
        f"{ROLLOUT}.watch",
        {"duration": "9s"},
        {"duration": "10s"},
        "must be at least analysis.interval",
        f"{ROLLOUT}.watch.duration",
    ),
    Case(
        f"{ROLLOUT}.watch",
        {"holdback": 51},
        {"holdback": 50},
        "less than or equal to 50",
        f"{ROLLOUT}.watch.holdback",
    ),
]

MIRROR = [
    Case(
        f"{ROLLOUT}.steps",
        [{"mirror": 0}, {"weight": 5}],
        [{"mirror": 1}, {"weight": 5}],
        "greater than or equal to 1",
        f"{ROLLOUT}.steps[0].mirror",
    ),
    Case(
        f"{ROLLOUT}.steps",
        [{"mirror": 101}, {"weight": 5}],
        [{"mirror": 100}, {"weight": 5}],
        "less than or equal to 100",
        f"{ROLLOUT}.steps[0].mirror",
    ),
    Case(
        f"{ROLLOUT}.steps",
        [{"mirror": 100, "weight": 5}],
        [{"mirror": 100}, {"weight": 5}],
        "exactly one of weight and mirror",
        f"{ROLLOUT}.steps[0]",
    ),
    Case(
        f"{ROLLOUT}.steps",
        [{"minRequests": 500}, {"weight": 5}],
        [{"mirror": 5, "minRequests": 500}, {"weight": 5}],
        "exactly one of weight and mirror",
        f"{ROLLOUT}.steps[0]",
    ),
    Case(
        f"{ROLLOUT}.steps",
        [{"weight": 5}, {"mirror": 100}, {"weight": 50}],
        [{"mirror": 10}, {"mirror": 100}, {"weight": 5}, {"weight": 50}],
        "must come before the first weight",
    ),
    Case(
        f"{ROLLOUT}.steps",
        [{"mirror": 100}],
        [{"mirror": 100}, {"weight": 90}],
        "and a weight must follow",
    ),
    Case(
        f"{ROLLOUT}.steps",
        [{"mirror": 100}, {"weight": 25}, {"weight": 5}],
        [{"mirror": 100}, {"weight": 5}, {"weight": 25}],
        "weights must rise",
    ),
    Case(
        f"{ROLLOUT}.steps",
        [{"mirror": 100, "maxDuration": "1m"}, {"weight": 5}],
        [{"mirror": 100, "maxDuration": "2m"}, {"weight": 5}],
        "minDuration must not exceed maxDuration",
        f"{ROLLOUT}.steps[0].maxDuration",
    ),
]

CASES = [*STEPS, *MIRROR]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_wrong_value_is_refused_with_field_and_rule_and_its_twin_is_accepted(
    crd_server: Server, case: Case
) -> None:
    assert_told_apart(crd_server, case)
