"""MLflow: model directories as MLflow 3.17 writes them, and the registry's answers.

A real tracking server is asked by `make sources-peers`.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from tests.tools.packages import linear_package
from tests.tools.webserver import Request, WebServer, serve_bytes, web_server

from sluice.errors import PackageError, SluiceError
from sluice.jobs.fetch import Limits, fetch, resolve
from sluice.package.mlflow_model import model_file

QUICK = Limits(attempts=2, first_wait=0.01)

ONNX = """\
flavors:
  onnx:
    data: model.onnx
    onnx_session_options: null
    onnx_version: 1.23.2
    providers:
    - CPUExecutionProvider
  python_function:
    data: model.onnx
    env:
      conda: conda.yaml
      virtualenv: python_env.yaml
    loader_module: mlflow.onnx
mlflow_version: 3.17.2
run_id: dda8ed4676d542bf975f986c181ad6ff
"""
SKLEARN = """\
flavors:
  python_function:
    loader_module: mlflow.sklearn
    model_path: model.pkl
    predict_fn: predict
  sklearn:
    pickled_model: model.pkl
    serialization_format: cloudpickle
    sklearn_version: 1.9.1
mlflow_version: 3.17.2
"""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    linear_package(tmp_path / "package")
    home = tmp_path / "logged"
    home.mkdir()
    (home / "MLmodel").write_text(ONNX)
    (home / "model.onnx").write_bytes((tmp_path / "package/model.onnx").read_bytes())
    return home


def refused(uri: str, to: Path, **options: Any) -> SluiceError:
    with pytest.raises(SluiceError) as error:
        fetch(uri, to, limits=QUICK, **options)
    assert "hush" not in str(error.value) and error.value.hint
    assert not to.exists()
    return error.value


def test_a_directory(model: Path, tmp_path: Path) -> None:
    done = fetch(str(model), tmp_path / "got", limits=QUICK)
    assert {p.name for p in (tmp_path / "got").iterdir()} == {"model.onnx", ".sluice-fetch"}
    assert resolve(done)["class"] == "Data"


def test_a_pickle_in_it_is_refused_as_any_other(model: Path, tmp_path: Path) -> None:
    (model / "MLmodel").write_text(SKLEARN)
    (model / "model.pkl").write_bytes(pickle.dumps(print))
    done = fetch(str(model), tmp_path / "got", limits=QUICK)
    with pytest.raises(PackageError) as error:
        resolve(done)
    assert error.value.reason == "BareCodeFile" and "builtins.print" in error.value.message


def test_a_directory_that_is_not_whole(model: Path, tmp_path: Path) -> None:
    (model / "model.onnx").unlink()
    error = refused(str(model), tmp_path / "got")
    assert error.reason == "Missing" and "names model.onnx" in error.message
    (model / "MLmodel").write_bytes(b"a" * 2_000_000)
    assert refused(str(model), tmp_path / "got").reason == "TooLarge"


@pytest.mark.parametrize(
    ("flavors", "file"),
    [
        ({"sklearn": {"pickled_model": "model.skops"}}, "model.skops"),
        ({"python_function": {"data": "model.ubj"}, "xgboost": {"data": "model.ubj"}}, "model.ubj"),
        ({"lightgbm": {"data": "model.lgb"}}, "model.lgb"),
        ({"catboost": {"data": "model.cb"}}, "model.cb"),
        ({"python_function": {"python_model": "python_model.pkl"}}, "python_model.pkl"),
        ({"python_function": {"model_path": "artifacts/model.pkl"}}, "artifacts/model.pkl"),
        ({"sklearn": {"pickled_model": "m.pkl"}, "onnx": {"data": "m.onnx"}}, "m.onnx"),
    ],
)
def test_the_file_that_needs_the_least_trust(flavors: dict[str, Any], file: str) -> None:
    assert model_file(json.dumps({"flavors": flavors}).encode()) == file


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "Corrupt"),
        (b"\xff\xfe\x00", "Corrupt"),
        (b"{", "Corrupt"),
        (b"[" * 20_000, "Corrupt"),
        (b"flavors: 1", "Corrupt"),
        (b"!!python/object/apply:os.system [true]", "Corrupt"),
        (b"x" * 2_000_000, "Corrupt"),
        (b"flavors: {}", "UnknownFormat"),
        (b"flavors: {pytorch: {model_data: data}}", "UnknownFormat"),
        (b"flavors: {onnx: 1}", "UnknownFormat"),
        (b"flavors: {onnx: {data: [1]}}", "Corrupt"),
        (b"flavors: {onnx: {data: null}}", "UnknownFormat"),
        (b"flavors: {onnx: !!int ''}", "UnknownFormat"),
        (b"a: &a {k: 1}\nb: &b {<<: [*a, *a]}\nflavors: {onnx: {<<: [*b, *b]}}", "UnknownFormat"),
        (b"flavors: {onnx: {data: ''}}", "Corrupt"),
        (b"flavors: {onnx: {data: /etc/passwd}}", "Corrupt"),
        (b"flavors: {onnx: {data: ../../etc/passwd}}", "Corrupt"),
        (b"flavors: {onnx: {data: 'a\\b'}}", "Corrupt"),
        (b'flavors: {onnx: {data: "a\\0b"}}', "Corrupt"),
    ],
)
def test_what_is_no_usable_listing(data: bytes, reason: str) -> None:
    with pytest.raises(PackageError) as error:
        model_file(data)
    assert error.value.reason == reason and error.value.hint


def test_aliases_in_a_listing_do_not_multiply() -> None:
    """A few lines of YAML can name a billion things; they stay the few lines."""
    lines = ["a: &a [x, x, x, x, x, x, x, x, x]"]
    for this, before in zip("bcdefghij", "abcdefghi", strict=True):
        lines.append(f"{this}: &{this} [{', '.join([f'*{before}'] * 9)}]")
    lines.append("flavors: {onnx: {data: model.onnx}}")
    assert model_file("\n".join(lines).encode()) == "model.onnx"


@contextmanager
def tracking_server(model: Path, location: str | None = None) -> Iterator[WebServer]:
    """The four answers of a registry that matter, shaped like MLflow's."""

    def answer(request: Request) -> None:
        parts = urlsplit(request.path)
        asked = {key: values[0] for key, values in parse_qs(parts.query).items()}
        call = parts.path.removeprefix("/api/2.0/mlflow/")
        if request.headers.get("Authorization") != "Basic cmVhZGVyOmh1c2gtaHVzaA==":
            request.reply(b"{}", 401)
        elif asked.get("name", "a model") != "a model":
            request.reply(b'{"error_code": "RESOURCE_DOES_NOT_EXIST"}', 404)
        elif call == "registered-models/alias":
            request.reply(json.dumps({"model_version": {"version": "3"}}).encode())
        elif call == "model-versions/get-download-uri":
            place = location or f"mlflow-artifacts:/0/models/m-{asked['version']}/artifacts"
            request.reply(json.dumps({"artifact_uri": place}).encode())
        else:
            _, _, path = parts.path.partition("/mlflow-artifacts/artifacts/0/models/m-3/artifacts/")
            file = model / unquote(path)
            if path and file.is_file():
                serve_bytes(request, file.read_bytes())
            else:
                request.reply(b"{}", 404)

    with web_server(answer) as server:
        yield server


@pytest.fixture(autouse=True)
def _reader(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_TOKEN", raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "reader")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "hush-hush")


@pytest.mark.parametrize("which", ["a%20model@champion", "a%20model/3"])
def test_a_registered_model(
    which: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tracking_server(model) as server:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
        done = fetch(f"mlflow://models/{which}", tmp_path / "got", limits=QUICK)
    assert resolve(done)["format"] == "onnx" and done.mutable


def test_artifacts_on_a_web_server(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLflow's own password does not go there."""

    def store(request: Request) -> None:
        assert "Authorization" not in request.headers
        file = model / request.path.lstrip("/")
        serve_bytes(request, file.read_bytes()) if file.is_file() else request.reply(b"", 404)

    with web_server(store) as elsewhere, tracking_server(model, elsewhere.url + "/") as server:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
        fetch("mlflow://models/a%20model@champion", tmp_path / "got", limits=QUICK)
    assert (tmp_path / "got/model.onnx").is_file()


@pytest.mark.parametrize(
    ("location", "reason"),
    [
        ("/srv/mlruns/0/model", "UnsupportedScheme"),
        ("file:///srv/mlruns/0/model", "UnsupportedScheme"),
        ("dbfs:/x", "UnsupportedScheme"),
        ("hdfs://x/y", "UnsupportedScheme"),
        ("mlflow-artifacts:/../../etc", "Unreachable"),
        ("mlflow://models/other@champion", "UnsupportedScheme"),
        ("s3://bucket/../x", "InvalidAddress"),
    ],
)
def test_a_place_that_is_not_ours_to_open(
    location: str, reason: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tracking_server(model, location) as server:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
        error = refused("mlflow://models/a%20model@champion", tmp_path / "got")
    assert error.reason == reason


def test_who_and_which(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with tracking_server(model) as server:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
        error = refused("mlflow://models/nobody@champion", tmp_path / "got")
        assert error.reason == "Missing" and "'nobody'" in error.message
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "wrong-hush")
        error = refused("mlflow://models/a%20model@champion", tmp_path / "got")
        assert error.reason == "AccessDenied"


@pytest.mark.parametrize("uri", ["", "sqlite:///x.db", "databricks", "http://host/x?y"])
def test_no_tracking_server(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    error = refused("mlflow://models/churn@champion", tmp_path / "got")
    assert error.reason in ("InvalidAddress", "UnsupportedScheme")


@pytest.mark.parametrize("answer", [b"", b"[]", b"{}", b'{"model_version": 1}', b"[" * 100_000])
def test_an_answer_that_is_not_mlflows(
    answer: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with web_server(lambda request: request.reply(answer)) as server:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
        error = refused("mlflow://models/churn@champion", tmp_path / "got")
    assert "not one of an MLflow tracking server" in error.message
