"""Google Cloud Storage against fake-gcs-server; what it does not check, against servers that do."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.tools.gcsserver import GcsServer, gcs_server
from tests.tools.packages import linear_package
from tests.tools.webserver import Request, self_signed, web_server
from tests.unit.bucket_support import get, refused

from sluice.errors import SourceError
from sluice.jobs.fetch import Limits, fetch
from sluice.jobs.push import push
from sluice.sources import open_destination, parse
from sluice.sources.bucket import _explain
from sluice.sources.stores import _GCS_CREDENTIALS, GCS

DATA = hashlib.shake_128(b"gcs").digest(3_000_000)
STAMP = {"Last-Modified": "Tue, 24 Nov 2026 05:00:00 GMT", "ETag": '"1"'}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GcsServer]:
    with gcs_server(tmp_path_factory.mktemp("gcs")) as running:
        running.make_bucket("models")
        yield running


@pytest.fixture(autouse=True)
def _environ(server: GcsServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in (*_GCS_CREDENTIALS, "GOOGLE_BASE_URL", "SLUICE_MACHINE_IDENTITY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.endpoint)


def test_a_package_there_and_back(
    server: GcsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    linear_package(tmp_path / "package")
    with monkeypatch.context() as writing:
        writing.setenv("STORAGE_EMULATOR_HOST", server.writable)
        done = push(tmp_path / "package", "gs://models/iris")
        assert push(tmp_path / "package", "gs://models/iris").uploaded == 0
    got = fetch(done.uri, tmp_path / "got", limits=Limits(attempts=2, first_wait=0.01))
    assert got.digest == done.digest and not got.mutable
    model = (tmp_path / "package/model.onnx").read_bytes()
    assert (tmp_path / "got/model.onnx").read_bytes() == model


def test_odd_names(server: GcsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.writable)
    (tmp_path / "f").write_bytes(DATA)
    destination = open_destination(parse("gs://models/odd"))

    async def there_and_back() -> None:
        await destination.write("sub dir/ü+?.bin", tmp_path / "f")
        assert await destination.size("sub dir/ü+?.bin") == len(DATA)
        assert await destination.read("sub dir/ü+?.bin", 5) == DATA[:5]
        assert await destination.read("nope", 5) is None

    asyncio.run(there_and_back())


def test_missing(tmp_path: Path) -> None:
    assert refused("gs://models/nope", tmp_path / "1").reason == "Missing"
    assert refused("gs://no-such-bucket/x", tmp_path / "2").reason == "Missing"


def test_anonymous_reads_are_not_signed_and_writes_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is the machine's own identity asked for."""

    def only_reads(request: Request) -> None:
        if request.command == "PUT":
            request.rfile.read(int(request.headers["Content-Length"]))
            request.reply(b"", 401)
            return
        request.reply(b"x", 200, STAMP)

    with web_server(only_reads) as google:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", google.url)
        get("gs://models/x", tmp_path / "1")
        with pytest.raises(SourceError) as error:
            asyncio.run(open_destination(parse("gs://models")).write("x", tmp_path / "1"))
    assert error.value.reason == "AccessDenied"
    assert "authorization" not in {name.lower() for name in google.requests[0][1]}


def test_a_token_is_sent_and_never_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOOGLE_BEARER_TOKEN", "hush-hush")
    with web_server(lambda r: r.reply(b"hush-hush", 403)) as google:
        monkeypatch.setenv("GOOGLE_BASE_URL", google.url)
        assert refused("gs://models/x", tmp_path / "1").reason == "AccessDenied"
    sent = {name.lower(): value for name, value in google.requests[0][1].items()}
    assert sent["authorization"] == "Bearer hush-hush"


@pytest.mark.parametrize("key", ["{", "{}", '{"client_email": "a", "private_key": "hush"}'])
def test_a_key_that_is_none(key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT_KEY", key)
    error = refused("gs://models/x", tmp_path / "1")
    assert error.reason == "InvalidAddress" and "GOOGLE_*" in error.hint


@pytest.mark.parametrize(
    ("status", "body", "reason", "retryable"),
    [
        (401, b"", "AccessDenied", False),
        (403, b"<Error><Code>AccessDenied</Code></Error>", "AccessDenied", False),
        (404, b"<Error><Code>NoSuchKey</Code></Error>", "Missing", False),
        (404, b"<Error><Code>NoSuchBucket</Code></Error>", "Missing", False),
        (429, b"", "Unreachable", True),
        (503, b"", "Unreachable", True),
        (400, b"", "Unreachable", False),
    ],
)
def test_what_a_status_means(
    status: int,
    body: bytes,
    reason: str,
    retryable: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with web_server(lambda r: r.reply(body, status)) as google:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", google.url)
        error = refused("gs://models/x", tmp_path / "1")
    assert (error.reason, error.retryable) == (reason, retryable)
    assert ("no bucket 'models'" in error.message) == (b"NoSuchBucket" in body)


def test_resumes_where_it_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str | None] = []

    def handler(request: Request) -> None:
        wanted = request.headers.get("Range")
        asked.append(wanted)
        if wanted is None:
            request.reply(DATA[:2_500_000], 200, STAMP, length=len(DATA))
            return
        assert request.headers["If-Match"] == STAMP["ETag"]
        start = int(wanted.removeprefix("bytes=").rstrip("-"))
        part = {"Content-Range": f"bytes {start}-{len(DATA) - 1}/{len(DATA)}", **STAMP}
        request.reply(DATA[start:], 206, part)

    with web_server(handler) as flaky:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", flaky.url)
        get("gs://models/x", tmp_path / "1")
    assert (tmp_path / "1").read_bytes() == DATA
    assert asked[0] is None and asked[1] is not None


def test_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    certificate = self_signed(tmp_path / "certificate.pem")
    with web_server(lambda r: r.reply(b"x", 200, STAMP), certificate) as google:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", google.url)
        error = refused("gs://models/x", tmp_path / "1")
        assert error.reason == "AccessDenied" and "certificate" in error.message
        monkeypatch.setenv("SLUICE_CA_CERTIFICATES", certificate.read_text())
        assert get("gs://models/x", tmp_path / "2").size == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("error sending request: dns error: failed to lookup address", "is not known"),
        ("error sending request: operation timed out", "took too long"),
        ("error sending request", "no connection to"),
        ("invalid peer certificate: UnknownIssuer", "is not trusted"),
    ],
)
def test_one_failed_connection_from_another(text: str, words: str) -> None:
    """The client's own words for what a test cannot bring about on the loopback address."""
    error = _explain(GCS, parse("gs://models/x"), OSError(f"{text} (https://storage.example/x)"))
    assert words in error.message and error.hint
