"""Exporters of scikit-learn's last steps: linear models, trees, boosting, small networks.

Called by ``convert``; calls the graph and tree builders.  Each returns ``[rows, labels]`` scores
(probabilities, or decision values for models without them) or ``[rows, 1]`` values.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from onnx import TensorProto

from sluice.package import convert_bayes
from sluice.package.convert_trees import Tree, from_cart, from_histogram, tree_ensemble
from sluice.package.onnx_graph import Graph, NotConvertibleError, Part, Table

Exporter = Callable[[Graph, Any, Part], Part]
Transform = Callable[[Graph, Any, Table], Table]


def linear_regressor(graph: Graph, step: Any, part: Part) -> Part:
    value = _linear(graph, part, np.asarray(step.coef_).reshape(1, -1), step.intercept_)
    return Part(value, "double", 1)


def log_linear_regressor(graph: Graph, step: Any, part: Part) -> Part:
    linear = linear_regressor(graph, step, part)
    return Part(graph.op("Exp", linear.tensor), "double", 1)


def tweedie_regressor(graph: Graph, step: Any, part: Part) -> Part:
    identity = step.link == "identity" or (step.link == "auto" and step.power <= 0)
    export = linear_regressor if identity else log_linear_regressor
    return export(graph, step, part)


def pls_regression(graph: Graph, step: Any, part: Part) -> Part:
    if np.size(step.intercept_) != 1:
        raise NotConvertibleError("PLSRegression has several outputs")
    centred = graph.op("Sub", part.tensor, graph.constant(step._x_mean))
    return linear_regressor(graph, step, Part(centred, "double", part.width))


def logistic_regression(graph: Graph, step: Any, part: Part) -> Part:
    decision = _linear(graph, part, step.coef_, step.intercept_)
    if len(step.classes_) == 2:
        return binary(graph, graph.op("Sigmoid", decision))
    if getattr(step, "solver", "") == "liblinear":
        return _one_versus_rest(graph, decision, len(step.classes_))
    return Part(graph.op("Softmax", decision, axis=1), "double", len(step.classes_))


def sgd_classifier(graph: Graph, step: Any, part: Part) -> Part:
    if step.loss not in ("log_loss", "modified_huber"):
        return linear_decision(graph, step, part)
    decision = _linear(graph, part, step.coef_, step.intercept_)
    labels = len(step.classes_)
    if step.loss == "modified_huber":
        within = graph.op("Clip", decision, graph.constant(-1.0), graph.constant(1.0))
        each = graph.op("Div", graph.op("Add", within, graph.constant(1.0)), graph.constant(2.0))
        return binary(graph, each) if labels == 2 else shares(graph, each, labels)
    if labels == 2:
        return binary(graph, graph.op("Sigmoid", decision))
    return _one_versus_rest(graph, decision, labels)


def linear_decision(graph: Graph, step: Any, part: Part) -> Part:
    decision = _linear(graph, part, np.atleast_2d(step.coef_), step.intercept_)
    if len(step.classes_) == 2:
        both = graph.op("Concat", graph.op("Neg", decision), decision, axis=1)
        return Part(both, "double", 2)
    return Part(decision, "double", len(step.classes_))


def _linear(graph: Graph, part: Part, coefficients: Any, intercept: Any) -> str:
    weights = np.asarray(coefficients, dtype=np.float64).T
    product = graph.op("MatMul", part.tensor, graph.constant(weights))
    return graph.op("Add", product, graph.constant(np.atleast_1d(intercept)))


def binary(graph: Graph, positive: str) -> Part:
    """Both columns from the probability of the second label."""
    negative = graph.op("Sub", graph.constant(1.0), positive)
    return Part(graph.op("Concat", negative, positive, axis=1), "double", 2)


def _one_versus_rest(graph: Graph, decision: str, labels: int) -> Part:
    return shares(graph, logistic(graph, decision), labels)


def logistic(graph: Graph, decision: str) -> str:
    """The logistic function where small numbers matter: ``Sigmoid`` answers 0 from -37 on."""
    grown = graph.op("Exp", graph.op("Neg", decision))
    return graph.op("Reciprocal", graph.op("Add", grown, graph.constant(1.0)))


def shares(graph: Graph, each: str, labels: int) -> Part:
    """Each label's share of the row's sum; equal ones where every label has 0."""
    total = graph.op("ReduceSum", each, graph.constant([1], np.int64), keepdims=1)
    nothing = graph.op("Equal", total, graph.constant(0.0))
    each = graph.op("Where", nothing, graph.constant(1.0), each)
    total = graph.op("Where", nothing, graph.constant(float(labels)), total)
    return Part(graph.op("Div", each, total), "double", labels)


def decision_tree_classifier(graph: Graph, step: Any, part: Part) -> Part:
    return _forest_classifier(graph, step, [step], part)


def forest_classifier(graph: Graph, step: Any, part: Part) -> Part:
    return _forest_classifier(graph, step, list(step.estimators_), part)


def decision_tree_regressor(graph: Graph, step: Any, part: Part) -> Part:
    return _forest_regressor(graph, step, [step], part)


def forest_regressor(graph: Graph, step: Any, part: Part) -> Part:
    return _forest_regressor(graph, step, list(step.estimators_), part)


def _forest_classifier(graph: Graph, step: Any, members: list[Any], part: Part) -> Part:
    labels = len(step.classes_)
    _single_output(members)
    targets = [1] if labels == 2 else list(range(labels))
    trees = []
    for member in members:
        # Shares already; dividing by their sum again would move ties by a last bit.
        each = member.tree_.value[:, 0, :]
        trees += [from_cart(member.tree_, each[:, label], i) for i, label in enumerate(targets)]
    total = tree_ensemble(graph, _as_float32(graph, step, part), trees, len(targets))
    mean = graph.op("Div", total, graph.constant(float(len(members))))
    return binary(graph, mean) if labels == 2 else Part(mean, "double", labels)


def _forest_regressor(graph: Graph, step: Any, members: list[Any], part: Part) -> Part:
    _single_output(members)
    trees = [from_cart(m.tree_, m.tree_.value[:, 0, 0], 0) for m in members]
    total = tree_ensemble(graph, _as_float32(graph, step, part), trees, 1)
    return Part(graph.op("Div", total, graph.constant(float(len(members)))), "double", 1)


def _single_output(members: list[Any]) -> None:
    if any(m.n_outputs_ != 1 for m in members):
        raise NotConvertibleError("the trees have several outputs")


def _as_float32(graph: Graph, step: Any, part: Part) -> str:
    """scikit-learn compares float32 features with double thresholds; so does the graph.

    A value too large for float32 becomes infinite, which scikit-learn refuses.
    """
    single = graph.op("Cast", part.tensor, to=int(TensorProto.FLOAT))
    double = graph.same_places(part, graph.op("Cast", single, to=int(TensorProto.DOUBLE)))
    graph.refuse((double,), missing=not step.__sklearn_tags__().input_tags.allow_nan)
    return double.tensor


def ada_boost_classifier(graph: Graph, step: Any, part: Part) -> Part:
    """Each tree gives its weight to the label it predicts and takes it from the others."""
    labels = len(step.classes_)
    graph.refuse((part,), missing=True)
    trees = []
    for member, weight in zip(step.estimators_, step.estimator_weights_, strict=False):
        if type(member).__name__ != "DecisionTreeClassifier" or len(member.classes_) != labels:
            raise NotConvertibleError("AdaBoostClassifier is not of trees that saw every label")
        chosen = member.tree_.value[:, 0, :].argmax(axis=1)
        for label in range(labels):
            won = np.where(chosen == label, weight, -weight / (labels - 1))
            trees.append(from_cart(member.tree_, won, label))
    total = tree_ensemble(graph, _as_float32(graph, step, part), trees, labels)
    scale = float(step.estimator_weights_.sum()) * (labels - 1)
    value = graph.op("Div", total, graph.constant(scale))
    return Part(graph.op("Softmax", value, axis=1), "double", labels)


def gradient_boosting_classifier(graph: Graph, step: Any, part: Part) -> Part:
    raw = _boosted(graph, step, part)
    if len(step.classes_) > 2:
        return Part(graph.op("Softmax", raw, axis=1), "double", len(step.classes_))
    if step.loss == "exponential":
        raw = graph.op("Mul", raw, graph.constant(2.0))
    return binary(graph, graph.op("Sigmoid", raw))


def gradient_boosting_regressor(graph: Graph, step: Any, part: Part) -> Part:
    return Part(_boosted(graph, step, part), "double", 1)


def _boosted(graph: Graph, step: Any, part: Part) -> str:
    if not (isinstance(step.init_, str) or type(step.init_).__name__.startswith("Dummy")):
        raise NotConvertibleError("gradient boosting starts from another model")
    first = np.zeros((1, part.width), dtype=np.float32)
    start = np.asarray(step._raw_predict_init(first), dtype=np.float64)
    trees: list[Tree] = []
    for stage in step.estimators_:
        trees += [
            from_cart(m.tree_, m.tree_.value[:, 0, 0] * step.learning_rate, i)
            for i, m in enumerate(stage)
        ]
    total = tree_ensemble(graph, _as_float32(graph, step, part), trees, start.shape[1])
    return graph.op("Add", total, graph.constant(start))


def histogram_classifier(graph: Graph, step: Any, part: Part) -> Part:
    raw = _histogram(graph, step, part)
    if len(step.classes_) == 2:
        return binary(graph, graph.op("Sigmoid", raw))
    return Part(graph.op("Softmax", raw, axis=1), "double", len(step.classes_))


def histogram_regressor(graph: Graph, step: Any, part: Part) -> Part:
    raw = _histogram(graph, step, part)
    if step.loss in ("poisson", "gamma"):
        raw = graph.op("Exp", raw)
    return Part(raw, "double", 1)


def _histogram(graph: Graph, step: Any, part: Part) -> str:
    stages = step._predictors
    trees = [from_histogram(p, i) for stage in stages for i, p in enumerate(stage)]
    base = np.asarray(step._baseline_prediction, dtype=np.float64).reshape(1, -1)
    if not trees:
        raise NotConvertibleError("histogram gradient boosting has no trees")
    total = tree_ensemble(graph, part.tensor, trees, len(stages[0]))
    return graph.op("Add", total, graph.constant(base))


def mlp_classifier(graph: Graph, step: Any, part: Part) -> Part:
    value = _network(graph, step, part)
    if step.out_activation_ == "logistic" and len(step.classes_) == 2:
        return binary(graph, graph.op("Sigmoid", value))
    if step.out_activation_ != "softmax":
        raise NotConvertibleError("the network has several independent outputs")
    return Part(graph.op("Softmax", value, axis=1), "double", len(step.classes_))


def mlp_regressor(graph: Graph, step: Any, part: Part) -> Part:
    if step.n_outputs_ != 1:
        raise NotConvertibleError("the network has several outputs")
    return Part(_network(graph, step, part), "double", 1)


_ACTIVATIONS = {"relu": "Relu", "tanh": "Tanh", "logistic": "Sigmoid", "identity": "Identity"}


def _network(graph: Graph, step: Any, part: Part) -> str:
    value = part.tensor
    layers = list(zip(step.coefs_, step.intercepts_, strict=True))
    for index, (weights, offsets) in enumerate(layers):
        value = graph.op("MatMul", value, graph.constant(weights))
        value = graph.op("Add", value, graph.constant(offsets))
        if index < len(layers) - 1:
            value = graph.op(_ACTIVATIONS[step.activation], value)
    return value


_LINEAR_REGRESSORS = (
    "LinearRegression Ridge RidgeCV Lasso LassoCV ElasticNet ElasticNetCV BayesianRidge "
    "ARDRegression HuberRegressor SGDRegressor LinearSVR TheilSenRegressor QuantileRegressor"
)
_LINEAR_DECISIONS = "LinearSVC RidgeClassifier RidgeClassifierCV Perceptron"

PREDICTORS: dict[str, Exporter] = {
    **dict.fromkeys(_LINEAR_REGRESSORS.split(), linear_regressor),
    **dict.fromkeys(("PoissonRegressor", "GammaRegressor"), log_linear_regressor),
    **dict.fromkeys(("LogisticRegression", "LogisticRegressionCV"), logistic_regression),
    **dict.fromkeys(_LINEAR_DECISIONS.split(), linear_decision),
    "LinearDiscriminantAnalysis": logistic_regression,
    "TweedieRegressor": tweedie_regressor,
    "PLSRegression": pls_regression,
    "GaussianNB": convert_bayes.gaussian,
    "MultinomialNB": convert_bayes.multinomial,
    "ComplementNB": convert_bayes.complement,
    "BernoulliNB": convert_bayes.bernoulli,
    "SGDClassifier": sgd_classifier,
    "AdaBoostClassifier": ada_boost_classifier,
    "DecisionTreeClassifier": decision_tree_classifier,
    "DecisionTreeRegressor": decision_tree_regressor,
    **dict.fromkeys(("RandomForestClassifier", "ExtraTreesClassifier"), forest_classifier),
    **dict.fromkeys(("RandomForestRegressor", "ExtraTreesRegressor"), forest_regressor),
    "GradientBoostingClassifier": gradient_boosting_classifier,
    "GradientBoostingRegressor": gradient_boosting_regressor,
    "HistGradientBoostingClassifier": histogram_classifier,
    "HistGradientBoostingRegressor": histogram_regressor,
    "MLPClassifier": mlp_classifier,
    "MLPRegressor": mlp_regressor,
}

_LOOK_THEMSELVES = (
    ada_boost_classifier,
    decision_tree_classifier,
    decision_tree_regressor,
    forest_classifier,
    forest_regressor,
    gradient_boosting_classifier,
    gradient_boosting_regressor,
    histogram_classifier,
    histogram_regressor,
)
"""Trees refuse what float32 cannot hold; histogram gradient boosting refuses nothing."""


def _own_categories(graph: Graph, step: Any, table: Table, transform: Transform) -> Table:
    """Histogram gradient boosting encodes its categories itself and puts them first."""
    categorical = np.asarray(step.is_categorical_, dtype=bool)
    encoder = step._preprocessor.named_transformers_["encoder"]
    encoded: Table = ()
    if categorical.any():
        chosen = graph.select(table, [int(i) for i in np.flatnonzero(categorical)])
        encoded = transform(graph, encoder, chosen)
    return encoded + graph.select(table, [int(i) for i in np.flatnonzero(~categorical)])


def export(graph: Graph, step: Any, table: Table, transform: Transform) -> Part:
    """The last step of a model."""
    if getattr(step, "_preprocessor", None) is not None:
        table = _own_categories(graph, step, table, transform)
    exporter = PREDICTORS.get(type(step).__name__)
    if exporter is None or not type(step).__module__.startswith("sklearn."):
        raise NotConvertibleError(f"there is no exact exporter for {type(step).__name__}")
    part = graph.numbers(table)
    if exporter not in _LOOK_THEMSELVES:
        graph.refuse((part,), missing=True)
    return exporter(graph, step, part)


_DECIDED_LINEARLY = (
    "LogisticRegression LogisticRegressionCV SGDClassifier LinearDiscriminantAnalysis"
)


def export_decision(graph: Graph, step: Any, table: Table) -> Part:
    """What the decision function of a last step says, ``[rows, labels]``."""
    name = type(step).__name__
    linear = name in _DECIDED_LINEARLY.split() or name in _LINEAR_DECISIONS.split()
    if not linear or not type(step).__module__.startswith("sklearn."):
        raise NotConvertibleError(f"there is no exact exporter for the decision of {name}")
    part = graph.numbers(table)
    graph.refuse((part,), missing=True)
    return linear_decision(graph, step, part)
