"""Fitted scikit-learn models become ONNX that nobody can tell from the original."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import make_column_transformer
from sklearn.decomposition import PCA
from sklearn.ensemble import (
    ExtraTreesRegressor,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
    VotingClassifier,
)
from sklearn.feature_selection import SelectKBest
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge, SGDClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline, make_union
from sklearn.preprocessing import (
    FunctionTransformer,
    MaxAbsScaler,
    MinMaxScaler,
    OneHotEncoder,
    OrdinalEncoder,
    PolynomialFeatures,
    RobustScaler,
    StandardScaler,
)
from sklearn.svm import LinearSVC
from sklearn.tree import DecisionTreeClassifier

import sluice
from sluice.package.load import open_package
from sluice.package.parity import judge
from sluice.package.scoring import ModelSchema, OnnxScorer

ROWS = 240


def numbers(missing: bool = False) -> pd.DataFrame:
    random = np.random.default_rng(3)
    frame = pd.DataFrame(random.normal(size=(ROWS, 5)), columns=list("abcde"))
    return frame.mask(random.random(frame.shape) < 0.1) if missing else frame


def mixed() -> pd.DataFrame:
    random = np.random.default_rng(4)
    frame = numbers(missing=True)
    frame["carrier"] = random.choice(["UA", "DL", "AA"], ROWS)
    frame.loc[::17, "carrier"] = None
    frame["month"] = random.integers(1, 13, ROWS)
    return frame


def two() -> np.ndarray:
    return (numbers().a + numbers().b > 0).astype(int).to_numpy()


def three() -> np.ndarray:
    return np.array(["low", "middle", "high"])[np.digitize(numbers().a, [-0.5, 0.5])]


def columns() -> Any:
    imputed = make_pipeline(SimpleImputer(strategy="median"), StandardScaler())
    return make_column_transformer(
        (OneHotEncoder(handle_unknown="ignore"), ["carrier"]),
        (imputed, list("abcde")),
        remainder="passthrough",
    )


def ordinal() -> Any:
    return make_column_transformer(
        (OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1), ["carrier"]),
        remainder="passthrough",
    )


Case = tuple[Callable[[], Any], Callable[[], pd.DataFrame], Callable[[], Any]]


def categorical() -> pd.DataFrame:
    frame = mixed()
    frame["carrier"] = frame.carrier.astype("category")
    return frame


CASES: dict[str, Case] = {
    "logistic": (lambda: make_pipeline(StandardScaler(), LogisticRegression()), numbers, two),
    "logistic of three": (LogisticRegression, numbers, three),
    "one versus rest": (lambda: SGDClassifier(loss="log_loss", random_state=0), numbers, three),
    "imputer with indicator": (
        lambda: make_pipeline(
            SimpleImputer(add_indicator=True), StandardScaler(), LogisticRegression()
        ),
        lambda: numbers(missing=True),
        two,
    ),
    "columns": (lambda: make_pipeline(columns(), LogisticRegression()), mixed, two),
    "columns and forest": (
        lambda: make_pipeline(columns(), RandomForestClassifier(8, random_state=0)),
        mixed,
        three,
    ),
    "ordinal and boosting": (
        lambda: make_pipeline(ordinal(), HistGradientBoostingClassifier(max_iter=12)),
        mixed,
        two,
    ),
    "text imputer": (
        lambda: make_pipeline(
            make_column_transformer(
                (
                    make_pipeline(
                        SimpleImputer(strategy="most_frequent"),
                        OneHotEncoder(handle_unknown="ignore", drop="first"),
                    ),
                    ["carrier"],
                ),
                (SimpleImputer(), ["a"]),
            ),
            LogisticRegression(),
        ),
        mixed,
        two,
    ),
    "boosting": (
        lambda: HistGradientBoostingClassifier(max_iter=12),
        lambda: numbers(missing=True),
        two,
    ),
    "boosting on pandas categories": (
        lambda: HistGradientBoostingClassifier(max_iter=12),
        categorical,
        lambda: ((mixed().carrier == "UA") ^ (numbers().a > 0)).astype(int),
    ),
    "boosting on numbered categories": (
        lambda: HistGradientBoostingClassifier(max_iter=12, categorical_features=["month"]),
        lambda: mixed().drop(columns="carrier"),
        lambda: ((mixed().month % 3 == 0) ^ (numbers().a > 0)).astype(int),
    ),
    "boosting of three": (
        lambda: HistGradientBoostingClassifier(max_iter=6),
        lambda: numbers(missing=True),
        three,
    ),
    "boosting of counts": (
        lambda: HistGradientBoostingRegressor(loss="poisson", max_iter=12),
        numbers,
        lambda: np.exp(numbers().a),
    ),
    "old boosting": (
        lambda: GradientBoostingClassifier(n_estimators=8, random_state=0),
        numbers,
        three,
    ),
    "old boosting of numbers": (
        lambda: GradientBoostingRegressor(n_estimators=8, random_state=0),
        numbers,
        lambda: numbers().a,
    ),
    "forest": (lambda: RandomForestClassifier(8, random_state=0), numbers, two),
    "forest that saw holes": (
        lambda: RandomForestClassifier(8, random_state=0),
        lambda: numbers(missing=True),
        two,
    ),
    "forest of numbers": (
        lambda: RandomForestRegressor(8, random_state=0),
        numbers,
        lambda: numbers().a,
    ),
    "extra trees": (
        lambda: ExtraTreesRegressor(8, random_state=0),
        numbers,
        lambda: numbers().a,
    ),
    "stump": (lambda: DecisionTreeClassifier(max_depth=1), numbers, two),
    "ridge": (
        lambda: make_pipeline(RobustScaler(), Ridge()),
        numbers,
        lambda: 1000 * numbers().a,
    ),
    "margin": (lambda: make_pipeline(MaxAbsScaler(), LinearSVC()), numbers, two),
    "network": (
        lambda: make_pipeline(MinMaxScaler(), MLPClassifier((6,), max_iter=15, random_state=0)),
        numbers,
        three,
    ),
    "polynomials": (
        lambda: make_pipeline(StandardScaler(), PolynomialFeatures(3), Ridge()),
        numbers,
        lambda: numbers().a,
    ),
    "components": (
        lambda: make_pipeline(PCA(3, whiten=True), LogisticRegression()),
        numbers,
        two,
    ),
    "vote": (
        lambda: VotingClassifier(
            [("l", LogisticRegression()), ("f", RandomForestClassifier(4, random_state=0))],
            voting="soft",
            weights=[1, 2],
        ),
        numbers,
        three,
    ),
    "calibrated margin": (lambda: CalibratedClassifierCV(LinearSVC()), numbers, two),
    "union, selection, function": (
        lambda: make_pipeline(
            make_union(StandardScaler(), FunctionTransformer(np.abs)),
            SelectKBest(k=4),
            LogisticRegression(),
        ),
        numbers,
        two,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_conversion_is_exact(name: str, tmp_path: Path) -> None:
    make, rows, outcome = CASES[name]
    frame, label = rows(), outcome()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = make().fit(frame, label)
        saved = sluice.save(model, frame, label, tmp_path / "p")
    assert saved.manifest.conversion.parity == "Passed", saved.manifest.conversion.detail
    opened = open_package(saved.path, saved.digest)
    assert opened.manifest.model.trust_class == "Data"
    assert opened.manifest.original is None
    assert opened.manifest.environment.requires == {}
    text = any(i.type == "string" for i in opened.manifest.inputs)
    assert opened.manifest.layout == ("Columns" if text else "Matrix")


def test_what_has_no_exact_exporter_is_served_as_it_was(tmp_path: Path) -> None:
    frame, label = numbers(), two()
    model = make_pipeline(StandardScaler(), KNeighborsClassifier()).fit(frame, label)
    saved = sluice.save(model, frame, label, tmp_path / "p")
    assert saved.manifest.model.format == "joblib"
    assert saved.manifest.conversion.parity == "NotTried"
    assert any("KNeighborsClassifier" in n and "The original is served" in n for n in saved.notes)
    assert any("sluice trust request" in n for n in saved.notes)


def test_a_subclass_is_not_taken_for_its_parent(tmp_path: Path) -> None:
    """It may compute something else; only the exact classes are exported."""
    from sluice.package.convert import NotConvertibleError, to_onnx

    class Louder(StandardScaler):
        pass

    model = make_pipeline(Louder(), LogisticRegression()).fit(numbers(), two())
    saved = sluice.save(LogisticRegression().fit(numbers(), two()), numbers(), None, tmp_path / "p")
    schema = ModelSchema(
        saved.manifest.inputs, "Columns", saved.manifest.task, saved.manifest.output
    )
    with pytest.raises(NotConvertibleError, match="Louder"):
        to_onnx(model, schema)


@pytest.mark.parametrize("flaw", ["score", "label", "missing", "batch"])
def test_the_gate_finds_every_kind_of_difference(flaw: str, tmp_path: Path) -> None:
    frame = numbers(missing=True)
    model = HistGradientBoostingClassifier(max_iter=8).fit(frame, two())
    saved = sluice.save(model, frame, two(), tmp_path / "p")
    opened = open_package(saved.path)
    exact = OnnxScorer(opened.model_bytes, opened.manifest, opened.manifest.output)

    class Flawed:
        def raw(self, given: dict[str, np.ndarray]) -> np.ndarray:
            scores = exact.raw(given)
            if flaw == "score":
                return scores + 1e-8
            if flaw == "label":
                return np.where(np.abs(scores - 0.5) < 0.2, 1 - scores, scores)
            if flaw == "missing":
                return np.where(np.isnan(given["a"])[:, None], 0.5, scores)
            return scores + (1e-7 if len(scores) == 1 else 0)

    manifest = opened.manifest
    schema = ModelSchema(manifest.inputs, manifest.layout, manifest.task, manifest.output)
    given = {c: frame[c].to_numpy() for c in frame}
    verdict = judge(exact, Flawed(), given, schema, nullable=set(frame))
    assert verdict.parity == "Failed"
    expected = {"score": "scores differ", "label": "labels differ", "batch": "one by one"}
    assert expected.get(flaw, "differ") in verdict.detail


def test_a_number_where_the_original_refuses_fails_the_gate(tmp_path: Path) -> None:
    """The trap: a converted model must never answer a missing value the original raises for."""
    frame = numbers()
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(frame, two())
    saved = sluice.save(model, frame, two(), tmp_path / "p")
    opened = open_package(saved.path)
    manifest = opened.manifest
    exact = OnnxScorer(opened.model_bytes, manifest, manifest.output)

    class Refuses:
        def raw(self, given: dict[str, np.ndarray]) -> np.ndarray:
            if any(np.isnan(v).any() for v in given.values()):
                raise ValueError("Input X contains NaN.")
            return exact.raw(given)

    class Answers:
        def raw(self, given: dict[str, np.ndarray]) -> np.ndarray:
            return exact.raw({k: np.nan_to_num(v) for k, v in given.items()})

    schema = ModelSchema(manifest.inputs, manifest.layout, manifest.task, manifest.output)
    given = {c: frame[c].to_numpy() for c in frame}
    assert judge(Refuses(), exact, given, schema, nullable={"a"}).parity == "Passed"
    verdict = judge(Refuses(), Answers(), given, schema, nullable={"a"})
    assert (verdict.parity, "the original refuses" in verdict.detail) == ("Failed", True)
