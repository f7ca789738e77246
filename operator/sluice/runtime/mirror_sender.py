"""The sockets of mirroring: a few connections to the candidate, and the file that says where.

Called by the server (once a second, and when a copy waits); calls ``mirror.py``, which decides what
is sent and what answers mean.  Nothing here can hold up a user: connections are few, copies that do
not fit are dropped, and an address that does not answer is left alone for a second.
"""

from __future__ import annotations

import asyncio
import socket
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import cast

import httptools

from sluice.runtime.aim import MAX_FILE, Place, read_aim
from sluice.runtime.mirror import Copy, Mirror
from sluice.runtime.sandbox.connector import CONNECT_SECONDS
from sluice.runtime.watched import WatchedFile

CONNECTIONS = 8
PAUSE_SECONDS = 1.0
"""After a connection that failed; meanwhile the queue fills and what comes is dropped."""

MAX_ANSWER = 1024 * 1024

Dial = Callable[[Place], Awaitable[socket.socket]]
"""Connects; raises OSError."""


async def _dial(place: Place) -> socket.socket:
    """From this very process, where nothing keeps it in."""
    sock = socket.socket(socket.AF_INET6 if ":" in place[0] else socket.AF_INET)
    try:
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, place)
    except BaseException:
        sock.close()
        raise
    return sock


class MirrorFile:
    """``--mirror-file``: the operator's word on where copies go."""

    def __init__(self, path: Path, mirror: Mirror) -> None:
        self._file = WatchedFile(path, limit=MAX_FILE)
        self._mirror = mirror
        self._seen: bytes | None = None

    def follow(self) -> None:
        """Read it again when it has changed.  What cannot be followed means no mirroring."""
        try:
            data = self._file.read()
        except FileNotFoundError:
            data = b""
        except OSError as error:
            self._refuse(f"cannot be read ({error.strerror})")
            self._seen = None
            return
        if data == self._seen:
            return
        self._seen = data
        try:
            aim = read_aim(data)
        except ValueError as error:
            self._refuse(str(error))
            return
        self._mirror.problem = ""
        self._mirror.take_aim(aim)

    def _refuse(self, why: str) -> None:
        problem = f"the mirror file {why}"[:200]
        if problem != self._mirror.problem:
            print(f"{problem}; nothing is mirrored", file=sys.stderr)
        self._mirror.problem = problem
        self._mirror.take_aim(None)


class Sender:
    """Sends what waits in a :class:`Mirror`, on at most ``CONNECTIONS`` connections."""

    def __init__(self, mirror: Mirror, dial: Dial | None = None) -> None:
        self._mirror = mirror
        self._dial = dial or _dial
        self._idle: list[_Connection] = []
        self._open: set[_Connection] = set()
        self._connecting: set[asyncio.Task[None]] = set()
        self._paused_until = 0.0
        self._turn = 0
        self._woken = False
        self._closed = False

    def wake(self) -> None:
        """A copy waits; it is sent at the end of this turn of the loop."""
        if not self._woken:
            self._woken = True
            asyncio.get_running_loop().call_soon(self._pump)

    def sweep(self, now: float) -> None:
        """Once a second: end what takes too long, leave an old aim, try again after a pause."""
        for connection in list(self._open):
            connection.check_time(now)
            if connection.place not in self._mirror.places:
                connection.close_if_idle()
        if self._mirror.queued:
            self.wake()

    def close(self) -> None:
        """Send nothing more."""
        self._closed = True
        for task in self._connecting:
            task.cancel()
        for connection in list(self._open):
            connection.abort()

    def _pump(self) -> None:
        self._woken = False
        mirror = self._mirror
        if self._closed or mirror.aim is None:
            return
        while self._idle:
            if self._idle[-1].place not in mirror.places:
                self._idle.pop().abort()
                continue
            copy = mirror.take()
            if copy is None:
                return
            self._idle.pop().send(copy)
        room = CONNECTIONS - len(self._open) - len(self._connecting)
        if room > 0 and mirror.queued and time.monotonic() >= self._paused_until:
            self._connect(mirror.places)

    def _connect(self, places: list[Place]) -> None:
        self._turn += 1
        place = places[self._turn % len(places)]
        task = asyncio.get_running_loop().create_task(self._connected(place))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    async def _connected(self, place: Place) -> None:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                sock = await self._dial(place)
            await loop.create_connection(lambda: _Connection(self, place), sock=sock)
        except (OSError, TimeoutError):
            self._paused_until = time.monotonic() + PAUSE_SECONDS
            copy = self._mirror.take()
            if copy is not None:  # One says that nobody answers; the others may still be sent.
                self._mirror.failed(copy)

    # What connections say.

    def opened(self, connection: _Connection) -> None:
        self._open.add(connection)
        self.free(connection)

    def free(self, connection: _Connection) -> None:
        self._idle.append(connection)
        self.wake()

    def lost(self, connection: _Connection, copy: Copy | None) -> None:
        self._open.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        if copy is not None:
            self._paused_until = time.monotonic() + PAUSE_SECONDS
            self._mirror.failed(copy)

    def answered(self, copy: Copy, status: int, body: bytes) -> None:
        self._mirror.answered(copy, status, body)


class _Connection(asyncio.Protocol):
    """One connection: at most one copy is on its way on it."""

    def __init__(self, sender: Sender, place: Place) -> None:
        self.place = place
        self._sender = sender
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._copy: Copy | None = None
        self._deadline = 0.0
        self._body: list[bytes] = []
        self._size = 0

    def send(self, copy: Copy) -> None:
        """Send a copy; its answer or its failure is told to the sender."""
        assert self._transport is not None
        self._copy = copy
        self._deadline = time.monotonic() + copy.aim.timeout
        self._body, self._size = [], 0
        self._transport.write(copy.render())

    def check_time(self, now: float) -> None:
        """End the connection when its copy is not answered in time."""
        if self._copy is not None and now > self._deadline:
            self.abort()

    def close_if_idle(self) -> None:
        """End the connection unless an answer is awaited."""
        if self._copy is None:
            self.abort()

    def abort(self) -> None:
        """End the connection at once."""
        if self._transport is not None:
            self._transport.abort()

    # asyncio's callbacks.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._sender.opened(self)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        copy, self._copy, self._transport = self._copy, None, None
        self._sender.lost(self, copy)

    # llhttp's callbacks.

    def on_body(self, data: bytes) -> None:
        self._size += len(data)
        if self._size > MAX_ANSWER:
            self.abort()
            return
        self._body.append(data)

    def on_message_complete(self) -> None:
        copy, self._copy = self._copy, None
        if copy is None or self._size > MAX_ANSWER:
            self._copy = copy
            self.abort()  # An answer that nobody asked for.
            return
        self._sender.answered(copy, self._parser.get_status_code(), b"".join(self._body))
        if self._parser.should_keep_alive() and self._transport is not None:
            self._sender.free(self)
        else:
            self.abort()
