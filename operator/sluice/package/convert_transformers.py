"""Exporters of scikit-learn's preprocessing steps; exact, in float64.

Called by ``convert``; calls the graph builder.  A setting that has no exact counterpart raises
``NotConvertibleError``, and the parity gate judges what is exported.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from onnx import TensorProto

from sluice.package.convert_curves import k_bins, power_transformer, quantile_transformer
from sluice.package.convert_encoders import (
    blank,
    is_missing,
    one_hot_encoder,
    ordinal_encoder,
    target_encoder,
)
from sluice.package.onnx_graph import Graph, NotConvertibleError, Part, Table

Exporter = Callable[[Graph, Any, Table], Table]


def standard_scaler(graph: Graph, step: Any, table: Table) -> Table:
    part = graph.numbers(table)
    value = part.tensor
    if step.mean_ is not None and step.with_mean:
        value = graph.op("Sub", value, graph.constant(step.mean_))
    if step.scale_ is not None and step.with_std:
        value = graph.op("Div", value, graph.constant(step.scale_))
    return (graph.same_places(part, value),)


def min_max_scaler(graph: Graph, step: Any, table: Table) -> Table:
    part = graph.numbers(table)
    value = graph.op("Mul", part.tensor, graph.constant(step.scale_))
    value = graph.op("Add", value, graph.constant(step.min_))
    if step.clip:
        low, high = step.feature_range
        # Clip would turn NaN into a bound; Where keeps it.
        clipped = graph.op("Clip", value, graph.constant(low), graph.constant(high))
        value = graph.op("Where", graph.op("IsNaN", value), value, clipped)
        return (Part(value, "double", part.width),)
    return (graph.same_places(part, value),)


def max_abs_scaler(graph: Graph, step: Any, table: Table) -> Table:
    part = graph.numbers(table)
    value = graph.op("Div", part.tensor, graph.constant(step.scale_))
    return (graph.same_places(part, value),)


def robust_scaler(graph: Graph, step: Any, table: Table) -> Table:
    part = graph.numbers(table)
    value = part.tensor
    if step.with_centering:
        value = graph.op("Sub", value, graph.constant(step.center_))
    if step.with_scaling:
        value = graph.op("Div", value, graph.constant(step.scale_))
    return (graph.same_places(part, value),)


def function_transformer(graph: Graph, step: Any, table: Table) -> Table:
    if step.func is None:
        return table
    known = {np.log: "Log", np.sqrt: "Sqrt", np.exp: "Exp", np.abs: "Abs"}
    part = graph.numbers(table)
    if step.kw_args:
        raise NotConvertibleError("FunctionTransformer has kw_args")
    if step.func is np.log1p:
        value = graph.op("Log", graph.op("Add", part.tensor, graph.constant(1.0)))
    elif step.func in known:
        value = graph.op(known[step.func], part.tensor)
    else:
        name = getattr(step.func, "__qualname__", "a function")
        raise NotConvertibleError(f"FunctionTransformer calls {name}, which is Python code")
    return (Part(value, "double", part.width),)


def simple_imputer(graph: Graph, step: Any, table: Table) -> Table:
    if not (isinstance(step.missing_values, float) and np.isnan(step.missing_values)):
        raise NotConvertibleError("SimpleImputer fills something else than missing values")
    result: list[Part] = []
    start = 0
    for part in _joined(graph, list(table)):
        result += _filled(graph, part, list(step.statistics_[start : start + part.width]), step)
        start += part.width
    if not step.add_indicator:
        return tuple(result)
    return _joined(graph, [*result, *_indicator(graph, table, step.indicator_)])


def _filled(graph: Graph, part: Part, fills: list[Any], step: Any) -> Table:
    """Missing values replaced; columns that were always missing are left out."""
    kept = [i for i, fill in enumerate(fills) if not blank(fill)]
    if step.keep_empty_features and len(kept) < part.width:
        raise NotConvertibleError("SimpleImputer has no value for a column")
    values = [fills[i] for i in kept]
    whole = len(kept) == part.width
    parts = (part,) if whole else graph.select((part,), kept)
    if not parts:
        return ()
    (part,) = parts
    missing = is_missing(graph, part)
    if part.kind == "string":
        value = graph.op("Where", missing, graph.text([str(v) for v in values]), part.tensor)
        return (Part(value, "string", part.width),)
    fill = graph.constant([[float(v) for v in values]])
    value = graph.op("Where", missing, fill, part.tensor)
    return (graph.same_places(part, value, missing=False),)


def _indicator(graph: Graph, table: Table, indicator: Any) -> Table:
    if indicator.features_.size == 0:
        return ()
    chosen = graph.select(table, [int(i) for i in indicator.features_])
    return tuple(
        Part(graph.op("Cast", is_missing(graph, p), to=int(TensorProto.DOUBLE)), "double", p.width)
        for p in chosen
    )


def polynomial_features(graph: Graph, step: Any, table: Table) -> Table:
    """Each output is a product of inputs: as many factors as the degree, padded with ones.

    scikit-learn multiplies from the last factor to the first, which decides what overflows.
    """
    part = graph.numbers(table)
    powers = np.asarray(step.powers_)
    degree = int(powers.sum(axis=1).max(initial=0))
    if degree == 0 or degree > 6:
        raise NotConvertibleError(f"PolynomialFeatures has degree {degree}")
    factors = [[i for i, p in enumerate(row) for _ in range(int(p))][::-1] for row in powers]
    one = graph.op("Mul", graph.select((part,), [0])[0].tensor, graph.constant(0.0))
    one = graph.op("Add", one, graph.constant(1.0))
    padded = graph.op("Concat", part.tensor, one, axis=1)
    value = ""
    for k in range(degree):
        chosen = [f[k] if k < len(f) else part.width for f in factors]
        factor = graph.op("Gather", padded, graph.constant(chosen, np.int64), axis=1)
        value = graph.op("Mul", value, factor) if value else factor
    return (Part(value, "double", len(factors)),)


def pca(graph: Graph, step: Any, table: Table) -> Table:
    part = graph.numbers(table)
    centred = graph.op("Sub", part.tensor, graph.constant(step.mean_))
    value = graph.op("MatMul", centred, graph.constant(step.components_.T))
    if step.whiten:
        scale = np.sqrt(step.explained_variance_)
        smallest = np.finfo(scale.dtype).eps
        value = graph.op("Div", value, graph.constant(np.where(scale < smallest, smallest, scale)))
    return (Part(value, "double", len(step.components_)),)


def truncated_svd(graph: Graph, step: Any, table: Table) -> Table:
    part = graph.numbers(table)
    value = graph.op("MatMul", part.tensor, graph.constant(step.components_.T))
    return (Part(value, "double", len(step.components_)),)


def selector(graph: Graph, step: Any, table: Table) -> Table:
    return graph.select(table, [int(i) for i in step.get_support(indices=True)])


def _joined(graph: Graph, parts: list[Part]) -> Table:
    """Neighbouring numeric columns become one tensor again."""
    joined: list[Part] = []
    run: list[Part] = []
    for part in parts:
        if part.kind == "double":
            run.append(part)
            continue
        joined += [graph.numbers(tuple(run))] if run else []
        joined.append(part)
        run = []
    joined += [graph.numbers(tuple(run))] if run else []
    return tuple(joined)


TRANSFORMERS: dict[str, Exporter] = {
    "StandardScaler": standard_scaler,
    "MinMaxScaler": min_max_scaler,
    "MaxAbsScaler": max_abs_scaler,
    "RobustScaler": robust_scaler,
    "FunctionTransformer": function_transformer,
    "SimpleImputer": simple_imputer,
    "OneHotEncoder": one_hot_encoder,
    "OrdinalEncoder": ordinal_encoder,
    "TargetEncoder": target_encoder,
    "KBinsDiscretizer": k_bins,
    "PowerTransformer": power_transformer,
    "QuantileTransformer": quantile_transformer,
    "PolynomialFeatures": polynomial_features,
    "PCA": pca,
    "TruncatedSVD": truncated_svd,
    "SelectKBest": selector,
    "SelectPercentile": selector,
    "SelectFromModel": selector,
    "VarianceThreshold": selector,
    "RFE": selector,
    "RFECV": selector,
}
