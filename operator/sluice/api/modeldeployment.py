"""ModelDeployment: which model should serve, and how a new one gets there.

The spec as a whole, and the rules between its blocks; each block is a module of its own.  Defaults
live in these models and not in stored objects (but for ``replicas``, which the scale subresource
reads), so that a later version may improve one without rewriting what users wrote.
"""

from __future__ import annotations

from pydantic import ConfigDict, Field

from sluice.api.analysis import Analysis
from sluice.api.base import Block
from sluice.api.cel import FROZEN, must, rules
from sluice.api.experiment import Experiment
from sluice.api.model import Model
from sluice.api.rollout import Rollout
from sluice.api.serving import Serving
from sluice.api.traffic import Traffic
from sluice.api.validation import Validation


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
