"""What an XGBoost file (JSON or UBJSON) says, and whether its trees are sound.

Called by ``native.reader``; calls the UBJSON reader, never XGBoost, which checks little:
a child that points outside its tree is read as memory, and a ring is walked forever.  The layout is
described in XGBoost's documentation, "Introduction to Model IO".
"""

from __future__ import annotations

import json
from typing import Any, Literal

import numpy as np

from sluice.package.manifest import Label, ScoreName, Task
from sluice.package.native.description import (
    MAX_LABELS,
    MAX_TREES,
    Array,
    NativeFeature,
    NativeModel,
    check_children,
    check_names,
    check_range,
    damaged,
    plain_names,
    unserved,
)
from sluice.package.native.ubjson import NotUbjsonError, read_ubjson

KIND = "XGBoost"
MAX_JSON_BYTES = 256 * 1024**2
MAX_CATEGORY = 100_000
_RETRAIN = "Train it with a single output, or export it to ONNX."
_SCORES: dict[str, ScoreName] = {
    "binary:logistic": "probability",
    "binary:logitraw": "decision",
    "binary:hinge": "vote",
    "multi:softprob": "probability",
    "multi:softmax": "vote",
}
_NUMBERS: dict[str, Literal["float", "int", "bool"]] = {
    "float": "float",
    "q": "float",
    "int": "int",
    "i": "bool",
}


def read_xgboost(data: bytes) -> NativeModel:
    """Describe the model; PackageError Corrupt, TooLarge or UnknownFormat."""
    try:
        return _describe(_Object(_parse(data), "the file"))
    except (ValueError, OverflowError, RecursionError) as error:
        damaged(KIND, str(error) or "it is nested too deeply")


def is_json(data: bytes) -> bool:
    """As XGBoost tells the two apart: JSON continues with a name or white space."""
    return data[1:2] in (b'"', b" ", b"\n", b"\r", b"\t")


def _parse(data: bytes) -> Any:
    if not is_json(data):
        return read_ubjson(data)
    if len(data) > MAX_JSON_BYTES:
        unserved(KIND, f"has {len(data)} bytes of JSON", "Save it as .ubj: smaller and faster.")
    return json.loads(data, object_pairs_hook=_once)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Two values under one name could be read one way here and another way in XGBoost."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("an object has the same name twice")
    return found


class _Object:
    """A JSON object whose parts must be there and of the right kind."""

    def __init__(self, value: Any, where: str) -> None:
        if not isinstance(value, dict):
            raise ValueError(f"{where} is not an object")
        self.value, self.where = value, where

    def part(self, name: str) -> _Object:
        return _Object(self.value.get(name), name)

    def has(self, name: str) -> bool:
        return name in self.value

    def texts(self, name: str) -> tuple[str, ...]:
        found = self.value.get(name, [])
        if isinstance(found, np.ndarray) and not len(found):
            found = []
        if not isinstance(found, list) or not all(isinstance(v, str) for v in found):
            raise ValueError(f"{name} is not a list of texts")
        return tuple(found)

    def text(self, name: str, default: str = "") -> str:
        found = self.value.get(name, default)
        if not isinstance(found, str):
            raise ValueError(f"{name} is not a text")
        return found

    def count(self, name: str, default: int | None = None) -> int:
        """A whole number, which XGBoost writes as text."""
        found = self.value.get(name, default)
        try:
            number = int(found)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            raise ValueError(f"{name} of {self.where} is not a whole number") from None
        if not 0 <= number < 2**31:
            raise ValueError(f"{name} of {self.where} is {number}")
        return number

    def numbers(self, name: str, *, whole: bool = True) -> Array:
        found = self.value.get(name)
        if not isinstance(found, (list, np.ndarray)):
            raise ValueError(f"{name} of {self.where} is not a list of numbers")
        values = np.asarray(found) if len(found) else np.zeros(0, dtype=np.int64)
        if values.ndim != 1 or values.dtype.kind not in ("iub" if whole else "iubf"):
            raise ValueError(f"{name} of {self.where} is not a list of numbers")
        # Wide enough that no sum or difference of them wraps.
        return values.astype(np.int64) if whole else values

    def objects(self, name: str) -> list[_Object]:
        found = self.value.get(name)
        if not isinstance(found, list):
            raise ValueError(f"{name} of {self.where} is not a list")
        return [_Object(v, f"{name}[{i}]") for i, v in enumerate(found)]


def _describe(file: _Object) -> NativeModel:
    learner = file.part("learner")
    sizes = learner.part("learner_model_param")
    if sizes.count("num_target", 1) > 1:
        unserved(KIND, f"has {sizes.count('num_target')} outputs; one can be served", _RETRAIN)
    count = sizes.count("num_feature")
    names = learner.texts("feature_names")
    named = bool(names)
    names = names or plain_names(min(count, 2**16))
    check_names(KIND, names)
    if len(names) != count:
        damaged(KIND, f"it has {count} features and {len(names)} names")
    classes = sizes.count("num_class", 0)
    if classes > MAX_LABELS:
        unserved(KIND, f"has {classes} classes", f"At most {MAX_LABELS} can be served.")
    booster = learner.part("gradient_booster")
    trees = _check_booster(booster, count, max(1, classes))
    task, labels, score = _outcome(learner.part("objective").text("name"), classes)
    return NativeModel(
        format="xgboost",
        features=_features(learner, names, _encodings(booster, count)),
        named=named,
        task=task,
        labels=labels,
        score=score,
        threshold=0.0 if score == "decision" else 0.5,
        trees=trees,
        width=classes if score == "probability" and classes > 1 else 1,
        last_tree=_last_round(learner),
    )


def _outcome(objective: str, classes: int) -> tuple[Task, tuple[Label, ...] | None, ScoreName]:
    if not objective:
        damaged(KIND, "it names no objective")
    if objective in _SCORES:
        many = objective.startswith("multi:")
        if many and classes < 2:
            damaged(KIND, f"{objective} has {classes} classes")
        return "classification", tuple(range(classes if many else 2)), _SCORES[objective]
    if classes > 1:
        unserved(KIND, f"answers {classes} values a row by {objective}", _RETRAIN)
    if "quantile" in objective or objective == "reg:expectileerror":
        return "regression", None, "value"
    if objective.split(":")[0] not in ("reg", "count", "survival", "rank"):
        unserved(KIND, f"has the objective {objective[:60]!r}, which is not known here", _RETRAIN)
    return "regression", None, "value"


def _last_round(learner: _Object) -> int:
    """XGBoost's scikit-learn classes predict up to the best round; its Booster with all trees."""
    if not learner.has("attributes"):
        return 0
    attributes = learner.part("attributes")
    if not (attributes.has("scikit_learn") and attributes.has("best_iteration")):
        return 0
    return attributes.count("best_iteration") + 1


def _features(
    learner: _Object, names: tuple[str, ...], encodings: list[tuple[str, ...] | tuple[int, ...]]
) -> tuple[NativeFeature, ...]:
    types = learner.texts("feature_types") or ("",) * len(names)
    if len(types) != len(names):
        damaged(KIND, f"it has {len(names)} features and {len(types)} types")
    features = []
    for name, kind, categories in zip(names, types, encodings, strict=True):
        if kind != "c":
            features.append(NativeFeature(name, _NUMBERS.get(kind)))
            continue
        text = bool(categories) and isinstance(categories[0], str)
        features.append(
            NativeFeature(name, "string" if text else "int", categories or None, categorical=True)
        )
    return tuple(features)


def _encodings(booster: _Object, count: int) -> list[tuple[str, ...] | tuple[int, ...]]:
    """The categories of each feature; empty where there are none or only codes are known."""
    model = _trees_of(booster)
    if not model.has("cats"):
        return [()] * count
    listed = model.part("cats").objects("enc")
    if listed and len(listed) != count:
        damaged(KIND, f"it has categories for {len(listed)} of {count} features")
    return [_encoding(one) for one in listed] or [()] * count


def _encoding(one: _Object) -> tuple[str, ...] | tuple[int, ...]:
    values = one.numbers("values", whole=False)
    if len(values) > MAX_CATEGORY * 256:
        damaged(KIND, "its categories are too long")
    if not one.has("offsets"):
        if values.dtype.kind == "f" and (values != np.rint(values)).any():
            unserved(
                KIND, "has categories that are fractions", "Train it on whole numbers or text."
            )
        return tuple(int(v) for v in values.tolist())
    offsets = one.numbers("offsets")
    if not len(offsets):
        return ()
    check_range(KIND, "an offset of a category", offsets, 0, len(values) + 1)
    raw = values.astype(np.int16).astype(np.uint8).tobytes()
    if not raw.isascii():
        # XGBoost 3.2 counts letters where it stores bytes, so such names arrive cut.
        unserved(
            KIND,
            "has categories with letters outside ASCII, which XGBoost saves cut short",
            "Train it on ASCII names of the categories, or on their numbers.",
        )
    pairs = zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)
    found = tuple(raw[start:end].decode() for start, end in pairs)
    if len(set(found)) != len(found) or (np.diff(offsets) < 0).any() or len(found) > MAX_CATEGORY:
        damaged(KIND, "a feature's categories are not a list of different texts")
    return found


def _trees_of(booster: _Object) -> _Object:
    name = booster.text("name")
    if name == "gblinear":
        unserved(KIND, "is linear (gblinear)", "Train it with scikit-learn: that becomes ONNX.")
    if name == "dart":
        return booster.part("gbtree").part("model")
    if name != "gbtree":
        damaged(KIND, f"its booster {name[:40]!r} is not known")
    return booster.part("model")


def _check_booster(booster: _Object, features: int, groups: int) -> int:
    model = _trees_of(booster)
    trees = model.objects("trees")
    said = model.part("gbtree_model_param").count("num_trees")
    info = model.numbers("tree_info")
    if not len(trees) == said == len(info) or said > MAX_TREES:
        damaged(KIND, f"it has {len(trees)} trees, says {said}, and assigns {len(info)}")
    check_range(KIND, "the class of a tree", info, 0, groups)
    if model.has("iteration_indptr"):
        rounds = model.numbers("iteration_indptr")
        sound = len(rounds) and rounds[0] == 0 and rounds[-1] == len(trees)
        if not sound or (np.diff(rounds) < 0).any():
            damaged(KIND, "its rounds do not cover its trees")
    if booster.text("name") == "dart":
        drop = booster.numbers("weight_drop", whole=False)
        if len(drop) != len(trees):
            damaged(KIND, f"it has {len(drop)} weights for {len(trees)} trees")
    for index, tree in enumerate(trees):
        _check_tree(index, tree, features)
    return len(trees)


_PER_NODE = ("left_children", "right_children", "parents", "split_indices", "default_left")
_PER_NODE_NUMBERS = ("base_weights", "loss_changes", "split_conditions", "sum_hessian")


def _check_tree(index: int, tree: _Object, features: int) -> None:
    sizes = tree.part("tree_param")
    nodes = sizes.count("num_nodes")
    if sizes.count("size_leaf_vector", 1) > 1:
        unserved(KIND, "has leaves of several values", _RETRAIN)
    if sizes.count("num_feature", features) > features:
        damaged(KIND, f"tree {index} has more features than the model")
    for name in (*_PER_NODE, *_PER_NODE_NUMBERS):
        values = tree.numbers(name, whole=name in _PER_NODE)
        if len(values) != nodes or not nodes:
            damaged(KIND, f"{name} of tree {index} has {len(values)} of {nodes} values")
    left, right = tree.numbers("left_children"), tree.numbers("right_children")
    inner = left != -1
    if ((right != -1) != inner).any():
        damaged(KIND, f"a node of tree {index} has one child")
    _check_parents(index, tree.numbers("parents"), left, right, inner)
    check_children(KIND, index, left[inner], right[inner])
    # A node that was pruned away stays in the list with a feature that does not exist.
    used = tree.numbers("split_indices")[inner]
    check_range(KIND, f"a feature of tree {index}", used, 0, features)
    if tree.has("split_type"):
        _check_categories(index, tree, nodes)


def _check_parents(index: int, parents: Array, left: Array, right: Array, inner: Array) -> None:
    """XGBoost walks from a leaf to the root too, for how deep a tree is."""
    owners = np.flatnonzero(inner)
    for children in (left[inner], right[inner]):
        check_range(KIND, f"a child in tree {index}", children, 0, len(parents))
        if not np.array_equal(parents[children], owners):
            damaged(KIND, f"the parents in tree {index} are not those of its children")
    if int(parents[0]) not in (-1, 2**31 - 1):
        damaged(KIND, f"the root of tree {index} has a parent")


def _check_categories(index: int, tree: _Object, nodes: int) -> None:
    kinds = tree.numbers("split_type")
    if len(kinds) != nodes:
        damaged(KIND, f"split_type of tree {index} has {len(kinds)} of {nodes} values")
    check_range(KIND, f"a split type of tree {index}", kinds, 0, 2)
    owners, starts = tree.numbers("categories_nodes"), tree.numbers("categories_segments")
    lengths, values = tree.numbers("categories_sizes"), tree.numbers("categories")
    if not len(owners) == len(starts) == len(lengths):
        damaged(KIND, f"the categories of tree {index} do not fit together")
    check_range(KIND, f"a category of tree {index}", values, 0, MAX_CATEGORY)
    check_range(KIND, f"a node with categories in tree {index}", owners, 0, nodes)
    check_range(KIND, f"categories of tree {index}", starts, 0, len(values) + 1)
    check_range(KIND, f"categories of tree {index}", lengths, 0, len(values) + 1)
    check_range(KIND, f"categories of tree {index}", starts + lengths, 0, len(values) + 1)
    if not np.array_equal(owners, np.flatnonzero(kinds == 1)):
        damaged(KIND, f"the categories of tree {index} belong to other nodes")


__all__ = ["NotUbjsonError", "is_json", "read_xgboost"]
