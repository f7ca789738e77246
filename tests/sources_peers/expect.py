"""What a check says: nothing when it passed, else why not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from sluice.errors import SluiceError


def same(here: Path, there: Path) -> str | None:
    """Whether two files have the same bytes."""
    if not there.is_file():
        return f"{there.name} is not there"
    return None if here.read_bytes() == there.read_bytes() else f"{there.name} differs"


def refused(reason: str, attempt: Callable[[], object], hush: str = "\0") -> str | None:
    """Whether the attempt is refused for this reason, without saying the secret ``hush``."""
    try:
        attempt()
    except SluiceError as error:
        if hush in str(error):
            return "the secret is in the message"
        return None if error.reason == reason else f"{error.reason}: {error}"
    return "not refused"
