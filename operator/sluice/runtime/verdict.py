"""``--verdict-file``: readiness waits for the operator's verdict (``readinessGate: Probe``).

Called by the server; reads one small file, a mounted ConfigMap key.  It is read again when it has
changed; kubelet replaces such files by moving a symbolic link, so the link's target is looked at.
"""

from __future__ import annotations

from pathlib import Path

GOOD = ("Passed", "Validated")


class VerdictFile:
    """The last verdict read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp: tuple[int, int, int] | None = None
        self._text = ""

    def missing(self) -> str | None:
        """None when the verdict is there and good, else what is missing."""
        try:
            status = self._path.stat()
            stamp = (status.st_ino, status.st_mtime_ns, status.st_size)
            if stamp != self._stamp:
                with self._path.open("rb") as stream:
                    self._text = stream.read(256).decode("utf-8", "replace").strip()
                self._stamp = stamp
        except FileNotFoundError:
            self._stamp = None
            return f"there is no verdict yet ({self._path.name} does not exist)"
        except OSError as error:
            self._stamp = None
            return f"the verdict cannot be read ({error.strerror})"
        if self._text in GOOD:
            return None
        return f"the verdict is {self._text[:40]!r}, not Passed" if self._text else "no verdict yet"
