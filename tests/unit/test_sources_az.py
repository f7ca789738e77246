"""Azure Blob Storage: settings and errors.  A whole journey, with Azurite: `make sources-peers`."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.tools.webserver import Request, web_server
from tests.unit.bucket_support import KEY, get, refused

from sluice.sources.stores import _AZURE_CREDENTIALS, _AZURE_ENDPOINTS

STAMP = {"Last-Modified": "Tue, 24 Nov 2026 05:00:00 GMT", "ETag": '"0x1"'}


@pytest.fixture(autouse=True)
def _environ(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*_AZURE_CREDENTIALS, *_AZURE_ENDPOINTS, "SLUICE_MACHINE_IDENTITY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "account")


def test_no_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_NAME")
    error = refused("az://models/x", tmp_path / "1")
    assert error.reason == "InvalidAddress" and "AZURE_STORAGE_ACCOUNT_NAME" in error.hint


def test_a_key_that_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", "%%hush%%")
    assert refused("az://models/x", tmp_path / "1").reason == "InvalidAddress"


@pytest.mark.parametrize(
    ("name", "value", "shape"),
    [
        ("AZURE_STORAGE_ACCOUNT_KEY", KEY, "SharedKey account:"),
        ("AZURE_STORAGE_TOKEN", "hush-hush", "Bearer hush-hush"),
        ("AZURE_STORAGE_ACCOUNT_KEY", "", ""),
    ],
)
def test_who_we_say_we_are(
    name: str, value: str, shape: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with web_server(lambda r: r.reply(b"x", 200, STAMP)) as azure:
        monkeypatch.setenv("AZURE_STORAGE_ENDPOINT", f"{azure.url}/account")
        get("az://models/x", tmp_path / "1")
    path, headers = azure.requests[0]
    sent = {key.lower(): text for key, text in headers.items()}
    assert path == "/account/models/x"
    assert sent.get("authorization", "").startswith(shape) and bool(shape) == (
        "authorization" in sent
    )


@pytest.mark.parametrize(
    ("status", "code", "reason", "retryable"),
    [
        (401, "NoAuthenticationInformation", "AccessDenied", False),
        (403, "AuthorizationFailure", "AccessDenied", False),
        (403, "AuthenticationFailed", "AccessDenied", False),
        (404, "BlobNotFound", "Missing", False),
        (404, "ContainerNotFound", "Missing", False),
        (503, "ServerBusy", "Unreachable", True),
        (400, "InvalidUri", "Unreachable", False),
    ],
)
def test_what_a_status_means(
    status: int,
    code: str,
    reason: str,
    retryable: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def answer(request: Request) -> None:
        said = f"<Error><Code>{code}</Code><Message>hush-hush</Message></Error>"
        request.reply(said.encode(), status)

    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", KEY)
    with web_server(answer) as azure:
        monkeypatch.setenv("AZURE_STORAGE_ENDPOINT", f"{azure.url}/account")
        error = refused("az://models/x", tmp_path / "1")
    assert (error.reason, error.retryable) == (reason, retryable)
    assert ("no container 'models'" in error.message) == (code == "ContainerNotFound")


def test_a_signed_address_is_not_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_STORAGE_SAS_TOKEN", "?sv=2025-01-05&sig=hush-hush")
    monkeypatch.setenv("AZURE_STORAGE_ENDPOINT", "http://127.0.0.1:9/account")
    error = refused("az://models/x", tmp_path / "1")
    assert (error.reason, error.retryable) == ("Unreachable", True)
    assert "sig=" not in str(error) and "http://127.0.0.1:9" in error.message
