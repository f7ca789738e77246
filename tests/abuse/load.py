"""Steady load from some connections, and how each request ended.

Called by the failures report; calls asyncio only.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import time
from collections.abc import AsyncIterator, Callable

PATIENCE = 15.0

Body = Callable[[int], bytes]


class Load:
    """Clients that ask one request after the other until they are stopped.

    ``ends`` counts how requests ended: by status, ``no answer`` (sent, then the connection broke)
    or ``refused`` (no connection, so nothing was sent).
    """

    def __init__(self, port: int, body: Body, *, connections: int = 16) -> None:
        self._port = port
        self._body = body
        self._connections = connections
        self._number = 0
        self._stopped = False
        self.ends: collections.Counter[str] = collections.Counter()
        self.by_number: dict[int, str] = {}
        self.worst = 0.0
        self.last_answer = 0.0

    def stop(self) -> None:
        """No more requests; those that were sent are waited for."""
        self._stopped = True

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Load]:
        """Ask while the block runs."""
        async with asyncio.TaskGroup() as group:
            for _ in range(self._connections):
                group.create_task(self._client())
            try:
                yield self
            finally:
                self.stop()

    async def _client(self) -> None:
        while not self._stopped:
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
            except OSError:
                self.ends["refused"] += 1
                await asyncio.sleep(0.05)
                continue
            try:
                while not self._stopped and await self._ask(reader, writer):
                    pass
            finally:
                writer.transport.abort()

    async def _ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request; whether the connection may be used again."""
        number, self._number = self._number, self._number + 1
        body = self._body(number)
        began = time.monotonic()
        head = b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body)
        closes = True
        try:
            async with asyncio.timeout(PATIENCE):
                writer.write(head + body)
                answer = await reader.readuntil(b"\r\n\r\n")
                lines = answer.decode().lower().split("\r\n")
                length = next(line for line in lines if line.startswith("content-length: "))
                await reader.readexactly(int(length.split()[1]))
            end, closes = lines[0].split()[1], "connection: close" in lines
        except (OSError, asyncio.IncompleteReadError, TimeoutError):
            end = "no answer"
        self.ends[end] += 1
        if end != "200":
            self.by_number[number] = end
        self.last_answer = time.monotonic()
        self.worst = max(self.worst, self.last_answer - began)
        return not closes


def told(ends: collections.Counter[str]) -> str:
    """For a table."""
    return ", ".join(f"{end} {count:,}" for end, count in ends.most_common()) or "nothing"
