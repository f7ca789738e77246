"""How programs outside the namespace reach addresses inside it.

A socket belongs to the network namespace in which it was made, whoever holds it.  So listening
sockets made outside (inherited, or passed over the control socket) are served by this process
inside, and a connection made inside is handed out as a file descriptor.  Nothing runs outside.

Runs in the supervisor's event loop.  The outside half is in ``control``.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

from sluice.local.settings import Exposure

Resolve = Callable[[str], Awaitable[str]]
_CHUNK = 1 << 16


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(_CHUNK):
            writer.write(data)
            await writer.drain()
        writer.write_eof()
    except OSError:
        writer.transport.abort()


class Relay:
    """Serves loopback ports of the host, and the control socket."""

    def __init__(self, resolve: Resolve, on_change: Callable[[list[Exposure]], None]) -> None:
        self._resolve = resolve
        self._on_change = on_change
        self._served: dict[int, tuple[Exposure, asyncio.Server]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self, listener: socket.socket, exposure: Exposure) -> None:
        """Lead every connection that ``listener`` accepts to the exposure's target."""

        async def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                host = await self._resolve(exposure.host)
                inner = await asyncio.open_connection(host, exposure.target_port, limit=_CHUNK)
            except OSError:
                writer.transport.abort()
                return
            try:
                await asyncio.gather(_pump(reader, inner[1]), _pump(inner[0], writer))
            finally:
                inner[1].close()
                writer.close()

        server = await asyncio.start_server(accepted, sock=listener, limit=_CHUNK)
        self._served[exposure.port] = (exposure, server)

    async def control(self, listener: socket.socket) -> None:
        """Answer requests on the control socket until cancelled."""
        loop = asyncio.get_running_loop()
        listener.setblocking(False)
        while True:
            connection, _ = await loop.sock_accept(listener)
            task = asyncio.create_task(self._answer(connection))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _answer(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            connection.setblocking(False)
            await _readable(connection)
            raw, descriptors, _, _ = socket.recv_fds(connection, 65536, 4)
            if not raw:
                return
            try:
                answer, out = await self._carry_out(json.loads(raw), descriptors)
            except (OSError, ValueError, KeyError) as error:
                answer, out = {"error": str(error) or type(error).__name__}, []
            connection.setblocking(True)
            socket.send_fds(connection, [json.dumps(answer).encode()], [s.fileno() for s in out])
            for inner in out:
                inner.close()

    async def _carry_out(
        self, request: dict[str, Any], descriptors: list[int]
    ) -> tuple[dict[str, Any], list[socket.socket]]:
        match request["op"]:
            case "connect":
                return {}, [await self._connect(request["host"], request["port"])]
            case "listen":
                exposure = Exposure(**request["exposure"])
                await self.serve(socket.socket(fileno=descriptors[0]), exposure)
                self._on_change(self.exposures())
                return {}, []
            case "close":
                _, server = self._served.pop(request["port"])
                server.close()
                self._on_change(self.exposures())
                return {}, []
        raise ValueError(f"unknown request {request['op']}")

    async def _connect(self, host: str, port: int) -> socket.socket:
        inner = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        inner.setblocking(False)
        try:
            address = await self._resolve(host)
            async with asyncio.timeout(10):
                await asyncio.get_running_loop().sock_connect(inner, (address, port))
        except BaseException:
            inner.close()
            raise
        inner.setblocking(True)
        return inner

    def exposures(self) -> list[Exposure]:
        """What is served now, the API server's own port aside."""
        return [e for e, _ in self._served.values() if e.label]


async def _readable(connection: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(connection, ready.set)
    try:
        async with asyncio.timeout(10):
            await ready.wait()
    finally:
        loop.remove_reader(connection)


def open_control(run_dir: Path) -> socket.socket:
    """The listening control socket.  Reached by a short name: socket paths end at 108 bytes."""
    path = run_dir / "control.sock"
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with _short(run_dir) as directory:
        listener.bind(f"{directory}/control.sock")
    path.chmod(0o600)
    listener.listen(64)
    return listener


@contextlib.contextmanager
def _short(directory: Path) -> Iterator[str]:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


def call(
    run_dir: Path, request: dict[str, Any], listener: socket.socket | None = None
) -> socket.socket | None:
    """From outside: one request to the control socket; a connection comes back for ``connect``."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        with _short(run_dir) as directory:
            connection.connect(f"{directory}/control.sock")
        descriptors = [listener.fileno()] if listener is not None else []
        socket.send_fds(connection, [json.dumps(request).encode()], descriptors)
        raw, received, _, _ = socket.recv_fds(connection, 65536, 4)
    answer = json.loads(raw or b'{"error": "the local cluster stopped answering"}')
    if "error" in answer:
        raise ConnectionError(answer["error"])
    return socket.socket(fileno=received[0]) if received else None
