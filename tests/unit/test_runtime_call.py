"""``sluice call`` against a real server, and what it says when it cannot ask."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parent))

import runtime_support as support

from sluice.cli.call import CallError, command
from sluice.errors import SluiceError


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> support.Built:
    return support.build_iris(tmp_path_factory.mktemp("iris"))


@pytest.fixture(scope="module")
def url(built: support.Built) -> Iterator[str]:
    with support.serving(built.path) as server:
        yield f"http://127.0.0.1:{server.port}"


def write(tmp_path: Path, document: object) -> str:
    file = tmp_path / "row.json"
    file.write_text(json.dumps(document))
    return str(file)


def test_it_prints_the_answer(built: support.Built, url: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(
        command, ["iris", "-d", write(tmp_path, built.rows[0]), "--url", url + "/"]
    )
    assert done.exit_code == 0
    assert json.loads(done.stdout)["predictions"][0]["label"] == "setosa"


def test_rows_come_from_stdin_and_headers_are_sent(built: support.Built, url: str) -> None:
    arguments = ["iris", "-d", "-", "--url", url, "-H", "X-Sluice-Revision: other"]
    done = CliRunner().invoke(command, arguments, input=json.dumps(built.rows[0]))
    assert done.exit_code == 1
    assert json.loads(done.stdout)["error"]["code"] == "Misdirected"
    assert "HTTP 503 from revision" in done.stderr


def test_a_refusal_is_shown_and_exits_1(url: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(command, ["iris", "-d", write(tmp_path, {"x": 1}), "--url", url])
    assert done.exit_code == 1
    assert json.loads(done.stdout)["error"]["code"] == "UnknownFields"
    assert "HTTP 400" in done.stderr


def test_what_is_no_json_is_not_sent(tmp_path: Path) -> None:
    file = tmp_path / "row.json"
    file.write_text("{")
    done = CliRunner().invoke(command, ["iris", "-d", str(file)])
    assert done.exit_code == 2
    assert "is not JSON" in done.stderr


@pytest.mark.parametrize("address", ["http://127.0.0.1:9", "http://nothing.invalid"])
def test_a_silent_server_is_named(tmp_path: Path, address: str) -> None:
    done = CliRunner().invoke(command, ["iris", "-d", write(tmp_path, {}), "--url", address])
    assert isinstance(done.exception, SluiceError)
    assert "does not answer" in done.exception.message


def test_no_cluster_is_said_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:/usr/bin:/bin")
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "absent"))
    done = CliRunner().invoke(command, ["iris", "-d", write(tmp_path, {}), "-n", "team"])
    assert isinstance(done.exception, CallError)
    assert "cannot reach the Service 'iris'" in done.exception.message
    assert "-n team" in done.exception.hint


def test_no_kubectl_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    done = CliRunner().invoke(command, ["iris", "-d", write(tmp_path, {})])
    assert isinstance(done.exception, CallError)
    assert "kubectl is not on the PATH" in done.exception.message
