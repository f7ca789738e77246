"""The parser without sockets: what is a request, what is refused, when the connection closes."""

from __future__ import annotations

import itertools
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.runtime.http import BadRequest, HttpConnection, Limits, Request, Response, render

GET = b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n"
POST = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}"
CHUNKED = (
    b"POST /predict?a=b HTTP/1.1\r\nTransfer-Encoding: chunked\r\nX-Sluice-Bucket: 7\r\n\r\n"
    b"1\r\n{\r\n1;ext=1\r\n}\r\n0\r\nTrailer: t\r\n\r\n"
)


def test_pipelined_requests_come_in_order_with_their_bodies() -> None:
    connection = HttpConnection()
    events = connection.receive(GET + POST + CHUNKED)
    requests = [e for e in events if isinstance(e, Request)]
    assert [(r.method, r.path, r.body) for r in requests] == [
        ("GET", "/readyz", b""),
        ("POST", "/predict", b"{}"),
        ("POST", "/predict", b"{}"),
    ]
    assert requests[2].headers[b"x-sluice-bucket"] == b"7"
    assert b"trailer" not in requests[2].headers
    assert not connection.closed
    assert not connection.mid_request


@given(st.lists(st.integers(0, len(GET + POST + CHUNKED)), max_size=20))
def test_where_the_bytes_are_cut_does_not_matter(cuts: list[int]) -> None:
    data = GET + POST + CHUNKED
    connection = HttpConnection()
    events = []
    edges = [0, *sorted(cuts), len(data)]
    for start, stop in itertools.pairwise(edges):
        events += connection.receive(data[start:stop])
    assert events == HttpConnection().receive(data)


@given(st.binary(max_size=2000))
def test_no_bytes_make_the_parser_raise(data: bytes) -> None:
    connection = HttpConnection(Limits(url=100, headers=500, body=500))
    for event in connection.receive(data):
        assert isinstance(event, Request | BadRequest)
    connection.receive(data)


@given(st.binary(max_size=200))
def test_no_header_or_body_bytes_make_the_parser_raise(data: bytes) -> None:
    for start in (b"POST /predict HTTP/1.1\r\n", b"POST /p HTTP/1.1\r\nContent-Length: 50\r\n\r\n",
                  b"POST /p HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"):  # fmt: skip
        connection = HttpConnection(Limits(url=100, headers=500, body=500))
        for event in connection.receive(start + data):
            assert isinstance(event, Request | BadRequest)


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"\x16\x03\x01 not http", 400),
        (b"GET / HTTP/7.7\r\n\r\n", 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
        (b"GET /" + b"x" * 300 + b" HTTP/1.1\r\n\r\n", 414),
        (b"GET / HTTP/1.1\r\nA: " + b"x" * 300 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 50 + b"\r\n", 431),
        (b"POST /p HTTP/1.1\r\nContent-Length: 101\r\n\r\n", 413),
        (b"POST /p HTTP/1.1\r\nContent-Length: 18446744073709551615\r\n\r\n", 413),
        (b"POST /p HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400),
        (b"POST /p HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
        (b"POST /p HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (b"POST /p HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n65\r\n" + b"x" * 101, 413),
        (b"POST /p HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
        (b"POST /p HTTP/1.1\r\nExpect: 200-ok\r\nContent-Length: 1\r\n\r\n", 417),
        (b"CONNECT host:1 HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    ],
)
def test_what_is_refused_and_with_which_status(data: bytes, status: int) -> None:
    connection = HttpConnection(Limits(url=200, headers=200, header_count=20, body=100))
    (event,) = connection.receive(data)
    assert isinstance(event, BadRequest)
    assert event.status == status
    assert connection.closed
    assert connection.receive(GET) == []


def test_an_endless_header_line_is_cut_off() -> None:
    connection = HttpConnection()
    events = connection.receive(b"GET / HTTP/1.1\r\nA: ")
    for _ in range(100):
        events += connection.receive(b"x" * 10_000)
    assert [e.status for e in events if isinstance(e, BadRequest)] == [431]


def test_requests_before_a_bad_one_are_still_answered() -> None:
    events = HttpConnection().receive(GET + b"nonsense\r\n\r\n")
    assert isinstance(events[0], Request)
    assert isinstance(events[1], BadRequest)


def test_nothing_is_taken_after_connection_close() -> None:
    connection = HttpConnection()
    (event,) = connection.receive(b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n" + GET)
    assert isinstance(event, Request)
    assert not event.keep_alive
    assert connection.closed


def test_http_1_0_closes_unless_asked() -> None:
    (event,) = HttpConnection().receive(b"GET / HTTP/1.0\r\n\r\n")
    assert isinstance(event, Request)
    assert not event.keep_alive
    (event,) = HttpConnection().receive(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    assert isinstance(event, Request)
    assert event.keep_alive


def test_continue_is_owed_only_while_the_body_is_awaited() -> None:
    head = b"POST /p HTTP/1.1\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n"
    connection = HttpConnection()
    connection.receive(head)
    assert connection.take_continue()
    assert not connection.take_continue()
    impatient = HttpConnection()
    impatient.receive(head + b"{}")
    assert not impatient.take_continue()
    refused = HttpConnection(Limits(body=1))
    refused.receive(head)
    assert not refused.take_continue()


def test_an_upgrade_is_ignored() -> None:
    upgrade = b"GET /docs HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
    events = HttpConnection().receive(upgrade + GET)
    assert [e.path for e in events if isinstance(e, Request)] == ["/docs", "/readyz"]


@pytest.mark.parametrize(
    ("target", "path"),
    [
        (b"/predict?x=1#y", "/predict"),
        (b"http://host:80/predict", "/predict"),
        (b"http://host", "/"),
        (b"/v1/models/iris%3Apredict", "/v1/models/iris:predict"),
    ],
)
def test_targets_become_paths(target: bytes, path: str) -> None:
    (event,) = HttpConnection().receive(b"GET " + target + b" HTTP/1.1\r\n\r\n")
    assert isinstance(event, Request)
    assert event.path == path


def test_an_answer_has_length_type_constant_headers_and_close() -> None:
    response = Response(503, b"{}", headers=((b"retry-after", b"0"),))
    data = render(response, keep_alive=False, constant=b"x-sluice-revision: abc\r\n")
    assert data == (
        b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\n"
        b"content-length: 2\r\nx-sluice-revision: abc\r\nretry-after: 0\r\n"
        b"connection: close\r\n\r\n{}"
    )
    head = render(response, keep_alive=True, head=True)
    assert head.endswith(b"content-length: 2\r\nretry-after: 0\r\n\r\n")


HIDDEN = b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.mark.parametrize(
    "lines",
    [
        b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n",
        b"Content-Length: 4\r\nContent-Length: 40\r\n\r\nabcd",
        b"Content-Length: 4\r\nContent-Length: 4\r\n\r\nabcd",
        b"Content-Length: 4, 4\r\n\r\nabcd",
        b"Content-Length: +4\r\n\r\nabcd",
        b"Content-Length : 4\r\n\r\nabcd",
        b"Content-Length: 99999999999999999999\r\n\r\nabcd",
        b"X: a\r\n b\r\nContent-Length: 4\r\n\r\nabcd",
        b"X: a\nContent-Length: 4\r\n\r\nabcd",
        b"X: a\rContent-Length: 4\r\n\r\nabcd",
        b"X: a\x00b\r\nContent-Length: 4\r\n\r\nabcd",
        b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n5\nabcde\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n5 ;a\r\nabcde\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n5\r\nabcdeX0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n+5\r\nabcde\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n",
        b"Host: b\r\nContent-Length: 4\r\n\r\nabcd",
    ],
)
@pytest.mark.parametrize("step", [1, 7, 10_000])
def test_an_ambiguous_request_is_refused_and_nothing_behind_it_is_read(
    lines: bytes, step: int
) -> None:
    connection = HttpConnection()
    data = b"POST /predict HTTP/1.1\r\nHost: a\r\n" + lines + HIDDEN
    events = [
        e for at in range(0, len(data), step) for e in connection.receive(data[at : at + step])
    ]
    assert [(type(e), getattr(e, "status", 0)) for e in events] == [(BadRequest, 400)]
    assert connection.closed


def test_a_long_pipeline_is_not_taken_for_an_endless_header() -> None:
    connection = HttpConnection()
    data = GET * 30_000
    events = []
    for at in range(0, len(data), 65_535):  # every piece ends inside of a head
        events += connection.receive(data[at : at + 65_535])
    assert len(events) == 30_000 and all(isinstance(event, Request) for event in events)


def test_a_body_in_tiny_chunks_takes_no_more_memory_than_its_bytes() -> None:
    connection = HttpConnection()
    connection.receive(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n")
    tracemalloc.start()
    for _ in range(100):
        connection.receive(b"2\r\nab\r\n" * 1000)
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert connection.buffered == 200_000 and taken < 400_000
