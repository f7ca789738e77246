"""Validation: the gates between a package and its first user request.

Read by sluice.api.modeldeployment (spec.validation), sluice.objects and sluice.jobs.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from sluice.api.base import Block, Digest, Uri
from sluice.api.cel import keyed, must, rules, within
from sluice.api.duration import Duration
from sluice.api.model import CREDENTIALS, SecretRef


class SmokeGate(Block):
    """The package loads, answers, answers the same twice, and a batch equals its rows."""


class SchemaGate(Block):
    """The candidate accepts what stable accepts."""

    breaking: Literal["Refuse", "Allow"] = Field(
        default="Refuse",
        description="What to do about a new required, removed, renamed or retyped input.",
    )


class GoldenGate(Block):
    """Examples inside the package are answered as recorded."""

    tolerance: float = Field(
        default=1e-9, ge=0, le=1, description="Largest allowed absolute difference of a score."
    )


class Dataset(Block):
    """Rows with labels."""

    model_config = ConfigDict(json_schema_extra=rules(CREDENTIALS))

    uri: Uri = Field(
        description="Address of a parquet or CSV file, written as in spec.model.uri.",
    )
    digest: Digest | None = Field(
        default=None, description="sha256 of the file; other bytes are refused."
    )
    label: str = Field(
        default="label", min_length=1, max_length=128, description="Column that holds the truth."
    )
    credentials_ref: SecretRef | None = Field(
        default=None,
        description="Secret whose keys become environment variables of the fetching container.",
    )


_SHARE = "['rocAuc', 'accuracy', 'f1']"
_HIGHER = "['rocAuc', 'accuracy', 'f1', 'r2']"
_LOWER = "['logLoss', 'rmse', 'mae']"


class QualityCheck(Block):
    """One metric on the dataset, with what still passes."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            must(
                f"!(self.metric in {_HIGHER}) || has(self.min) || has(self.maxDropVsStable)",
                "min or maxDropVsStable must be set for rocAuc, accuracy, f1 and r2, "
                "for example {metric: rocAuc, min: 0.80}",
                reason="FieldValueRequired",
            ),
            must(
                f"!(self.metric in {_LOWER}) || has(self.max) || has(self.maxDropVsStable)",
                "max or maxDropVsStable must be set for logLoss, rmse and mae, which are better "
                "when lower, for example {metric: rmse, max: 12}",
                reason="FieldValueRequired",
            ),
            must(
                "!has(self.min) || !has(self.max) || self.min <= self.max",
                "min must not exceed max, for example min: 0.80 and max: 0.99",
                field=".min",
            ),
            must(
                f"!(self.metric in {_SHARE}) || !has(self.min) || self.min >= 0.0 && "
                "self.min <= 1.0",
                "min must be between 0 and 1 for rocAuc, accuracy and f1: write 0.80, not 80",
                field=".min",
            ),
            must(
                f"!(self.metric in {_SHARE}) || !has(self.max) || self.max >= 0.0 && "
                "self.max <= 1.0",
                "max must be between 0 and 1 for rocAuc, accuracy and f1: write 0.99, not 99",
                field=".max",
            ),
        )
    )

    metric: Literal["rocAuc", "accuracy", "logLoss", "f1", "rmse", "mae", "r2"] = Field(
        description="Metric; logLoss, rmse and mae are better when lower, the others when higher."
    )
    min: float | None = Field(
        default=None, ge=-1e12, le=1e12, description="Smallest value that passes."
    )
    max: float | None = Field(
        default=None, ge=-1e12, le=1e12, description="Largest value that passes."
    )
    max_drop_vs_stable: float | None = Field(
        default=None,
        ge=0,
        le=1e12,
        description="How much worse than stable, on the same rows, still passes.",
    )


class QualityGate(Block):
    """The model is right often enough on rows with known labels."""

    dataset: Dataset = Field(description="Rows with labels, never seen in training.")
    checks: Annotated[list[QualityCheck], Field(min_length=1, max_length=16)] = Field(
        description="Metrics on the dataset; all must pass.", json_schema_extra=keyed("metric")
    )


class LatencyGate(Block):
    """The model answers fast enough, one request after another."""

    p99: Duration = Field(
        description="Largest allowed 99th percentile, for example 50ms; 1ms to 10m.",
        json_schema_extra=rules(within("1ms", "10m", "50ms")),
    )
    requests: int = Field(
        default=500, ge=50, le=100000, description="Requests to send, drawn from the examples."
    )


class Validation(Block):
    """Gates: all must pass before the first user request."""

    smoke: SmokeGate | None = Field(
        default=None,
        description="The package loads, answers, answers the same twice, and a batch equals its "
        "rows. Always on.",
    )
    schema_: SchemaGate | None = Field(
        default=None,
        alias="schema",
        description="The candidate accepts what stable accepts. Always on.",
    )
    golden: GoldenGate | None = Field(
        default=None,
        description="Examples inside the package are answered as recorded. Always on.",
    )
    quality: QualityGate | None = Field(
        default=None,
        description="The model is right often enough on rows with known labels. Absent: it is "
        "checked that it answers, not that it is right.",
    )
    latency: LatencyGate | None = Field(
        default=None, description="The model answers fast enough before it meets users."
    )
    initial: Literal["Required", "SmokeOnly"] = Field(
        default="Required",
        description="Whether the very first revision passes every gate, or smoke only.",
    )
