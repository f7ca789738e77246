"""S3 against a real S3 server."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.tools.ports import free_port
from tests.tools.s3server import S3Server, s3_server
from tests.tools.webserver import Request, web_server
from tests.unit.bucket_support import get, refused

from sluice.sources import open_destination, parse

DATA = hashlib.shake_128(b"s3").digest(9_000_000)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with s3_server(workdir=tmp_path_factory.mktemp("s3")) as running:
        running.make_bucket("models")
        yield running


@pytest.fixture(autouse=True)
def _environ(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_EC2_METADATA_DISABLED"):
        monkeypatch.delenv(name, raising=False)
    for name, value in server.environ.items():
        monkeypatch.setenv(name, value)


def put(uri: str, name: str, data: bytes, scratch: Path) -> None:
    scratch.write_bytes(data)
    asyncio.run(open_destination(parse(uri)).write(name, scratch))


def test_round_trip(tmp_path: Path) -> None:
    put("s3://models/iris/v1", "sub dir/ü+?.bin", DATA, tmp_path / "f")
    done = get("s3://models/iris/v1", tmp_path / "got", "sub dir/ü+?.bin")
    assert done.size == len(DATA)
    assert (tmp_path / "got").read_bytes() == DATA

    async def sizes() -> None:
        destination = open_destination(parse("s3://models/iris/v1"))
        assert await destination.size("sub dir/ü+?.bin") == len(DATA)
        assert await destination.read("sub dir/ü+?.bin", 5) == DATA[:5]
        assert await destination.size("nope") is None
        assert await destination.read("nope", 5) is None

    asyncio.run(sizes())


def test_missing(tmp_path: Path) -> None:
    error = refused("s3://models/nope", tmp_path / "1")
    assert (error.reason, error.retryable) == ("Missing", False)
    error = refused("s3://no-such-bucket/x", tmp_path / "2")
    assert error.reason == "Missing" and "no bucket 'no-such-bucket'" in error.message
    assert refused("s3://models", tmp_path / "3").reason == "Missing"


def test_wrong_credentials(
    server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put("s3://models", "x", b"x", tmp_path / "f")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    error = refused("s3://models/x", tmp_path / "1")
    assert (error.reason, error.retryable) == ("AccessDenied", False)
    assert server.access_key not in str(error) and "wrong" not in str(error)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    assert refused("s3://models/x", tmp_path / "2").reason == "AccessDenied"
    # Without credentials the request is anonymous; the node's own are not asked for.
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    assert refused("s3://models/x", tmp_path / "3").reason == "AccessDenied"


def test_wrong_region(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    error = refused("s3://models/x", tmp_path / "1")
    assert "AWS_REGION=us-east-1" in error.hint and not error.retryable


def test_nobody_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    error = refused("s3://models/x", tmp_path / "1")
    assert (error.reason, error.retryable) == ("Unreachable", True)
    assert f"127.0.0.1:{port}" in error.message


def test_a_server_in_trouble(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with web_server(lambda r: r.reply(b"<Error><Code>SlowDown</Code></Error>", 503)) as trouble:
        monkeypatch.setenv("AWS_ENDPOINT_URL", trouble.url)
        error = refused("s3://models/x", tmp_path / "1")
    assert (error.reason, error.retryable) == ("Unreachable", True)
    assert len(trouble.requests) == 2
    with web_server(lambda r: r.reply(b"<html>", 302, {"Location": "http://x/"})) as trouble:
        monkeypatch.setenv("AWS_ENDPOINT_URL", trouble.url)
        assert refused("s3://models/x", tmp_path / "2").reason in ("Unreachable", "AccessDenied")


def test_a_server_that_cuts_off_or_stalls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stamp = {"Last-Modified": "Tue, 24 Nov 2026 05:00:00 GMT", "ETag": '"1"'}

    def cut(request: Request) -> None:
        request.reply(b"x" * 1000, 200, stamp, length=5000)

    with web_server(cut) as trouble:
        monkeypatch.setenv("AWS_ENDPOINT_URL", trouble.url)
        error = refused("s3://models/x", tmp_path / "1")
    assert error.reason in ("Truncated", "Unreachable") and error.retryable

    def stall(request: Request) -> None:
        request.send_response(200)
        for name, value in {**stamp, "Content-Length": "5000"}.items():
            request.send_header(name, value)
        request.end_headers()
        request.wfile.write(b"x")
        request.rfile.read(1)

    with web_server(stall) as trouble:
        monkeypatch.setenv("AWS_ENDPOINT_URL", trouble.url)
        error = refused("s3://models/x", tmp_path / "2")
    assert error.reason in ("Timeout", "Truncated") and error.retryable


def test_resumes_where_it_ended(
    server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stamp = {"Last-Modified": "Tue, 24 Nov 2026 05:00:00 GMT", "ETag": '"1"'}
    asked: list[str | None] = []

    def handler(request: Request) -> None:
        wanted = request.headers.get("Range")
        asked.append(wanted)
        if wanted is None:
            request.reply(DATA[:3_000_000], 200, stamp, length=len(DATA))
            return
        start = int(wanted.removeprefix("bytes=").rstrip("-"))
        part = {"Content-Range": f"bytes {start}-{len(DATA) - 1}/{len(DATA)}", **stamp}
        request.reply(DATA[start:], 206, part)

    with web_server(handler) as flaky:
        monkeypatch.setenv("AWS_ENDPOINT_URL", flaky.url)
        get("s3://models/x", tmp_path / "1")
    assert (tmp_path / "1").read_bytes() == DATA
    assert asked[0] is None and asked[1] is not None


def test_a_damaged_object_is_not_noticed_here(server: S3Server, tmp_path: Path) -> None:
    """Why every byte is verified by digest: an object store happily serves rotten bytes."""
    put("s3://models", "rot", b"good", tmp_path / "f")
    server.object_path("models", "rot").write_bytes(b"evil")
    assert get("s3://models/rot", tmp_path / "1").digest == (
        f"sha256:{hashlib.sha256(b'evil').hexdigest()}"
    )


def test_a_bucket_name_that_is_none(tmp_path: Path) -> None:
    assert not refused("s3://Bad_Bucket!/x", tmp_path / "1").retryable
