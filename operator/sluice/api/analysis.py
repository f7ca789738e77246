"""Analysis: how often live traffic is looked at, at what risk, and by which checks.

Read by sluice.api.modeldeployment (spec.analysis).
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from sluice.api.base import Block
from sluice.api.cel import keyed, must, rules, within
from sluice.api.checks import Check
from sluice.api.duration import Duration


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
