"""Exporters of tree ensembles to ``ai.onnx.ml`` TreeEnsemble (version 5), in double.

Called by ``convert_predictors``; calls the graph builder.  The older tree operators answer in
float32, which no probability survives within 1e-9; version 5 has a double kernel.  A leaf there
has one target, so a forest of k classes is written k times (once for two classes).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import numpy_helper

from sluice.package.onnx_graph import Graph, NotConvertibleError

MAX_NODES = 4_000_000
_BRANCH_LEQ, _BRANCH_MEMBER = 0, 6
_NO_CATEGORY = -1.0
"""For a node where only missing values go left: ONNX Runtime takes no empty set."""
Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Tree:
    """One tree as parallel arrays; ``value`` is what a leaf adds to ``target``."""

    feature: Array
    threshold: Array
    left: Array
    right: Array
    missing_left: Array
    leaf: Array
    value: Array
    target: int
    members: tuple[tuple[int, tuple[float, ...]], ...] = ()
    """Nodes that go left for some categories: ``(node, categories)``, in the order of nodes."""


def tree_ensemble(graph: Graph, features: str, trees: list[Tree], targets: int) -> str:
    """The sum of the trees, ``[rows, targets]``."""
    if sum(len(t.leaf) for t in trees) > MAX_NODES:
        raise NotConvertibleError(f"the trees have more than {MAX_NODES} nodes")
    rows = _Rows()
    for tree in trees:
        rows.add(tree)
    return graph.op(
        "TreeEnsemble",
        features,
        domain="ai.onnx.ml",
        n_targets=targets,
        aggregate_function=1,
        post_transform=0,
        **rows.attributes(),
    )


class _Rows:
    """Interior nodes and leaves of all trees, numbered through."""

    def __init__(self) -> None:
        self._lists: dict[str, list[Array]] = {}
        self._roots: list[int] = []
        self._members: list[float] = []
        self._nodes = 0
        self._leaves = 0

    def add(self, tree: Tree) -> None:
        if tree.leaf[0]:
            tree = _with_stump(tree)
        leaf = tree.leaf.astype(bool)
        inner = np.flatnonzero(~leaf)
        number = np.where(
            leaf, np.cumsum(leaf) - 1 + self._leaves, np.cumsum(~leaf) - 1 + self._nodes
        )
        left, right = tree.left[inner], tree.right[inner]
        self._roots.append(int(number[0]))
        modes = np.full(len(leaf), _BRANCH_LEQ, dtype=np.uint8)
        for node, categories in tree.members:
            modes[node] = _BRANCH_MEMBER
            self._members += [*(categories or (_NO_CATEGORY,)), float("nan")]
        self._put(
            nodes_modes=modes[inner],
            nodes_featureids=tree.feature[inner],
            nodes_splits=tree.threshold[inner],
            nodes_truenodeids=number[left],
            nodes_falsenodeids=number[right],
            nodes_trueleafs=leaf[left],
            nodes_falseleafs=leaf[right],
            nodes_missing_value_tracks_true=tree.missing_left[inner].astype(bool),
            leaf_weights=tree.value[leaf],
            leaf_targetids=np.full(int(leaf.sum()), tree.target),
        )
        self._nodes += len(inner)
        self._leaves += int(leaf.sum())

    def _put(self, **arrays: Array) -> None:
        for name, array in arrays.items():
            self._lists.setdefault(name, []).append(np.asarray(array))

    def attributes(self) -> dict[str, Any]:
        result: dict[str, Any] = {"tree_roots": self._roots}
        for name, arrays in self._lists.items():
            array = np.concatenate(arrays)
            if name == "nodes_modes":
                result[name] = numpy_helper.from_array(array, name)
            elif name in ("nodes_splits", "leaf_weights"):
                result[name] = numpy_helper.from_array(array.astype(np.float64), name)
            else:
                result[name] = array.astype(np.int64).tolist()
        if self._members:
            members = np.array(self._members, dtype=np.float64)
            result["membership_values"] = numpy_helper.from_array(members, "membership_values")
        return result


def _with_stump(tree: Tree) -> Tree:
    """A tree of one leaf becomes a node whose two sides are that leaf."""
    return Tree(
        feature=np.array([0, 0]),
        threshold=np.array([0.0, 0.0]),
        left=np.array([1, -1]),
        right=np.array([1, -1]),
        missing_left=np.array([True, True]),
        leaf=np.array([False, True]),
        value=np.array([0.0, tree.value[0]]),
        target=tree.target,
    )


def from_cart(tree: Any, values: Array, target: int) -> Tree:
    """A ``sklearn.tree._tree.Tree`` with one value a node."""
    missing = getattr(tree, "missing_go_to_left", None)
    leaf = tree.children_left == -1
    if missing is None:
        missing = np.zeros(len(leaf), dtype=bool)
    return Tree(
        feature=tree.feature,
        threshold=tree.threshold,
        left=tree.children_left,
        right=tree.children_right,
        missing_left=np.asarray(missing),
        leaf=leaf,
        value=values,
        target=target,
    )


def from_histogram(predictor: Any, target: int) -> Tree:
    """A ``TreePredictor`` of histogram gradient boosting."""
    nodes = predictor.nodes
    return Tree(
        feature=nodes["feature_idx"].astype(np.int64),
        threshold=np.where(nodes["is_categorical"].astype(bool), 0.0, nodes["num_threshold"]),
        left=nodes["left"].astype(np.int64),
        right=nodes["right"].astype(np.int64),
        missing_left=nodes["missing_go_to_left"].astype(bool),
        leaf=nodes["is_leaf"].astype(bool),
        value=nodes["value"],
        target=target,
        members=_members(predictor),
    )


def _members(predictor: Any) -> tuple[tuple[int, tuple[float, ...]], ...]:
    """Categories that go left, from the bit sets (eight words of 32 bits)."""
    nodes = predictor.nodes
    found = []
    for node in np.flatnonzero(
        nodes["is_categorical"].astype(bool) & ~nodes["is_leaf"].astype(bool)
    ):
        words = np.ascontiguousarray(predictor.raw_left_cat_bitsets[nodes["bitset_idx"][node]])
        bits = np.unpackbits(words.astype("<u4").view(np.uint8), bitorder="little")
        found.append((int(node), tuple(float(i) for i in np.flatnonzero(bits))))
    return tuple(found)
