"""Every kind of model whose conversion is compared, each in a pipeline that people serve.

Called by ``make parity`` and its quick test; calls the data sets.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn import (
    calibration,
    compose,
    cross_decomposition,
    decomposition,
    discriminant_analysis,
    dummy,
    ensemble,
    feature_selection,
    gaussian_process,
    impute,
    kernel_approximation,
    linear_model,
    model_selection,
    multiclass,
    multioutput,
    naive_bayes,
    neighbors,
    neural_network,
    pipeline,
    preprocessing,
    svm,
    tree,
)
from tests.parity import datasets
from tests.parity.datasets import NUMBERS, TEXTS, WHOLE, Data

Make = Callable[[], Any]


@dataclass(frozen=True)
class Kind:
    """A model to train, on which data."""

    name: str
    data: Callable[[], Data]
    make: Make
    contradicts_itself: bool = False
    """scikit-learn's own ``predict`` does not follow the scores that it gives beside it."""


def scaled(model: Any) -> Any:
    return pipeline.make_pipeline(preprocessing.StandardScaler(), model)


def after(step: Any, model: Any, *more: Any) -> Any:
    return pipeline.make_pipeline(step, *more, model)


def columns(model: Any, texts: Any = None, numbers: Any = None) -> Any:
    """Text and numbers each prepared in their own way, then ``model``."""
    texts = texts or preprocessing.OneHotEncoder(handle_unknown="ignore")
    numbers = numbers or pipeline.make_pipeline(
        impute.SimpleImputer(strategy="median", add_indicator=True), preprocessing.StandardScaler()
    )
    prepared = compose.make_column_transformer((texts, TEXTS), (numbers, [*NUMBERS, *WHOLE]))
    return pipeline.make_pipeline(prepared, model)


def logistic(**settings: Any) -> Any:
    return linear_model.LogisticRegression(max_iter=300, **settings)


def forest(**settings: Any) -> Any:
    return ensemble.RandomForestClassifier(20, max_depth=8, random_state=0, **settings)


def selected(model: Any) -> Any:
    """Two ways of preparing side by side, then the best columns of both."""
    both = pipeline.make_union(
        preprocessing.RobustScaler(),
        pipeline.make_pipeline(preprocessing.MinMaxScaler(), decomposition.PCA(3)),
    )
    return pipeline.make_pipeline(both, feature_selection.SelectKBest(k=6), model)


def members() -> list[tuple[str, Any]]:
    return [("linear", scaled(logistic())), ("forest", forest())]


def _logarithms() -> Any:
    return preprocessing.FunctionTransformer(np.log1p)


_imputed = impute.SimpleImputer

LINEAR = [
    Kind("LogisticRegression, two labels", datasets.cancer, lambda: scaled(logistic())),
    Kind("LogisticRegression, three labels", datasets.iris_array, lambda: scaled(logistic())),
    Kind(
        "LogisticRegressionCV",
        datasets.wine,
        lambda: scaled(
            linear_model.LogisticRegressionCV(
                Cs=3, l1_ratios=(0.0,), use_legacy_attributes=False, max_iter=300
            )
        ),
    ),
    Kind(
        "OneVsRest of LogisticRegression",
        datasets.wine,
        lambda: scaled(multiclass.OneVsRestClassifier(logistic())),
    ),
    Kind("LogisticRegression on mixed columns", datasets.flights, lambda: columns(logistic())),
    Kind(
        "LogisticRegression on mixed columns, three labels",
        datasets.flights_of_three,
        lambda: columns(logistic()),
    ),
    Kind(
        "LogisticRegression on infrequent categories",
        datasets.flights,
        lambda: columns(
            logistic(),
            preprocessing.OneHotEncoder(handle_unknown="infrequent_if_exist", min_frequency=50),
        ),
    ),
    Kind(
        "LogisticRegression on target encoding",
        datasets.flights,
        lambda: columns(logistic(), preprocessing.TargetEncoder(random_state=0)),
    ),
    Kind(
        "LogisticRegression after logarithms",
        datasets.wine,
        lambda: after(_logarithms(), logistic(), preprocessing.StandardScaler()),
    ),
    Kind(
        "LogisticRegression after PowerTransformer",
        datasets.wine,
        lambda: after(preprocessing.PowerTransformer(), logistic()),
    ),
    Kind(
        "LogisticRegression after QuantileTransformer",
        datasets.cancer,
        lambda: after(preprocessing.QuantileTransformer(n_quantiles=100), logistic()),
    ),
    Kind(
        "LogisticRegression after QuantileTransformer, normal",
        datasets.cancer,
        lambda: after(
            preprocessing.QuantileTransformer(n_quantiles=100, output_distribution="normal"),
            logistic(),
        ),
    ),
    Kind(
        "LogisticRegression after KBinsDiscretizer",
        datasets.wine,
        lambda: after(
            preprocessing.KBinsDiscretizer(
                5, encode="onehot-dense", quantile_method="averaged_inverted_cdf"
            ),
            logistic(),
        ),
    ),
    Kind(
        "LogisticRegression after SplineTransformer",
        datasets.iris_array,
        lambda: after(preprocessing.SplineTransformer(), logistic()),
    ),
    Kind(
        "LogisticRegression after union and selection",
        datasets.cancer,
        lambda: selected(logistic()),
    ),
    Kind("RidgeClassifier", datasets.wine, lambda: scaled(linear_model.RidgeClassifier())),
    Kind(
        "SGDClassifier, log loss",
        datasets.wine,
        lambda: scaled(linear_model.SGDClassifier(loss="log_loss", random_state=0)),
    ),
    Kind(
        "SGDClassifier, modified Huber",
        datasets.cancer,
        lambda: scaled(linear_model.SGDClassifier(loss="modified_huber", random_state=0)),
    ),
    Kind(
        "SGDClassifier, hinge",
        datasets.wine,
        lambda: scaled(linear_model.SGDClassifier(random_state=0)),
    ),
    Kind("Perceptron", datasets.iris_array, lambda: scaled(linear_model.Perceptron())),
    Kind("LinearSVC", datasets.cancer, lambda: scaled(svm.LinearSVC())),
    Kind("LinearRegression", datasets.diabetes, linear_model.LinearRegression),
    Kind(
        "Ridge on polynomials",
        datasets.diabetes,
        lambda: after(preprocessing.PolynomialFeatures(2), linear_model.Ridge()),
    ),
    Kind(
        "Ridge on mixed columns",
        datasets.minutes_late,
        lambda: columns(linear_model.Ridge()),
    ),
    Kind("Lasso", datasets.linnerud, lambda: scaled(linear_model.Lasso())),
    Kind("ElasticNet", datasets.diabetes, lambda: scaled(linear_model.ElasticNet())),
    Kind("BayesianRidge", datasets.diabetes, lambda: scaled(linear_model.BayesianRidge())),
    Kind(
        "SGDRegressor",
        datasets.diabetes,
        lambda: scaled(linear_model.SGDRegressor(random_state=0)),
    ),
    Kind(
        "HuberRegressor",
        datasets.diabetes,
        lambda: scaled(linear_model.HuberRegressor(max_iter=500)),
    ),
    Kind(
        "QuantileRegressor",
        datasets.diabetes,
        lambda: scaled(linear_model.QuantileRegressor(quantile=0.8, alpha=0.01)),
    ),
    Kind("LinearSVR", datasets.diabetes, lambda: scaled(svm.LinearSVR(random_state=0))),
    Kind(
        "PoissonRegressor",
        datasets.positive_minutes,
        lambda: columns(linear_model.PoissonRegressor(max_iter=300)),
    ),
    Kind(
        "GammaRegressor",
        datasets.positive_minutes,
        lambda: columns(linear_model.GammaRegressor(max_iter=300)),
    ),
    Kind(
        "TweedieRegressor",
        datasets.positive_minutes,
        lambda: columns(linear_model.TweedieRegressor(power=1.5, max_iter=300)),
    ),
    Kind(
        "TransformedTarget of Ridge",
        datasets.positive_minutes,
        lambda: columns(
            compose.TransformedTargetRegressor(
                linear_model.Ridge(), func=np.log1p, inverse_func=np.expm1
            )
        ),
    ),
    Kind(
        "PLSRegression",
        datasets.diabetes,
        lambda: cross_decomposition.PLSRegression(3),
    ),
]

TREES = [
    Kind("DecisionTreeClassifier", datasets.iris_array, lambda: tree.DecisionTreeClassifier()),
    Kind(
        "DecisionTreeClassifier with holes",
        datasets.holed_flights,
        lambda: tree.DecisionTreeClassifier(max_depth=8),
    ),
    Kind(
        "DecisionTreeRegressor",
        datasets.diabetes,
        lambda: scaled(tree.DecisionTreeRegressor(max_depth=6)),
    ),
    Kind("RandomForestClassifier, two labels", datasets.cancer, forest),
    Kind("RandomForestClassifier, ten labels", datasets.digits, forest),
    Kind(
        "RandomForestClassifier on mixed columns",
        datasets.flights_of_three,
        lambda: columns(forest()),
    ),
    Kind("RandomForestClassifier with holes", datasets.holed_flights, forest),
    Kind(
        "RandomForestRegressor",
        datasets.minutes_late,
        lambda: columns(ensemble.RandomForestRegressor(10, max_depth=8, random_state=0)),
    ),
    Kind(
        "ExtraTreesClassifier",
        datasets.wine,
        lambda: ensemble.ExtraTreesClassifier(20, random_state=0),
    ),
    Kind(
        "ExtraTreesRegressor",
        datasets.diabetes,
        lambda: ensemble.ExtraTreesRegressor(20, max_depth=8, random_state=0),
    ),
    Kind(
        "GradientBoostingClassifier, two labels",
        datasets.whole_flights,
        lambda: ensemble.GradientBoostingClassifier(n_estimators=30, random_state=0),
    ),
    Kind(
        "GradientBoostingClassifier, three labels",
        datasets.iris_array,
        lambda: ensemble.GradientBoostingClassifier(n_estimators=20, random_state=0),
    ),
    Kind(
        "GradientBoostingRegressor",
        datasets.diabetes,
        lambda: ensemble.GradientBoostingRegressor(n_estimators=30, random_state=0),
    ),
    Kind(
        "HistGradientBoostingClassifier, two labels",
        datasets.holed_flights,
        lambda: ensemble.HistGradientBoostingClassifier(max_iter=30, random_state=0),
    ),
    Kind(
        "HistGradientBoostingClassifier, three labels",
        datasets.wine,
        lambda: ensemble.HistGradientBoostingClassifier(max_iter=20, random_state=0),
    ),
    Kind(
        "HistGradientBoostingClassifier on pandas categories",
        datasets.categories,
        lambda: ensemble.HistGradientBoostingClassifier(max_iter=30, random_state=0),
    ),
    Kind(
        "HistGradientBoostingClassifier on numbered categories",
        datasets.holed_flights,
        lambda: ensemble.HistGradientBoostingClassifier(
            max_iter=30, categorical_features=["month", "hour"], random_state=0
        ),
    ),
    Kind(
        "HistGradientBoostingClassifier on ordinal codes",
        datasets.flights,
        lambda: columns(
            ensemble.HistGradientBoostingClassifier(max_iter=30, random_state=0),
            preprocessing.OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1),
            "passthrough",
        ),
    ),
    Kind(
        "HistGradientBoostingRegressor",
        datasets.diabetes,
        lambda: ensemble.HistGradientBoostingRegressor(max_iter=30, random_state=0),
    ),
    Kind(
        "HistGradientBoostingRegressor, Poisson",
        datasets.positive_minutes,
        lambda: columns(
            ensemble.HistGradientBoostingRegressor(loss="poisson", max_iter=30, random_state=0),
            preprocessing.OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1),
            impute.SimpleImputer(),
        ),
    ),
    Kind(
        "AdaBoostClassifier",
        datasets.cancer,
        lambda: ensemble.AdaBoostClassifier(n_estimators=20, random_state=0),
    ),
    Kind(
        "AdaBoostRegressor",
        datasets.diabetes,
        lambda: ensemble.AdaBoostRegressor(n_estimators=20, random_state=0),
    ),
    Kind(
        "IsolationForest",
        datasets.cancer,
        lambda: ensemble.IsolationForest(n_estimators=20, random_state=0),
    ),
]

COMPOSED = [
    Kind(
        "BaggingClassifier of trees",
        datasets.wine,
        lambda: ensemble.BaggingClassifier(n_estimators=10, random_state=0),
    ),
    Kind(
        "BaggingRegressor of trees",
        datasets.diabetes,
        lambda: ensemble.BaggingRegressor(n_estimators=10, random_state=0),
    ),
    Kind(
        "VotingClassifier, soft",
        datasets.cancer,
        lambda: ensemble.VotingClassifier(members(), voting="soft", weights=[1, 2]),
    ),
    Kind("VotingClassifier, hard", datasets.wine, lambda: ensemble.VotingClassifier(members())),
    Kind(
        "VotingRegressor",
        datasets.diabetes,
        lambda: ensemble.VotingRegressor(
            [("r", linear_model.Ridge()), ("t", tree.DecisionTreeRegressor(max_depth=4))]
        ),
    ),
    Kind(
        "StackingClassifier, two labels",
        datasets.cancer,
        lambda: ensemble.StackingClassifier(members(), logistic(), cv=3),
    ),
    Kind(
        "StackingClassifier, three labels",
        datasets.wine,
        lambda: ensemble.StackingClassifier(members(), logistic(), cv=3, passthrough=True),
    ),
    Kind(
        "StackingRegressor",
        datasets.diabetes,
        lambda: ensemble.StackingRegressor(
            [("r", linear_model.Ridge()), ("t", tree.DecisionTreeRegressor(max_depth=4))],
            linear_model.Ridge(),
            cv=3,
        ),
    ),
    Kind(
        "CalibratedClassifierCV of LinearSVC",
        datasets.cancer,
        lambda: scaled(calibration.CalibratedClassifierCV(svm.LinearSVC(), cv=3)),
    ),
    Kind(
        "CalibratedClassifierCV of a forest",
        datasets.cancer,
        lambda: calibration.CalibratedClassifierCV(forest(), cv=3),
    ),
    Kind(
        "CalibratedClassifierCV of LogisticRegression",
        datasets.cancer,
        lambda: scaled(calibration.CalibratedClassifierCV(logistic(), cv=3)),
    ),
    Kind(
        "CalibratedClassifierCV, isotonic",
        datasets.cancer,
        lambda: calibration.CalibratedClassifierCV(forest(), method="isotonic", cv=3),
    ),
    Kind(
        "CalibratedClassifierCV, three labels",
        datasets.wine,
        lambda: calibration.CalibratedClassifierCV(forest(), cv=3),
    ),
    Kind(
        "TunedThresholdClassifierCV",
        datasets.flights,
        lambda: model_selection.TunedThresholdClassifierCV(columns(logistic()), cv=3),
    ),
    Kind(
        "FixedThresholdClassifier",
        datasets.cancer,
        lambda: model_selection.FixedThresholdClassifier(scaled(logistic()), threshold=0.2),
    ),
    Kind(
        "MultiOutputRegressor",
        datasets.several_outcomes,
        lambda: multioutput.MultiOutputRegressor(linear_model.Ridge()),
    ),
    Kind(
        "GridSearchCV",
        datasets.wine,
        lambda: model_selection.GridSearchCV(
            scaled(logistic()), {"logisticregression__C": [0.1, 1.0]}, cv=3
        ),
    ),
]

OTHERS = [
    Kind(
        "MLPClassifier",
        datasets.wine,
        lambda: scaled(neural_network.MLPClassifier((16, 8), max_iter=300, random_state=0)),
    ),
    Kind(
        "MLPClassifier, two labels",
        datasets.flights,
        lambda: columns(
            neural_network.MLPClassifier((8,), "tanh", max_iter=60, random_state=0),
            numbers=pipeline.make_pipeline(_imputed(), preprocessing.MinMaxScaler(clip=True)),
        ),
    ),
    Kind(
        "MLPRegressor",
        datasets.diabetes,
        lambda: scaled(
            neural_network.MLPRegressor(hidden_layer_sizes=(8,), max_iter=300, random_state=0)
        ),
    ),
    Kind("SVC", datasets.wine, lambda: scaled(svm.SVC()), contradicts_itself=True),
    Kind("SVR", datasets.diabetes, lambda: scaled(svm.SVR())),
    Kind("GaussianNB", datasets.iris_array, lambda: naive_bayes.GaussianNB()),
    Kind("BernoulliNB", datasets.digits, lambda: naive_bayes.BernoulliNB(binarize=8)),
    Kind("MultinomialNB", datasets.digits, lambda: naive_bayes.MultinomialNB()),
    Kind("ComplementNB", datasets.digits, lambda: naive_bayes.ComplementNB()),
    Kind("KNeighborsClassifier", datasets.iris_array, lambda: neighbors.KNeighborsClassifier()),
    Kind("KNeighborsRegressor", datasets.diabetes, lambda: neighbors.KNeighborsRegressor()),
    Kind(
        "NearestCentroid",
        datasets.wine,
        lambda: scaled(neighbors.NearestCentroid()),
        contradicts_itself=True,
    ),
    Kind(
        "LinearDiscriminantAnalysis, two labels",
        datasets.cancer,
        lambda: scaled(discriminant_analysis.LinearDiscriminantAnalysis()),
    ),
    Kind(
        "LinearDiscriminantAnalysis, three labels",
        datasets.wine,
        lambda: discriminant_analysis.LinearDiscriminantAnalysis(),
    ),
    Kind(
        "QuadraticDiscriminantAnalysis",
        datasets.iris_array,
        lambda: discriminant_analysis.QuadraticDiscriminantAnalysis(),
    ),
    Kind(
        "GaussianProcessRegressor",
        datasets.linnerud,
        lambda: gaussian_process.GaussianProcessRegressor(),
    ),
    Kind("OneClassSVM", datasets.wine, lambda: scaled(svm.OneClassSVM())),
    Kind("DummyClassifier", datasets.wine, lambda: dummy.DummyClassifier(strategy="prior")),
    Kind("DummyRegressor", datasets.diabetes, lambda: dummy.DummyRegressor()),
    Kind(
        "LogisticRegression after a kernel approximation",
        datasets.wine,
        lambda: after(
            preprocessing.StandardScaler(),
            logistic(),
            kernel_approximation.Nystroem(n_components=20, random_state=0),
        ),
    ),
]

KINDS = [*LINEAR, *TREES, *COMPOSED, *OTHERS]
