"""``kubectl port-forward``: SPDY/3.1 frames inside a WebSocket, as the API server relays them.

``Frames`` reads and writes frames (no I/O); ``serve`` moves bytes between streams and the pod.
There is no flow control to honour: the other side (moby/spdystream) has none.
"""

from __future__ import annotations

import asyncio
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from sluice.local.node.spdy_dictionary import DICTIONARY

PROTOCOL = "SPDY/3.1+portforward.k8s.io"
_SYN_STREAM, _SYN_REPLY, _RST_STREAM, _PING = 1, 2, 3, 6
_FIN = 1


@dataclass
class Frame:
    """One frame that matters to us."""

    kind: str  # open, data, ping, reset
    stream: int
    headers: dict[str, str] = field(default_factory=dict)
    data: bytes = b""
    fin: bool = False


class Frames:
    """The sans-IO half."""

    def __init__(self) -> None:
        self._inflate = zlib.decompressobj(zdict=DICTIONARY)
        self._deflate = zlib.compressobj(zdict=DICTIONARY)
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Complete frames in what arrived."""
        self._buffer += data
        while len(self._buffer) >= 8:
            (first, second) = struct.unpack_from(">II", self._buffer)
            length = second & 0xFFFFFF
            if len(self._buffer) < 8 + length:
                return
            payload = bytes(self._buffer[8 : 8 + length])
            del self._buffer[: 8 + length]
            if frame := self._parse(first, second >> 24, payload):
                yield frame

    def _parse(self, first: int, flags: int, payload: bytes) -> Frame | None:
        if not first >> 31:
            return Frame("data", first, data=payload, fin=bool(flags & _FIN))
        kind = first & 0xFFFF
        if kind == _SYN_STREAM:
            (stream,) = struct.unpack_from(">I", payload)
            return Frame("open", stream & 0x7FFFFFFF, headers=self._headers(payload[10:]))
        if kind in (_PING, _RST_STREAM):
            (number,) = struct.unpack_from(">I", payload)
            return Frame("ping" if kind == _PING else "reset", number, data=payload)
        return None

    def _headers(self, block: bytes) -> dict[str, str]:
        raw = self._inflate.decompress(block)
        (count,) = struct.unpack_from(">I", raw)
        offset, texts = 4, []
        for _ in range(2 * count):
            (length,) = struct.unpack_from(">I", raw, offset)
            texts.append(raw[offset + 4 : offset + 4 + length].decode().lower())
            offset += 4 + length
        return dict(zip(texts[::2], texts[1::2], strict=True))

    def reply(self, stream: int) -> bytes:
        """Accept a stream, with no headers."""
        block = self._deflate.compress(struct.pack(">I", 0))
        block += self._deflate.flush(zlib.Z_SYNC_FLUSH)
        head = struct.pack(">HHI", 0x8003, _SYN_REPLY, 4 + len(block))
        return head + struct.pack(">I", stream) + block

    @staticmethod
    def data(stream: int, content: bytes, *, fin: bool = False) -> bytes:
        """Bytes on a stream."""
        return struct.pack(">II", stream, (_FIN if fin else 0) << 24 | len(content)) + content

    @staticmethod
    def ping(payload: bytes) -> bytes:
        """The answer to a ping is the ping."""
        return struct.pack(">HHI", 0x8003, _PING, len(payload)) + payload


class _Forwarder:
    """The streams of one ``kubectl port-forward``."""

    def __init__(self, socket: web.WebSocketResponse, ip: str) -> None:
        self._socket = socket
        self._ip = ip
        self._frames = Frames()
        self._queues: dict[int, asyncio.Queue[bytes | None]] = {}
        self._errors: dict[str, int] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        try:
            async for message in self._socket:
                for frame in self._frames.feed(message.data):
                    await self._take(frame)
        finally:
            for task in self._tasks:
                task.cancel()

    async def _take(self, frame: Frame) -> None:
        if frame.kind == "open":
            await self._socket.send_bytes(self._frames.reply(frame.stream))
            self._open(frame)
        elif frame.kind == "ping":
            await self._socket.send_bytes(self._frames.ping(frame.data))
        elif queue := self._queues.get(frame.stream):
            if frame.data and frame.kind == "data":
                queue.put_nowait(frame.data)
            if frame.fin or frame.kind == "reset":
                queue.put_nowait(None)

    def _open(self, frame: Frame) -> None:
        request = frame.headers["requestid"]
        if frame.headers["streamtype"] == "error":
            self._errors[request] = frame.stream
            return
        self._queues[frame.stream] = asyncio.Queue()
        work = self._connect(frame.stream, int(frame.headers["port"]), request)
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect(self, stream: int, port: int, request: str) -> None:
        errors = self._errors.pop(request, stream)
        writer: asyncio.StreamWriter | None = None
        upward: asyncio.Task[None] | None = None
        try:
            reader, writer = await asyncio.open_connection(self._ip, port)
            upward = asyncio.create_task(self._send(self._queues[stream], writer))
            while data := await reader.read(32768):
                await self._socket.send_bytes(Frames.data(stream, data))
        except OSError as error:
            text = f"error forwarding port {port} to the pod: {error}".encode()
            await self._socket.send_bytes(Frames.data(errors, text))
        finally:
            if upward is not None:
                upward.cancel()
            if writer is not None:
                writer.close()
            self._queues.pop(stream, None)
        for number in (stream, errors):
            await self._socket.send_bytes(Frames.data(number, b"", fin=True))

    @staticmethod
    async def _send(queue: asyncio.Queue[bytes | None], writer: asyncio.StreamWriter) -> None:
        while (data := await queue.get()) is not None:
            writer.write(data)
            await writer.drain()
        writer.write_eof()


async def serve(request: web.Request, ip: str) -> Any:
    """Handle the WebSocket of one ``kubectl port-forward``."""
    socket = web.WebSocketResponse(protocols=(PROTOCOL,), max_msg_size=0)
    await socket.prepare(request)
    await _Forwarder(socket, ip).run()
    return socket
