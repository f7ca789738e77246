"""A process that connects for one that no longer can: to the addresses of the mirror file only.

Forked by ``confine`` before the model's process is closed off, and gone with it.  It reads the
mirror file itself, so what the model's process asks for is held against the operator's word, and
hands back a connected socket.  It never sees a byte of the model, of requests or of answers.

On the socket pair: ``number host port`` one way, ``number`` and a descriptor or none the other
(``dial`` is the other end).  Until somebody asks it imports next to nothing and stays small.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
from pathlib import Path

from sluice.runtime.sandbox import kernel
from sluice.runtime.watched import WatchedFile

CONNECT_SECONDS = 1.0
MAX_MESSAGE = 256
_AT_A_TIME = 8


def start(mirror_file: Path) -> socket.socket:
    """Fork; the end to ask at.  To be called while this process has one thread and no socket."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if os.fork() == 0:
        try:
            ours.close()
            _serve(theirs, mirror_file)
        finally:
            os._exit(0)
    theirs.close()
    ours.setblocking(False)
    return ours


def _serve(channel: socket.socket, mirror_file: Path) -> None:
    """Until the other end is gone.  A person's Ctrl-C is for the server, which then goes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    kernel.hide_memory()
    room = threading.BoundedSemaphore(_AT_A_TIME)
    file: WatchedFile | None = None
    while request := channel.recv(MAX_MESSAGE):
        from sluice.runtime.aim import MAX_FILE, places_in

        file = file or WatchedFile(mirror_file, limit=MAX_FILE)
        number, host, port = request.split()
        place = (host.decode("latin-1"), int(port))
        if place not in places_in(file):
            channel.send(number)
            continue
        room.acquire()
        threading.Thread(target=_connect, args=(channel, number, place, room), daemon=True).start()


def _connect(
    channel: socket.socket, number: bytes, place: tuple[str, int], room: threading.BoundedSemaphore
) -> None:
    try:
        with socket.create_connection(place, CONNECT_SECONDS) as made:
            made.settimeout(None)
            socket.send_fds(channel, [number], [made.fileno()])
    except OSError:
        channel.send(number)
    finally:
        room.release()
