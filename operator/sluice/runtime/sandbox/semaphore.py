"""What libraries get that ask for a semaphore between processes: one between threads.

Put by ``confine`` in the place of ``_multiprocessing.SemLock``, on which all of Python's own locks
between processes rest; pure.
"""

from __future__ import annotations

import threading

_RECURSIVE = 0


class SemaphoreOfThreads:
    """Lock, RLock, Semaphore and BoundedSemaphore; what conditions ask for besides is not here."""

    SEM_VALUE_MAX = 2**31 - 1
    handle = 0
    name = None

    def __init__(self, kind: int, value: int, maxvalue: int, name: str, unlink: bool) -> None:
        self.kind, self.maxvalue = kind, maxvalue
        self._guard = (
            threading.RLock()
            if kind == _RECURSIVE
            else threading.BoundedSemaphore(value)
            if value == maxvalue
            else threading.Semaphore(value)
        )

    def acquire(self, block: bool = True, timeout: float | None = None) -> bool:
        """As the original: without blocking there is no timeout, and a negative one is none."""
        if timeout is None or not block:
            return self._guard.acquire(block)
        return self._guard.acquire(block, max(timeout, 0.0))

    def release(self) -> None:
        """ValueError or RuntimeError when nobody holds it."""
        self._guard.release()

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()
