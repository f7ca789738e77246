"""A small mounted file that is read again when it has changed.

Called by ``verdict.py`` and ``mirror_sender.py``.  kubelet replaces mounted keys by moving a
symbolic link, so the link's target is what is looked at.
"""

from __future__ import annotations

from pathlib import Path


class WatchedFile:
    """The last contents read, at most ``limit`` bytes of them."""

    def __init__(self, path: Path, *, limit: int) -> None:
        self.path = path
        self._limit = limit
        self._stamp: tuple[int, int, int] | None = None
        self._data = b""

    def read(self) -> bytes:
        """The contents; FileNotFoundError and OSError as the file system has them."""
        try:
            status = self.path.stat()
            stamp = (status.st_ino, status.st_mtime_ns, status.st_size)
            if stamp != self._stamp:
                with self.path.open("rb") as stream:
                    self._data = stream.read(self._limit)
                self._stamp = stamp
        except OSError:
            self._stamp = None
            raise
        return self._data
