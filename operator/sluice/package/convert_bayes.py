"""Exporters of scikit-learn's naive Bayes classifiers.

Called by ``convert_predictors``; calls the graph builder.  Each sums the logarithm of a label's
probability over the columns; the shares of the labels are their softmax.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import TensorProto

from sluice.package.onnx_graph import Graph, Part


def gaussian(graph: Graph, step: Any, part: Part) -> Part:
    spread = np.asarray(step.var_, dtype=np.float64)[None]
    constant = np.log(step.class_prior_) - 0.5 * np.log(2.0 * np.pi * spread[0]).sum(axis=1)
    each = graph.op("Unsqueeze", part.tensor, graph.constant([1], np.int64))
    distance = graph.op("Sub", each, graph.constant(step.theta_[None]))
    square = graph.op("Div", graph.op("Mul", distance, distance), graph.constant(spread))
    total = graph.op("ReduceSum", square, graph.constant([2], np.int64), keepdims=0)
    half = graph.op("Mul", total, graph.constant(-0.5))
    return _softmax(graph, graph.op("Add", half, graph.constant(constant)), step)


def multinomial(graph: Graph, step: Any, part: Part) -> Part:
    return _linear(graph, part.tensor, step.feature_log_prob_, step.class_log_prior_, step)


def complement(graph: Graph, step: Any, part: Part) -> Part:
    return _linear(graph, part.tensor, step.feature_log_prob_, np.zeros(len(step.classes_)), step)


def bernoulli(graph: Graph, step: Any, part: Part) -> Part:
    value = part.tensor
    if step.binarize is not None:
        above = graph.op("Greater", value, graph.constant(float(step.binarize)))
        value = graph.op("Cast", above, to=int(TensorProto.DOUBLE))
    absent = np.log(1 - np.exp(step.feature_log_prob_))
    offsets = step.class_log_prior_ + absent.sum(axis=1)
    return _linear(graph, value, step.feature_log_prob_ - absent, offsets, step)


def _linear(graph: Graph, value: str, weights: Any, offsets: Any, step: Any) -> Part:
    product = graph.op("MatMul", value, graph.constant(np.asarray(weights).T))
    return _softmax(graph, graph.op("Add", product, graph.constant(offsets)), step)


def _softmax(graph: Graph, value: str, step: Any) -> Part:
    return Part(graph.op("Softmax", value, axis=1), "double", len(step.classes_))
