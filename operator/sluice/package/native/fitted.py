"""A fitted object of XGBoost, LightGBM or CatBoost becomes its library's own file.

Called by ``save``; calls the object's own methods and the readers.  Only the libraries' own classes
are taken: a subclass may answer differently from its file.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from sluice.errors import PackageError
from sluice.package.manifest import Label
from sluice.package.native.description import NativeFormat, NativeModel
from sluice.package.native.reader import read_native

_CLASSES: dict[str, tuple[NativeFormat, str]] = {
    "xgboost.sklearn": (
        "xgboost",
        "XGBClassifier XGBRegressor XGBRanker XGBRFClassifier XGBRFRegressor",
    ),
    "xgboost.core": ("xgboost", "Booster"),
    "lightgbm.sklearn": ("lightgbm", "LGBMClassifier LGBMRegressor LGBMRanker"),
    "lightgbm.basic": ("lightgbm", "Booster"),
    "catboost.core": (
        "catboost",
        "CatBoost CatBoostClassifier CatBoostRegressor CatBoostRanker",
    ),
}
SUFFIX: dict[NativeFormat, str] = {"xgboost": "ubj", "lightgbm": "txt", "catboost": "cbm"}


@dataclass(frozen=True, slots=True)
class NativeSource:
    """The bytes of a native model file and what they say."""

    data: bytes
    model: NativeModel

    @property
    def file(self) -> str:
        """Its name within a package."""
        json = self.model.format == "xgboost" and _is_json(self.data)
        return f"model.{'json' if json else SUFFIX[self.model.format]}"


def native_source(model: Any) -> NativeSource | None:
    """The file of a fitted object; None for any other class.

    Raises PackageError UnknownFormat when the library's file cannot be served, and whatever the
    library says when the object is not fitted.
    """
    kind = type(model)
    format_, names = _CLASSES.get(kind.__module__, (None, ""))
    if format_ is None or kind.__name__ not in names.split():
        return None
    try:
        data = _WRITERS[format_](model)
    except Exception as error:
        raise PackageError(
            f"The {kind.__name__} cannot be saved: {str(error).strip()[:200]}.",
            hint="Fit it first.",
            reason="NotPicklable",
        ) from None
    return NativeSource(data, _labelled(read_native(format_, data), model))


def is_booster(model: Any) -> bool:
    """Whether the object follows scikit-learn's conventions too little to be asked itself."""
    return type(model).__name__ in ("Booster", "CatBoost", "CatBoostRanker")


def _labelled(found: NativeModel, model: Any) -> NativeModel:
    """LightGBM's file numbers the classes; its classifier knows their names."""
    classes = getattr(model, "classes_", None)
    if found.labels is None or classes is None or found.format == "catboost":
        return found
    labels = tuple(_label(v) for v in np.asarray(classes).reshape(-1).tolist())
    return replace(found, labels=labels) if len(labels) == len(found.labels) else found


def _label(value: Any) -> Label:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, (bool, int)) else str(value)


def _xgboost(model: Any) -> bytes:
    if type(model).__name__ == "Booster":
        return bytes(model.save_raw("ubj"))
    booster = model.get_booster()
    try:
        last = int(model.best_iteration) + 1
    except AttributeError:  # no early stopping
        return bytes(booster.save_raw("ubj"))
    return bytes(booster[:last].save_raw("ubj"))


def _lightgbm(model: Any) -> bytes:
    booster = getattr(model, "booster_", model)
    return str(booster.model_to_string()).encode()


def _catboost(model: Any) -> bytes:
    with tempfile.TemporaryDirectory(prefix="sluice-") as folder:
        file = Path(folder) / "model.cbm"
        model.save_model(str(file), format="cbm")
        return file.read_bytes()


def _is_json(data: bytes) -> bool:
    from sluice.package.native.xgboost_file import is_json

    return is_json(data)


_WRITERS = {"xgboost": _xgboost, "lightgbm": _lightgbm, "catboost": _catboost}
