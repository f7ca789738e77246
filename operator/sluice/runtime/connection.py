"""One client connection: asyncio's callbacks around the sans-IO parser.

Called by the event loop; calls the application of its port.  Answers leave in the order of the
requests, whatever order they were computed in.  Time limits are checked by one sweep a second
over all connections instead of one timer each.
"""

from __future__ import annotations

import asyncio
import heapq
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, cast

from sluice.runtime.http import (
    CONTINUE,
    BadRequest,
    Event,
    HttpConnection,
    Limits,
    Request,
    Response,
    render,
)
from sluice.runtime.options import MAX_CONNECTIONS
from sluice.runtime.served import Exchange

MAX_PIPELINED = 64

TURN_REQUESTS = 16
TURN_BYTES = 2 * 1024
"""What one connection may take of a turn of the loop, but for a body of declared length, which
costs little: the rest of a pipeline waits until the others have had their turn."""

TURNS_SECONDS = 0.002
"""What all pipelines may take of a turn of the loop."""

MAX_BUFFERED = 256 * 1024 * 1024
"""Bytes of unfinished bodies that all connections of a port may hold together."""

MAX_UNREAD = 128 * 1024 * 1024
"""Bytes of answers that the clients of a port may leave unread together."""

VICTIMS = 64
"""How many connections to close are looked for at once: a search goes over all of them."""


class App(Protocol):
    """What answers on a port."""

    def handle(self, request: Request, exchange: Exchange) -> None:
        """Answer now or later."""

    def refuse(self, bad: BadRequest) -> Response:
        """The answer to what is no request."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds a client may take."""

    read: float = 10.0
    """From the first byte of a request to its last."""
    idle: float = 90.0
    """Between two requests; longer than a router keeps its connections."""
    write: float = 30.0
    """To take an answer."""


@dataclass(slots=True)
class Port:
    """What the connections of one listening port share."""

    app: App
    constant: bytes
    limits: Limits = field(default_factory=Limits)
    timeouts: Timeouts = field(default_factory=Timeouts)
    closing: bool = False
    """Answers say ``connection: close`` from now on."""
    connections: set[Connection] = field(default_factory=set)
    max_buffered: int = MAX_BUFFERED
    buffered: int = 0
    max_unread: int = MAX_UNREAD
    unread: int = 0
    max_connections: int = MAX_CONNECTIONS
    _victims: deque[tuple[float, Connection]] = field(default_factory=deque)
    _turns: deque[Connection] = field(default_factory=deque)
    _scheduled: bool = False

    def protocol(self) -> Connection:
        """A protocol for a new connection."""
        return Connection(self)

    def admit(self, connection: Connection) -> bool:
        """Take a new connection; at the limit, in place of the one that has waited longest.

        So whoever opens connections to hold them closes his own, and not those of clients that
        ask something now and then.  False when all are being answered.
        """
        if len(self.connections) >= self.max_connections and not self._evict():
            return False
        self.connections.add(connection)
        return True

    def _evict(self) -> bool:
        if not any(c.waits and c.since == since for since, c in self._victims):
            waiting = ((c.since, c) for c in self.connections if c.waits)
            self._victims = deque(heapq.nsmallest(VICTIMS, waiting, key=lambda v: v[0]))
        while self._victims:
            since, victim = self._victims.popleft()
            if victim.waits and victim.since == since:
                victim.abort()
                self.connections.discard(victim)
                return True
        return False

    def give_turn(self, connection: Connection) -> None:
        """Let a connection go on with its pipeline when the others have had their turn."""
        self._turns.append(connection)
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._run_turns)

    def _run_turns(self) -> None:
        """However many connections pipeline, together they hold up the loop for a moment only."""
        ends = time.monotonic() + TURNS_SECONDS
        try:
            for _ in range(len(self._turns)):
                self._turns.popleft().continue_()
                if time.monotonic() > ends:
                    break
        finally:
            self._scheduled = bool(self._turns)
            if self._scheduled:
                asyncio.get_running_loop().call_soon(self._run_turns)

    def sweep(self) -> None:
        """Close what is too slow; called once a second."""
        now = time.monotonic()
        for connection in list(self.connections):
            connection.check_time(now)

    def close_idle(self) -> None:
        """Close the connections on which nothing is going on."""
        for connection in list(self.connections):
            connection.close_if_idle()

    def abort_all(self) -> None:
        """The grace period is over."""
        for connection in list(self.connections):
            connection.abort()


class _Exchange:
    """A request waiting for its answer."""

    __slots__ = ("_connection", "data", "head", "keep_alive", "on_gone", "started")

    def __init__(self, connection: Connection, request: Request, started: float) -> None:
        self._connection = connection
        self.started = started
        self.keep_alive = request.keep_alive
        self.head = request.method == "HEAD"
        self.on_gone: Callable[[], None] | None = None
        self.data: bytes | None = None

    def answer(self, response: Response) -> None:
        self.on_gone = None
        self._connection.answered(self, response)


class Connection(asyncio.Protocol):
    """The socket side of one connection."""

    def __init__(self, port: Port) -> None:
        self._port = port
        self._http = HttpConnection(port.limits)
        self._transport: asyncio.Transport | None = None
        self._received = b""
        self._read = 0
        self._parsed: deque[Event] = deque()
        self._waiting: deque[_Exchange] = deque()
        self._refusal: bytes | None = None
        self._since = 0.0
        self._blocked_since: float | None = None
        self._read_paused = False
        self._owes_continue = False
        self._eof = False
        self._flushing = False
        self._held = 0
        self._unread = 0
        self._continues = False
        self._linger_until: float | None = None

    # asyncio's callbacks.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass
        self._since = time.monotonic()
        if not self._port.admit(self):
            self._transport.abort()
            self._transport = None

    def data_received(self, data: bytes) -> None:
        if self._http.closed:
            return  # nothing of it will be answered
        if not self._http.mid_request:
            self._since = time.monotonic()
        self._received = self._received[self._read :] + data if self._received else data
        self._read = 0
        self._flush()
        if self._has_more:
            self._pause_reading()

    @property
    def _has_more(self) -> bool:
        """Whether requests, or parts of them, have come that have not had their turn."""
        return bool(self._parsed or self._received)

    def _parse(self) -> None:
        """Parse some of what was received."""
        received, start = self._received, self._read
        end = start + TURN_BYTES
        while start < len(received) and not self._http.closed:
            part = received if start == 0 and end >= len(received) else received[start:end]
            self._parsed.extend(self._http.receive(part))
            start, end = end, end + self._http.expected
            if self._parsed or start == end:
                break
        self._read = start
        if start >= len(received) or self._http.closed:
            self._received, self._read = b"", 0
        if self._http.take_continue():
            self._owes_continue = True
        self._account()

    def _account(self) -> None:
        """Keep the port's sum of unfinished bodies; beyond the limit this one is refused."""
        held = self._http.buffered
        self._port.buffered += held - self._held
        self._held = held
        if held and self._port.buffered > self._port.max_buffered:
            self._http.refuse()
            self._parsed.append(BadRequest(503, "too many large requests at once; try again"))
            self._account()

    def _take_requests(self) -> None:
        """Start requests, but only so many at once: a pipeline is one client's, not the queue."""
        now = time.monotonic()
        for _ in range(TURN_REQUESTS):
            if not self._parsed or len(self._waiting) >= MAX_PIPELINED:
                break
            event = self._parsed.popleft()
            if isinstance(event, BadRequest):
                response = self._port.app.refuse(event)
                self._refusal = render(response, keep_alive=False, constant=self._port.constant)
                continue
            exchange = _Exchange(self, event, now)
            self._waiting.append(exchange)
            self._since = now
            self._port.app.handle(event, exchange)

    def eof_received(self) -> bool:
        """The client has gone, or (seldom) only closed its half: answer what it asked for."""
        self._eof = True
        self._tell_gone()
        return bool(self._waiting) or self._has_more

    def connection_lost(self, exc: Exception | None) -> None:
        self._port.connections.discard(self)
        self._port.buffered -= self._held
        self._port.unread -= self._unread
        self._held = self._unread = 0
        self._tell_gone()
        self._waiting.clear()
        self._received, self._read = b"", 0
        self._transport = None

    def pause_writing(self) -> None:
        self._blocked_since = time.monotonic()
        self._pause_reading()

    def resume_writing(self) -> None:
        self._blocked_since = None
        self._count_unread(0)
        self._flush()

    def _count_unread(self, size: int) -> None:
        """Keep the port's sum of answers that nobody reads; beyond the limit this client goes."""
        self._port.unread += size - self._unread
        self._unread = size
        if size and self._port.unread > self._port.max_unread:
            self.abort()

    # Answers.

    def answered(self, exchange: _Exchange, response: Response) -> None:
        """An exchange has its answer; write it when its turn comes."""
        keep_alive = exchange.keep_alive and not self._port.closing and not response.last
        exchange.keep_alive = keep_alive
        exchange.data = render(
            response, keep_alive=keep_alive, head=exchange.head, constant=self._port.constant
        )
        if self._waiting and self._waiting[0] is exchange:
            self._flush()

    def _flush(self) -> None:
        """Write the answers whose turn has come; take more requests when there is room."""
        transport = self._transport
        if transport is None or transport.is_closing() or self._flushing or self._lingers:
            return
        self._flushing = True
        if self._blocked_since is None:
            if self._received and not self._parsed:
                self._parse()
            self._take_requests()
        ready, close = self._due()
        self._flushing = False
        if ready:
            transport.write(ready[0] if len(ready) == 1 else b"".join(ready))
            self._since = time.monotonic()
        if close or (self._eof and not self._waiting and not self._has_more):
            self._close()
        elif self._blocked_since is not None:
            self._count_unread(transport.get_write_buffer_size())
        elif not self._has_more:
            self._resume_reading()
        elif len(self._waiting) < MAX_PIPELINED and not self._continues:
            self._continues = True
            self._port.give_turn(self)

    def continue_(self) -> None:
        """The next turn of a pipeline."""
        self._continues = False
        self._flush()

    @property
    def _lingers(self) -> bool:
        """Nothing is written any more, only read for a moment."""
        return self._linger_until is not None

    def _due(self) -> tuple[list[bytes], bool]:
        """What may be written now, and whether the connection closes after it."""
        waiting = self._waiting
        ready: list[bytes] = []
        while waiting and waiting[0].data is not None:
            exchange = waiting.popleft()
            assert exchange.data is not None
            ready.append(exchange.data)
            if not exchange.keep_alive:
                return ready, True
        if waiting or self._parsed:
            return ready, False
        if self._refusal is not None:
            return [*ready, self._refusal], True
        if self._owes_continue and self._http.mid_request:
            ready.append(CONTINUE)
        self._owes_continue = False
        return ready, False

    def _close(self) -> None:
        """Close after what was written has left.

        Bytes the client still sends would make the kernel answer with a reset that can destroy the
        answer on its way, so a refused upload is read for a moment more (see ``check_time``).
        """
        assert self._transport is not None
        self._waiting.clear()
        self._parsed.clear()
        self._received, self._read = b"", 0
        if self._refusal is not None and not self._eof and self._transport.can_write_eof():
            self._transport.write_eof()
            self._resume_reading()
            self._linger_until = time.monotonic() + 2.0
        else:
            self._transport.close()

    # Time and back-pressure.

    @property
    def waits(self) -> bool:
        """Whether it waits for its client: for a request, the rest of one, or to be read."""
        pending = self._waiting or (self._has_more and self._blocked_since is None)
        return self._transport is not None and not pending

    @property
    def since(self) -> float:
        """When its client last did something."""
        return self._since

    def check_time(self, now: float) -> None:
        """Close when the client is too slow at what it is doing."""
        transport, timeouts = self._transport, self._port.timeouts
        if transport is None:
            return
        if transport.is_closing():
            if now - self._since > timeouts.write:
                transport.abort()  # its last answer is never going to leave
        elif self._linger_until is not None:
            if now > self._linger_until:
                transport.close()
        elif self._blocked_since is not None:
            if now - self._blocked_since > timeouts.write:
                transport.abort()
        elif self._waiting:
            return
        elif self._http.mid_request:
            if now - self._since > timeouts.read:
                self._too_slow()
        elif now - self._since > timeouts.idle:
            transport.close()

    def close_if_idle(self) -> None:
        """Close when no request is being received or answered."""
        if self._transport is not None and not self._waiting and not self._http.mid_request:
            self._transport.close()

    def abort(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()

    def _too_slow(self) -> None:
        seconds = self._port.timeouts.read
        bad = BadRequest(408, f"the request was not complete within {seconds:g} s")
        response = self._port.app.refuse(bad)
        assert self._transport is not None
        self._transport.write(render(response, keep_alive=False, constant=self._port.constant))
        self._transport.close()

    def _tell_gone(self) -> None:
        for exchange in self._waiting:
            if exchange.on_gone is not None:
                exchange.on_gone()
                exchange.on_gone = None

    def _pause_reading(self) -> None:
        if self._transport is not None and not self._read_paused:
            self._read_paused = True
            self._transport.pause_reading()

    def _resume_reading(self) -> None:
        if self._transport is not None and self._read_paused:
            self._read_paused = False
            self._transport.resume_reading()
