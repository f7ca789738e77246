"""sluice.save: what ends up in the package, and the rules behind it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.compose import make_column_transformer
from sklearn.ensemble import (
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
)
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler
from tests.unit import package_support as support

import sluice
from sluice.errors import InvalidInputError, PackageError, SluiceError
from sluice.package.features import columns_from_rows
from sluice.package.load import Package, open_package
from sluice.package.scoring import OnnxScorer, PythonScorer, answer


def save(out: Path, model: Any, *args: Any, **options: Any) -> Package:
    saved = sluice.save(model, *args, out=out / "package", **options)
    return open_package(saved.path, saved.digest)


def nullable(package: Package) -> dict[str, bool]:
    return {i.name: i.nullable for i in package.manifest.inputs}


# what a package holds


def test_golden_examples_are_answered_by_the_packaged_model(tmp_path: Path) -> None:
    model, frame, label = support.linear()
    package = save(tmp_path, model, frame, label, threshold=0.7)
    scorer = OnnxScorer(package.model_bytes, package.manifest, package.manifest.output)
    examples = package.golden()
    columns = columns_from_rows(package.manifest.inputs, [e.row for e in examples])
    result = answer(scorer.raw(columns), package.manifest.output)
    assert np.abs(result.scores - [e.score for e in examples]).max() <= 1e-9
    assert result.labels == [e.label for e in examples]
    expected = model.predict_proba(frame)[:, 1] >= 0.7
    assert {e.label for e in examples} == {0, 1} and expected.any()


def test_golden_examples_can_be_left_out(tmp_path: Path) -> None:
    model, frame, label = support.linear()
    assert save(tmp_path, model, frame, label, golden=0).golden() == []


def test_the_profile_counts_every_row_once(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "wide": random.normal(size=5000),
            "few": random.integers(0, 5, 5000),
            "holes": np.where(random.random(5000) < 0.2, np.nan, 1.0),
            "text": random.choice(["x", "y", None], 5000),
        }
    )
    label = (frame.wide > 0).to_numpy()
    encode = make_column_transformer(
        (OneHotEncoder(handle_unknown="ignore"), ["text"]), remainder="passthrough"
    )
    model = make_pipeline(encode, HistGradientBoostingClassifier(max_iter=5)).fit(frame, label)
    profile = save(tmp_path, model, frame, label).profile()
    assert profile is not None
    features = profile["features"]
    for feature in features.values():
        assert sum(feature["counts"]) + feature["missing"] + feature.get("other", 0) == 5000
    assert len(features["wide"]["counts"]) == 40 == len(features["wide"]["edges"]) + 1
    assert len(features["few"]["counts"]) == 5
    assert features["few"]["counts"] == frame.few.value_counts().sort_index().tolist()
    assert features["holes"]["counts"][0] == int(frame.holes.notna().sum())
    assert abs(features["holes"]["missingShare"] - frame.holes.isna().mean()) < 1e-6
    assert set(features["text"]["categories"]) == {"x", "y"}
    scores = profile["scores"]
    assert len(scores["counts"]) == len(scores["edges"]) + 1 <= 20
    assert sum(scores["counts"]) == scores["rows"] == 5000
    assert sum(part["count"] for part in profile["calibration"]) == 5000


def test_a_holdout_gives_the_reference_scores(tmp_path: Path) -> None:
    model, frame, label = support.linear()
    held, truth = support.table(seed=9, rows=100)
    profile = save(tmp_path, model, frame, label, holdout=(held, truth)).profile()
    assert profile is not None
    assert (profile["scores"]["source"], profile["scores"]["rows"]) == ("holdout", 100)
    assert profile["rows"] == support.ROWS


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda f: f.drop(columns="b"), "holdout lacks.*'b'"),
        (lambda f: f.assign(b="x"), "'b' is float in the examples and string in the holdout"),
    ],
)
def test_a_holdout_must_have_the_same_columns(tmp_path: Path, change: Any, says: str) -> None:
    model, frame, label = support.linear()
    with pytest.raises(InvalidInputError, match=says):
        save(tmp_path, model, frame, label, holdout=(change(frame), label))


def test_a_name_that_cannot_be_served_is_refused(tmp_path: Path) -> None:
    model, frame, label = support.linear()
    for name in ("", "../up", "a b", "x" * 65, "ok\n"):
        with pytest.raises(InvalidInputError, match="name"):
            save(tmp_path, model, frame, label, name=name)


def test_the_schema_has_types_ranges_and_categories(tmp_path: Path) -> None:
    frame, label = support.table()
    frame["whole"] = np.arange(len(frame), dtype=np.int16)
    frame["flag"] = frame.a > 0
    frame["text"] = pd.Series(["x", "y", "z"] * 100, dtype="string")
    frame["Int"] = pd.array([1, 2, None] * 100, dtype="Int64")
    frame["boolean"] = pd.array([True, None, False] * 100, dtype="boolean")
    frame["float"] = pd.array([1.5, None, 2.5] * 100, dtype="Float32")
    frame["object"] = pd.Series([1, 2, 3.5] * 100, dtype=object)
    encode = make_column_transformer((OneHotEncoder(), ["text"]), remainder="passthrough")
    model = make_pipeline(encode, HistGradientBoostingClassifier(max_iter=5))
    plain = frame.astype(dict.fromkeys(["Int", "boolean", "float", "object"], np.float64))
    package = save(tmp_path, model.fit(plain, label), frame, label)
    kinds = {i.name: i.type for i in package.manifest.inputs}
    assert kinds == {
        **dict.fromkeys(["a", "b", "c", "float", "object"], "float"),
        **dict.fromkeys(["whole", "Int"], "int"),
        **dict.fromkeys(["flag", "boolean"], "bool"),
        "text": "string",
    }
    whole = next(i for i in package.manifest.inputs if i.name == "whole")
    assert (whole.min, whole.max) == (0, 299)
    text = next(i for i in package.manifest.inputs if i.name == "text")
    assert text.categories == ("x", "y", "z")


def test_pandas_categories_reach_the_model_as_categories(tmp_path: Path) -> None:
    frame, label = support.table()
    frame["plan"] = pd.Categorical(np.where(frame.a > 0, "pro", "free"), ["free", "pro", "old"])
    model = HistGradientBoostingClassifier(max_iter=10).fit(frame, label)
    package = save(tmp_path, model, frame, label, convert=False)
    spec = package.manifest.inputs[-1]
    assert spec.categorical and spec.categories == ("free", "pro", "old")
    assert package.manifest.model.format == "joblib"
    scorer = PythonScorer(model, package.manifest, package.manifest.output)
    columns = columns_from_rows(package.manifest.inputs, [e.row for e in package.golden()])
    got = answer(scorer.raw(columns), package.manifest.output).scores
    assert np.abs(got - [e.score for e in package.golden()]).max() == 0


# nullability


def test_nullable_follows_what_the_original_accepts(tmp_path: Path) -> None:
    model, frame, label = support.linear()
    assert not any(nullable(save(tmp_path, model, frame, label)).values())
    boosted = HistGradientBoostingClassifier(max_iter=5).fit(frame, label)
    assert all(nullable(save(tmp_path, boosted, frame, label)).values())


@pytest.mark.parametrize("given", [{"b": True}, ["b"], "b"])
def test_nullable_by_override_is_a_model_error_never_a_label(tmp_path: Path, given: Any) -> None:
    """v4 of the demo: the row reaches the model, whose score is then no number."""
    model, frame, label = support.linear()
    package = save(tmp_path, model, frame, label, nullable=given)
    assert nullable(package) == {"a": False, "b": True, "c": False}
    assert package.manifest.model.format == "onnx"
    row = {"a": 1.0, "b": None, "c": 0.0}
    columns = columns_from_rows(package.manifest.inputs, [row])
    scorer = OnnxScorer(package.model_bytes, package.manifest, package.manifest.output)
    assert not answer(scorer.raw(columns), package.manifest.output).finite[0]
    assert not any(None in example.row.values() for example in package.golden())


def test_an_override_never_makes_trees_answer_what_the_original_refuses(tmp_path: Path) -> None:
    frame, label = support.table()
    model = GradientBoostingClassifier(n_estimators=5).fit(frame, label)
    package = save(tmp_path, model, frame, label, nullable=["a"])
    columns = columns_from_rows(package.manifest.inputs, [{"a": None, "b": 0.0, "c": 0.0}])
    scorer = OnnxScorer(package.model_bytes, package.manifest, package.manifest.output)
    assert not answer(scorer.raw(columns), package.manifest.output).finite[0]


def test_not_nullable_by_override(tmp_path: Path) -> None:
    frame, label = support.table()
    model = HistGradientBoostingClassifier(max_iter=5).fit(frame, label)
    package = save(tmp_path, model, frame, label, nullable={"c": False})
    assert nullable(package) == {"a": True, "b": True, "c": False}


def test_golden_rows_fit_the_schema_that_was_asked_for(tmp_path: Path) -> None:
    frame, label = support.table()
    frame.loc[::2, "c"] = np.nan
    model = HistGradientBoostingClassifier(max_iter=5).fit(frame, label)
    package = save(tmp_path, model, frame, label, nullable={"c": False})
    rows = [example.row for example in package.golden()]
    assert len(columns_from_rows(package.manifest.inputs, rows)["c"]) == len(rows) > 10


def test_an_override_of_an_unknown_column_is_refused(tmp_path: Path) -> None:
    model, frame, label = support.linear()
    with pytest.raises(InvalidInputError, match=r"'pressure'.*not a column"):
        save(tmp_path, model, frame, label, nullable=["pressure"])


def test_examples_that_the_model_refuses_are_left_out_and_said(tmp_path: Path) -> None:
    """Trained after dropna(), packaged with the raw rows."""
    model, frame, label = support.linear()
    holes = frame.copy()
    holes.loc[::4, "b"] = np.nan
    saved = sluice.save(model, holes, label, tmp_path / "p")
    assert any("75 of 300 example rows have missing values" in n for n in saved.notes)
    package = open_package(saved.path)
    assert not package.manifest.inputs[1].nullable
    profile = package.profile()
    assert profile is not None and profile["features"]["b"]["missing"] == 75
    assert profile["scores"]["rows"] == 225


def test_a_given_graph_needs_examples_with_holes_to_be_nullable(tmp_path: Path) -> None:
    frame, label = support.table()
    model = RandomForestClassifier(5, random_state=0).fit(frame, label)
    graph = save(tmp_path, model, frame, label).model_bytes
    assert not any(nullable(save(tmp_path, graph, frame, label)).values())
    frame.loc[3, "a"] = np.nan
    assert nullable(save(tmp_path, graph, frame, label)) == {"a": True, "b": False, "c": False}


# labels and thresholds


@pytest.mark.parametrize(
    ("classes", "labels"),
    [
        ([0, 1], (0, 1)),
        ([0.0, 1.0], (0, 1)),
        ([False, True], (False, True)),
        (["late", "on time"], ("late", "on time")),
    ],
)
def test_labels_keep_their_type(tmp_path: Path, classes: list[Any], labels: Any) -> None:
    frame, label = support.table()
    model = LogisticRegression().fit(frame, np.array(classes)[label])
    package = save(tmp_path, model, frame, None)
    assert package.manifest.output.labels == labels
    assert [type(v) for v in package.manifest.output.labels or ()] == [type(v) for v in labels]
    assert package.manifest.output.positive == labels[1]


def test_the_positive_label_can_be_the_first(tmp_path: Path) -> None:
    frame, label = support.table()
    model = LogisticRegression().fit(frame, np.array(["late", "fine"])[label])
    package = save(tmp_path, model, frame, None, positive="fine")
    assert package.manifest.output.positive == "fine"
    example = package.golden()[0]
    want = model.predict_proba(pd.DataFrame([example.row])[list("abc")])[0, 0]
    assert abs(example.score - want) < 1e-9


def test_wrong_labels_and_thresholds_are_refused(tmp_path: Path) -> None:
    model, frame, label = support.linear()
    for options in ({"positive": "maybe"}, {"threshold": 1.5}, {"threshold": float("nan")}):
        with pytest.raises(InvalidInputError):
            save(tmp_path, model, frame, label, **options)


def test_a_regression_has_values_and_no_labels(tmp_path: Path) -> None:
    frame, _ = support.table()
    package = save(tmp_path, LinearRegression().fit(frame, frame.a * 3), frame)
    assert package.manifest.task == "regression"
    assert package.manifest.output.labels is None
    assert package.golden()[0].label is None


# inputs as people hold them


def test_arrays_get_names_and_frames_keep_theirs(tmp_path: Path) -> None:
    frame, label = support.table()
    array = frame.to_numpy()
    model = LogisticRegression().fit(array, label)
    assert list(nullable(save(tmp_path, model, array, label))) == ["x0", "x1", "x2"]
    assert list(nullable(save(tmp_path, model, array.tolist(), label))) == ["x0", "x1", "x2"]
    named = save(tmp_path, model, frame, label, convert=False)
    assert list(nullable(named)) == ["a", "b", "c"] and named.manifest.layout == "Matrix"


def test_columns_are_put_into_the_order_of_training(tmp_path: Path) -> None:
    model, frame, label = support.linear()
    shuffled = frame[["c", "a", "b"]].assign(extra=1)
    saved = sluice.save(model, shuffled, label, tmp_path / "p")
    assert [i.name for i in saved.manifest.inputs] == ["a", "b", "c"]
    assert any("extra" in note for note in saved.notes)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda f: f.drop(columns="b"), "lack 1 column.*'b'"),
        (lambda f: f.assign(b=pd.Timestamp("2013-01-01")), "'b' has the type datetime64"),
        (lambda f: f.assign(b=["x", 1] * 150), "'b' mixes values"),
        (lambda f: f.assign(b=1j), "'b' has the type complex"),
        (lambda f: f.head(0), "empty"),
        (lambda f: f.rename(columns={"b": "a"}), "two columns named 'a'"),
        (lambda f: f.assign(b="x"), "does not answer its own examples"),
        (lambda f: f.to_numpy()[0], "1 dimension"),
    ],
)
def test_examples_that_do_not_fit_are_refused_by_name(
    tmp_path: Path, change: Any, says: str
) -> None:
    model, frame, _ = support.linear()
    with pytest.raises(InvalidInputError, match=says):
        save(tmp_path, model, change(frame), None)
    assert not (tmp_path / "package").exists()


def test_labels_must_belong_to_the_rows(tmp_path: Path) -> None:
    model, frame, label = support.linear()
    with pytest.raises(InvalidInputError, match="300 example rows but 299 labels"):
        save(tmp_path, model, frame, label[:-1])


def test_models_of_several_outputs_are_refused(tmp_path: Path) -> None:
    frame, label = support.table()
    both = np.column_stack([label, 1 - label])
    with pytest.raises(InvalidInputError, match="2 outputs"):
        save(tmp_path, RandomForestClassifier(3).fit(frame, both), frame)
    with pytest.raises(InvalidInputError, match="2 values a row"):
        save(tmp_path, LinearRegression().fit(frame, both), frame)


def test_a_model_that_was_never_fitted_says_so(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="NotFittedError"):
        save(tmp_path, LogisticRegression(), support.table()[0])


def test_a_notebook_shows_what_was_saved(tmp_path: Path) -> None:
    model, frame, label = support.linear()
    shown = repr(sluice.save(model, frame, label, tmp_path / "p"))
    assert "sha256:" in shown and "model.onnx: onnx, Data" in shown and "Passed" in shown


def test_what_cannot_predict_is_refused(tmp_path: Path) -> None:
    frame, _ = support.table()
    with pytest.raises(InvalidInputError, match="no predict method"):
        save(tmp_path, StandardScaler().fit(frame), frame)


# code


def test_what_lives_in_the_notebook_is_refused_by_name(tmp_path: Path) -> None:
    script = """
import numpy as np, sluice
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
def pre(X): return X * 2
X = np.random.default_rng(0).normal(size=(50, 2)); y = X[:, 0] > 0
model = make_pipeline(FunctionTransformer(pre), LogisticRegression()).fit(X, y)
try: sluice.save(model, X, y, "out")
except sluice.errors.PackageError as error: print(error.reason, error)
"""
    shown = run(script, tmp_path)
    assert shown.startswith("MainGlobal The model refers to __main__.pre,")
    assert "--code features.py" in shown
    assert not (tmp_path / "out").exists()


def test_a_lambda_is_refused_with_the_way_out(tmp_path: Path) -> None:
    frame, label = support.table()
    model = make_pipeline(FunctionTransformer(lambda X: X), LogisticRegression())
    with pytest.raises(PackageError, match=r"features\.py") as error:
        save(tmp_path, model.fit(frame, label), frame, label)
    assert error.value.reason == "NotPicklable"


def test_source_travels_in_the_package_and_is_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "sluice_test_features.py"
    source.write_text("def pre(frame):\n    return frame.assign(d=frame.a * frame.b)\n")
    monkeypatch.syspath_prepend(tmp_path)
    frame, label = support.table()
    model = LogisticRegression().fit(frame.assign(d=frame.a * frame.b), label)
    package = save(
        tmp_path,
        model,
        frame,
        label,
        code=[source],
        preprocess="sluice_test_features:pre",
    )
    assert package.manifest.model.trust_class == "Code"
    assert list(nullable(package)) == ["a", "b", "c"]
    assert package.read("code/sluice_test_features.py") == source.read_bytes()
    sys.modules.pop("sluice_test_features")
    from sluice.package.code import install_code

    pre = install_code(package)
    assert pre is not None and pre.__module__ == "sluice_test_features"
    scorer = PythonScorer(model, package.manifest, package.manifest.output, pre)
    example = package.golden()[0]
    columns = columns_from_rows(package.manifest.inputs, [example.row])
    assert answer(scorer.raw(columns), package.manifest.output).scores[0] == example.score
    before = package.digest
    source.write_text(source.read_text() + "# changed\n")
    again = save(
        tmp_path, model, frame, label, code=[source], preprocess="sluice_test_features:pre"
    )
    assert again.digest != before


def test_packaged_source_cannot_replace_an_installed_module(tmp_path: Path) -> None:
    from sluice.package.code import run_sources

    with pytest.raises(PackageError, match="replace the installed module 'json'"):
        run_sources({"code/json.py": b"x = 1"}, None)
    assert not hasattr(sys.modules["json"], "x")


def test_save_unpickles_nothing(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    for model in (support.hostile(marker), tmp_path / "model.joblib"):
        (tmp_path / "model.joblib").write_bytes(support.hostile(marker))
        with pytest.raises(PackageError, match="unpickles nothing"):
            sluice.save(model, [[1.0]], None, tmp_path / "p")
    assert not marker.exists()


# writing


def test_the_original_is_kept_only_when_asked(tmp_path: Path) -> None:
    model, frame, label = support.linear()
    package = save(tmp_path, model, frame, label, keep_original=True)
    assert package.manifest.original is not None
    assert package.manifest.original.trust_class == "Code"
    assert package.manifest.model.trust_class == "Data"
    assert (package.path / "model.joblib").exists() and not package.has("model.joblib")


def test_a_folder_of_something_else_is_not_replaced(tmp_path: Path) -> None:
    model, frame, label = support.linear()
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "thesis.txt").write_text("years of work")
    with pytest.raises(InvalidInputError, match="not a model package"):
        save(tmp_path, model, frame, label)
    (tmp_path / "package" / "thesis.txt").unlink()
    first = save(tmp_path, model, frame, label)
    assert save(tmp_path, model, frame, label).digest == first.digest
    assert [p.name for p in tmp_path.iterdir()] == ["package"]


SCRIPT = """
import numpy as np, pandas as pd, sluice
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
random = np.random.default_rng(0)
X = pd.DataFrame(random.normal(size=(400, 3)), columns=list("abc"))
X["carrier"] = random.choice(["UA", "DL", "AA", None], 400)
y = np.where(X.a > 0, "late", "fine")
columns = make_column_transformer(
    (OneHotEncoder(handle_unknown="ignore"), ["carrier"]), remainder="passthrough")
for number, last in enumerate((
    LogisticRegression(), HistGradientBoostingClassifier(max_iter=5, random_state=0),
    RandomForestClassifier(5, random_state=0))):
    model = make_pipeline(columns, StandardScaler(), last).fit(X, y)
    for convert in (True, False):
        print(sluice.save(model, X, y, f"{number}{convert}", convert=convert).digest)
"""


def run(script: str, folder: Path, **env: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(Path(sluice.__file__).parents[1]), **env},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_same_inputs_give_the_same_digest_in_another_process(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    a = run(SCRIPT, first, PYTHONHASHSEED="1", TZ="UTC")
    b = run(SCRIPT, second, PYTHONHASHSEED="2", TZ="Asia/Tokyo", LANG="C")
    assert a == b
    assert len(set(a.split())) == 6


def test_every_error_is_one_sentence_with_a_way_out(tmp_path: Path) -> None:
    model, frame, label = support.linear()
    with pytest.raises(SluiceError) as error:
        save(tmp_path, model, frame.drop(columns="a"), label)
    assert error.value.hint and "\n" not in str(error.value)
