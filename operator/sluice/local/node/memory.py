"""Memory limits without cgroups: look now and then, and end what took too much.

Called by ``container``.  The kernel of an ordinary user gives us no memory controller, so a limit
is enforced within half a second rather than at once; the pod sees the same end: OOMKilled, 137.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

_PERIOD = 0.5
_PAGE = os.sysconf("SC_PAGE_SIZE")


def resident(pid: int) -> int:
    """Bytes of memory that a process and its descendants hold privately."""
    total = 0
    with contextlib.suppress(OSError, ValueError):
        fields = Path(f"/proc/{pid}/statm").read_text().split()
        total = (int(fields[1]) - int(fields[2])) * _PAGE
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            total += resident(int(child))
    return total


async def guard(pid: int, limit: float, act: Callable[[], Awaitable[None]]) -> None:
    """Call ``act`` once the limit is passed."""
    while True:
        await asyncio.sleep(_PERIOD)
        if resident(pid) > limit:
            await act()
            return
