"""Durations as Gateway API writes them: ``168h``, ``1h30m``, ``500ms``."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import Field

DURATION_PATTERN = r"^([0-9]{1,5}(h|m|s|ms)){1,4}$"

Duration = Annotated[str, Field(pattern=DURATION_PATTERN, max_length=24)]

_PART = re.compile(r"([0-9]{1,5})(h|ms|m|s)")
_SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}


def seconds(duration: str) -> float:
    """Seconds in ``duration``.  Raises ValueError when it is not a Gateway API duration."""
    if not re.fullmatch(DURATION_PATTERN, duration):
        raise ValueError(f"{duration!r} is not a duration such as 30s, 10m or 1h30m")
    return sum(int(n) * _SECONDS[unit] for n, unit in _PART.findall(duration))


def human(value: float) -> str:
    """``value`` seconds for a person: ``45 s``, ``12 min``, ``3.5 h``, ``3.2 days``."""
    if value < 90:
        return f"{value:.0f} s"
    if value < 5400:
        return f"{value / 60:.0f} min"
    if value < 172800:
        return f"{value / 3600:.1f} h"
    return f"{value / 86400:.1f} days"
