"""Fitted scikit-learn models as float64 ONNX graphs."""

from __future__ import annotations

from typing import Any, Literal

from sluice.package.scoring import ModelSchema


class NotConvertibleError(Exception):
    """There is no exact exporter for a part of the model; the message names it."""


def to_onnx(model: Any, schema: ModelSchema) -> tuple[bytes, Literal["Columns", "Matrix"]]:
    """The graph and how it takes its inputs."""
    raise NotConvertibleError(f"there is no exporter for {type(model).__name__}")
