"""The Hub's URLs and redirects, spoken by a server of ours: not the Hub itself.

Small files come from the Hub, large ones by a redirect to another host; a branch becomes a commit.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.tools.packages import linear_package
from tests.tools.webserver import Request, self_signed, serve_bytes, web_server

from sluice.errors import SluiceError
from sluice.jobs.fetch import Limits, fetch

COMMIT, LATER = "1f" * 20, "2e" * 20
QUICK = Limits(attempts=2, first_wait=0.01)


class Hub:
    """Repositories org/open, org/private (with a token) and org/gated (never)."""

    def __init__(self, files: Path, elsewhere: str = "") -> None:
        self.files, self.elsewhere = files, elsewhere
        self.head = COMMIT
        self.tokens: list[str | None] = []

    def __call__(self, request: Request) -> None:
        token = request.headers.get("Authorization")
        self.tokens.append(token)
        path = request.path
        if "org/gated" in path:
            request.reply(b"{}", 403, {"X-Error-Code": "GatedRepo"})
        elif "org/private" in path and token != "Bearer hush-hush":
            request.reply(b"{}", 401, {"X-Error-Code": "RepoNotFound"})
        elif path.startswith("/api/models/"):
            self._revision(request, path.rpartition("/")[2])
        else:
            self._file(request, path)

    def _revision(self, request: Request, revision: str) -> None:
        if revision not in ("main", "v1"):
            request.reply(b"{}", 404, {"X-Error-Code": "RevisionNotFound"})
            return
        commit, self.head = self.head, LATER  # somebody pushes right after
        request.reply(json.dumps({"sha": commit}).encode())

    def _file(self, request: Request, path: str) -> None:
        _, _, found = path.partition(f"/resolve/{COMMIT}/")
        file = self.files / found
        if not found or not file.is_file():
            request.reply(b"{}", 404, {"X-Error-Code": "EntryNotFound"})
        elif file.suffix == ".onnx" and self.elsewhere:
            request.reply(b"", 302, {"Location": f"{self.elsewhere}/{found}?signature=1"})
        else:
            serve_bytes(request, file.read_bytes())


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    linear_package(tmp_path / "repository" / "iris")
    return tmp_path / "repository"


@pytest.fixture(autouse=True)
def _nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)


def refused(uri: str, to: Path, **options: Any) -> SluiceError:
    with pytest.raises(SluiceError) as error:
        fetch(uri, to, limits=QUICK, **options)
    assert "hush" not in str(error.value) and error.value.hint
    return error.value


def test_all_files_are_of_one_commit_and_the_token_stays_with_the_hub(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate = self_signed(tmp_path / "certificate.pem")
    monkeypatch.setenv("SLUICE_CA_CERTIFICATES", certificate.read_text())
    monkeypatch.setenv("HF_TOKEN", "hush-hush")
    stored: list[str | None] = []

    def store(request: Request) -> None:
        stored.append(request.headers.get("Authorization"))
        name = request.path.partition("?")[0].lstrip("/")
        serve_bytes(request, (repository / name).read_bytes())

    with web_server(store, certificate) as elsewhere:
        hub = Hub(repository, elsewhere.url)
        with web_server(hub, certificate) as server:
            monkeypatch.setenv("HF_ENDPOINT", server.url)
            done = fetch("hf://org/private/iris", tmp_path / "got", limits=QUICK)
            pinned = fetch(f"hf://org/private@{COMMIT}/iris", tmp_path / "pinned", limits=QUICK)
    assert (tmp_path / "got/model.onnx").read_bytes() == (
        repository / "iris/model.onnx"
    ).read_bytes()
    assert done.mutable and not pinned.mutable and done.digest == pinned.digest
    assert set(hub.tokens) == {"Bearer hush-hush"} and stored == [None, None]


def test_one_file(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with web_server(Hub(repository)) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        fetch("hf://org/open@v1/iris/model.onnx", tmp_path / "got", limits=QUICK)
    assert (tmp_path / "got/model.onnx").is_file()


@pytest.mark.parametrize(
    ("uri", "reason", "words"),
    [
        ("hf://org/open@v9/iris", "Missing", "no branch, tag or commit 'v9'"),
        ("hf://org/open/nope", "Missing", "no package"),
        ("hf://org/open", "Missing", ""),
        ("hf://org/private/iris", "AccessDenied", "that we may see"),
        ("hf://org/gated/iris", "AccessDenied", "whom its owner admitted"),
    ],
)
def test_what_is_not_there_for_us(
    uri: str,
    reason: str,
    words: str,
    repository: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with web_server(Hub(repository)) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        error = refused(uri, tmp_path / "got")
    assert error.reason == reason and words in error.message


@pytest.mark.parametrize("answer", [b"", b"[]", b"{}", b'{"sha": "../../x"}', b"[" * 100_000])
def test_an_answer_that_is_no_hubs(
    answer: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with web_server(lambda request: request.reply(answer)) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        assert "names no commit" in refused("hf://org/open/iris", tmp_path / "got").message


@pytest.mark.parametrize("endpoint", ["ftp://hub", "file:///etc", "hub.example"])
def test_an_endpoint_that_is_none(
    endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    error = refused("hf://org/open/iris", tmp_path / "got")
    assert error.reason in ("InvalidAddress", "UnsupportedScheme")
