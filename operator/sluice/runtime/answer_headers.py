"""What an answer carries because of its request's headers: ``traceparent``, and CORS when allowed.

Called by ``endpoints.py``; calls nothing.  Without ``--cors-origin`` no answer says anything about
origins, so a browser keeps the answers from other people's pages.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sluice.runtime.http import TEXT, Request, Response
from sluice.runtime.problems import Problem
from sluice.runtime.served import Exchange

TRACE = b"traceparent"
_LONGEST_TRACE = 128
_ORIGIN = b"origin"
_ASKED_METHOD = b"access-control-request-method"
_MAY_SEND = b"content-type, inference-header-content-length, traceparent, x-request-id"
_MAY_READ = b"x-sluice-revision, inference-header-content-length, retry-after, traceparent"

Headers = tuple[tuple[bytes, bytes], ...]


def trace(headers: dict[bytes, bytes]) -> Headers:
    """The client's ``traceparent``, as it came; nothing when it is absent or no such thing."""
    value = headers.get(TRACE)
    return ((TRACE, value),) if value and len(value) <= _LONGEST_TRACE else ()


class Origins:
    """The pages whose scripts may ask: origins such as ``https://app.example.com``, or ``*``."""

    def __init__(self, allowed: Sequence[str]) -> None:
        self._allowed = frozenset(origin.encode() for origin in allowed)

    def headers(self, request: Request) -> Headers:
        """For an answer; empty unless the origin is allowed."""
        origin = request.headers.get(_ORIGIN)
        if origin is None or not self._allowed & {origin, b"*"}:
            return ()
        return (
            (b"access-control-allow-origin", origin),
            (b"access-control-expose-headers", _MAY_READ),
            (b"vary", b"origin"),
        )

    def preflight(self, request: Request) -> Response | None:
        """The answer to a browser that asks first; None when this is no such question.

        Raises a 403 Problem for an origin that is not allowed.
        """
        if not self._allowed or request.method != "OPTIONS":
            return None
        if _ORIGIN not in request.headers or _ASKED_METHOD not in request.headers:
            return None
        if not self.headers(request):
            origin = request.headers[_ORIGIN][:100].decode("latin-1")
            raise Problem(403, "OriginNotAllowed", f"pages of {origin!r} may not ask this server")
        may = (
            (b"access-control-allow-methods", b"GET, POST"),
            (b"access-control-allow-headers", _MAY_SEND),
            (b"access-control-max-age", b"600"),
        )
        return Response(200, b"", TEXT, may)


class Marked:
    """An exchange whose answer gets more headers."""

    def __init__(self, exchange: Exchange, headers: Headers) -> None:
        self._exchange = exchange
        self._headers = headers
        self.started = exchange.started

    @property
    def on_gone(self) -> Callable[[], None] | None:
        """As the exchange's own."""
        return self._exchange.on_gone

    @on_gone.setter
    def on_gone(self, call: Callable[[], None] | None) -> None:
        self._exchange.on_gone = call

    def answer(self, response: Response) -> None:
        """Give the answer, with the headers."""
        response.headers += self._headers
        self._exchange.answer(response)
