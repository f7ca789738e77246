"""What a CatBoost binary file says, and whether its trees are sound.

Called by ``native.reader``; calls the flatbuffer reader, never CatBoost.  The file is ``CBM1``, the
core's length and the core (``TModelCore``), then tables of category statistics.  Field numbers
below are those of CatBoost's ``model.fbs``, ``features.fbs`` and ``ctr_data.fbs``.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np

from sluice.package.manifest import Label, ScoreName, Task
from sluice.package.native.catboost_tables import check_tables
from sluice.package.native.description import (
    MAX_LABELS,
    MAX_TREES,
    NativeFeature,
    NativeModel,
    check_names,
    check_range,
    damaged,
    plain_names,
    unserved,
)
from sluice.package.native.flatbuffer import Flatbuffer, Table

KIND = "CatBoost"
MAX_DEPTH = 16
_MODEL_TREES, _INFO, _PARTS = 1, 2, 3
_DIMENSION, _SPLITS, _SIZES, _STARTS, _CATEGORICAL, _FLOATS, _ONE_HOT, _CTR = range(8)
_LEAVES, _STEPS, _NODE_LEAVES, _TEXTS, _ESTIMATED = 8, 10, 11, 12, 13
_EMBEDDINGS = 18
_BINARY = ("Logloss", "CrossEntropy")
_MULTI = ("MultiClass", "MultiClassOneVsAll")
_EXPONENT = ("Poisson", "Tweedie")
_RETRAIN = "Train it with one answer a row, or export it to ONNX."


def read_catboost(data: bytes) -> NativeModel:
    """Describe the model; PackageError Corrupt or UnknownFormat."""
    try:
        core, rest = _core(data)
        buffer = Flatbuffer(core)
        found = _describe(buffer)
        check_tables(rest, buffer.texts(buffer.root(), _PARTS))
        return found
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        damaged(KIND, str(error))


def _core(data: bytes) -> tuple[bytes, bytes]:
    """The core, and what follows it."""
    size = int.from_bytes(data[4:8], "little")
    if data[:4] != b"CBM1" or size > len(data) - 8:
        damaged(KIND, "it is shorter than it says")
    return data[8 : 8 + size], data[8 + size :]


def _describe(buffer: Flatbuffer) -> NativeModel:
    root = buffer.root()
    version = buffer.text(root, 0)
    if version != "FlabuffersModel_v1":
        unserved(KIND, f"has the layout {version[:40]!r}", "Save it with CatBoost 1.x.")
    model = buffer.table(root, _MODEL_TREES)
    for field, what in ((_TEXTS, "text"), (_EMBEDDINGS, "embedding")):
        if buffer.tables(model, field):
            unserved(KIND, f"has {what} features", "Train it without them.")
    info = {buffer.text(pair, 0): buffer.text(pair, 1) for pair in buffer.tables(root, _INFO)}
    features, named = _features(buffer, model)
    dimension = buffer.number(model, _DIMENSION, 1)
    trees = _check_trees(buffer, model, dimension)
    task, labels, mode = _outcome(info, dimension)
    score: ScoreName = "value" if labels is None else "probability"
    return NativeModel(
        format="catboost",
        features=features,
        named=named,
        task=task,
        labels=labels,
        score=score,
        threshold=_threshold(info),
        trees=trees,
        width=1 if labels is None else len(labels),
        mode=mode,
    )


def _features(buffer: Flatbuffer, model: Table) -> tuple[tuple[NativeFeature, ...], bool]:
    """Features by their place in the training data; categorical ones are numbers or texts."""
    found: dict[int, NativeFeature] = {}
    for row in buffer.tables(model, _FLOATS):
        _place(
            found, buffer.number(row, 2, -1), buffer.text(row, 4), strict=not buffer.flag(row, 0)
        )
    for row in buffer.tables(model, _CATEGORICAL):
        _place(found, buffer.number(row, 1, -1), buffer.text(row, 2), strict=True, category=True)
    if sorted(found) != list(range(len(found))):
        damaged(KIND, "its features are not at places 0, 1, 2, …")
    ordered = tuple(found[place] for place in range(len(found)))
    names = tuple(feature.name for feature in ordered)
    check_names(KIND, names)
    if names != tuple(map(str, range(len(names)))):
        return ordered, True
    plain = plain_names(len(names))
    return tuple(replace(f, name=n) for f, n in zip(ordered, plain, strict=True)), False


def _place(
    found: dict[int, NativeFeature], place: int, name: str, *, strict: bool, category: bool = False
) -> None:
    if place in found:
        damaged(KIND, f"two features are at place {place}")
    found[place] = NativeFeature(name or str(place), categorical=category, nullable=not strict)


def _outcome(info: dict[str, str], dimension: int) -> tuple[Task, tuple[Label, ...] | None, str]:
    parameters = _json(info.get("params", "{}"))
    loss = parameters.get("loss_function")
    name = str(loss.get("type", "")) if isinstance(loss, dict) else ""
    labels = _labels(info.get("class_params"))
    if name in _BINARY and dimension == 1:
        if labels is not None and len(labels) != 2:
            damaged(KIND, f"it has {len(labels)} classes and one score")
        return "classification", labels or (0, 1), "Probability"
    if name in _MULTI and dimension > 1:
        if labels is not None and len(labels) != dimension:
            damaged(KIND, f"it has {len(labels)} classes and {dimension} scores")
        return "classification", labels or tuple(range(dimension)), "Probability"
    if dimension != 1 or name.startswith("Multi"):
        unserved(KIND, f"answers {dimension} values a row by {name[:40]!r}", _RETRAIN)
    if labels is not None:
        unserved(KIND, f"has classes but the loss {name[:40]!r}", "Train it with Logloss.")
    return "regression", None, "Exponent" if name in _EXPONENT else "RawFormulaVal"


def _labels(text: str | None) -> tuple[Label, ...] | None:
    if text is None:
        return None
    names = _json(text).get("class_names")
    if not isinstance(names, list) or not names:
        return None
    if len(names) > MAX_LABELS:
        unserved(KIND, f"has {len(names)} classes", f"At most {MAX_LABELS} can be served.")
    if all(isinstance(v, bool) for v in names) or all(isinstance(v, str) for v in names):
        return tuple(names)
    if all(isinstance(v, (int, float)) and float(v).is_integer() for v in names):
        return tuple(int(v) for v in names)
    return tuple(str(v) for v in names)


def _threshold(info: dict[str, str]) -> float:
    """The decision threshold that CatBoost keeps in the model when it was set."""
    said = float(info.get("binclass_probability_threshold", "0.5"))
    if not 0 <= said <= 1:
        damaged(KIND, f"its threshold is {said}")
    return said


def _json(text: str) -> dict[str, Any]:
    found = json.loads(text)
    if not isinstance(found, dict):
        damaged(KIND, "its parameters are not an object")
    return found


def _check_trees(buffer: Flatbuffer, model: Table, dimension: int) -> int:
    """Splits name splits that exist, and every tree has its leaves."""
    if not 1 <= dimension <= MAX_LABELS:
        damaged(KIND, f"it has {dimension} scores a row")
    splits = buffer.array(model, _SPLITS, "<i4")
    sizes = buffer.array(model, _SIZES, "<i4")
    starts = buffer.array(model, _STARTS, "<i4")
    leaves = buffer.count(model, _LEAVES, 8)
    if len(sizes) > MAX_TREES or len(starts) != len(sizes):
        damaged(KIND, f"it has {len(sizes)} trees and {len(starts)} starts")
    check_range(KIND, "a split", splits, 0, _split_count(buffer, model))
    total = int(sizes.astype(np.int64).sum())
    ends = np.cumsum(sizes.astype(np.int64))
    follow = len(sizes) == 0 or np.array_equal(starts, ends - sizes)
    if total != len(splits) or not follow or (len(sizes) and int(sizes.min()) < 0):
        damaged(KIND, "its trees do not cover its splits")
    steps = buffer.array(model, _STEPS, "<u4")
    if len(steps):
        _check_steps(buffer, model, steps, ends, leaves, dimension)
        return len(sizes)
    check_range(KIND, "the depth of a tree", sizes, 0, MAX_DEPTH + 1)
    if int((1 << sizes.astype(np.int64)).sum()) * dimension != leaves:
        damaged(KIND, "it has another number of leaves than its trees need")
    return len(sizes)


def _split_count(buffer: Flatbuffer, model: Table) -> int:
    borders = sum(buffer.count(row, 3, 4) for row in buffer.tables(model, _FLOATS))
    borders += sum(buffer.count(row, 1, 4) for row in buffer.tables(model, _ONE_HOT))
    borders += sum(buffer.count(row, 1, 4) for row in buffer.tables(model, _CTR))
    return borders + sum(buffer.count(row, 1, 4) for row in buffer.tables(model, _ESTIMATED))


def _check_steps(
    buffer: Flatbuffer, model: Table, steps: Any, ends: Any, leaves: int, dimension: int
) -> None:
    """Trees that are not symmetric step forward from node to node, and never past their end.

    A step is two 16-bit numbers, how far the left and the right child are; 0 is a leaf's end.
    """
    nodes = len(steps)
    leaf_of = buffer.array(model, _NODE_LEAVES, "<u4")
    if not len(ends) or nodes != int(ends[-1]) or len(leaf_of) != nodes:
        damaged(KIND, "its trees do not cover its nodes")
    end = ends[np.searchsorted(ends, np.arange(nodes), side="right")]
    for step in (steps & 0xFFFF, steps >> 16):
        if (np.arange(nodes) + step >= end).any():
            damaged(KIND, "a node's child is outside its tree")
    reached = ((steps & 0xFFFF) == 0) | ((steps >> 16) == 0)
    check_range(KIND, "a leaf", leaf_of[reached].astype(np.int64), 0, leaves - dimension + 1)


__all__ = ["read_catboost"]
