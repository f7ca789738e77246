"""The agent's side of the launcher: asyncio calls in, exit codes out."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

_LONG = 60_000


class LaunchError(Exception):
    """The launcher could not start or prepare something; the text is for the pod's status."""


class Process:
    """A running (or ended) process of a pod."""

    def __init__(self, launcher: Launcher, pid: int, *, group: bool) -> None:
        self.pid = pid
        self.code: int | None = None
        self._launcher = launcher
        self._group = group
        self._done: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def wait(self) -> int:
        """Its exit code; negative for a signal."""
        return await asyncio.shield(self._done)

    @property
    def running(self) -> bool:
        """Not ended yet."""
        return self.code is None

    async def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal."""
        if self.running:
            await self._launcher.request(
                {"op": "kill", "pid": self.pid, "signal": number, "group": self._group}
            )

    def ended(self, code: int) -> None:
        """Called once by the launcher's reader."""
        self.code = code
        if not self._done.done():
            self._done.set_result(code)


class Launcher:
    """Owns the launcher process."""

    def __init__(self, *, isolated: bool, on_death: Callable[[], None]) -> None:
        self._isolated = isolated
        self._on_death = on_death
        self._ids = itertools.count()
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._processes: dict[int, Process] = {}
        self._early: dict[int, int] = {}
        self._sending = asyncio.Lock()

    def start(self) -> None:
        """Fork it while the agent is small."""
        self._channel, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for side in (self._channel, other):
            side.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        argv = [sys.executable, "-m", f"{__package__}.launcher", str(other.fileno())]
        self._popen = subprocess.Popen(argv, pass_fds=(other.fileno(),))
        other.close()
        self._channel.setblocking(False)
        asyncio.get_running_loop().add_reader(self._channel, self._read)

    def close(self) -> None:
        """The launcher kills all its children when the channel closes."""
        asyncio.get_running_loop().remove_reader(self._channel)
        self._channel.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._popen.wait(2)

    def _read(self) -> None:
        while True:
            try:
                raw = self._channel.recv(1 << 18)
            except BlockingIOError:
                return
            except ConnectionError:
                raw = b""
            if not raw:
                asyncio.get_running_loop().remove_reader(self._channel)
                self._on_death()
                return
            self._take(json.loads(raw))

    def _take(self, message: dict[str, Any]) -> None:
        if "exit" in message:
            process = self._processes.pop(message["exit"], None)
            if process is None:
                self._early[message["exit"]] = message["code"]
            else:
                process.ended(message["code"])
            return
        future = self._waiting.pop(message["id"])
        pid = message.get("pid")
        if pid is not None:
            # Registered before the next message is read: an exit notice may be right behind.
            message["process"] = self._register(pid)
        if not future.done():
            future.set_result(message)

    def _register(self, pid: int) -> Process:
        process = Process(self, pid, group=not self._isolated)
        if pid in self._early:
            process.ended(self._early.pop(pid))
        else:
            self._processes[pid] = process
        return process

    async def request(self, body: dict[str, Any], fds: Sequence[int] = ()) -> dict[str, Any]:
        """Send one request and wait for its answer."""
        number = next(self._ids)
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._waiting[number] = future
        raw = json.dumps({"id": number, **body}).encode()
        extra: list[int] = []
        if len(raw) > _LONG:
            memory = os.memfd_create("request")
            with os.fdopen(os.dup(memory), "wb") as out:
                out.write(raw)
            os.lseek(memory, 0, os.SEEK_SET)
            extra.append(memory)
            raw = b'{"long": true}'
        try:
            async with self._sending:
                await self._send(raw, [*fds, *extra])
        finally:
            for descriptor in extra:
                os.close(descriptor)
        answer = await future
        if "error" in answer:
            raise LaunchError(answer["error"])
        return answer

    async def _send(self, raw: bytes, fds: list[int]) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                socket.send_fds(self._channel, [raw], fds)
                return
            except BlockingIOError:
                free = asyncio.Event()
                loop.add_writer(self._channel, free.set)
                await free.wait()
                loop.remove_writer(self._channel)

    async def spawn(self, body: dict[str, Any], fds: Sequence[int]) -> Process:
        """Start or exec; the descriptors become 0, 1 and 2."""
        process = (await self.request(body, fds))["process"]
        assert isinstance(process, Process)
        return process
