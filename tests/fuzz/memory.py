"""Whether memory stays flat: of the process and of Python, first tenth against last tenth."""

from __future__ import annotations

import gc
import os
import statistics
from pathlib import Path

STEPS = 200
WARM = 0.01
MOST_BYTES = 16 * 1024 * 1024
MOST_OBJECTS = 2000


class Memory:
    """Samples over a run."""

    def __init__(self) -> None:
        gc.collect()
        gc.freeze()  # what is there already need not be looked at each time
        self._samples: list[tuple[float, int, int]] = []

    def sample(self, share: float) -> None:
        """Look, at most STEPS times, at ``share`` of the run."""
        if not self._samples or share - self._samples[-1][0] >= 1 / STEPS or share >= 1:
            gc.collect()
            self._samples.append((share, resident(), len(gc.get_objects())))

    def grown(self) -> str | None:
        """How memory grew; None when it did not."""
        first = [s for s in self._samples if WARM <= s[0] <= 0.1]
        last = [s for s in self._samples if s[0] >= 0.9]
        size = statistics.median(s[1] for s in last) - statistics.median(s[1] for s in first)
        objects = statistics.median(s[2] for s in last) - statistics.median(s[2] for s in first)
        if size > MOST_BYTES or objects > MOST_OBJECTS:
            return f"grew by {size / 1e6:.1f} MB and {objects:,.0f} objects"
        return None

    def __str__(self) -> str:
        _, size, objects = self._samples[-1]
        return f"{size / 1e6:.0f} MB, {objects:,} objects"


def resident(pid: int | str = "self") -> int:
    """Bytes of a process that are in memory."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
