"""Most kinds of model beside scikit-learn, as `make parity` compares them, on fewer rows."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.parity.compare import compare
from tests.parity.kinds import KINDS, Kind

ROWS = 200
ALONE = 1
FALLBACKS = {
    *("LogisticRegression after QuantileTransformer, normal", "IsolationForest", "OneClassSVM"),
    *("LogisticRegression after SplineTransformer", "AdaBoostRegressor", "VotingClassifier, hard"),
    *("SVC", "SVR", "KNeighborsClassifier", "KNeighborsRegressor", "NearestCentroid"),
    *("QuadraticDiscriminantAnalysis", "GaussianProcessRegressor", "DummyClassifier"),
    *("DummyRegressor", "LogisticRegression after a kernel approximation"),
}
"""What has no exact exporter; a kind that leaves or joins this list is news."""

LEFT_TO_MAKE_PARITY = {
    *("LogisticRegression after QuantileTransformer, normal", "VotingClassifier, hard"),
    *("LogisticRegression on mixed columns, three labels", "LogisticRegressionCV"),
    *("RandomForestClassifier on mixed columns", "RandomForestClassifier, ten labels"),
    *("CalibratedClassifierCV of a forest", "AdaBoostRegressor", "IsolationForest"),
    *("HistGradientBoostingClassifier on ordinal codes", "VotingClassifier, soft"),
    *("NearestCentroid", "LogisticRegression after a kernel approximation", "GammaRegressor"),
}
"""Slow, and another kind asks the same exporters."""
QUICK = [kind for kind in KINDS if kind.name not in LEFT_TO_MAKE_PARITY]


@pytest.mark.parametrize("kind", QUICK, ids=lambda kind: kind.name)
def test_nobody_can_tell_a_package_from_its_model(kind: Kind, tmp_path: Path) -> None:
    result = compare(kind, ROWS, tmp_path / "package", alone=ALONE)
    assert result.holds, result.where
    assert (result.engine == "scikit-learn") == (kind.name in FALLBACKS), result.reason
    assert result.engine != "refused" or kind.name == "MultiOutputRegressor"
