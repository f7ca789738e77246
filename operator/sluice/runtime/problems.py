"""What can be wrong with a request, said so that its sender can mend it.

Called by the protocols and the endpoints; calls nothing.  A Problem is an answer, not a failure of
ours: it names the field, what was expected and what came.
"""

from __future__ import annotations


class Problem(Exception):  # noqa: N818 - an answer with a status, not an error of the program
    """A 4xx, 503 or 504 answer: ``code`` is a stable CamelCase word, ``message`` one sentence."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        field: str | None = None,
        headers: tuple[tuple[bytes, bytes], ...] = (),
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message.encode("utf-8", "replace").decode()
        self.field = field if field is None else field.encode("utf-8", "replace").decode()
        self.headers = headers


def bad(code: str, message: str, *, field: str | None = None) -> Problem:
    """A 400."""
    return Problem(400, code, message, field=field)


def unavailable(code: str, message: str, *, retry_after: int = 1) -> Problem:
    """A 503 with Retry-After."""
    return Problem(503, code, message, headers=((b"retry-after", str(retry_after).encode()),))


def describe(value: object) -> str:
    """What came, for a message: short, and never a whole document."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return f"the number {value!r}"[:60]
    if isinstance(value, str):
        return f"the string {value[:40]!r}"
    if isinstance(value, list):
        return "an empty list" if not value else f"a list of {len(value)}"
    if isinstance(value, dict):
        return "an object"
    return type(value).__name__
