"""Connections for mirroring, made by the process that may still make some.

Called by ``mirror_sender.py``; asks ``sandbox.connector``, whose socket pair it holds.
"""

from __future__ import annotations

import asyncio
import os
import socket

from sluice.runtime.aim import Place
from sluice.runtime.sandbox.connector import MAX_MESSAGE


class Dialler:
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
            data, descriptors, *_ = socket.recv_fds(self._channel, MAX_MESSAGE, 1)
        except BlockingIOError:
            return
        except OSError:  # it ended with a question unread
            data, descriptors = b"", []
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
