"""Rollout: the steps to everyone, the watch after them, and the way back.

Read by sluice.api.modeldeployment (spec.rollout) and by sluice.rollout.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from sluice.api.base import Block
from sluice.api.cel import ATOMIC, count, must, rules, within
from sluice.api.duration import Duration

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
        "is quarantined. Pause: the weight goes to 0 and a person decides.",
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
