"""Native model files through ``sluice package``, bare, and against other environments."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import catboost
import lightgbm
import numpy as np
import pandas as pd
import pytest
import xgboost
from click.testing import CliRunner
from tests.unit import format_models as formats
from tests.unit import package_support as support

import sluice
from sluice.cli import group
from sluice.errors import InvalidInputError, PackageError
from sluice.package.load import open_package
from sluice.runtime.predictor import load_predictor

FILES = {
    "model.json": "XGBClassifier",
    "model.ubj": "XGBClassifier",
    "model.txt": "LGBMClassifier",
    "model.cbm": "CatBoostClassifier",
}


def write(path: Path, fitted: formats.Fitted) -> Path:
    """As the library's users write it."""
    model = fitted.model.booster_ if path.suffix == ".txt" else fitted.model
    model.save_model(str(path))
    return path


@pytest.fixture(params=FILES)
def file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return write(tmp_path / request.param, formats.models()[FILES[request.param]])


def test_package_asks_nobody_and_keeps_the_file(file: Path, tmp_path: Path) -> None:
    fitted = formats.models()[FILES[file.name]]
    rows = fitted.rows.assign(late=formats.two(fitted.rows))
    rows.to_parquet(tmp_path / "rows.parquet")
    out = tmp_path / "out"
    done = CliRunner().invoke(
        group, ["package", str(file), "--examples", str(tmp_path / "rows.parquet"),
               "--label", "late", "--threshold", "0.3", "--out", str(out)],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    package = open_package(out)
    assert package.manifest.model.file == file.name
    assert package.model_bytes == file.read_bytes()
    assert package.manifest.output.threshold == 0.3
    assert package.profile()["calibration"]  # type: ignore[index]
    predictor = load_predictor(package, allow_code=False)
    row = json.loads(fitted.rows[:1].to_json(orient="records"))[0]
    assert predictor.predict_rows([row]).scores[0] == fitted.native(fitted.rows[:1])[0, 1]


def test_a_bare_file_serves_with_what_it_says(file: Path) -> None:
    fitted = formats.models()[FILES[file.name]]
    package = open_package(file)
    assert package.bare
    assert package.manifest.model.trust_class == "Data"
    inputs = {spec.name: spec for spec in package.manifest.inputs}
    assert list(inputs) == list(fitted.rows.columns)
    assert inputs["plan"].type == "string"
    if file.suffix != ".cbm":
        assert inputs["plan"].categories == tuple(formats.PLANS)
    row: dict[str, Any] = {"age": 0.5, "income": -1.0, "b": 0.0, "c": 2.0, "plan": "pro"}
    row["visits"] = "3" if inputs["visits"].type == "string" else 3
    answer = load_predictor(package, allow_code=False).predict_rows([row])
    frame = fitted.rows[:1].assign(**{**row, "visits": 3})
    if isinstance(fitted.rows.plan.dtype, pd.CategoricalDtype):
        frame["plan"] = pd.Categorical(["pro"], categories=formats.PLANS)
    assert answer.scores[0] == fitted.native(frame)[0, 1]


def test_inspect_says_that_it_is_data(file: Path) -> None:
    done = CliRunner().invoke(group, ["inspect", str(file)])
    assert done.exit_code == 0, done.output
    assert "class Data; needs no trust decision" in done.output


def test_columns_are_brought_into_the_models_order(tmp_path: Path) -> None:
    fitted = formats.models()["LGBMClassifier"]
    mixed = fitted.rows[["plan", "c", "age", "visits", "income", "b"]].assign(extra=1)
    saved = sluice.save(fitted.model, mixed, fitted.truth, tmp_path / "out")
    assert [i.name for i in saved.manifest.inputs] == list(fitted.rows.columns)
    assert any("extra" in note for note in saved.notes)


@pytest.mark.parametrize("name", FILES.values())
def test_an_absent_column_is_named(name: str, tmp_path: Path) -> None:
    fitted = formats.models()[name]
    with pytest.raises(InvalidInputError, match="'income'"):
        sluice.save(fitted.model, fitted.rows.drop(columns="income"), None, tmp_path / "out")


@pytest.mark.parametrize(
    ("column", "values", "why"),
    [("age", "old", "was trained on numbers"), ("plan", 1, "was trained on text")],
)
def test_another_type_than_in_training_is_named(
    column: str, values: Any, why: str, tmp_path: Path
) -> None:
    fitted = formats.models()["XGBClassifier"]
    rows = fitted.rows.assign(**{column: values})
    with pytest.raises(InvalidInputError, match=why):
        sluice.save(fitted.model, rows, None, tmp_path / "out")


def test_an_array_needs_as_many_columns(tmp_path: Path) -> None:
    rows = formats.table()[["age", "income"]].to_numpy()
    model = lightgbm.LGBMRegressor(n_estimators=2, verbose=-1).fit(rows, np.arange(len(rows)))
    saved = sluice.save(model, rows, None, tmp_path / "out")
    assert [i.name for i in saved.manifest.inputs] == ["x0", "x1"]
    with pytest.raises(InvalidInputError, match="trained on 2"):
        sluice.save(model, rows[:, :1], None, tmp_path / "other")


def test_labels_of_a_classifier_are_kept(tmp_path: Path) -> None:
    fitted = formats.models()["LGBMClassifier"]
    saved = sluice.save(fitted.model, fitted.rows, fitted.truth, tmp_path / "a", positive="leave")
    assert saved.manifest.output.labels == ("leave", "stay")
    assert saved.manifest.output.positive == "leave"


def test_catboost_keeps_its_own_threshold(tmp_path: Path) -> None:
    rows, truth = formats.table()[["age", "b"]], formats.two(formats.table())
    model = catboost.CatBoostClassifier(iterations=3, verbose=0, allow_writing_files=False)
    model.fit(rows, truth).set_probability_threshold(0.25)
    assert sluice.save(model, rows, truth, tmp_path / "out").manifest.output.threshold == 0.25


def test_a_holdout_gives_the_reference_scores(tmp_path: Path) -> None:
    rows = formats.table()[["age", "b"]].assign(
        grade=pd.Categorical(np.arange(formats.ROWS) % 3, categories=[0, 1, 2])
    )
    truth = formats.two(formats.table())
    model = lightgbm.LGBMClassifier(n_estimators=3, n_jobs=1, verbose=-1).fit(rows, truth)
    saved = sluice.save(
        model, rows[:200], truth[:200], tmp_path / "out", holdout=(rows[200:], truth[200:])
    )
    profile = open_package(saved.path).profile()
    assert profile is not None
    assert profile["scores"]["source"] == "holdout"
    assert [i.type for i in saved.manifest.inputs] == ["float", "float", "int"]


def test_the_same_model_gives_the_same_digest(tmp_path: Path) -> None:
    fitted = formats.models()["XGBClassifier"]
    digests = {
        sluice.save(fitted.model, fitted.rows, fitted.truth, tmp_path / n).digest for n in "ab"
    }
    assert len(digests) == 1


def test_another_version_is_refused_by_name(tmp_path: Path) -> None:
    fitted = formats.models()["LGBMClassifier"]
    sluice.save(fitted.model, fitted.rows, fitted.truth, tmp_path / "out")
    version = lightgbm.__version__
    support.rewrite(tmp_path / "out", f'"lightgbm":"{version}"', '"lightgbm":"3.3.5"')
    with pytest.raises(PackageError, match=r"lightgbm needs 3\.\*") as refused:
        open_package(tmp_path / "out")
    assert refused.value.reason == "EnvironmentMismatch"


def test_a_library_that_is_not_there_is_named() -> None:
    from sluice.package.native.shared_library import open_library

    with pytest.raises(PackageError, match="sluice-operator") as refused:
        open_library("json", "libxgboost")  # a package without such a library
    assert refused.value.reason == "EnvironmentMismatch"


def test_serving_does_not_import_the_python_package(tmp_path: Path) -> None:
    """It would cost every pod a second and 160 MB."""
    import subprocess
    import sys

    for name in ("XGBClassifier", "LGBMClassifier"):
        fitted = formats.models()[name]
        sluice.save(fitted.model, fitted.rows, fitted.truth, tmp_path / name)
        code = (
            "import sys; from pathlib import Path; "
            "from sluice.package.load import open_package; "
            "from sluice.runtime.predictor import check_golden, load_predictor; "
            "p = open_package(Path(sys.argv[1])); "
            "assert check_golden(load_predictor(p, allow_code=False), p) is None; "
            "print({'xgboost', 'lightgbm', 'pandas', 'scipy', 'sklearn'} & set(sys.modules))"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / name)],
            capture_output=True, text=True, env={"PYTHONPATH": "operator"},
            cwd=Path(__file__).parents[2],
        )  # fmt: skip
        assert done.stdout == "set()\n", done.stderr


UNSERVED = {
    "linear_tree": lambda x, y: lightgbm.LGBMRegressor(
        n_estimators=2, verbose=-1, linear_tree=True
    ).fit(x, y).booster_,
    "gblinear": lambda x, y: xgboost.train({"booster": "gblinear"}, xgboost.DMatrix(x, y), 2),
    "2 outputs": lambda x, y: xgboost.train({}, xgboost.DMatrix(x, np.column_stack([y, y])), 2),
}  # fmt: skip


@pytest.mark.parametrize(("why", "train"), UNSERVED.items(), ids=UNSERVED)
def test_what_is_not_served_is_said(why: str, train: Any, tmp_path: Path) -> None:
    rows = formats.table()[["age", "b"]].fillna(0)
    model = train(rows, formats.two(formats.table()).astype(float))
    with pytest.raises(PackageError, match=why) as refused:
        sluice.save(model, rows, None, tmp_path / "out")
    assert refused.value.reason == "UnknownFormat"
    assert refused.value.hint


def test_letters_that_xgboost_cuts_are_refused(tmp_path: Path) -> None:
    rows = pd.DataFrame({"city": pd.Categorical(["Zürich", "Bern"] * 20), "a": np.arange(40.0)})
    model = xgboost.train({}, xgboost.DMatrix(rows, np.arange(40) % 2, enable_categorical=True), 2)
    with pytest.raises(PackageError, match="outside ASCII"):
        sluice.save(model, rows, None, tmp_path / "out")


def test_code_does_not_go_with_a_file_that_is_data(file: Path, tmp_path: Path) -> None:
    rows = tmp_path / "rows.parquet"
    formats.models()[FILES[file.name]].rows.to_parquet(rows)
    (tmp_path / "pre.py").write_text("def pre(x):\n    return x\n")
    done = CliRunner().invoke(
        group, ["package", str(file), "--examples", str(rows), "--code", str(tmp_path / "pre.py"),
               "--preprocess", "pre:pre"],
    )  # fmt: skip
    assert isinstance(done.exception, InvalidInputError)
    assert done.exception.hint
