"""Text from outside as one line that a terminal, a log or a status can show.

Called by what reads names out of model files; calls nothing.
"""

from __future__ import annotations


def printable(text: str) -> str:
    """``text`` without what moves the cursor or starts a line of its own."""
    return "".join(c if c.isprintable() else "?" for c in text)
