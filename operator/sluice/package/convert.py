"""Fitted scikit-learn models as float64 ONNX graphs.

Called by the packager; calls the exporters.  Our own exporters come first because skl2onnx answers
float32 for trees and fails on most float64 pipelines with current onnx.  Only exact types are
taken, never subclasses, which may compute something else; and whatever comes out is used only
after the parity gate.
"""

from __future__ import annotations

from typing import Any, Literal

from sluice.package.convert_predictors import export as export_predictor
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
    if _is(model, "VotingClassifier") or _is(model, "VotingRegressor"):
        return _vote(graph, model, table)
    if _is(model, "CalibratedClassifierCV"):
        return _calibrated(graph, model, table)
    if not _is(model, "Pipeline"):
        return export_predictor(graph, model, table, _transform)
    for _, step in model.steps[:-1]:
        table = _transform(graph, step, table)
    return _predict(graph, model.steps[-1][1], table)


def _vote(graph: Graph, model: Any, table: Table) -> Part:
    """The mean of the members' probabilities or values."""
    if getattr(model, "voting", "soft") != "soft":
        raise NotConvertibleError("VotingClassifier counts votes")
    members = [_predict(graph, member, table) for member in model.estimators_]
    weights = model._weights_not_none or [1.0] * len(members)
    return _mean(graph, members, [float(w) for w in weights])


def _calibrated(graph: Graph, model: Any, table: Table) -> Part:
    """The mean of classifiers whose decision went through a fitted sigmoid; two labels only."""
    members = []
    for calibrated in model.calibrated_classifiers_:
        curve = calibrated.calibrators[0]
        if len(model.classes_) != 2 or type(curve).__name__ != "_SigmoidCalibration":
            raise NotConvertibleError("CalibratedClassifierCV is not a sigmoid of two labels")
        inner = calibrated.estimator
        if hasattr(inner, "decision_function") and hasattr(inner, "predict_proba"):
            # The curve was fitted on the decision; the exporter gives its sigmoid, which cannot be
            # undone exactly far from zero.
            raise NotConvertibleError(f"CalibratedClassifierCV is around {type(inner).__name__}")
        score = _predict(graph, inner, table)
        column = graph.select((score,), [1])[0].tensor
        slope = graph.op("Mul", column, graph.constant(-float(curve.a_)))
        line = graph.op("Add", slope, graph.constant(-float(curve.b_)))
        positive = graph.op("Sigmoid", line)
        negative = graph.op("Sub", graph.constant(1.0), positive)
        both = graph.op("Concat", negative, positive, axis=1)
        members.append(Part(both, "double", 2))
    return _mean(graph, members, [1.0] * len(members))


def _mean(graph: Graph, members: list[Part], weights: list[float]) -> Part:
    total = ""
    for member, weight in zip(members, weights, strict=True):
        share = graph.op("Mul", member.tensor, graph.constant(weight / sum(weights)))
        total = graph.op("Add", total, share) if total else share
    return Part(total, "double", members[0].width)


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
