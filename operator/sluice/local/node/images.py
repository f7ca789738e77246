"""What an image name means here: a program on this machine.

The node has no images.  A table maps repository names to the beginning of a command line; the
pod's ``command`` overrides it and ``args`` follow it, as with an image's entrypoint.
"""

from __future__ import annotations

import json
import signal
import sys
from dataclasses import dataclass, field
from pathlib import Path

from sluice.local.settings import Settings, python_path

TABLE = "images.json"


@dataclass(frozen=True)
class Image:
    """The entrypoint that stands for an image."""

    argv: tuple[str, ...] = ()
    env: dict[str, str] = field(default_factory=dict)
    stop_signal: int = signal.SIGTERM


def repository(image: str) -> str:
    """The name without registry, tag and digest: ``ghcr.io/x/sluice:1@sha256:..`` -> x/sluice."""
    name = image.split("@")[0]
    head, slash, last = name.rpartition("/")
    name = head + slash + last.split(":")[0]
    first, slash, rest = name.partition("/")
    is_registry = "." in first or ":" in first or first == "localhost"
    return rest if slash and is_registry else name


class Images:
    """Looks images up: the user's table first, then the built-in names."""

    def __init__(self, settings: Settings) -> None:
        self._table = settings.state / TABLE
        self._read_at = -1
        self._user: dict[str, list[str]] = {}
        self._python = sys.executable
        self._builtin = {
            "sluice": Image((sys.executable, "-m", "sluice.cli"), {"PYTHONPATH": python_path()}),
            # The official image's STOPSIGNAL: finish what is in flight, then leave.
            "haproxy": Image(
                (settings.programs.get("haproxy", "haproxy"),), {}, int(signal.SIGUSR1)
            ),
            "python": Image((sys.executable,)),
        }

    def find(self, image: str) -> Image:
        """Unknown names stand for an image without entrypoint (busybox and the like)."""
        name = repository(image)
        user = self._user_table()
        for key in (image, name, name.rpartition("/")[2]):
            if key in user:
                return Image(tuple(user[key]))
        return self._builtin.get(name.rpartition("/")[2], Image())

    def _user_table(self) -> dict[str, list[str]]:
        try:
            changed = self._table.stat().st_mtime_ns
        except FileNotFoundError:
            return {}
        if changed != self._read_at:
            self._user = json.loads(self._table.read_text())
            self._read_at = changed
        return self._user


def add(state: Path, name: str, argv: list[str]) -> None:
    """Extend the user's table; a running node sees it with the next container."""
    table = state / TABLE
    known = json.loads(table.read_text()) if table.exists() else {}
    known[name] = argv
    fresh = table.with_suffix(".new")
    fresh.write_text(json.dumps(known, indent=1))
    fresh.replace(table)
