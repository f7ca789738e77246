"""What a LightGBM text file says, and whether its trees are sound.

Called by ``native.reader``; calls numpy, never LightGBM, which follows a child or a feature number
that points anywhere.  The file: a head of ``key=value`` lines, one block a tree, importances, the
training parameters in brackets, and ``pandas_categorical`` as JSON on the last line.
"""

from __future__ import annotations

import json
import re

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

KIND = "LightGBM"
_PANDAS = "\npandas_categorical:"
_RETRAIN = "Train it with one of LightGBM's own objectives, or export it to ONNX."
_REGRESSION = (
    "regression regression_l1 huber fair poisson quantile mape gamma tweedie cross_entropy "
    "cross_entropy_lambda lambdarank rank_xendcg"
)


def read_lightgbm(data: bytes) -> NativeModel:
    """Describe the model; PackageError Corrupt or UnknownFormat."""
    try:
        text = data.decode()
        if "\r" in text or "\0" in text:
            damaged(KIND, "it has line ends of another system, or null characters")
        head, *trees = _blocks(text)
        return _describe(text, _pairs(head), trees)
    except UnicodeDecodeError:
        damaged(KIND, "it is not UTF-8")
    except (ValueError, OverflowError, RecursionError) as error:
        damaged(KIND, str(error))


def _blocks(text: str) -> list[str]:
    """The head and each tree."""
    body, mark, _ = text.partition("\nend of trees\n")
    if not mark:
        damaged(KIND, "its trees have no end")
    if "\nend of parameters\n" not in text or text[-1] != "\n":
        damaged(KIND, "it ends too early: it may be truncated")
    # The library begins the trees at the first such line, with or without a blank one before it.
    if body.count("\nTree=") != body.count("\n\nTree="):
        damaged(KIND, "a tree begins where none is expected")
    return body.split("\n\nTree=")


def _pairs(block: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for line in block.split("\n"):
        key, mark, value = line.partition("=")
        if mark and key in found:
            damaged(KIND, f"{key[:40]!r} comes twice")
        found[key] = value
    return found


def _describe(text: str, head: dict[str, str], trees: list[str]) -> NativeModel:
    classes, per_round = _whole(head, "num_class"), _whole(head, "num_tree_per_iteration")
    names = tuple(head.get("feature_names", "").split(" "))
    check_names(KIND, names)
    if len(names) != _whole(head, "max_feature_idx") + 1:
        damaged(KIND, "it has another number of features than of names")
    if not 1 <= classes <= MAX_LABELS or not 1 <= per_round <= MAX_LABELS:
        damaged(KIND, f"it has {classes} classes and {per_round} trees a round")
    if "tree_sizes" not in head:
        damaged(KIND, "it does not list the sizes of its trees")
    sizes = head["tree_sizes"].split()
    if len(sizes) != len(trees) or len(trees) > MAX_TREES or len(trees) % per_round:
        damaged(KIND, f"it has {len(trees)} trees and lists {len(sizes)}")
    for index, (tree, size) in enumerate(zip(trees, sizes, strict=True)):
        _check_size(index, tree, size, last=index == len(trees) - 1)
        _check_tree(index, tree, len(names))
    task, labels = _outcome(head.get("objective", ""), classes, per_round)
    named = names != tuple(f"Column_{i}" for i in range(len(names)))
    score: ScoreName = "value" if labels is None else "probability"
    return NativeModel(
        format="lightgbm",
        features=_features(text, head, names if named else plain_names(len(names))),
        named=named,
        task=task,
        labels=labels,
        score=score,
        trees=len(trees),
        width=classes,
    )


def _whole(head: dict[str, str], key: str) -> int:
    found = head.get(key, "")
    if not re.fullmatch(r"[0-9]{1,9}", found):
        damaged(KIND, f"{key} is {found[:40]!r}")
    return int(found)


def _outcome(objective: str, classes: int, per_round: int) -> tuple[Task, tuple[Label, ...] | None]:
    name = objective.partition(" ")[0]
    if classes != per_round:
        damaged(KIND, f"it has {classes} classes and {per_round} trees a round")
    if name == "binary" and classes == 1:
        return "classification", (0, 1)
    if name in ("multiclass", "multiclassova") and classes > 1:
        if f"num_class:{classes}" not in objective.split(" "):
            damaged(KIND, "its objective has another number of classes")
        return "classification", tuple(range(classes))
    if classes > 1 or name not in _REGRESSION.split():
        unserved(KIND, f"has the objective {objective[:60]!r}, which is not known here", _RETRAIN)
    return "regression", None


def _features(text: str, head: dict[str, str], names: tuple[str, ...]) -> tuple[NativeFeature, ...]:
    ranges = head.get("feature_infos", "").split(" ")
    if len(ranges) != len(names):
        damaged(KIND, f"it has {len(names)} features and {len(ranges)} ranges")
    lists = _category_lists(text)
    where = _categorical_columns(text, ranges, len(lists)) if lists else []
    coded = dict(zip(where, lists, strict=True))
    features = []
    for index, (name, found) in enumerate(zip(names, ranges, strict=True)):
        categories = coded.get(index)
        if categories is not None:
            kind = "string" if isinstance(next(iter(categories), ""), str) else "int"
            features.append(
                NativeFeature(name, kind, categories, categorical=True)  # type: ignore[arg-type]
            )
        elif ":" in found and not found.startswith("["):
            features.append(NativeFeature(name, "int", categorical=True))
        else:
            low, high = _range(found)
            features.append(NativeFeature(name, None, min=low, max=high))
    return tuple(features)


def _range(text: str) -> tuple[float | None, float | None]:
    match = re.fullmatch(r"\[([^:\]]{1,40}):([^:\]]{1,40})\]", text)
    if match is None:
        return None, None
    low, high = float(match[1]), float(match[2])
    return (low, high) if np.isfinite([low, high]).all() and low <= high else (None, None)


def _category_lists(text: str) -> list[tuple[str, ...] | tuple[int, ...]]:
    """pandas' categories, one list for each column of that type, in the order of the columns."""
    raw = text.rpartition(_PANDAS)[2] if _PANDAS in text else "null"
    found = json.loads(raw)
    if found is None:
        return []
    if not isinstance(found, list) or not all(isinstance(one, list) for one in found):
        damaged(KIND, "its pandas categories are not lists")
    return [_one_kind(one) for one in found]


def _one_kind(values: list[object]) -> tuple[str, ...] | tuple[int, ...]:
    if all(isinstance(v, str) for v in values):
        return tuple(str(v) for v in values)
    numbers = [v for v in values if isinstance(v, (int, float)) and float(v).is_integer()]
    if len(numbers) != len(values):
        unserved(
            KIND,
            "has a category column that mixes kinds of values",
            "Train it on categories that are all text or all whole numbers.",
        )
    return tuple(int(v) for v in numbers)


def _categorical_columns(text: str, ranges: list[str], wanted: int) -> list[int]:
    """Which columns the lists belong to, from the parameters or else from the ranges."""
    match = re.search(r"\n\[categorical_feature: ([\d,]*)\]\n", text)
    said = [int(v) for v in match[1].split(",") if v] if match else []
    seen = [i for i, found in enumerate(ranges) if ":" in found and not found.startswith("[")]
    fitting = [
        columns
        for columns in (sorted(set(said)), seen)
        if len(columns) == wanted and (not columns or columns[-1] < len(ranges))
    ]
    if not fitting:
        unserved(
            KIND,
            "does not say which of its columns have pandas' categories",
            "Give all categorical columns pandas' category type, or none of them.",
        )
    return fitting[0]


def _check_size(index: int, tree: str, size: str, *, last: bool) -> None:
    """LightGBM cuts the text by these sizes, so they must be where the trees are."""
    # "Tree=" went with the split, and so did the blank line that the size counts; after the last
    # tree only the first of the two line ends is left out.
    actual = len("Tree=") + len(tree) + (1 if last else 2)
    if size != str(actual) or not tree.isascii():
        damaged(KIND, f"tree {index} has {actual} characters, the head says {size[:12]}")


def _check_tree(index: int, block: str, features: int) -> None:
    number, _, rest = block.partition("\n")
    if number != str(index):
        damaged(KIND, f"tree {index} has the number {number[:12]!r}")
    if any(line and "=" not in line for line in rest.split("\n")):
        damaged(KIND, f"tree {index} has a line that is no field")
    tree = _pairs(rest)
    leaves = _whole(tree, "num_leaves")
    if not leaves:
        damaged(KIND, f"tree {index} has no leaves")
    if tree.get("is_linear", "0") != "0":
        unserved(KIND, "has linear trees", "Train it without linear_tree.")
    inner = leaves - 1
    _numbers(index, tree, "leaf_value", leaves)
    _numbers(index, tree, "shrinkage", 1)
    if not inner:
        return
    split = {name: _numbers(index, tree, name, inner, whole=True) for name in _WHOLE}
    split["threshold"] = _numbers(index, tree, "threshold", inner)
    for name, wanted in _UNUSED:
        if tree.get(name):
            _numbers(index, tree, name, leaves if wanted == "leaves" else inner)
    check_range(KIND, f"a feature of tree {index}", split["split_feature"], 0, features)
    check_range(KIND, f"a decision of tree {index}", split["decision_type"], 0, 16)
    left, right = split["left_child"], split["right_child"]
    check_range(KIND, f"a child in tree {index}", np.concatenate([left, right]), -leaves, inner)
    # Leaves are -1, -2, …; as numbers after the inner nodes they are checked like any node.
    check_children(
        KIND, index, np.where(left < 0, inner - 1 - left, left),
        np.where(right < 0, inner - 1 - right, right),
    )  # fmt: skip
    _check_categories(index, tree, split)


_WHOLE = ("split_feature", "decision_type", "left_child", "right_child")
# LightGBM ends the process over any row of another length, also over those it does not need.
_UNUSED = (
    ("leaf_weight", "leaves"), ("leaf_count", "leaves"), ("split_gain", "inner"),
    ("internal_value", "inner"), ("internal_weight", "inner"), ("internal_count", "inner"),
)  # fmt: skip


_FOREIGN = re.compile(r"[^-+.0-9A-Za-z ]")
"""What numpy takes in a number, such as 1_0, and the library ends the row at."""


def _numbers(
    index: int, tree: dict[str, str], name: str, wanted: int, *, whole: bool = False
) -> Array:
    text = tree.get(name, "")
    if _FOREIGN.search(text):
        damaged(KIND, f"{name} of tree {index} is not a row of numbers")
    values = np.array(text.split(" "), dtype=np.int64 if whole else np.float64)
    if len(values) != wanted:
        damaged(KIND, f"{name} of tree {index} has {len(values)} of {wanted} values")
    return values


def _check_categories(index: int, tree: dict[str, str], split: dict[str, Array]) -> None:
    count = _whole(tree, "num_cat")
    categorical = (split["decision_type"] & 1) == 1
    used = split["threshold"][categorical]
    if not count:
        if len(used):
            damaged(KIND, f"tree {index} has a split by categories and no categories")
        return
    bounds = _numbers(index, tree, "cat_boundaries", count + 1, whole=True)
    words = _numbers(index, tree, "cat_threshold", int(bounds[-1]), whole=True)
    if bounds[0] != 0 or (np.diff(bounds) < 0).any():
        damaged(KIND, f"the categories of tree {index} do not fit together")
    check_range(KIND, f"categories of tree {index}", bounds, 0, len(words) + 1)
    check_range(KIND, f"categories of tree {index}", used, 0, count)


__all__ = ["read_lightgbm"]
