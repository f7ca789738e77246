"""Experiments: is a candidate better for the business, over hours to weeks?

Read by sluice.api.modeldeployment (spec.experiment) and by sluice.rollout.plan.
"""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict, Field

from sluice.api.base import Block, ObjectName
from sluice.api.cel import count, must, rules, within
from sluice.api.checks import PrometheusSource, SqlSource
from sluice.api.duration import Duration

MOST_UNITS = 200_000


class TokenRef(Block):
    """A key of a Secret in the same namespace; the operator itself does not read it."""

    name: ObjectName = Field(description="Name of the Secret.")
    key: str = Field(
        default="token",
        min_length=1,
        max_length=253,
        pattern=r"^[-._a-zA-Z0-9]+$",
        description="Key in the Secret's data.",
    )


class FeedbackSource(Block):
    """Outcomes that your services post to /feedback of the ModelDeployment's own address."""

    secret_ref: TokenRef = Field(
        description="Token of at least 16 characters that /feedback asks for: Authorization: "
        "Bearer TOKEN. Router pods get it; without it /feedback answers 401."
    )


class Experiment(Block):
    """Two arms, compared on a business metric of units such as users, after the steps."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            must(
                "duration(has(self.maxDuration) ? self.maxDuration : '336h') >= "
                "duration(has(self.window) ? self.window : '24h')",
                "maxDuration (336h by default) must be at least window (24h by default), or no "
                "unit's window would close in time; for example window: 24h, maxDuration: 336h",
                field=".maxDuration",
            ),
            must(
                f"{count('feedback', 'sql', 'prometheus')} == 1",
                "exactly one of feedback, sql and prometheus must be set, for example "
                "feedback: {secretRef: {name: feedback}}",
                reason="FieldValueRequired",
            ),
            must(
                "!has(self.sql) || self.kind != 'Ratio'",
                "kind must be Conversion or Mean with sql, for example kind: Mean; a Ratio is made "
                "of feedback",
                field=".kind",
            ),
            must(
                "!has(self.prometheus) || self.kind == 'Conversion'",
                "kind must be Conversion with prometheus, which gives counts and no units; write "
                "kind: Conversion",
                field=".kind",
            ),
            must(
                "!has(self.prometheus) || has(self.prometheus.events)",
                "prometheus must have events and total here, not query: a value is not a sample of "
                "users; for example events: sum(increase(...[{{interval}}]))",
                field=".prometheus",
                reason="FieldValueRequired",
            ),
        )
    )

    metric: ObjectName = Field(
        description="Name of what is measured, in status and messages, for example conversion."
    )
    kind: Literal["Conversion", "Mean", "Ratio"] = Field(
        description="Conversion: the share of units with a value above 0. Mean: the mean over "
        "units of the sum of their values; a unit without any counts 0. Ratio: all values over all "
        "denominators, for example revenue per session."
    )
    direction: Literal["Higher", "Lower"] = Field(
        default="Higher", description="Which is better: Higher for sales, Lower for returns."
    )
    weight: int = Field(
        default=50,
        ge=1,
        le=99,
        description="Percent of units that get the candidate, all the time. Steps above it are "
        "left out. 50 needs the fewest units.",
    )
    window: Duration = Field(
        default="24h",
        description="How long a unit is followed after its first request: outcomes later than "
        "that are not counted, and it is compared when the time is over; 1s to 2160h.",
        json_schema_extra=rules(within("1s", "2160h", "24h")),
    )
    max_units: int = Field(
        default=100_000,
        ge=100,
        le=MOST_UNITS,
        description="Units after which no more are added; when all their windows have closed, "
        "onInconclusive decides.",
    )
    max_duration: Duration = Field(
        default="336h",
        description="Observed time after which onInconclusive decides; 1s to 2160h.",
        json_schema_extra=rules(within("1s", "2160h", "336h")),
    )
    design: Literal["Sequential", "GroupSequential"] = Field(
        default="Sequential",
        description="Sequential: judged at every look, ends as early as it can. GroupSequential: "
        "judged when a fifth, two, three, four and all of maxUnits have closed; finds smaller "
        "differences with the same units, and stops harm later.",
    )
    margin: float | None = Field(
        default=None,
        ge=0.001,
        le=0.5,
        description="How much worse than stable, relative to it, is as good as equal, for example "
        "0.02. Then NonInferior wins too. Absent: only Superior wins.",
        json_schema_extra=rules(
            must("self >= 0.001 && self <= 0.5", "must be between 0.001 and 0.5: write 0.02")
        ),
    )
    alpha: float = Field(
        default=0.05,
        ge=0.001,
        le=0.2,
        description="Chance of a verdict other than Inconclusive for an equal candidate, half on "
        "each side.",
        json_schema_extra=rules(
            must("self >= 0.001 && self <= 0.2", "must be between 0.001 and 0.2: write 0.05")
        ),
    )
    feedback: FeedbackSource | None = Field(
        default=None,
        description="Outcomes come to /feedback, posted with the unit's header or cookie.",
    )
    sql: SqlSource | None = Field(
        default=None,
        description="Units and outcomes are counted by your database: n are the units whose window "
        "closed between :start and :end, each counted once, in the arm that answered it first.",
    )
    prometheus: PrometheusSource | None = Field(
        default=None,
        description="Counts of events and of what they are a part of. No units: whether users are "
        "split as planned cannot be checked, and users that return count each time.",
    )
    on_win: Literal["Promote", "Hold"] = Field(
        default="Promote",
        description="What Superior, and with margin NonInferior, does. Hold: a person decides.",
    )
    on_loss: Literal["Rollback", "Hold"] = Field(
        default="Rollback",
        description="What Inferior does. Rollback: weight 0, and the package is quarantined.",
    )
    on_inconclusive: Literal["Hold", "Rollback", "Promote"] = Field(
        default="Hold",
        description="What happens when maxUnits or maxDuration are reached without a verdict.",
    )
