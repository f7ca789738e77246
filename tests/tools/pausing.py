"""Processes that are stopped for a while: they keep their sockets and say nothing.

SIGSTOP only asks: a thread that runs on another core answers on until the kernel next looks at it.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

LONGEST_STOP = 30.0


@contextmanager
def paused(*pids: int) -> Iterator[None]:
    """These processes do nothing in here; they go on afterwards, those that are still there."""
    try:
        for pid in pids:
            pause(pid)
        yield
    finally:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def pause(pid: int) -> None:
    """Stop a process; returns when its last thread has stopped."""
    os.kill(pid, signal.SIGSTOP)
    deadline = time.monotonic() + LONGEST_STOP
    while not _stopped(pid):
        if time.monotonic() > deadline:
            raise TimeoutError(f"process {pid} does not stop")
        time.sleep(0.001)


def _stopped(pid: int) -> bool:
    states = set()
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):
            states.add((task / "stat").read_text().rpartition(")")[2].split()[0])
    return states <= {"T", "t", "Z", "X"}
