"""Fitted scikit-learn models as float64 ONNX graphs.

Called by the packager; calls the exporters.  Our own exporters come first because skl2onnx answers
float32 for trees and fails on most float64 pipelines with current onnx.  Only exact types are
taken, never subclasses, which may compute something else; and whatever comes out is used only
after the parity gate.
"""

from __future__ import annotations

from typing import Any, Literal

from sluice.package.convert_ensembles import AROUND, Members
from sluice.package.convert_predictors import export as export_predictor
from sluice.package.convert_predictors import export_decision
from sluice.package.convert_transformers import TRANSFORMERS
from sluice.package.onnx_graph import Graph, Kind, NotConvertibleError, Part, Table, width
from sluice.package.scoring import ModelSchema

Layout = Literal["Columns", "Matrix"]

__all__ = ["NotConvertibleError", "to_onnx"]


def to_onnx(model: Any, schema: ModelSchema) -> tuple[bytes, Layout]:
    """The graph, and whether it takes one matrix (all numbers) or a tensor a column."""
    graph = Graph()
    layout: Layout = "Matrix"
    inputs: list[tuple[str, Kind, int]] = [("X", "double", len(schema.inputs))]
    if any(spec.type == "string" for spec in schema.inputs):
        layout = "Columns"
        inputs = [(s.name, "string" if s.type == "string" else "double", 1) for s in schema.inputs]
    table = tuple(Part(name, kind, columns) for name, kind, columns in inputs)
    score = _predict(graph, model, table)
    return graph.finish(score, inputs), layout


def _predict(graph: Graph, model: Any, table: Table) -> Part:
    around = AROUND.get(type(model).__name__)
    if around is not None and _is(model, type(model).__name__):
        return around(graph, model, table, Members(_predict, _decide))
    if not _is(model, "Pipeline"):
        return export_predictor(graph, model, table, _transform)
    return _predict(graph, model.steps[-1][1], _before_last(graph, model, table))


def _decide(graph: Graph, model: Any, table: Table) -> Part:
    """What the decision function says, where the scores are something else."""
    if not _is(model, "Pipeline"):
        return export_decision(graph, model, table)
    return _decide(graph, model.steps[-1][1], _before_last(graph, model, table))


def _before_last(graph: Graph, model: Any, table: Table) -> Table:
    for _, step in model.steps[:-1]:
        table = _transform(graph, step, table)
    return table


def _transform(graph: Graph, step: Any, table: Table) -> Table:
    if step is None or (isinstance(step, str) and step == "passthrough"):
        return table
    if _is(step, "Pipeline"):
        for _, inner in step.steps:
            table = _transform(graph, inner, table)
        return table
    if _is(step, "ColumnTransformer"):
        return _columns(graph, step, table)
    if _is(step, "FeatureUnion"):
        return _union(graph, step, table)
    exporter = TRANSFORMERS.get(type(step).__name__)
    if exporter is None or not _is(step, type(step).__name__):
        raise NotConvertibleError(f"there is no exact exporter for {type(step).__name__}")
    if getattr(step, "validate", True):  # FunctionTransformer looks at nothing unless told to
        graph.refuse(table, missing=not step.__sklearn_tags__().input_tags.allow_nan)
    return exporter(graph, step, table)


def _columns(graph: Graph, step: Any, table: Table) -> Table:
    parts: list[Part] = []
    for name, inner, _ in step.transformers_:
        if isinstance(inner, str) and inner == "drop":
            continue
        indices = [int(i) for i in step._transformer_to_input_indices[name]]
        if indices:
            parts += _transform(graph, inner, graph.select(table, indices))
    if not parts:
        raise NotConvertibleError("ColumnTransformer keeps no column")
    return tuple(parts)


def _union(graph: Graph, step: Any, table: Table) -> Table:
    if step.transformer_weights:
        raise NotConvertibleError("FeatureUnion has weights")
    parts: list[Part] = []
    for _, inner in step.transformer_list:
        if not (isinstance(inner, str) and inner == "drop"):
            parts += _transform(graph, inner, table)
    if not width(tuple(parts)):
        raise NotConvertibleError("FeatureUnion keeps no column")
    return tuple(parts)


def _is(step: Any, name: str) -> bool:
    """Exactly scikit-learn's class of that name."""
    return type(step).__name__ == name and type(step).__module__.startswith("sklearn.")
