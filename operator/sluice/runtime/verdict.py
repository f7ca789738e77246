"""``--verdict-file``: readiness waits for the operator's verdict (``readinessGate: Probe``).

Called by the server; reads one small file, a mounted ConfigMap key, again when it has changed.
"""

from __future__ import annotations

from pathlib import Path

from sluice.runtime.watched import WatchedFile

GOOD = ("Passed", "Validated")


class VerdictFile:
    """The last verdict read."""

    def __init__(self, path: Path) -> None:
        self._file = WatchedFile(path, limit=256)

    def missing(self) -> str | None:
        """None when the verdict is there and good, else what is missing."""
        try:
            text = self._file.read().decode("utf-8", "replace").strip()
        except FileNotFoundError:
            return f"there is no verdict yet ({self._file.path.name} does not exist)"
        except OSError as error:
            return f"the verdict cannot be read ({error.strerror})"
        if text in GOOD:
            return None
        return f"the verdict is {text[:40]!r}, not Passed" if text else "no verdict yet"
