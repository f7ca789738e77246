"""HTTP: resumed, bounded, and polite to hostile servers."""

from __future__ import annotations

import asyncio
import hashlib
import threading
import time
from pathlib import Path

import pytest
from tests.tools.ports import free_port
from tests.tools.webserver import Handler, Request, WebServer, files, serve_bytes, web_server

from sluice.errors import SourceError
from sluice.sources import Budget, Transferred, copy_to_file, parse
from sluice.sources.base import SELF
from sluice.sources.web import WebSource, from_environment

DATA = hashlib.shake_128(b"data").digest(2_500_000)


def get(
    url: str,
    target: Path,
    *,
    limit: int = 1 << 30,
    attempts: int = 4,
    idle: float = 5.0,
    environ: dict[str, str] | None = None,
) -> Transferred:
    async def run() -> Transferred:
        source = WebSource(
            parse(url), environ=environ or {}, idle_seconds=idle, connect_seconds=2.0
        )
        try:
            return await copy_to_file(
                source, SELF, target, Budget(limit), attempts=attempts, first_wait=0.01
            )
        finally:
            await source.close()

    return asyncio.run(run())


def refused(handler: Handler, target: Path, path: str = "/x", **options: object) -> SourceError:
    with web_server(handler) as server, pytest.raises(SourceError) as error:
        get(server.url + path, target, **options)  # type: ignore[arg-type]
    assert str(server.url) in error.value.message or "TLS" in error.value.message
    return error.value


def test_a_file(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(DATA)
    with web_server(files(tmp_path)) as server:
        done = get(f"{server.url}/x", tmp_path / "got")
    assert (tmp_path / "got").read_bytes() == DATA
    assert done == Transferred(len(DATA), f"sha256:{hashlib.sha256(DATA).hexdigest()}")
    assert server.requests[0][1]["Accept-Encoding"] == "identity"


def test_a_cut_connection_is_resumed_where_it_ended(tmp_path: Path) -> None:
    limits = iter([1_000_000, 2_000_000, None])
    with web_server(lambda r: serve_bytes(r, DATA, upto=next(limits))) as server:
        done = get(f"{server.url}/x", tmp_path / "got")
    assert (tmp_path / "got").read_bytes() == DATA and done.size == len(DATA)
    ranges = [headers.get("Range") for _, headers in server.requests]
    assert ranges == [None, "bytes=1000000-", "bytes=2000000-"]


def test_a_file_that_changed_in_between_starts_again(tmp_path: Path) -> None:
    other = DATA[::-1]
    answers = iter([(DATA, 1_000_000), (other, None)])

    def handler(request: Request) -> None:
        data, upto = next(answers)
        serve_bytes(request, data, upto=upto)

    with web_server(handler) as server:
        done = get(f"{server.url}/x", tmp_path / "got")
    assert (tmp_path / "got").read_bytes() == other
    assert done.digest == f"sha256:{hashlib.sha256(other).hexdigest()}"


def test_without_an_etag_nothing_is_resumed(tmp_path: Path) -> None:
    limits = iter([1_000_000, None])
    with web_server(lambda r: serve_bytes(r, DATA, etag=False, upto=next(limits))) as server:
        get(f"{server.url}/x", tmp_path / "got")
    assert (tmp_path / "got").read_bytes() == DATA
    assert all("Range" not in headers for _, headers in server.requests)


def test_always_cut_off_is_truncated(tmp_path: Path) -> None:
    error = refused(lambda r: serve_bytes(r, DATA, etag=False, upto=1000), tmp_path / "got")
    assert error.reason == "Truncated" and error.retryable


def test_more_bytes_than_announced_by_the_part(tmp_path: Path) -> None:
    def handler(request: Request) -> None:
        if request.headers.get("Range"):
            request.reply(DATA, 206, {"Content-Range": "bytes 5-9/10", "ETag": '"1"'})
        else:
            request.reply(DATA[:1000], 200, {"ETag": '"1"'}, length=len(DATA))

    error = refused(handler, tmp_path / "got")
    assert error.retryable


@pytest.mark.parametrize(
    ("status", "reason", "retryable", "tries"),
    [
        (404, "Missing", False, 1),
        (410, "Missing", False, 1),
        (401, "AccessDenied", False, 1),
        (403, "AccessDenied", False, 1),
        (418, "Unreachable", False, 1),
        (204, "Unreachable", False, 1),
        (500, "Unreachable", True, 4),
        (503, "Unreachable", True, 4),
        (429, "Unreachable", True, 4),
    ],
)
def test_statuses(status: int, reason: str, retryable: bool, tries: int, tmp_path: Path) -> None:
    with (
        web_server(lambda r: r.reply(b"", status)) as server,
        pytest.raises(SourceError) as error,
    ):
        get(f"{server.url}/x?token=hush", tmp_path / "got")
    assert (error.value.reason, error.value.retryable) == (reason, retryable)
    assert len(server.requests) == tries
    assert "hush" not in str(error.value)


def test_a_server_that_recovers(tmp_path: Path) -> None:
    answers = iter([500, 503, 200])
    with web_server(lambda r: r.reply(DATA, next(answers))) as server:
        get(f"{server.url}/x", tmp_path / "got")
    assert (tmp_path / "got").read_bytes() == DATA


def test_retry_after_is_honoured(tmp_path: Path) -> None:
    answers = iter([503, 200])
    with web_server(lambda r: r.reply(b"x", next(answers), {"Retry-After": "1"})) as server:
        started = time.monotonic()
        get(f"{server.url}/x", tmp_path / "got")
    assert time.monotonic() - started >= 1.0


@pytest.mark.parametrize("honest", [True, False])
def test_too_large(honest: bool, tmp_path: Path) -> None:
    def handler(request: Request) -> None:
        if honest:
            request.reply(DATA)
            return
        request.send_response(200)
        request.end_headers()
        request.close_connection = True
        for _ in range(100):
            try:
                request.wfile.write(DATA)
            except ConnectionError:
                return

    error = refused(handler, tmp_path / "got", limit=1_000_000)
    assert error.reason == "TooLarge" and not error.retryable
    assert (tmp_path / "got").stat().st_size <= 1_000_000


def test_a_silent_server_times_out(tmp_path: Path) -> None:
    release = threading.Event()

    def handler(request: Request) -> None:
        release.wait(20)

    with web_server(handler) as server:
        with pytest.raises(SourceError) as error:
            get(f"{server.url}/x", tmp_path / "got", attempts=1, idle=0.2)
        release.set()
    assert error.value.reason == "Timeout" and error.value.retryable


def test_a_server_that_stops_in_the_middle_times_out(tmp_path: Path) -> None:
    release = threading.Event()

    def handler(request: Request) -> None:
        request.send_response(200)
        request.send_header("Content-Length", "100")
        request.end_headers()
        request.wfile.write(b"x")
        release.wait(20)
        request.close_connection = True

    with web_server(handler) as server:
        with pytest.raises(SourceError) as error:
            get(f"{server.url}/x", tmp_path / "got", attempts=1, idle=0.2)
        release.set()
    assert error.value.reason == "Timeout"


def test_nobody_there(tmp_path: Path) -> None:
    port = free_port()
    for url in (f"http://127.0.0.1:{port}/x", "http://no-such-host.invalid/x"):
        with pytest.raises(SourceError) as error:
            get(url, tmp_path / str(abs(hash(url))), attempts=2)
        assert error.value.reason == "Unreachable" and error.value.retryable


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH_9.9\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nx",
        b"HTTP/1.1 200 OK\r\n" + b"X: " + b"y" * 100_000 + b"\r\n\r\n",
        b"",
    ],
)
def test_no_http_at_all(answer: bytes, tmp_path: Path) -> None:
    def handler(request: Request) -> None:
        request.wfile.write(answer)
        request.close_connection = True

    error = refused(handler, tmp_path / "got", attempts=2)
    assert error.reason in ("Unreachable", "Truncated") and error.retryable


def test_https_to_a_plain_server(tmp_path: Path) -> None:
    with web_server(lambda r: r.reply(b"x")) as server, pytest.raises(SourceError) as error:
        get(server.url.replace("http:", "https:") + "/x", tmp_path / "got", attempts=1)
    assert error.value.reason in ("AccessDenied", "Unreachable")


def redirect(request: Request, to: str, status: int = 302) -> None:
    request.reply(b"", status, {"Location": to})


def test_redirects_are_followed_and_bounded(tmp_path: Path) -> None:
    def handler(request: Request) -> None:
        step = int(request.path.rpartition("/")[2] or 0)
        if step < 5:
            redirect(request, f"/{step + 1}", 301 + step % 2)
        else:
            request.reply(DATA)

    with web_server(handler) as server:
        get(f"{server.url}/0", tmp_path / "got")
    assert (tmp_path / "got").read_bytes() == DATA

    with web_server(lambda r: redirect(r, r.path)) as server, pytest.raises(SourceError) as error:
        get(f"{server.url}/loop", tmp_path / "got2")
    assert "redirects more than 5 times" in error.value.message
    assert len(server.requests) == 6 and not error.value.retryable


@pytest.mark.parametrize(
    "to", ["file:///etc/passwd", "ftp://127.0.0.1/x", "http://user:pw@127.0.0.1/x", "", "s3://b/k"]
)
def test_redirects_stay_on_http(to: str, tmp_path: Path) -> None:
    with web_server(lambda r: redirect(r, to)) as server, pytest.raises(SourceError) as error:
        get(f"{server.url}/x", tmp_path / "got")
    assert not error.value.retryable


def test_credentials_do_not_follow_a_redirect_elsewhere(tmp_path: Path) -> None:
    def other(request: Request) -> None:
        request.reply(DATA)

    with web_server(other) as second:

        def first(request: Request) -> None:
            redirect(request, "/here" if request.path == "/x" else f"{second.url}/there")

        with web_server(first) as server:
            environ = {"SLUICE_HTTP_TOKEN": "hush"}
            get(f"{server.url}/x", tmp_path / "got", environ=environ)
    assert sent(server) == ["Bearer hush", "Bearer hush"]
    assert sent(second) == [None]


def sent(server: WebServer) -> list[str | None]:
    return [headers.get("Authorization") for _, headers in server.requests]


def test_credentials_from_the_environment() -> None:
    assert from_environment({}) is None
    assert from_environment({"SLUICE_HTTP_TOKEN": "t\n"}) == "Bearer t"
    both = {"SLUICE_HTTP_USERNAME": "user", "SLUICE_HTTP_PASSWORD": "pass"}
    assert from_environment(both) == "Basic dXNlcjpwYXNz"
    assert from_environment({"SLUICE_HTTP_PASSWORD": "pass"}) is None
