"""One row of the table of targets, and how processes are measured.  Used by every bench."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Row:
    """What was promised and what was found.

    ``share`` is the measured part of what is allowed: 0.5 is twice as good as the target, 2 is
    twice as bad.  None where nothing is promised or nothing was measured.
    """

    what: str
    target: str
    measured: str = ""
    share: float | None = None
    met: bool | None = None

    @property
    def verdict(self) -> str:
        """One word or two."""
        if not self.measured:
            return "not measured here"
        if self.met is None:
            return "" if self.share is None else "ok" if self.share <= 1 else "not yet"
        return "ok" if self.met else "not yet"


def at_most(what: str, target: str, limit: float, value: float, text: str) -> Row:
    """A row whose value must not be above ``limit``."""
    return Row(what, target, text, value / limit)


@dataclass(frozen=True)
class Use:
    """What a process has used so far."""

    cpu: float
    """Seconds, user and system."""
    memory: float
    """Resident MB (10^6 bytes)."""


def use(pid: int) -> Use:
    """As /proc shows it; ticks of 10 ms."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return Use((int(fields[11]) + int(fields[12])) / TICKS, int(fields[21]) * PAGE / 1e6)


def descendants(pid: int) -> list[int]:
    """Every process below ``pid``."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            parents.setdefault(int(words[1]), []).append(int(entry.name))
    found, todo = [], [pid]
    while todo:
        below = parents.get(todo.pop(), [])
        found += below
        todo += below
    return found


Bench = Callable[[bool], list[Row]]
"""``run(quick)``: measures, returns rows; progress goes to stderr."""
