"""Seconds since the epoch to RFC 3339 and back.  Reads no clock."""

from __future__ import annotations

from datetime import UTC, datetime


def rfc3339(at: float) -> str:
    """``at`` as Kubernetes writes times, with seconds."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def rfc3339_milli(at: float) -> str:
    """``at`` with milliseconds, for reaction times."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
