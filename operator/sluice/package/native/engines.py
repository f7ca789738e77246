"""A native model file, read and checked, becomes a scorer.

Called by the packager and by the runtime's loader, so that both see the same answers; calls the
reader and the engine of the format.
"""

from __future__ import annotations

from typing import Protocol

from sluice.package.features import Columns, Schema
from sluice.package.manifest import Format, Output
from sluice.package.native.description import NATIVE, Array, NativeModel
from sluice.package.native.reader import read_native


class Scorer(Protocol):
    """What an engine is."""

    def raw(self, columns: Columns) -> Array:
        """Scores: a matrix (rows x labels), or a vector of values for a regression."""


def native_scorer(
    data: bytes, format_: Format, schema: Schema, output: Output, model: NativeModel | None = None
) -> Scorer:
    """A scorer over the library's own reading of ``data``; PackageError when that fails."""
    found = model if model is not None else read_native(format_, data)
    names = tuple(spec.name for spec in schema.inputs)
    if len(names) != len(found.features):
        raise ValueError(f"{NATIVE[format_]} has {len(found.features)} features, not {len(names)}")
    if found.format == "xgboost":
        from sluice.package.native.xgboost_engine import XgboostScorer

        return XgboostScorer(data, found, names, output)
    if found.format == "lightgbm":
        from sluice.package.native.lightgbm_engine import LightgbmScorer

        return LightgbmScorer(data, found, names, output)
    from sluice.package.native.catboost_engine import CatboostScorer

    return CatboostScorer(data, found, schema.inputs, output)
