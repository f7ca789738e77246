"""What a hostile or broken client does with sockets; each attack says what it got.

Called by the abuse report and, smaller, by the unit tests; calls asyncio only.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import socket
import time
from collections.abc import Awaitable, Callable, Iterable

from tests.abuse.healthy import BODY

HEAD = b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(BODY)
CHUNKED = b"POST /predict HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
HUGE = 100 * 1024 * 1024

Got = collections.Counter[str]
Attack = Callable[[int, int, float], Awaitable[Got]]
"""(port, size, seconds) -> what came of the sockets."""


async def slow_headers(port: int, sockets: int, seconds: float) -> Got:
    """A byte of a header a second on every socket."""
    return await _all(sockets, lambda: _dribble(port, b"", HEAD, seconds))


async def slow_bodies(port: int, sockets: int, seconds: float) -> Got:
    """A byte of a body a second on every socket."""
    return await _all(sockets, lambda: _dribble(port, HEAD, BODY, seconds))


async def never_reading(port: int, sockets: int, seconds: float) -> Got:
    """Pages asked for 2,000 times on every socket and never read."""
    return await _all(sockets, lambda: _read_nothing(port, seconds))


async def slow_reading(port: int, sockets: int, seconds: float) -> Got:
    """Pages asked for 2,000 times on every socket, and a kilobyte read now and then."""
    return await _all(sockets, lambda: _read_slowly(port, seconds))


async def huge_declared(port: int, sockets: int, _seconds: float) -> Got:
    """100 MB with a Content-Length."""
    head = b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % HUGE
    return await _all(sockets, lambda: _upload(port, head, [bytes(65536)] * (HUGE // 65536)))


async def huge_chunked(port: int, sockets: int, _seconds: float) -> Got:
    """100 MB in chunks, without a length."""
    chunk = b"10000\r\n" + bytes(65536) + b"\r\n"
    return await _all(sockets, lambda: _upload(port, CHUNKED, [chunk] * (HUGE // 65536)))


async def tiny_chunks(port: int, sockets: int, _seconds: float) -> Got:
    """15 MB in chunks of two bytes, and then nothing."""
    chunks = b"2\r\n[[\r\n" * 10_000
    return await _all(sockets, lambda: _upload(port, CHUNKED, [chunks] * 750))


async def pipelined(port: int, requests: int, _seconds: float) -> Got:
    """Many predictions on one connection, one behind the other, all read."""
    reader, writer = await _connect(port)
    got = Got()

    async def send() -> None:
        block = (HEAD + BODY) * 1000
        for _ in range(requests // 1000):
            writer.write(block)
            await writer.drain()

    sending = asyncio.create_task(send())
    tail = b""
    while got["200"] < requests:
        data = await reader.read(1 << 18)
        if not data:
            break
        joined = tail + data
        got["200"] += joined.count(b"HTTP/1.1 200") - tail.count(b"HTTP/1.1 200")
        tail = joined[-11:]
    await sending
    await _closed(writer)
    return got


async def half_closed(port: int, sockets: int, _seconds: float) -> Got:
    """A whole request, then the client's half is closed; it still reads."""
    return await _all(sockets, lambda: _half_close(port, HEAD + BODY))


async def half_sent(port: int, sockets: int, _seconds: float) -> Got:
    """Half a request, then the client's half is closed."""
    return await _all(sockets, lambda: _half_close(port, HEAD + BODY[:9]))


async def flood(port: int, sockets: int, seconds: float) -> Got:
    """More sockets than the server takes, held open and silent."""
    return await _all(sockets, lambda: _hold(port, seconds))


async def reconnecting(port: int, sockets: int, seconds: float) -> Got:
    """Sockets that are opened and reset as fast as it goes."""
    ends = time.monotonic() + seconds

    async def again() -> str:
        count = 0
        while time.monotonic() < ends:
            _, writer = await _connect(port)
            writer.transport.abort()
            count += 1
        return f"reset after {count // 100 * 100}+"

    return await _all(sockets, again)


# One socket each.


async def _dribble(port: int, first: bytes, rest: bytes, seconds: float) -> str:
    reader, writer = await _connect(port)
    ends = time.monotonic() + seconds
    writer.write(first)
    for at in range(len(rest)):
        if time.monotonic() > ends or writer.is_closing() or reader.at_eof():
            break
        writer.write(rest[at : at + 1])
        await asyncio.sleep(1.0)
    return await _status(reader, writer, 1.0)


async def _read_nothing(port: int, seconds: float) -> str:
    return await _unread(port, seconds, 0)


async def _read_slowly(port: int, seconds: float) -> str:
    return await _unread(port, seconds, 1024)


async def _unread(port: int, seconds: float, bite: int) -> str:
    loop = asyncio.get_running_loop()
    sock = socket.socket()
    sock.setblocking(False)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    ends = time.monotonic() + seconds
    try:
        await loop.sock_connect(sock, ("127.0.0.1", port))
        asks = b"GET /docs HTTP/1.1\r\nHost: a\r\n\r\n" * 2000
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1.0):
                await loop.sock_sendall(sock, asks)
        while time.monotonic() < ends:
            await asyncio.sleep(0.5)
            if bite and not await asyncio.wait_for(loop.sock_recv(sock, bite), 5.0):
                return "closed"
    except OSError:
        return "cut off"
    finally:
        sock.close()
    return "left at the end"


async def _upload(port: int, head: bytes, parts: Iterable[bytes]) -> str:
    reader, writer = await _connect(port)
    with contextlib.suppress(OSError):
        writer.write(head)
        for part in parts:
            if reader.at_eof() or writer.is_closing():
                break
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(0)
    return await _status(reader, writer, 15.0)


async def _half_close(port: int, data: bytes) -> str:
    reader, writer = await _connect(port)
    writer.write(data)
    writer.write_eof()
    return await _status(reader, writer, 15.0)


async def _hold(port: int, seconds: float) -> str:
    reader, writer = await _connect(port)
    return await _status(reader, writer, seconds)


async def _connect(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    async with asyncio.timeout(15):
        return await asyncio.open_connection("127.0.0.1", port, limit=1 << 18)


async def _status(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seconds: float
) -> str:
    """The status of the first answer, or how else it ended."""
    try:
        async with asyncio.timeout(seconds):
            line = await reader.readline()
        return line.split()[1].decode() if line else "closed"
    except TimeoutError:
        return "left open"
    except OSError:
        return "cut off"
    finally:
        await _closed(writer)


async def _closed(writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


async def _all(count: int, one: Callable[[], Awaitable[str]]) -> Got:
    async def guarded() -> str:
        try:
            return await one()
        except (OSError, TimeoutError) as error:
            return type(error).__name__

    return Got(await asyncio.gather(*(guarded() for _ in range(count))))
