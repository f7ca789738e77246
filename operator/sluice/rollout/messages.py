"""Messages that end in a way out.  Called by the rules of sluice.rollout."""

from __future__ import annotations

LIMIT = 512
"""Longest message of a status field."""


def with_way_out(said: str, way_out: str) -> str:
    """Both in one message: what was said may be cut, the way out never."""
    said = said if said.endswith((".", "…", "!", "?")) else f"{said}."
    room = LIMIT - len(way_out) - 1
    if len(said) > room:
        said = said[: room - 1] + "…"
    return f"{said} {way_out}"


def annotate(name: str, verb: str, value: str = "now") -> str:
    """The line that gives a command."""
    return f"kubectl annotate mdep/{name} sluice.dev/{verb}={value}"


def short(digest: str) -> str:
    """The 12 hex digits by which commands name a digest."""
    return digest.removeprefix("sha256:")[:12]
