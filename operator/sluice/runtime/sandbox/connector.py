"""A process that connects for one that no longer can: to the addresses of the mirror file only.

Forked by ``confine`` before the model's process is closed off, and gone with it.  It reads the
mirror file itself, so what the model's process asks for is held against the operator's word, and
hands back a connected socket.  It never sees a byte of the model, of requests or of answers.

On the socket pair: ``number host port`` one way, ``number`` and a descriptor or none the other.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import threading
from pathlib import Path

from sluice.runtime.aim import MAX_FILE, Place, read_aim
from sluice.runtime.sandbox import kernel
from sluice.runtime.watched import WatchedFile

CONNECT_SECONDS = 1.0
_AT_A_TIME = 8
_MESSAGE = 256


class Connector:
    """The end that the model's process holds."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._waiting: dict[int, asyncio.Future[socket.socket]] = {}
        self._number = 0

    async def connect(self, place: Place) -> socket.socket:
        """A connected socket; OSError when there is none."""
        loop = asyncio.get_running_loop()
        if self._number == 0:
            loop.add_reader(self._channel.fileno(), self._answered)
        self._number += 1
        number = self._number
        asked: asyncio.Future[socket.socket] = loop.create_future()
        self._waiting[number] = asked
        try:
            self._channel.send(b"%d %s %d" % (number, place[0].encode(), place[1]))
            return await asked
        finally:
            del self._waiting[number]

    def _answered(self) -> None:
        try:
            data, descriptors, *_ = socket.recv_fds(self._channel, _MESSAGE, 1)
        except BlockingIOError:
            return
        if not data:
            asyncio.get_running_loop().remove_reader(self._channel.fileno())
            for every in self._waiting.values():
                _fail(every, "the process that connects has ended")
            return
        asked = self._waiting.get(int(data))
        if asked is None or asked.done():
            for descriptor in descriptors:
                os.close(descriptor)
        elif descriptors:
            asked.set_result(socket.socket(fileno=descriptors[0]))
        else:
            _fail(asked, "no connection")


def _fail(asked: asyncio.Future[socket.socket], why: str) -> None:
    if not asked.done():
        asked.set_exception(ConnectionError(why))


def start(mirror_file: Path) -> Connector:
    """Fork.  To be called while this process has one thread and no socket."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if os.fork() == 0:
        try:
            ours.close()
            _serve(theirs, mirror_file)
        finally:
            os._exit(0)
    theirs.close()
    ours.setblocking(False)
    return Connector(ours)


def _serve(channel: socket.socket, mirror_file: Path) -> None:
    """Until the other end is gone.  A person's Ctrl-C is for the server, which then goes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    kernel.hide_memory()
    file = WatchedFile(mirror_file, limit=MAX_FILE)
    room = threading.BoundedSemaphore(_AT_A_TIME)
    while request := channel.recv(_MESSAGE):
        number, host, port = request.split()
        place = (host.decode("latin-1"), int(port))
        if place not in _places(file):
            channel.send(number)
            continue
        room.acquire()
        threading.Thread(target=_connect, args=(channel, number, place, room), daemon=True).start()


def _places(file: WatchedFile) -> list[Place]:
    try:
        aim = read_aim(file.read())
    except (OSError, ValueError):
        return []
    return aim.places() if aim is not None else []


def _connect(
    channel: socket.socket, number: bytes, place: Place, room: threading.BoundedSemaphore
) -> None:
    try:
        with socket.create_connection(place, CONNECT_SECONDS) as made:
            made.settimeout(None)
            socket.send_fds(channel, [number], [made.fileno()])
    except OSError:
        channel.send(number)
    finally:
        room.release()
