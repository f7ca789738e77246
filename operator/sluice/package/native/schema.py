"""A native model's features meet example rows, or stand alone as a schema.

Called by the packager and by ``bare``; calls pandas only through the frame it is given.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import msgspec

from sluice.errors import InvalidInputError
from sluice.package.manifest import MAX_CATEGORIES, Input
from sluice.package.native.description import NATIVE, NativeFeature, NativeModel

if TYPE_CHECKING:  # a bare file is described where pandas need not be installed
    import pandas as pd

_LONGEST_CATEGORY = 256


def arrange(frame: pd.DataFrame, model: NativeModel, notes: list[str]) -> pd.DataFrame:
    """The model's own columns in its own order, with pandas' categories as plain values."""
    if model.named:
        frame = frame[_columns(frame, model, notes)]
    elif len(frame.columns) != len(model.features):
        raise InvalidInputError(
            f"The examples have {len(frame.columns)} columns; the model was trained on "
            f"{len(model.features)}, without names.",
            hint="Give exactly the columns of the training data, in its order.",
        )
    return plain_categories(frame)


def plain_categories(frame: pd.DataFrame) -> pd.DataFrame:
    """The same rows with texts or numbers where pandas had its category type."""
    import pandas as pd

    return frame.assign(
        **{
            name: frame[name].astype(object)
            for name in frame.columns
            if isinstance(frame[name].dtype, pd.CategoricalDtype)
        }
    )


def _columns(frame: pd.DataFrame, model: NativeModel, notes: list[str]) -> list[str]:
    present = {_spelled(name, model): name for name in frame.columns}
    wanted = [feature.name for feature in model.features]
    absent = [name for name in wanted if name not in present]
    if absent:
        raise InvalidInputError(
            f"The examples lack {len(absent)} column(s) that the model was trained on: "
            f"{', '.join(map(repr, absent[:5]))}.",
            hint="Give the columns that model.fit saw.",
        )
    chosen = [present[name] for name in wanted]
    extra = [name for name in frame.columns if name not in set(chosen)]
    if extra:
        notes.append(f"Columns that the model does not use are left out: {', '.join(extra[:10])}.")
    elif chosen != list(frame.columns):
        notes.append("The columns are put into the order that the model was trained on.")
    return chosen


def _spelled(name: str, model: NativeModel) -> str:
    """LightGBM writes a feature's name without its spaces."""
    return re.sub(r"\s", "_", name) if model.format == "lightgbm" else name


def fitted_inputs(inputs: tuple[Input, ...], model: NativeModel) -> tuple[Input, ...]:
    """The schema of the examples with the categories of the file; InvalidInputError if they clash.

    ``inputs`` and the model's features belong together, one by one.
    """
    return tuple(
        _fitted(spec, feature, model) for spec, feature in zip(inputs, model.features, strict=True)
    )


def _fitted(spec: Input, feature: NativeFeature, model: NativeModel) -> Input:
    text = spec.type == "string"
    if feature.categories is not None:
        wanted = "text" if feature.type == "string" else "whole numbers"
        clash = text != (feature.type == "string")
    elif feature.categorical:
        wanted = "text or whole numbers" if model.format == "catboost" else "whole numbers"
        clash = text if model.format != "catboost" else spec.type == "float"
    else:
        wanted, clash = "numbers", text
    if clash:
        raise InvalidInputError(
            f"Column {spec.name!r} is {'text' if text else spec.type} in the examples; the "
            f"{NATIVE[model.format]} model was trained on {wanted} there.",
            hint="Give the examples as model.fit saw them.",
        )
    if feature.type == "string":
        return msgspec.structs.replace(spec, categories=_shown(feature))
    return spec


def bare_inputs(model: NativeModel) -> tuple[Input, ...]:
    """The schema that a file alone gives."""
    return tuple(
        Input(
            name=feature.name,
            type=_bare_type(feature, model),
            nullable=feature.nullable,
            min=feature.min,
            max=feature.max,
            categories=_shown(feature) if feature.type == "string" else None,
        )
        for feature in model.features
    )


def _bare_type(feature: NativeFeature, model: NativeModel) -> Any:
    if feature.categorical and model.format == "catboost":
        return "string"
    return feature.type or "float"


def _shown(feature: NativeFeature) -> tuple[str, ...] | None:
    """Categories as a schema lists them: texts, not too many and not too long."""
    listed = tuple(str(v) for v in feature.categories or ())
    fits = 0 < len(listed) <= MAX_CATEGORIES and max(map(len, listed)) <= _LONGEST_CATEGORY
    return listed if fits else None
