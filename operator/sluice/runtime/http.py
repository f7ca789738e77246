"""HTTP/1.1 without sockets: bytes in -> requests, answers -> bytes out.

Called by ``connection.py`` (real sockets) and by the tests (no sockets).  llhttp parses; this file
adds the limits and the few decisions a server has to take: when to say 100 Continue, what is too
large, when a connection must close.  It reads no clock, opens nothing and knows no endpoint.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from http import HTTPStatus

import httptools

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

JSON = b"application/json"
TEXT = b"text/plain; charset=utf-8"
HTML = b"text/html; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Limits:
    """What one request may weigh."""

    url: int = 8 * 1024
    headers: int = 32 * 1024
    header_count: int = 128
    body: int = 16 * 1024 * 1024


@dataclass(slots=True)
class Request:
    """One complete request.  Header names are lower case; of repeated headers the last counts."""

    method: str
    path: str
    headers: dict[bytes, bytes]
    body: bytes = b""
    keep_alive: bool = True
    query: str = ""

    @property
    def content_type(self) -> str:
        """The media type without parameters, lower case; empty when absent."""
        raw = self.headers.get(b"content-type", b"")
        return raw.partition(b";")[0].strip().lower().decode("latin-1")


@dataclass(slots=True)
class BadRequest:
    """Bytes that are no request we can read.  The connection closes after the answer."""

    status: int
    message: str
    path: str = ""


Event = Request | BadRequest


@dataclass(slots=True)
class Response:
    """An answer, before it is bytes.  The connection closes after its ``last``."""

    status: int
    body: bytes = b""
    content_type: bytes = JSON
    headers: tuple[tuple[bytes, bytes], ...] = ()
    last: bool = False


def _status_line(status: int) -> bytes:
    return b"HTTP/1.1 %d %s\r\n" % (status, HTTPStatus(status).phrase.encode())


_STATUS_LINES = {int(status): _status_line(status) for status in HTTPStatus}


def render(
    response: Response, *, keep_alive: bool, head: bool = False, constant: bytes = b""
) -> bytes:
    """The bytes of ``response``; ``constant`` are header lines every answer carries."""
    parts = [
        _STATUS_LINES[response.status],
        b"content-type: ",
        response.content_type,
        b"\r\ncontent-length: ",
        str(len(response.body)).encode(),
        b"\r\n",
        constant,
    ]
    for name, value in response.headers:
        parts += (name, b": ", value, b"\r\n")
    parts.append(b"\r\n" if keep_alive else b"connection: close\r\n\r\n")
    if not head:
        parts.append(response.body)
    return b"".join(parts)


@dataclass(slots=True)
class _Message:
    """The request that is being received."""

    url: bytes = b""
    headers: dict[bytes, bytes] = field(default_factory=dict)
    header_bytes: int = 0
    header_count: int = 0
    body: bytes | bytearray = b""
    in_body: bool = False
    new: bool = True
    """Until the bytes that it began in have been read."""


class _Refuse(Exception):  # noqa: N818 - it is a jump out of the parser, not an error of ours
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class HttpConnection:
    """The server's side of one connection.

    ``receive`` returns the events in order.  After a :class:`BadRequest`, or a request that is
    not keep-alive, the connection is ``closed`` to further requests and ignores what comes.
    """

    def __init__(self, limits: Limits | None = None) -> None:
        self._limits = limits or Limits()
        self._parser = httptools.HttpRequestParser(self)
        self._events: list[Event] = []
        self._message: _Message | None = None
        self._wants_continue = False
        self._head_bytes = 0
        self.closed = False

    @property
    def mid_request(self) -> bool:
        """True between the first byte of a request and its last."""
        return self._message is not None

    @property
    def buffered(self) -> int:
        """Bytes of an unfinished body that are held in memory."""
        return len(self._message.body) if self._message is not None else 0

    @property
    def expected(self) -> int:
        """Bytes that are still to come of a body whose length was declared."""
        message = self._message
        if message is None or not message.in_body:
            return 0
        return max(0, int(message.headers.get(b"content-length", 0)) - len(message.body))

    def take_continue(self) -> bool:
        """True once when the client waits for ``100 Continue`` before it sends the body."""
        wanted, self._wants_continue = self._wants_continue, False
        return wanted

    def refuse(self) -> None:
        """Take no more from this client: the server has no room."""
        self._message = None
        self._wants_continue = False
        self.closed = True

    def receive(self, data: bytes) -> list[Event]:
        """Feed bytes; get the requests they complete."""
        while data and not self.closed:
            data = self._feed(data)
        events, self._events = self._events, []
        return events

    def _feed(self, data: bytes) -> bytes:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            return self._ignore_upgrade(data, upgrade.args[0])
        except httptools.HttpParserError as error:
            # httptools wraps what a callback raised; a refusal of ours is inside.
            if not self.closed:
                self._fail(error)
        else:
            self._bound_unfinished_head(len(data))
        return b""

    def _bound_unfinished_head(self, received: int) -> None:
        """llhttp tells of a header only when its line ends; an endless one must not fill memory."""
        message = self._message
        if message is None or message.in_body:
            return
        if message.new:  # how many of the bytes are its own is not known
            message.new = False
            self._head_bytes = 0
            return
        self._head_bytes += received
        if self._head_bytes > self._limits.url + self._limits.headers:
            self._fail(_Refuse(431, f"the headers are more than {self._limits.headers} bytes"))

    def _ignore_upgrade(self, data: bytes, offset: int) -> bytes:
        """We speak HTTP/1.1 only: a request asking to upgrade is answered as if it did not."""
        request = self._events[-1] if self._events else None
        if isinstance(request, Request):
            body = request.headers.get(b"content-length", b"0") != b"0"
            if request.method == "CONNECT" or body or b"transfer-encoding" in request.headers:
                self._events.pop()
                self._fail(_Refuse(400, "this server does not upgrade connections; send HTTP/1.1"))
                return b""
        self._parser = httptools.HttpRequestParser(self)
        return data[offset:]

    def _fail(self, error: Exception) -> None:
        cause = error.__context__ if isinstance(error.__context__, _Refuse) else error
        path = _path(self._message.url) if self._message is not None else ""
        if isinstance(cause, _Refuse):
            bad = BadRequest(cause.status, cause.message, path)
        else:
            bad = BadRequest(400, f"not an HTTP/1.1 request: {_first_argument(cause)}", path)
        self._events.append(bad)
        self._message = None
        self._wants_continue = False
        self.closed = True

    # llhttp's callbacks, in the order they come.

    def on_message_begin(self) -> None:
        self._message = _Message()

    def on_url(self, url: bytes) -> None:
        message = self._current()
        message.url += url
        if len(message.url) > self._limits.url:
            raise _Refuse(414, f"the URL is longer than {self._limits.url} bytes")

    def on_header(self, name: bytes, value: bytes) -> None:
        message = self._current()
        message.header_bytes += len(name) + len(value) + 4
        message.header_count += 1
        limits = self._limits
        if message.header_bytes > limits.headers or message.header_count > limits.header_count:
            raise _Refuse(
                431,
                f"the headers are more than {limits.headers} bytes or {limits.header_count} lines",
            )
        if not message.in_body:  # trailers carry nothing for us
            name = name.lower()
            if name == b"host" and name in message.headers:
                raise _Refuse(400, "more than one Host header")
            message.headers[name] = value

    def on_headers_complete(self) -> None:
        message = self._current()
        message.in_body = True
        declared = message.headers.get(b"content-length", b"")
        # llhttp has refused what is not a number of at most 64 bits.
        if declared and int(declared) > self._limits.body:
            raise _Refuse(413, self._too_large())
        coding = message.headers.get(b"transfer-encoding", b"chunked").lower()
        if coding != b"chunked":
            raise _Refuse(400, "Transfer-Encoding knows only chunked here")
        expect = message.headers.get(b"expect", b"").lower()
        if expect == b"100-continue":
            self._wants_continue = True
        elif expect:
            raise _Refuse(417, "Expect knows only 100-continue here")

    def on_body(self, data: bytes) -> None:
        message = self._current()
        if len(message.body) + len(data) > self._limits.body:
            raise _Refuse(413, self._too_large())
        self._wants_continue = False
        if not message.body:
            message.body = data  # most bodies come in one piece and are not copied
        elif isinstance(message.body, bytes):
            message.body = bytearray(message.body) + data
        else:
            message.body += data

    def on_message_complete(self) -> None:
        message = self._current()
        keep_alive = bool(self._parser.should_keep_alive())
        self._events.append(
            Request(
                method=self._parser.get_method().decode("latin-1"),
                path=_path(message.url),
                headers=message.headers,
                body=bytes(message.body),
                keep_alive=keep_alive,
                query=message.url.partition(b"?")[2].partition(b"#")[0].decode("latin-1"),
            )
        )
        self._message = None
        self._wants_continue = False
        if not keep_alive:
            self.closed = True

    def _current(self) -> _Message:
        assert self._message is not None, "llhttp calls on_message_begin first"
        return self._message

    def _too_large(self) -> str:
        return (
            f"the body is larger than {self._limits.body} bytes; send fewer rows in one request, "
            "or use batch prediction"
        )


def _path(url: bytes) -> str:
    """The path of an origin-form or absolute-form target, undecoded but for percent-colon."""
    target = url.decode("latin-1")
    if "://" in target[:9]:
        target = "/" + target.partition("://")[2].partition("/")[2]
    return target.partition("?")[0].partition("#")[0].replace("%3A", ":").replace("%3a", ":")


def _first_argument(error: BaseException) -> str:
    chain: Iterator[object] = iter(error.args)
    return str(next(chain, type(error).__name__))
