"""XGBoost, LightGBM and CatBoost models answer through Sluice exactly what they answer themselves.

On the examples and on rows with missing values, infinite and huge numbers, and categories that
training never saw; by the predictor that jobs use, one row at a time, by /predict and by V2.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from tests.unit import format_models as formats
from tests.unit import runtime_support as support

import sluice
from sluice.package.examples import describe
from sluice.package.load import open_package
from sluice.runtime.predictor import Predictor, check_golden, load_predictor

KINDS = list(formats.models())
SERVED = ["XGBClassifier", "LGBMClassifier", "CatBoostClassifier"]
WANTED = 1200


def hard(fitted: formats.Fitted, *, finite: bool = False) -> pd.DataFrame:
    """At least 1,000 rows: the examples, shuffled columns, and what no training data has."""
    random = np.random.default_rng(9)
    rows = fitted.rows.sample(WANTED, replace=True, random_state=3).reset_index(drop=True)
    for name in rows.columns:
        if name != "plan" and not np.issubdtype(rows[name].dtype, np.integer):
            rows[name] = random.permutation(rows[name].to_numpy())
            edges = [np.nan, 1e30, -1e30, 1e-40, 0.0, -0.0] + ([] if finite else [np.inf, -np.inf])
            rows.loc[random.choice(WANTED, 60, replace=False), name] = random.choice(edges, 60)
    if "plan" in rows:
        plans = rows.plan.astype(object)
        plans[random.choice(WANTED, 80, replace=False)] = "never seen"
        if isinstance(fitted.rows.plan.dtype, pd.CategoricalDtype):
            plans[random.choice(WANTED, 40, replace=False)] = None
        rows["plan"] = plans
    return rows


def own_answer(fitted: formats.Fitted, rows: pd.DataFrame) -> Any:
    """The library's; a frame's categories are those of training, as its users must do it."""
    if "plan" in rows and isinstance(fitted.rows.plan.dtype, pd.CategoricalDtype):
        known = rows.plan.where(rows.plan.isin(formats.PLANS), None)
        rows = rows.assign(plan=pd.Categorical(known, categories=formats.PLANS))
    return np.asarray(fitted.native(rows), dtype=np.float64)


@pytest.fixture(scope="module", params=KINDS)
def fitted(request: pytest.FixtureRequest) -> formats.Fitted:
    return formats.models()[request.param]


@pytest.fixture(scope="module")
def package(fitted: formats.Fitted, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("package") / "out"
    sluice.save(fitted.model, fitted.rows, fitted.truth, out)
    return out


@pytest.fixture(scope="module")
def predictor(package: Path) -> Predictor:
    return load_predictor(open_package(package), allow_code=False)


def test_it_is_data_and_names_its_library(package: Path, fitted: formats.Fitted) -> None:
    opened = open_package(package)
    model, wanted = opened.manifest.model, opened.manifest.environment
    assert model.trust_class == "Data"
    assert list(wanted.requires) == [model.format]
    assert f"{model.format}" in (package / "requirements.lock").read_text()
    assert [i.name for i in opened.manifest.inputs] == list(fitted.rows.columns)
    assert opened.profile() is not None
    assert len(opened.golden()) >= 40


def test_its_golden_examples_are_answered(package: Path, predictor: Predictor) -> None:
    assert check_golden(predictor, open_package(package), tolerance=0.0) is None


def test_a_batch_answers_what_the_library_answers(
    predictor: Predictor, fitted: formats.Fitted
) -> None:
    rows = hard(fitted)
    answer = predictor.predict(describe(rows)[1])
    got = answer.scores if answer.matrix is None else answer.matrix
    assert np.array_equal(got, own_answer(fitted, rows))


def test_a_row_answers_what_the_batch_answers(predictor: Predictor, fitted: formats.Fitted) -> None:
    columns = describe(hard(fitted))[1]
    whole = predictor.predict(columns)
    for row in range(0, WANTED, 12):
        one = predictor.predict({k: v[row : row + 1] for k, v in columns.items()})
        assert one.scores[0] == whole.scores[row]
        assert one.labels is None or one.labels[0] == whole.labels[row]  # type: ignore[index]


def test_it_may_miss_what_the_library_may_miss(package: Path, fitted: formats.Fitted) -> None:
    """CatBoost refuses a missing category; everything else has a way for missing values."""
    strict = [i.name for i in open_package(package).manifest.inputs if not i.nullable]
    assert strict == (["visits", "plan"] if fitted.name == "CatBoostClassifier" else [])


@pytest.fixture(scope="module", params=SERVED)
def served(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[support.Server, formats.Fitted]]:
    fitted = formats.models()[request.param]
    out = tmp_path_factory.mktemp("served") / "out"
    sluice.save(fitted.model, fitted.rows, fitted.truth, out, threshold=0.4)
    with support.serving(out) as server:
        yield server, fitted


def _plain(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """As JSON carries them: null for what is missing."""
    return [
        {name: None if pd.isna(value) else value for name, value in one.items()}
        for one in rows.to_dict("records")
    ]


def test_predict_answers_the_library(served: tuple[support.Server, formats.Fitted]) -> None:
    server, fitted = served
    rows = hard(fitted, finite=True)
    want = own_answer(fitted, rows)
    status, body = server.post("/predict", _plain(rows))
    assert status == 200
    assert [p["score"] for p in body["predictions"]] == want[:, 1].tolist()
    labels = fitted.model.classes_[(want[:, 1] >= 0.4).astype(int)]
    assert [p["label"] for p in body["predictions"]] == labels.tolist()


def test_v2_answers_the_library(served: tuple[support.Server, formats.Fitted]) -> None:
    server, fitted = served
    rows = hard(fitted, finite=True)
    inputs = [
        {
            "name": name,
            "shape": [len(rows)],
            "datatype": "BYTES" if name == "plan" else "INT64" if name == "visits" else "FP64",
            "data": [one[name] for one in _plain(rows)],
        }
        for name in rows.columns
    ]
    ready = server.request("GET", "/v2/models/model")[2]
    assert {i["name"] for i in ready["inputs"]} == set(rows.columns)
    status, body = server.post("/v2/models/model/infer", {"inputs": inputs})
    assert status == 200, body
    scores = next(o for o in body["outputs"] if o["name"] != "label")
    want = own_answer(fitted, rows)
    got = np.array(scores["data"], dtype=np.float64)
    assert np.array_equal(got, want[:, 1] if got.size == len(want) else want.reshape(-1))


def test_a_wrong_value_is_the_clients_error(
    served: tuple[support.Server, formats.Fitted],
) -> None:
    server, fitted = served
    good = _plain(fitted.rows[:1])[0]
    status, body = server.post("/predict", {**good, "age": "old"})
    assert status == 400
    assert "age" in json.dumps(body)
