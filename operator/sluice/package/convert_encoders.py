"""Exporters of scikit-learn's encoders of categories.

Called by ``convert_transformers``; calls the graph builder.  A column becomes one 0 or 1 for each
category, and a small matrix of constants makes the codes of it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import TensorProto

from sluice.package.features import MISSING_TEXT
from sluice.package.onnx_graph import Graph, NotConvertibleError, Part, Table, width


def one_hot_encoder(graph: Graph, step: Any, table: Table) -> Table:
    if step.handle_unknown not in ("error", "ignore", "infrequent_if_exist", "warn"):
        raise NotConvertibleError(f"OneHotEncoder has handle_unknown={step.handle_unknown!r}")
    parts: list[Part] = []
    for index, part in enumerate(_single(graph, table)):
        hot = _matches(graph, part, step.categories_[index])
        if step.handle_unknown == "error":
            hot = _refuse_unknown(graph, hot)
        hot = _grouped(graph, step, index, hot)
        dropped = step._drop_idx_after_grouping
        dropped = None if dropped is None else dropped[index]
        if dropped is not None:
            keep = [i for i in range(hot.width) if i != int(dropped)]
            parts += graph.select((hot,), keep)
        else:
            parts.append(hot)
    if not parts:
        raise NotConvertibleError("OneHotEncoder drops every category")
    return (graph.numbers(tuple(parts)),)


def _grouped(graph: Graph, step: Any, index: int, hot: Part) -> Part:
    """Infrequent categories share a column, with the unknown ones where those count as such."""
    groups = step._default_to_infrequent_mappings[index] if step._infrequent_enabled else None
    if groups is None:
        return hot
    members = np.eye(int(groups.max()) + 1)[groups]
    value = graph.op("MatMul", hot.tensor, graph.constant(members))
    if step.handle_unknown in ("infrequent_if_exist", "warn"):
        infrequent = members[int(step._infrequent_indices[index][0])].reshape(1, -1)
        value = graph.op("Where", _any(graph, hot), value, graph.constant(infrequent))
    return Part(value, "double", members.shape[1])


def target_encoder(graph: Graph, step: Any, table: Table) -> Table:
    labels = len(step.classes_) if step.target_type_ == "multiclass" else 1
    means = np.asarray(step.target_mean_, dtype=np.float64).reshape(1, labels)
    parts = []
    for index, part in enumerate(_single(graph, table)):
        hot = _matches(graph, part, step.categories_[index])
        codes = np.column_stack(step.encodings_[index * labels : (index + 1) * labels])
        value = graph.op("MatMul", hot.tensor, graph.constant(codes))
        value = graph.op("Where", _any(graph, hot), value, graph.constant(means))
        parts.append(Part(value, "double", labels))
    return (graph.numbers(tuple(parts)),)


def ordinal_encoder(graph: Graph, step: Any, table: Table) -> Table:
    if step.min_frequency is not None or step.max_categories is not None:
        raise NotConvertibleError("OrdinalEncoder groups infrequent categories")
    unknown = np.nan if step.handle_unknown == "error" else float(step.unknown_value)
    parts: list[Part] = []
    for index, part in enumerate(_single(graph, table)):
        categories = step.categories_[index]
        codes = np.arange(len(categories), dtype=np.float64)
        hot = _matches(graph, part, categories)
        code = graph.op("MatMul", hot.tensor, graph.constant(codes.reshape(-1, 1)))
        known = _any(graph, hot)
        code = graph.op("Where", known, code, graph.constant([[unknown]]))
        blanks = [i for i, c in enumerate(categories) if blank(c)]
        if blanks:
            missing = is_missing(graph, part)
            fill = graph.constant([[float(step.encoded_missing_value)]])
            code = graph.op("Where", missing, fill, code)
        parts.append(Part(code, "double", 1))
    return (graph.numbers(tuple(parts)),)


def _matches(graph: Graph, part: Part, categories: Any) -> Part:
    """One column of 0 or 1 a category."""
    values = list(categories)
    if part.kind == "string":
        if not all(isinstance(v, str) or blank(v) for v in values):
            raise NotConvertibleError("an encoder's categories mix text and numbers")
        names = [MISSING_TEXT if blank(v) else str(v) for v in values]
        same = graph.op("Equal", part.tensor, graph.text(names))
    else:
        if any(isinstance(v, str) for v in values):
            raise NotConvertibleError("an encoder's categories are text but its column is numeric")
        numbers = np.array([[np.nan if blank(v) else float(v) for v in values]])
        same = graph.op("Equal", part.tensor, graph.constant(numbers))
        if np.isnan(numbers).any():
            absent = graph.constant(np.isnan(numbers), np.bool_)
            both = graph.op("And", graph.op("IsNaN", part.tensor), absent)
            same = graph.op("Or", same, both)
    return Part(graph.op("Cast", same, to=int(TensorProto.DOUBLE)), "double", len(values))


def _refuse_unknown(graph: Graph, hot: Part) -> Part:
    """scikit-learn raises for an unknown category; a graph cannot, so its score becomes NaN."""
    good = _any(graph, hot)
    value = graph.op("Where", good, hot.tensor, graph.constant([[np.nan]]))
    return Part(value, "double", hot.width)


def _any(graph: Graph, hot: Part) -> str:
    total = graph.op("ReduceSum", hot.tensor, graph.constant([1], np.int64), keepdims=1)
    return graph.op("Greater", total, graph.constant(0.0))


def is_missing(graph: Graph, part: Part) -> str:
    """True where a value is missing, for each value of the part."""
    if part.kind == "string":
        return graph.op("Equal", part.tensor, graph.text([MISSING_TEXT]))
    return graph.op("IsNaN", part.tensor)


def blank(value: Any) -> bool:
    """Whether a category or fill value stands for a missing one."""
    return value is None or (isinstance(value, float) and bool(np.isnan(value)))


def _single(graph: Graph, table: Table) -> list[Part]:
    """Each column by itself."""
    return [graph.select(table, [i])[0] for i in range(width(table))]
