"""Exporters of scikit-learn's steps that bend a column: powers, quantiles, bins.

Called by ``convert_transformers`` and ``convert_ensembles``; calls the graph builder.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import TensorProto

from sluice.package.onnx_graph import Graph, NotConvertibleError, Part, Table
from sluice.package.scoring import Array


def k_bins(graph: Graph, step: Any, table: Table) -> Table:
    """A bin holds its lower edge; the outer bins hold everything beyond."""
    part = graph.numbers(table)
    inner = [np.asarray(edges[1:-1], dtype=np.float64) for edges in step.bin_edges_]
    low = np.concatenate([[-np.inf, *edges] for edges in inner])
    high = np.concatenate([[*edges, np.inf] for edges in inner])
    column = np.repeat(np.arange(part.width), [len(edges) + 1 for edges in inner])
    each = graph.op("Gather", part.tensor, graph.constant(column, np.int64), axis=1)
    above = graph.op("GreaterOrEqual", each, graph.constant(low))
    inside = graph.op("And", above, graph.op("Less", each, graph.constant(high)))
    hot = graph.op("Cast", inside, to=int(TensorProto.DOUBLE))
    if step.encode != "ordinal":
        return (Part(hot, "double", len(column)),)
    codes = np.zeros((len(column), part.width))
    codes[np.arange(len(column)), column] = np.concatenate([np.arange(len(e) + 1) for e in inner])
    return (Part(graph.op("MatMul", hot, graph.constant(codes)), "double", part.width),)


def power_transformer(graph: Graph, step: Any, table: Table) -> Table:
    part = graph.numbers(table)
    powers = np.asarray(step.lambdas_, dtype=np.float64)
    bend = _box_cox if step.method == "box-cox" else _yeo_johnson
    value = bend(graph, part.tensor, powers)
    if step.standardize:
        value = graph.op("Sub", value, graph.constant(step._scaler.mean_))
        value = graph.op("Div", value, graph.constant(step._scaler.scale_))
    return (Part(value, "double", part.width),)


def _yeo_johnson(graph: Graph, value: str, powers: Array) -> str:
    """Yeo and Johnson (2000); below zero it is the mirrored curve with the power 2 - p."""
    positive = graph.op("GreaterOrEqual", value, graph.constant(0.0))
    size = graph.op("Add", graph.op("Abs", value), graph.constant(1.0))
    above = _powered(graph, graph.op("Log", size), powers)
    below = graph.op("Neg", _powered(graph, graph.op("Log", size), 2.0 - powers))
    return graph.op("Where", positive, above, below)


def _box_cox(graph: Graph, value: str, powers: Array) -> str:
    """Box and Cox (1964), for positive values only."""
    allowed = graph.op("Greater", value, graph.constant(0.0))
    value = graph.op("Where", allowed, value, graph.constant(np.nan))
    return _powered(graph, graph.op("Log", value), powers)


def _powered(graph: Graph, logarithm: str, powers: Array) -> str:
    """``(exp(p * logarithm) - 1) / p``, and its limit where p is 0."""
    zero = np.abs(powers) < np.finfo(np.float64).eps
    divisor = graph.constant(np.where(zero, 1.0, powers))
    grown = graph.op("Exp", graph.op("Mul", logarithm, divisor))
    bent = graph.op("Div", graph.op("Sub", grown, graph.constant(1.0)), divisor)
    if not zero.any():
        return bent
    return graph.op("Where", graph.constant(zero, np.bool_), logarithm, bent)


def quantile_transformer(graph: Graph, step: Any, table: Table) -> Table:
    """The mean of the curve from the left and from the right, which part at repeated quantiles."""
    if step.output_distribution != "uniform":
        raise NotConvertibleError("QuantileTransformer makes a normal distribution")
    part = graph.numbers(table)
    heights = np.asarray(step.references_, dtype=np.float64)
    parts = []
    for index in range(part.width):
        column = graph.select((part,), [index])[0].tensor
        knots = np.asarray(step.quantiles_[:, index], dtype=np.float64)
        left = interpolated(graph, column, knots, heights, upper=False)
        right = interpolated(graph, column, knots, heights, upper=True)
        mean = graph.op("Mul", graph.op("Add", left, right), graph.constant(0.5))
        low = graph.op("LessOrEqual", column, graph.constant(knots[0]))
        high = graph.op("GreaterOrEqual", column, graph.constant(knots[-1]))
        mean = graph.op("Where", high, graph.constant(1.0), mean)
        parts.append(Part(graph.op("Where", low, graph.constant(0.0), mean), "double", 1))
    return (graph.numbers(tuple(parts)),)


def interpolated(graph: Graph, column: str, knots: Array, heights: Array, *, upper: bool) -> str:
    """Straight lines between the knots of a ``[rows, 1]`` column, flat beyond; NaN stays NaN.

    On a knot the line to its right counts, with ``upper`` the one to its left.
    """
    if len(knots) < 2:
        raise NotConvertibleError("a curve has one point")
    inside = graph.op("Min", column, graph.constant(knots[-1]))
    inside = graph.op("Max", inside, graph.constant(knots[0]))
    passed = graph.op("Less" if upper else "LessOrEqual", graph.constant(knots), inside)
    number = graph.op("Cast", passed, to=int(TensorProto.INT64))
    line = graph.op("ReduceSum", number, graph.constant([1], np.int64), keepdims=1)
    line = graph.op(
        "Max", graph.op("Sub", line, graph.constant(1, np.int64)), graph.constant(0, np.int64)
    )
    line = graph.op("Min", line, graph.constant(len(knots) - 2, np.int64))
    run, rise = np.diff(knots), np.diff(heights)
    slopes = np.divide(rise, run, out=np.zeros_like(run), where=run > 0)
    starts = knots[:-1]
    base = graph.op("Gather", graph.constant(heights[1:] if upper else heights[:-1]), line)
    start = graph.op("Gather", graph.constant(knots[1:] if upper else starts), line)
    slope = graph.op("Gather", graph.constant(slopes), line)
    moved = graph.op("Mul", graph.op("Sub", inside, start), slope)
    value = graph.op("Add", base, moved)
    return graph.op("Where", graph.op("IsNaN", column), column, value)
