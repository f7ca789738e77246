"""Exporters of scikit-learn's models around other models: votes, stacks, bags, calibration, search.

Called by ``convert``, which also gives the way back to the members; calls the graph builder.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from sluice.package.convert_curves import interpolated
from sluice.package.convert_predictors import binary, logistic, shares
from sluice.package.onnx_graph import Graph, NotConvertibleError, Part, Table

Export = Callable[[Graph, Any, Table], Part]


@dataclass(frozen=True, slots=True)
class Members:
    """How the inner models are exported: to scores, or to what their decision function says."""

    scores: Export
    decision: Export


Around = Callable[[Graph, Any, Table, Members], Part]


def best(graph: Graph, model: Any, table: Table, members: Members) -> Part:
    return members.scores(graph, model.best_estimator_, table)


def threshold(graph: Graph, model: Any, table: Table, members: Members) -> Part:
    return members.scores(graph, getattr(model, "estimator_", model.estimator), table)


def vote(graph: Graph, model: Any, table: Table, members: Members) -> Part:
    """The mean of the members' probabilities or values."""
    if getattr(model, "voting", "soft") != "soft":
        raise NotConvertibleError("VotingClassifier counts votes")
    inner = [members.scores(graph, member, table) for member in model.estimators_]
    weights = model._weights_not_none or [1.0] * len(inner)
    return _mean(graph, inner, [float(w) for w in weights])


def bagging(graph: Graph, model: Any, table: Table, members: Members) -> Part:
    """The mean of members that each see some of the columns."""
    labels = len(getattr(model, "classes_", ())) or 1
    inner = []
    for member, columns in zip(model.estimators_, model.estimators_features_, strict=True):
        if labels > 1 and not hasattr(member, "predict_proba"):
            raise NotConvertibleError("BaggingClassifier counts votes")
        score = members.scores(graph, member, graph.select(table, [int(i) for i in columns]))
        if score.width != labels:
            raise NotConvertibleError("a member of BaggingClassifier never saw one of the labels")
        inner.append(score)
    return _mean(graph, inner, [1.0] * len(inner))


def stack(graph: Graph, model: Any, table: Table, members: Members) -> Part:
    """The last model takes the members' scores, and the columns too when they are passed on."""
    two = len(getattr(model, "classes_", ())) == 2
    found: list[Part] = []
    for member, method in zip(model.estimators_, model.stack_method_, strict=True):
        if method == "predict" and hasattr(member, "classes_"):
            raise NotConvertibleError(f"{type(model).__name__} stacks labels")
        score = members.scores(graph, member, table)
        found += graph.select((score,), [1]) if two and score.width == 2 else (score,)
    passed = table if model.passthrough else ()
    return members.scores(graph, model.final_estimator_, (*found, *passed))


def one_versus_rest(graph: Graph, model: Any, table: Table, members: Members) -> Part:
    if model.multilabel_ or not hasattr(model.estimators_[0], "predict_proba"):
        raise NotConvertibleError("OneVsRestClassifier has no probabilities of single labels")
    found = [_one_label(graph, member, table, members) for member in model.estimators_]
    if len(found) == 1:
        return binary(graph, found[0].tensor)
    each = graph.numbers(tuple(found))
    total = graph.op("ReduceSum", each.tensor, graph.constant([1], np.int64), keepdims=1)
    nothing = graph.op("Equal", total, graph.constant(0.0))
    total = graph.op("Where", nothing, graph.constant(1.0), total)
    return Part(graph.op("Div", each.tensor, total), "double", each.width)


def _one_label(graph: Graph, member: Any, table: Table, members: Members) -> Part:
    """The probability of one label, exact where it is tiny: its share of tiny sums may be large."""
    if type(member).__name__ not in ("LogisticRegression", "LogisticRegressionCV"):
        return _positive(graph, members.scores(graph, member, table))
    decision = _positive(graph, members.decision(graph, member, table))
    return Part(logistic(graph, decision.tensor), "double", 1)


def calibrated(graph: Graph, model: Any, table: Table, members: Members) -> Part:
    """The mean of classifiers whose decision, or probability, went through a fitted curve."""
    found = []
    for each in model.calibrated_classifiers_:
        if each.method not in ("sigmoid", "isotonic"):
            raise NotConvertibleError(f"CalibratedClassifierCV has the method {each.method}")
        if len(each.estimator.classes_) != len(model.classes_):
            raise NotConvertibleError("a calibrated model never saw one of the labels")
        decides = hasattr(each.estimator, "decision_function")
        export = members.decision if decides else members.scores
        found.append(_curved(graph, each, export(graph, each.estimator, table)))
    return _mean(graph, found, [1.0] * len(found))


def _curved(graph: Graph, each: Any, score: Part) -> Part:
    labels = len(each.classes)
    if labels == 2:
        return binary(graph, _curve(graph, each.calibrators[0], _positive(graph, score)))
    columns = [graph.select((score,), [i])[0] for i in range(labels)]
    curved = [
        Part(_curve(graph, curve, column), "double", 1)
        for curve, column in zip(each.calibrators, columns, strict=True)
    ]
    return shares(graph, graph.numbers(tuple(curved)).tensor, labels)


def _curve(graph: Graph, curve: Any, column: Part) -> str:
    if type(curve).__name__ == "_SigmoidCalibration":
        line = graph.op("Mul", column.tensor, graph.constant(-float(curve.a_)))
        return logistic(graph, graph.op("Add", line, graph.constant(-float(curve.b_))))
    if curve.X_thresholds_.dtype != np.float64:
        raise NotConvertibleError("an isotonic curve has float32 points")
    graph.refuse((column,), missing=True)
    knots, heights = curve.X_thresholds_, np.asarray(curve.y_thresholds_, dtype=np.float64)
    return interpolated(graph, column.tensor, knots, heights, upper=True)


def transformed_target(graph: Graph, model: Any, table: Table, members: Members) -> Part:
    value = members.scores(graph, model.regressor_, table)
    if model.func is None and model.transformer is None:
        return value
    inverse = model.inverse_func
    if inverse not in (np.exp, np.expm1):
        raise NotConvertibleError("TransformedTargetRegressor goes back by another function")
    grown = graph.op("Exp", value.tensor)
    if inverse is np.expm1:
        grown = graph.op("Sub", grown, graph.constant(1.0))
    return Part(grown, "double", 1)


def _positive(graph: Graph, score: Part) -> Part:
    return graph.select((score,), [score.width - 1])[0]


def _mean(graph: Graph, members: list[Part], weights: list[float]) -> Part:
    """Summed first and divided then, as scikit-learn does: ties stay ties."""
    total = ""
    for member, weight in zip(members, weights, strict=True):
        share = member.tensor
        if weight != 1.0:
            share = graph.op("Mul", share, graph.constant(weight))
        total = graph.op("Add", total, share) if total else share
    mean = graph.op("Div", total, graph.constant(sum(weights)))
    return Part(mean, "double", members[0].width)


AROUND: dict[str, Around] = {
    **dict.fromkeys(("GridSearchCV", "RandomizedSearchCV"), best),
    **dict.fromkeys(("HalvingGridSearchCV", "HalvingRandomSearchCV"), best),
    **dict.fromkeys(("TunedThresholdClassifierCV", "FixedThresholdClassifier"), threshold),
    **dict.fromkeys(("VotingClassifier", "VotingRegressor"), vote),
    **dict.fromkeys(("BaggingClassifier", "BaggingRegressor"), bagging),
    **dict.fromkeys(("StackingClassifier", "StackingRegressor"), stack),
    "OneVsRestClassifier": one_versus_rest,
    "CalibratedClassifierCV": calibrated,
    "TransformedTargetRegressor": transformed_target,
}
