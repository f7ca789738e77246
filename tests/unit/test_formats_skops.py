"""skops files: packaged without consent, ONNX where that is exact, else class Restricted."""

from __future__ import annotations

import io
import zipfile
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from click.testing import CliRunner, Result
from sklearn.discriminant_analysis import QuadraticDiscriminantAnalysis
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from skops import io as skops_io
from tests.unit import package_support as support
from tests.unit.runtime_support import read_manifest, write_package

from sluice.cli import group
from sluice.errors import PackageError, SluiceError
from sluice.package.load import open_package
from sluice.package.manifest import ModelFile
from sluice.runtime.predictor import check_golden, load_predictor


def curved() -> Any:
    """Not convertible to ONNX."""
    frame, label = support.table()
    return make_pipeline(StandardScaler(), QuadraticDiscriminantAnalysis()).fit(frame, label)


def package(model: Any, folder: Path, *more: str) -> Result:
    """``sluice package`` of a model saved by skops; nobody is there to consent."""
    data = model if isinstance(model, bytes) else skops_io.dumps(model)
    (folder / "model.skops").write_bytes(data)
    frame, label = support.table()
    frame.assign(y=label).to_csv(folder / "rows.csv", index=False)
    return CliRunner().invoke(
        group, ["package", str(folder / "model.skops"), "--examples", str(folder / "rows.csv"),
                "--label", "y", "--out", str(folder / "out"), *more],
    )  # fmt: skip


def test_what_becomes_onnx_is_data(tmp_path: Path) -> None:
    done = package(support.linear()[0], tmp_path)
    assert done.exit_code == 0, done.output
    assert open_package(tmp_path / "out").manifest.model.trust_class == "Data"


def test_the_rest_is_restricted_and_answers_what_it_answered(tmp_path: Path) -> None:
    model = curved()
    done = package(model, tmp_path)
    assert done.exit_code == 0, done.output
    opened = open_package(tmp_path / "out")
    assert opened.manifest.model == ModelFile(
        file="model.skops", format="skops", trust_class="Restricted"
    )
    assert {"scikit-learn", "skops"} <= set(opened.manifest.environment.requires)
    with pytest.raises(PackageError, match="types that skops trusts") as refused:
        load_predictor(opened, allow_code=False)
    assert refused.value.reason == "Untrusted"
    predictor = load_predictor(opened, allow_code=True)
    assert check_golden(predictor, opened) is None
    frame, _ = support.table(seed=1)
    answer = predictor.predict({c: frame[c].to_numpy() for c in frame})
    assert np.array_equal(answer.matrix, model.predict_proba(frame))  # type: ignore[arg-type]


def test_the_request_admits_class_restricted(tmp_path: Path) -> None:
    package(curved(), tmp_path)
    out = str(tmp_path / "out")
    done = CliRunner().invoke(group, ["trust", "request", out, "--namespace", "churn"])
    assert "sklearn.discriminant_analysis.QuadraticDiscriminantAnalysis" in done.output
    assert yaml.safe_load(done.output)["spec"]["admit"][0]["classes"] == ["Restricted"]


def test_a_type_that_skops_does_not_trust_is_named(tmp_path: Path) -> None:
    model = curved()
    model.steps[1][1].note = Fraction(1, 3)
    done = package(model, tmp_path, "--trust-file", "sha256:" + "0" * 64)
    assert isinstance(done.exception, SluiceError)
    assert done.exception.reason == "NotTrusted"
    assert "fractions.Fraction" in done.exception.message


def test_trees_are_not_trusted_by_skops(tmp_path: Path) -> None:
    frame, label = support.table()
    done = package(KNeighborsClassifier().fit(frame, label), tmp_path)
    assert isinstance(done.exception, SluiceError)
    assert "KDTree" in done.exception.message
    assert "sluice.save" in done.exception.hint


def test_a_policy_admits_the_file_and_not_the_type(tmp_path: Path) -> None:
    """Whatever the manifest says, and also when the class was allowed."""
    package(curved(), tmp_path)
    model = curved()
    model.steps[1][1].note = Fraction(1, 3)
    manifest = read_manifest(tmp_path / "out")
    write_package(tmp_path / "other", manifest, {"model.skops": skops_io.dumps(model)})
    with pytest.raises(PackageError, match=r"fractions\.Fraction") as refused:
        load_predictor(open_package(tmp_path / "other"), allow_code=True)
    assert refused.value.reason == "NotTrusted"


def test_a_bare_file_is_told_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "model.skops").write_bytes(skops_io.dumps(curved()))
    with pytest.raises(PackageError, match="bare skops file") as refused:
        open_package(tmp_path / "model.skops")
    assert "sluice package" in refused.value.hint


@pytest.mark.parametrize("part", [0.1, 0.5, 0.9, 0.999])
def test_a_part_of_a_file_is_refused(part: float, tmp_path: Path) -> None:
    data = skops_io.dumps(curved())
    done = package(data[: int(part * len(data))], tmp_path)
    assert isinstance(done.exception, SluiceError), done.output
    assert done.exception.reason in ("Corrupt", "UnknownFormat")


def test_a_damaged_file_is_refused_or_answers(tmp_path: Path) -> None:
    from sluice.package.skops_file import load_skops

    data = skops_io.dumps(curved())
    random = np.random.default_rng(0)
    refused = 0
    for _ in range(60):
        bad = bytearray(data)
        for at in random.integers(0, len(data), 4):
            bad[at] = random.integers(0, 256)
        try:
            load_skops(bytes(bad))
        except PackageError as error:
            refused += 1
            assert error.reason in ("Corrupt", "NotTrusted")
    assert refused > 30


def test_a_bomb_is_refused_by_its_size(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("schema.json", "{}")
        with archive.open("1.npy", "w") as member:
            for _ in range(300):
                member.write(bytes(1024**2))
    done = package(buffer.getvalue(), tmp_path)
    assert isinstance(done.exception, SluiceError)
    assert done.exception.reason == "TooLarge"


def test_deep_nesting_is_refused(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("schema.json", '{"content":' * 50_000 + "1" + "}" * 50_000)
    done = package(buffer.getvalue(), tmp_path)
    assert isinstance(done.exception, SluiceError)
    assert done.exception.reason == "Corrupt"
