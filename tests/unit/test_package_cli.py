"""``sluice package``, ``inspect``, ``trust request``: looked at before loaded, asked before run."""

from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from click.testing import CliRunner, Result
from cryptography.hazmat.primitives.asymmetric import ec
from tests.tools.wheels import write_wheel
from tests.unit import package_support as support

from sluice.api.trustpolicy import TrustPolicySpec
from sluice.cli import group
from sluice.errors import SluiceError
from sluice.package.environment import lock
from sluice.package.from_file import Options, package_file
from sluice.package.load import open_package
from sluice.package.manifest import digest_of
from sluice.package.signing import sign_package
from sluice.signature import pem_of


def sluice(*args: Any) -> Result:
    """Run the command as CI would: nobody answers questions."""
    return CliRunner().invoke(group, [str(a) for a in args], catch_exceptions=True)


def refused(*args: Any) -> SluiceError:
    result = sluice(*args)
    assert isinstance(result.exception, SluiceError), result.output
    return result.exception


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model, frame, label = support.linear()
    (tmp_path / "model.joblib").write_bytes(support.dumped(model, compress=3))
    (tmp_path / "model.pkl").write_bytes(pickle.dumps(model))
    frame.assign(late=label).to_parquet(tmp_path / "rows.parquet")
    frame.assign(late=label).to_csv(tmp_path / "rows.csv", index=False)
    frame.assign(late=label).to_json(tmp_path / "rows.jsonl", orient="records", lines=True)
    return tmp_path


def trusted(path: Path) -> tuple[str, str]:
    return "--trust-file", digest_of(path.read_bytes())


@pytest.mark.parametrize("model", ["model.joblib", "model.pkl"])
@pytest.mark.parametrize("rows", ["rows.parquet", "rows.csv", "rows.jsonl"])
def test_a_file_becomes_a_package(folder: Path, model: str, rows: str) -> None:
    file = folder / model
    options = ["--label", "late", "--threshold", 0.6, "--name", "flights", "--nullable", "a"]
    result = sluice(
        "package",
        file,
        "--examples",
        folder / rows,
        *options,
        *trusted(file),
        "--out",
        folder / "p",
    )
    assert result.exit_code == 0, result.output
    assert "sklearn.linear_model._logistic.LogisticRegression" in result.stderr
    digest, path = result.stdout.split()
    package = open_package(path, digest)
    assert package.manifest.name == "flights"
    assert package.manifest.output.threshold == 0.6
    assert [i.nullable for i in package.manifest.inputs] == [True, False, False]
    assert package.manifest.model.trust_class == "Data"


def test_a_package_does_not_depend_on_where_it_was_made(folder: Path) -> None:
    file = folder / "model.joblib"
    arguments = ["package", file, "--examples", folder / "rows.parquet", *trusted(file)]
    first = sluice(*arguments, "--out", folder / "one").stdout.split()[0]
    again = sluice(*arguments, "--out", folder / "elsewhere" / "two").stdout.split()[0]
    assert first == again


def test_nothing_is_loaded_without_consent(folder: Path) -> None:
    marker = folder / "marker"
    for name, data in {
        "plain.joblib": support.hostile(marker),
        "packed.joblib": support.dumped(support.Marker(marker), compress=3),
        "old.pkl": support.hostile(marker, protocol=0),
        "model.onnx": support.hostile(marker),
    }.items():
        file = folder / name
        file.write_bytes(data)
        error = refused("package", file, "--examples", folder / "rows.parquet")
        assert error.reason == "NotTrusted"
        assert f"--trust-file {digest_of(data)}" in str(error)
        sluice("inspect", file)
        assert not marker.exists()


def test_consent_is_for_exactly_these_bytes(folder: Path) -> None:
    marker = folder / "marker"
    file = folder / "model.joblib"
    consent = trusted(file)
    file.write_bytes(support.hostile(marker))
    error = refused("package", file, "--examples", folder / "rows.parquet", *consent)
    assert error.reason == "DigestMismatch"
    assert not marker.exists()


def test_a_person_is_asked_after_the_list_is_shown(folder: Path) -> None:
    said: list[str] = []
    options = Options(
        model=folder / "model.joblib", examples=folder / "rows.csv", label="late", out=folder / "p"
    )

    def no(question: str) -> bool:
        assert any("LogisticRegression" in line for line in said)
        said.append(question)
        return False

    with pytest.raises(SluiceError, match="nobody agreed"):
        package_file(options, say=said.append, ask=no)
    assert not (folder / "p").exists()
    assert package_file(options, say=said.append, ask=lambda _: True).path == folder / "p"


def test_names_that_nothing_installed_provides_are_refused_before_asking(folder: Path) -> None:
    for stream, reason, says in (
        (b"c__main__\npre\n.", "MainGlobal", "__main__.pre"),
        (b"cmy_features\nClean\n.", "MissingDistribution", "--code my_features.py"),
    ):
        file = folder / "local.pkl"
        file.write_bytes(stream)
        error = refused("package", file, "--examples", folder / "rows.csv", *trusted(file))
        assert error.reason == reason
        assert says in str(error)


def test_source_given_with_code_is_used_to_load_the_file(folder: Path) -> None:
    source = folder / "sluice_cli_features.py"
    source.write_text(
        "from sklearn.preprocessing import StandardScaler\n"
        "class Clean(StandardScaler):\n    pass\n"
        "def pre(frame):\n    return frame.fillna(0.0)\n"
    )
    program: dict[str, Any] = {}
    from sluice.package.code import run_sources

    run_sources({"code/sluice_cli_features.py": source.read_bytes()}, None)
    program = vars(sys.modules["sluice_cli_features"])
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    frame, label = support.table()
    model = make_pipeline(program["Clean"](), LogisticRegression()).fit(frame, label)
    file = folder / "own.joblib"
    file.write_bytes(support.dumped(model))
    arguments = ["package", file, "--examples", folder / "rows.csv", "--label", "late"]
    assert refused(*arguments, *trusted(file)).reason == "MissingDistribution"
    code = ["--code", source, "--preprocess", "sluice_cli_features:pre"]
    result = sluice(*arguments, *trusted(file), *code, "--out", folder / "p")
    assert result.exit_code == 0, result.exception
    package = open_package(folder / "p")
    assert package.manifest.preprocess == "sluice_cli_features:pre"
    assert all(i.nullable for i in package.manifest.inputs)  # the preprocessing fills them


def test_a_graph_needs_no_consent(folder: Path) -> None:
    file = folder / "model.joblib"
    sluice(
        "package", file, "--examples", folder / "rows.csv", *trusted(file), "--out", folder / "p"
    )
    graph = folder / "p" / "model.onnx"
    result = sluice(
        "package",
        graph,
        "--examples",
        folder / "rows.csv",
        "--label",
        "late",
        "--out",
        folder / "q",
    )
    assert result.exit_code == 0, result.exception
    manifest = open_package(folder / "q").manifest
    assert [i.name for i in manifest.inputs] == ["a", "b", "c"]
    assert manifest.conversion.detail == "given as ONNX"


def test_tensors_in_a_file_beside_the_graph_come_along(folder: Path) -> None:
    import onnx

    file = folder / "model.joblib"
    rows = ["--examples", folder / "rows.csv", "--label", "late"]
    sluice("package", file, *rows, *trusted(file), "--out", folder / "p")
    graph = onnx.load(folder / "p" / "model.onnx")
    outside = {"location": "weights.bin", "size_threshold": 0, "all_tensors_to_one_file": True}
    onnx.save(graph, folder / "big.onnx", save_as_external_data=True, **outside)
    assert sluice("inspect", folder / "big.onnx").exit_code == 3
    result = sluice("package", folder / "big.onnx", *rows, "--out", folder / "q")
    assert result.exit_code == 0, result.exception
    package = open_package(folder / "q")
    assert package.read("weights.bin") == (folder / "weights.bin").read_bytes()
    inside = open_package(folder / "p")
    assert [e.score for e in package.golden()] == [e.score for e in inside.golden()]
    (folder / "weights.bin").unlink()
    (folder / "weights.bin").symlink_to("/etc/passwd")
    assert refused("package", folder / "big.onnx", *rows).reason == "UnsafeModel"


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda data: data[: len(data) // 2], "NotTrusted"),  # listed as far as it goes
        (lambda data: b"", "UnknownFormat"),
        (lambda data: b"PK\x03\x04" + data, "UnknownFormat"),
        (lambda data: b"not a model", "UnknownFormat"),
    ],
)
def test_damaged_files_are_refused_without_a_traceback(
    folder: Path, damage: Any, reason: str
) -> None:
    file = folder / "model.joblib"
    file.write_bytes(damage(file.read_bytes()))
    assert refused("package", file, "--examples", folder / "rows.csv").reason == reason


def test_a_damaged_file_with_consent_fails_plainly(folder: Path) -> None:
    file = folder / "model.joblib"
    file.write_bytes(file.read_bytes()[:-200])
    error = refused("package", file, "--examples", folder / "rows.csv", *trusted(file))
    assert error.reason == "Corrupt"


def test_wrong_examples_are_named(folder: Path) -> None:
    file = folder / "model.joblib"
    common = ["package", file, *trusted(file), "--examples"]
    assert "no column 'delay'" in str(refused(*common, folder / "rows.csv", "--label", "delay"))
    assert "There is no file" in str(refused(*common, folder / "nowhere.csv"))
    (folder / "bad.csv").write_bytes(b"\xff\x00\xfe")
    assert refused(*common, folder / "bad.csv").reason == "Invalid"
    pd.DataFrame({"a": [1.0]}).to_csv(folder / "narrow.csv", index=False)
    assert "'b', 'c'" in str(refused(*common, folder / "narrow.csv"))


def test_inspect_tells_a_person_and_a_program(folder: Path) -> None:
    file = folder / "model.joblib"
    sluice(
        "package", file, "--examples", folder / "rows.csv", *trusted(file), "--out", folder / "p"
    )
    shown = sluice("inspect", folder / "p")
    assert shown.exit_code == 0
    assert "needs no trust decision" in shown.stdout and "threshold 0.5" in shown.stdout
    report = json.loads(sluice("inspect", folder / "p", "--json").stdout)
    assert report["model"] == {"file": "model.onnx", "format": "onnx", "class": "Data"}
    assert report["digest"] == open_package(folder / "p").digest and report["problems"] == []
    bare = sluice("inspect", file, "--json")
    assert bare.exit_code == 3
    report = json.loads(bare.stdout)
    assert (report["format"], report["class"], report["compression"]) == ("joblib", "Code", "zlib")
    assert report["problems"][0]["reason"] == "BareCodeFile" and "waysOut" in report
    missing = sluice("inspect", folder / "nowhere")
    assert missing.exit_code == 3 and "Missing" in missing.stdout


def test_a_trust_request_is_the_exact_object(folder: Path) -> None:
    file = folder / "model.joblib"
    arguments = ["--examples", folder / "rows.csv", *trusted(file), "--out", folder / "p"]
    sluice("package", file, *arguments, "--no-convert")
    shown = sluice("trust", "request", folder / "p", "-n", "churn", "-n", "churn-test")
    assert shown.exit_code == 0
    policy = yaml.safe_load(shown.stdout)
    assert (policy["apiVersion"], policy["kind"]) == ("sluice.dev/v1alpha1", "TrustPolicy")
    spec = TrustPolicySpec.model_validate(policy["spec"])
    assert spec.namespaces == ["churn", "churn-test"]
    assert spec.admit[0].package_digest == open_package(folder / "p").digest
    assert spec.admit[0].classes == ["Code"]
    assert "#   imports sklearn.pipeline.Pipeline" in shown.stdout


def test_libraries_and_other_minor_versions_by_option(folder: Path) -> None:
    file = folder / "model.joblib"
    common = ("package", file, "--examples", folder / "rows.csv", *trusted(file), "--no-convert")
    (folder / "wheels").mkdir()
    error = refused(*common, "--out", folder / "p", "--wheels", folder / "wheels")
    assert error.reason == "MissingWheel" and "scikit-learn==" in error.hint
    for line in lock({"scikit-learn": "", "joblib": "", "pandas": ""}).splitlines():
        # Not the real ones, which are large; only names, versions and bytes matter here.
        name, version = line.split("==")
        write_wheel(folder / "wheels", name.replace("-", "_"), version, {})
    made = sluice(*common, "--out", folder / "p", "--wheels", folder / "wheels", "--any-minor")
    assert made.exit_code == 0, made.output
    manifest = open_package(folder / "p").manifest
    assert manifest.environment.minor == "Any" and len(manifest.wheels) >= 4
    assert not any("numpy" in wheel for wheel in manifest.wheels)
    assert f"brings      {manifest.wheels[0]}" in sluice("inspect", folder / "p").stdout
    shown = sluice("trust", "request", folder / "p", "-n", "churn").stdout
    assert f"#   brings {manifest.wheels[0]}" in shown


def test_a_trust_request_for_a_signer_admits_what_the_key_signs(folder: Path) -> None:
    file = folder / "model.joblib"
    arguments = ["--examples", folder / "rows.csv", *trusted(file), "--out", folder / "p"]
    sluice("package", file, *arguments, "--no-convert")
    key = ec.generate_private_key(ec.SECP256R1())
    (folder / "ML platform.pub").write_text(pem_of(key.public_key()))
    ask = ("trust", "request", folder / "p", "-n", "churn", "--signer", folder / "ML platform.pub")
    assert refused(*ask).reason == "SignatureMissing"
    sign_package(folder / "p", key)
    shown = sluice(*ask)
    assert "admits every package that the key signs" in shown.stdout
    assert "publicKey: |\n" in shown.stdout
    [line] = TrustPolicySpec.model_validate(yaml.safe_load(shown.stdout)["spec"]).admit
    assert line.signer is not None and line.classes == ["Code"]
    assert line.signer.name == "ml-platform"
    assert line.signer.public_key == pem_of(key.public_key())
    named = yaml.safe_load(sluice(*ask, "--signer-name", "us").stdout)
    assert named["spec"]["admit"][0]["signer"]["name"] == "us"
    assert "not the name of a signer" in str(refused(*ask, "--signer-name", "U s"))
    (folder / "other.pub").write_text(pem_of(ec.generate_private_key(ec.SECP256R1()).public_key()))
    assert refused(*ask[:-1], folder / "other.pub").reason == "SignatureInvalid"


def test_data_needs_no_trust_request_and_names_are_checked(folder: Path) -> None:
    file = folder / "model.joblib"
    arguments = ["--examples", folder / "rows.csv", *trusted(file), "--out", folder / "p"]
    sluice("package", file, *arguments)
    assert "loads without a TrustPolicy" in str(
        refused("trust", "request", folder / "p", "-n", "churn")
    )
    sluice("package", file, *arguments, "--no-convert")
    assert "not the name of a namespace" in str(
        refused("trust", "request", folder / "p", "-n", "x: y\n")
    )


def test_a_manifest_cannot_hide_or_forge_what_is_imported(folder: Path) -> None:
    file = folder / "model.joblib"
    arguments = ["--examples", folder / "rows.csv", *trusted(file), "--out", folder / "p"]
    sluice("package", file, *arguments, "--no-convert")
    name = "sklearn.pipeline.Pipeline"
    support.rewrite(folder / "p", f'"{name}"', '"harmless\\nspec: {namespaces: [kube-system]}"')
    shown = sluice("trust", "request", folder / "p", "-n", "churn")
    assert yaml.safe_load(shown.stdout)["spec"]["namespaces"] == ["churn"]
    assert name in shown.stdout and "harmless" not in shown.stdout
    assert name in json.loads(sluice("inspect", folder / "p", "--json").stdout)["imports"]


def test_names_in_a_pickle_cannot_forge_the_output(folder: Path) -> None:
    file = folder / "evil.pkl"
    name = "os\n  problem     none\x1b[2K"
    file.write_bytes(b"\x80\x04\x8c" + bytes([len(name)]) + name.encode() + b"\x8c\x04exit\x93.")
    shown = sluice("inspect", file).stdout
    assert "\x1b" not in shown and "os?  problem" in shown
