"""The node's HTTPS port: what the API server calls for logs, exec and port-forward.

Only the API server's kubelet client certificate is let in.  The node declares the feature
ExtendWebSocketsToKubelet, so exec arrives as plain WebSockets.  Called by ``agent``.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import ssl
import struct
import termios
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from aiohttp import WSMsgType, web

from sluice.local.node import portforward
from sluice.local.node.container import Container, rewrite
from sluice.local.node.launch import LaunchError, Process
from sluice.local.node.pod import Pod
from sluice.local.settings import Settings

_STDIN, _STDOUT, _STDERR, _STATUS, _RESIZE, _CLOSE = 0, 1, 2, 3, 4, 255
_FOLLOW_PERIOD = 0.1

FindPod = Callable[[str, str], Pod | None]


class KubeletApi:
    """Routes and their handlers."""

    def __init__(self, find: FindPod) -> None:
        self._find = find
        self.application = web.Application()
        add = self.application.router.add_route
        add("GET", "/healthz", self._healthz)
        add("GET", "/containerLogs/{namespace}/{pod}/{container}", self._logs)
        for path in ("", "/{uid}"):
            add("*", "/exec/{namespace}/{pod}" + path + "/{container}", self._exec)
            add("*", "/attach/{namespace}/{pod}" + path + "/{container}", self._attach)
            add("*", "/portForward/{namespace}/{pod}" + path, self._port_forward)

    def _pod(self, request: web.Request) -> Pod:
        match = request.match_info
        pod = self._find(match["namespace"], match["pod"])
        if pod is None:
            raise web.HTTPNotFound(text=f"pod {match['namespace']}/{match['pod']} is not here")
        return pod

    def _container(self, request: web.Request) -> Container:
        name = request.match_info["container"]
        for container in self._pod(request).containers:
            if container.name == name:
                return container
        raise web.HTTPNotFound(text=f"the pod has no container {name}")

    async def _healthz(self, _: web.Request) -> web.Response:
        return web.Response(text="ok")

    async def _logs(self, request: web.Request) -> web.StreamResponse:
        container, query = self._container(request), request.query
        previous = query.get("previous") == "true"
        path = container.log_path(previous=previous)
        if not path.exists():
            which = "previous terminated " if previous else ""
            raise web.HTTPBadRequest(text=f"{which}container {container.name} has no log")
        response = web.StreamResponse(headers={"Content-Type": "text/plain"})
        await response.prepare(request)
        follow = query.get("follow") == "true" and not previous
        left = int(query.get("limitBytes", 1 << 62))
        async for chunk in _read_log(container, path, query.get("tailLines"), follow=follow):
            await response.write(chunk[:left])
            left -= len(chunk)
            if left <= 0:
                break
        await response.write_eof()
        return response

    async def _attach(self, _: web.Request) -> web.Response:
        return web.Response(
            status=501, text="the local node has no attach: use kubectl exec or logs"
        )

    async def _port_forward(self, request: web.Request) -> Any:
        return await portforward.serve(request, self._pod(request).context.ip)

    async def _exec(self, request: web.Request) -> web.WebSocketResponse:
        container = self._container(request)
        command = request.query.getall("command")
        if not container.context.machine.isolated:
            command, _ = rewrite(command, {}, container.mounts)
        socket = web.WebSocketResponse(protocols=("v5.channel.k8s.io", "v4.channel.k8s.io"))
        await socket.prepare(request)
        tty = request.query.get("tty") in ("1", "true")
        try:
            session = await (_tty if tty else _pipes)(container, command)
        except (LaunchError, OSError) as error:
            await _finish(socket, {"status": "Failure", "message": str(error)})
            return socket
        code = await session.run(socket)
        await _finish(socket, exec_status(code))
        return socket


def exec_status(code: int) -> dict[str, Any]:
    """The status message that tells kubectl the exit code."""
    code = 128 - code if code < 0 else code
    if code == 0:
        return {"metadata": {}, "status": "Success"}
    return {
        "metadata": {},
        "status": "Failure",
        "reason": "NonZeroExitCode",
        "message": f"command terminated with non-zero exit code: exit status {code}",
        "details": {"causes": [{"reason": "ExitCode", "message": str(code)}]},
    }


async def _finish(socket: web.WebSocketResponse, status: dict[str, Any]) -> None:
    with contextlib.suppress(ConnectionError):
        await socket.send_bytes(bytes([_STATUS]) + json.dumps(status).encode())
        await socket.close()


class _Session:
    """A process whose input and outputs are file descriptors of ours."""

    def __init__(self, process: Process, stdin: int, outputs: dict[int, int]) -> None:
        self._process = process
        self._stdin = stdin
        self._outputs = outputs
        self._is_tty = stdin in outputs.values()

    async def run(self, socket: web.WebSocketResponse) -> int:
        """Move bytes until the process and its outputs end."""
        feeder = asyncio.create_task(self._feed(socket))
        pumps = [asyncio.create_task(self._pump(socket, c, f)) for c, f in self._outputs.items()]
        gone = asyncio.create_task(self._until_gone(feeder))
        try:
            code = await self._process.wait()
            # A child that was left in the background may hold the pipe open for ever.
            await asyncio.wait(pumps, timeout=1)
        finally:
            gone.cancel()
            feeder.cancel()
            for pump in pumps:
                pump.cancel()
            for descriptor in {self._stdin, *self._outputs.values()} - {-1}:
                with contextlib.suppress(OSError):
                    os.close(descriptor)
        return code

    async def _until_gone(self, feeder: asyncio.Task[None]) -> None:
        """A client that leaves takes its process along."""
        await asyncio.wait([feeder])
        await self._process.kill()

    async def _feed(self, socket: web.WebSocketResponse) -> None:
        async for message in socket:
            if message.type is not WSMsgType.BINARY or not message.data:
                continue
            channel, data = message.data[0], message.data[1:]
            if channel == _STDIN and self._stdin >= 0:
                await _write_all(self._stdin, data)
            elif channel == _CLOSE and self._stdin >= 0 and not self._is_tty:
                os.close(self._stdin)
                self._stdin = -1
            elif channel == _RESIZE and self._is_tty:
                size = json.loads(data)
                packed = struct.pack("HHHH", size["Height"], size["Width"], 0, 0)
                fcntl.ioctl(self._stdin, termios.TIOCSWINSZ, packed)

    async def _pump(self, socket: web.WebSocketResponse, channel: int, descriptor: int) -> None:
        async for data in _chunks(descriptor):
            await socket.send_bytes(bytes([channel]) + data)


async def _write_all(descriptor: int, data: bytes) -> None:
    loop = asyncio.get_running_loop()
    while data:
        try:
            data = data[os.write(descriptor, data) :]
        except BlockingIOError:
            free = asyncio.Event()
            loop.add_writer(descriptor, free.set)
            await free.wait()
            loop.remove_writer(descriptor)
        except BrokenPipeError:
            return


async def _chunks(descriptor: int) -> AsyncIterator[bytes]:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(descriptor, ready.set)
    try:
        while True:
            await ready.wait()
            ready.clear()
            try:
                data = os.read(descriptor, 32768)
            except BlockingIOError:
                continue
            except OSError:  # EIO: the last holder of the terminal left
                return
            if not data:
                return
            yield data
    finally:
        loop.remove_reader(descriptor)


async def _pipes(container: Container, command: list[str]) -> _Session:
    (in_read, in_write), (out_read, out_write), (err_read, err_write) = (os.pipe() for _ in "012")
    for ours in (in_write, out_read, err_read):
        os.set_blocking(ours, False)
    try:
        process = await container.exec(command, [in_read, out_write, err_write])
    except BaseException:
        for descriptor in (in_write, out_read, err_read):
            os.close(descriptor)
        raise
    finally:
        for theirs in (in_read, out_write, err_write):
            os.close(theirs)
    return _Session(process, in_write, {_STDOUT: out_read, _STDERR: err_read})


async def _tty(container: Container, command: list[str]) -> _Session:
    main, terminal = os.openpty()
    os.set_blocking(main, False)
    try:
        process = await container.exec(command, [terminal] * 3, tty=True)
    except BaseException:
        os.close(main)
        raise
    finally:
        os.close(terminal)
    return _Session(process, main, {_STDOUT: main})


async def _read_log(
    container: Container, path: Path, tail: str | None, *, follow: bool
) -> AsyncIterator[bytes]:
    with path.open("rb") as log:
        if tail is not None:
            log.seek(tail_offset(log, int(tail)))
        while True:
            # Looked at before reading: what was written before the end is still read.
            ended = container.status.terminated is not None or container.log_path() != path
            if os.fstat(log.fileno()).st_size < log.tell():  # begun anew because it was too long
                log.seek(0)
            data = log.read(65536)
            if data:
                yield data
            elif not follow or ended:
                return
            else:
                await asyncio.sleep(_FOLLOW_PERIOD)


def tail_offset(log: Any, lines: int) -> int:
    """Where the last ``lines`` lines begin."""
    end: int = log.seek(0, os.SEEK_END)
    if lines <= 0:
        return end
    position, data = end, b""
    while position and data.count(b"\n") <= lines:
        step = min(65536, position)
        position -= step
        log.seek(position)
        data = log.read(step) + data
    kept = b"".join(data.splitlines(keepends=True)[-lines:])
    return end - len(kept)


async def serve(settings: Settings, find: FindPod) -> web.AppRunner:
    """Listen."""
    pki = settings.pki_dir
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(pki / "ca.crt"))
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(pki / "kubelet.crt", pki / "kubelet.key")
    runner = web.AppRunner(KubeletApi(find).application, shutdown_timeout=0.5, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, settings.host_ip, settings.kubelet_port, ssl_context=context)
    await site.start()
    return runner
