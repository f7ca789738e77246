"""Status of a ModelDeployment: a projection for people and tools, never read for decisions.

Building one never fails over a number that is not finite or a sentence that is too long: telling
people must not stop the judging.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from sluice.api.base import Block
from sluice.api.cel import keyed

MAX_MESSAGE = 512


def _clipped(text: Any) -> Any:
    return (
        text[: MAX_MESSAGE - 1] + "…" if isinstance(text, str) and len(text) > MAX_MESSAGE else text
    )


def _finite(value: Any) -> Any:
    """JSON has no infinity: a bound that does not exist yet is absent."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


Message = Annotated[str, BeforeValidator(_clipped), Field(max_length=MAX_MESSAGE)]
Measured = Annotated[float | None, BeforeValidator(_finite)]

VerdictWord = Literal["Pass", "Fail", "Inconclusive", "NoData", "Untrusted"]


class Condition(Block):
    """A Kubernetes condition."""

    type: str = Field(min_length=1, max_length=63, description="Condition type, for example Ready.")
    status: Literal["True", "False", "Unknown"] = Field(description="True, False or Unknown.")
    observed_generation: int = Field(default=0, ge=0, le=1 << 53, description="Generation judged.")
    last_transition_time: str = Field(
        max_length=32,
        description="When status last changed.",
        json_schema_extra={"format": "date-time"},
    )
    reason: str = Field(min_length=1, max_length=128, description="CamelCase reason.")
    message: Message = Field(default="", description="One sentence for a person.")


class Weight(Block):
    """Share of traffic in percent."""

    desired: int = Field(default=0, ge=0, le=100, description="What was asked of the router.")
    observed: int | None = Field(
        default=None, ge=0, le=100, description="What the router says; absent when unreachable."
    )


class Role(Block):
    """A revision in a role."""

    revision: str = Field(max_length=63, description="Revision hash.")
    digest: str = Field(max_length=71, description="Package digest.")
    weight: Weight = Field(default_factory=Weight, description="Share of traffic.")
    ready: str = Field(default="0/0", max_length=16, description="Ready pods of wanted pods.")


class StepStatus(Block):
    """The step the candidate is in."""

    index: int = Field(ge=0, le=100, description="Position, from 1.")
    count: int = Field(ge=0, le=100, description="Number of steps.")
    summary: Message = Field(default="", description="What is missing, how long, how to go on.")
    since: str = Field(default="", max_length=32, description="When the step began.")
    estimated_seconds: int | None = Field(
        default=None, ge=0, le=1 << 31, description="Time to a verdict at the present traffic."
    )


class ArmValue(Block):
    """One arm's sample."""

    count: int = Field(default=0, ge=0, le=1 << 53, description="Sample size.")
    value: Measured = Field(default=None, description="Observed value.")


class CheckStatus(Block):
    """One check with its numbers."""

    name: str = Field(max_length=63, description="Check name.")
    verdict: VerdictWord = Field(description="Pass, Fail, Inconclusive, NoData or Untrusted.")
    stable: ArmValue = Field(default_factory=ArmValue, description="Stable's sample.")
    candidate: ArmValue = Field(default_factory=ArmValue, description="Candidate's sample.")
    effect: Measured = Field(default=None, description="Estimated effect.")
    low: Measured = Field(default=None, description="Lower bound of the effect.")
    high: Measured = Field(default=None, description="Upper bound of the effect.")
    margin: Measured = Field(default=None, description="What is tolerated.")
    log10_evidence: Measured = Field(
        default=None, description="log10 of the evidence against the candidate."
    )
    dispersion: Measured = Field(
        default=None,
        description="How many times more events vary between pods and users than by chance.",
    )
    message: Message = Field(default="", description="One sentence.")


class EvidenceStatus(Block):
    """The looks behind the checks: save the object and run sluice judge on it."""

    revision: str = Field(max_length=63, description="The revision that is judged.")
    phase: Literal["Canary", "Watch"] = Field(
        description="Canary: against stable; Watch: after promotion, against the revision before."
    )
    planned_starts: int = Field(
        ge=1, le=1 << 31, description="Beginnings of a regression that the evidence allows for."
    )
    log10_need: Measured = Field(
        default=None, description="log10 of the evidence with which one check alone fails."
    )
    detectable: Measured = Field(
        default=None,
        description="Odds ratio of errors from which these looks would probably have found it.",
    )
    summed_looks: int = Field(
        default=0, ge=0, le=1 << 31, description="Old looks that share a row with another."
    )
    looks: str = Field(
        default="",
        max_length=1 << 15,
        description="CSV with the columns look, check, starts, arm, n, events.",
    )


class GateStatus(Block):
    """One gate with its result."""

    name: str = Field(max_length=63, description="Gate name.")
    verdict: VerdictWord = Field(description="Pass, Fail, Inconclusive, NoData or Untrusted.")
    message: Message = Field(default="", description="One sentence.")


class RevisionSummary(Block):
    """A line of history."""

    revision: str = Field(max_length=63, description="Revision hash.")
    digest: str = Field(max_length=71, description="Package digest.")
    verdict: str = Field(max_length=16, description="Its verdict.")
    reason: str = Field(default="", max_length=128, description="Why.")
    at: str = Field(default="", max_length=32, description="When.")


class LastCommand(Block):
    """The last command and what became of it."""

    op: str = Field(max_length=32, description="The verb.")
    value: str = Field(default="", max_length=128, description="The annotation's value.")
    result: Message = Field(default="", description="What was done, or why not.")
    at: str = Field(default="", max_length=32, description="When.")


class LastRollback(Block):
    """The last rollback."""

    from_: str = Field(alias="from", max_length=63, description="Revision taken back.")
    to: str = Field(max_length=63, description="Revision that serves instead.")
    check: str = Field(default="", max_length=128, description="What failed.")
    reason: Message = Field(default="", description="One sentence with both values.")
    detected_at: str = Field(default="", max_length=40, description="When it was judged.")
    traffic_zero_at: str = Field(default="", max_length=40, description="When weight 0 was seen.")


class Share(Block):
    """How units are split: what was planned and what came."""

    expected: Measured = Field(default=None, description="Candidate's share by weight.")
    observed: Measured = Field(default=None, description="Candidate's share of units exposed.")
    log10_evidence: Measured = Field(
        default=None, description="log10 of the evidence that the split is broken; 3 is proof."
    )


class ExperimentStatus(Block):
    """The experiment that runs, or the last one."""

    metric: str = Field(max_length=63, description="What is measured.")
    kind: str = Field(max_length=16, description="Conversion, Mean or Ratio.")
    verdict: Literal["Superior", "NonInferior", "Inferior", "Inconclusive", "Untrusted"] = Field(
        description="What is proven so far."
    )
    exposed: int = Field(default=0, ge=0, le=1 << 53, description="Units of both arms.")
    stable: ArmValue = Field(
        default_factory=ArmValue, description="Stable's units with a closed window."
    )
    candidate: ArmValue = Field(
        default_factory=ArmValue, description="Candidate's units with a closed window."
    )
    effect: Measured = Field(
        default=None, description="Odds ratio for a Conversion, relative lift for the others."
    )
    low: Measured = Field(default=None, description="Lower bound, valid at every look.")
    high: Measured = Field(default=None, description="Upper bound, valid at every look.")
    margin: Measured = Field(default=None, description="What counts as equal, relative.")
    log10_evidence: Measured = Field(
        default=None, description="log10 of the evidence of any difference."
    )
    sample_ratio: Share = Field(default_factory=Share, description="The split of units.")
    crossed: int = Field(
        default=0, ge=0, le=1 << 53, description="Units seen in both arms, left out."
    )
    not_counted: int = Field(
        default=0,
        ge=0,
        le=1 << 53,
        description="Outcomes of nobody's window: before the first request, too late, unknown.",
    )
    since: str = Field(default="", max_length=32, description="When it began.")
    estimated_seconds: int | None = Field(
        default=None, ge=0, le=1 << 31, description="Time to an end at the present traffic."
    )
    message: Message = Field(default="", description="One sentence.")


class SinceAnchor(Block):
    """What promotions since the last approval have added up to."""

    type: str = Field(max_length=32, description="Type of check: ErrorRate or ClientErrorRate.")
    odds_ratio: Measured = Field(
        default=None, description="Estimated odds of such a failure against the anchor's."
    )
    margin: Measured = Field(
        default=None, description="Past this the next promotion asks for a person."
    )


class ModelDeploymentStatus(Block):
    """What serves, why, and since when."""

    observed_generation: int = Field(default=-1, ge=-1, le=1 << 53, description="Generation seen.")
    replicas: int = Field(default=0, ge=0, le=10000, description="Stable's pods.")
    selector: str = Field(
        default="", max_length=256, description="Label selector of stable's pods."
    )
    url: str = Field(
        default="", max_length=512, description="Where the model answers in the cluster."
    )
    stable: Role | None = Field(default=None, description="The revision that serves.")
    candidate: Role | None = Field(default=None, description="The revision on its way.")
    previous: Role | None = Field(default=None, description="Kept warm during the watch.")
    step: StepStatus | None = Field(default=None, description="The candidate's step.")
    worst_check: str = Field(default="", max_length=63, description="Check with most evidence.")
    worst_evidence: str = Field(default="", max_length=16, description="Percent of what it takes.")
    checks: Annotated[list[CheckStatus], Field(max_length=16)] = Field(
        default_factory=list, description="Checks with their numbers."
    )
    evidence: EvidenceStatus | None = Field(
        default=None, description="The looks behind the checks, for sluice judge."
    )
    experiment: ExperimentStatus | None = Field(
        default=None, description="The experiment that runs, or the last one."
    )
    gates: Annotated[list[GateStatus], Field(max_length=8)] = Field(
        default_factory=list, description="Gates with their results."
    )
    revisions: Annotated[list[RevisionSummary], Field(max_length=10)] = Field(
        default_factory=list, description="History, newest first."
    )
    since_anchor: Annotated[list[SinceAnchor], Field(max_length=2)] = Field(
        default_factory=list,
        description="What promotions since the last approval have added up to.",
    )
    last_command: LastCommand | None = Field(default=None, description="Last command.")
    last_rollback: LastRollback | None = Field(default=None, description="Last rollback.")
    conditions: Annotated[list[Condition], Field(max_length=16)] = Field(
        default_factory=list,
        description="Ready, Reconciling, Stalled, Available, Promoted, Validated, "
        "AnalysisHealthy, SourceMutable.",
        json_schema_extra=keyed("type"),
    )
