"""The report a Job leaves behind: JSON of at most 4,096 bytes, a pod's termination message.

Called by fetch and validate.  The operator reads nothing else of a Job, so it is never cut short:
what does not fit is shortened until it does.
"""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

from sluice.errors import SluiceError, SourceError

LIMIT = 4096
WHOLE = ("digest", "signature")
"""Fields that mean nothing when they are cut; together they leave room for the rest."""

MAX_MESSAGE = 512
ENV_TERMINATION_LOG = "SLUICE_TERMINATION_LOG"


def default_path() -> Path | None:
    """Where the pod wants its report."""
    path = os.environ.get(ENV_TERMINATION_LOG)
    return Path(path) if path else None


def failure(error: SluiceError) -> dict[str, Any]:
    """The report of something that could not be done."""
    return {
        "ok": False,
        "reason": error.reason,
        "message": shorten(str(error)),
        "retryable": isinstance(error, SourceError) and error.retryable,
    }


def shorten(text: str, limit: int = MAX_MESSAGE) -> str:
    """``text`` on one line, at most ``limit`` characters."""
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: limit - 1].rstrip() + "…"


def write(report: dict[str, Any], path: Path | None) -> bytes:
    """The report's bytes; written to ``path`` when there is one."""
    data = encode(report)
    if path is not None:
        # Not renamed into place: a termination log is a bind-mounted file.  One that cannot be
        # written must not hide the result, which the exit code says too.
        with contextlib.suppress(OSError):
            path.write_bytes(data)
    return data


def encode(report: dict[str, Any]) -> bytes:
    """JSON that fits: the longest message or list is halved until it does."""
    report = json.loads(json.dumps(report))
    data = _dump(report)
    while len(data) > LIMIT:
        holder, key = _longest(report)
        value = holder[key]
        if isinstance(value, str):
            holder[key] = shorten(value, max(len(value) // 2, 1))
        else:
            del value[len(value) // 2 :]
        data = _dump(report)
    return data


def _dump(report: dict[str, Any]) -> bytes:
    return json.dumps(report, ensure_ascii=False, separators=(",", ":")).encode()


def _longest(node: Any) -> tuple[Any, Any]:
    """The container and key of the longest string, or list of plain strings, anywhere in it."""
    best: tuple[int, Any, Any] = (-1, None, None)
    stack = [node]
    while stack:
        here = stack.pop()
        items = here.items() if isinstance(here, dict) else enumerate(here)
        for key, value in items:
            if key in WHOLE:
                continue
            plain = isinstance(value, list) and all(isinstance(v, str) for v in value) and value
            size = len(_dump({"": value})) if isinstance(value, str) or plain else -1
            if size > best[0]:
                best = (size, here, key)
            if isinstance(value, dict) or (isinstance(value, list) and not plain):
                stack.append(value)
    return best[1], best[2]
