"""The one error tree.  Every message says what was wrong, where, and what to do about it."""

from __future__ import annotations


class SluiceError(Exception):
    """An error a person can act on.

    ``message`` is one plain sentence; ``hint`` is the way out; ``reason`` is a CamelCase word that
    is stable enough to appear in a condition, an event or a script.
    """

    reason = "Error"

    def __init__(self, message: str, *, hint: str = "", reason: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        if reason is not None:
            self.reason = reason

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()


class InvalidInputError(SluiceError):
    """What a user wrote cannot be understood or is out of bounds."""

    reason = "Invalid"


class PackageError(SluiceError):
    """A model package is missing, damaged, mismatched or not trusted."""

    reason = "InvalidPackage"


class SourceError(SluiceError):
    """Fetching failed.  ``retryable`` says whether trying again can help."""

    reason = "FetchFailed"

    def __init__(
        self, message: str, *, hint: str = "", reason: str | None = None, retryable: bool = False
    ) -> None:
        super().__init__(message, hint=hint, reason=reason)
        self.retryable = retryable
