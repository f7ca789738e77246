"""What every source and destination can do.

A source opens one file below its address, at an offset, as a stream.  It raises SourceError with a
reason and says whether another try can help; it neither retries nor measures: ``transfer`` does.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from sluice.errors import SourceError
from sluice.sources.address import Address

CHUNK = 1 << 20
SELF = ""
"""The name of the address itself, when it is one file and not a directory."""


@dataclass(frozen=True)
class Reader:
    """An open stream.  ``offset`` is where it starts, which may be 0 although more was asked."""

    chunks: AsyncIterator[bytes]
    size: int | None
    """Size of the whole file, when the other side says it."""
    offset: int = 0
    version: str | None = None
    """Names these bytes (an ETag), so that a resumed transfer cannot mix two versions."""
    digest: str | None = None
    """``sha256:…`` of the whole file, when the address pins it: other bytes are refused."""


class Source(Protocol):
    """Files below one address."""

    address: Address

    def open(
        self, name: str, *, offset: int = 0, version: str | None = None
    ) -> AbstractAsyncContextManager[Reader]:
        """The file ``name`` below the address, or the address itself for ``SELF``."""
        ...

    async def file_name(self) -> str:
        """What to call the file that ``SELF`` is; empty when the address can only be a package."""
        ...

    async def close(self) -> None:
        """Let go of connections."""
        ...


class Destination(Protocol):
    """A place that files can be written to."""

    address: Address

    async def read(self, name: str, limit: int) -> bytes | None:
        """The bytes of a small file; None when there is none."""
        ...

    async def size(self, name: str) -> int | None:
        """The size of a file; None when there is none."""
        ...

    async def write(self, name: str, file: Path) -> None:
        """Put the whole file there; a reader never sees half of it."""
        ...

    async def close(self) -> None:
        """Let go of connections."""
        ...


class BusyError(SourceError):
    """The other side says when to come back."""

    def __init__(self, address: Address, detail: str, retry_after: float) -> None:
        again = unreachable(address, detail)
        super().__init__(again.message, hint=again.hint, reason=again.reason, retryable=True)
        self.retry_after = retry_after


def missing(address: Address) -> SourceError:
    """Nothing is there."""
    return SourceError(
        f"There is nothing at {address.shown}.", hint="Check the address.", reason="Missing"
    )


def denied(address: Address, detail: str = "") -> SourceError:
    """Something may be there, but not for us."""
    return SourceError(
        f"Access to {address.shown} was denied{detail and f' ({detail})'}.",
        hint="Check the Secret named in credentialsRef, or the credentials in the environment.",
        reason="AccessDenied",
    )


def untrusted(server: str) -> SourceError:
    """The other side may be an impostor."""
    return SourceError(
        f"The TLS certificate of {server} is not trusted.",
        hint="Give the authority that signed it as text in SLUICE_CA_CERTIFICATES (a key of the "
        "Secret), or point SSL_CERT_FILE at it.",
        reason="AccessDenied",
    )


def unreachable(address: Address, detail: str) -> SourceError:
    """The other side does not answer, or answers that it cannot now."""
    return SourceError(
        f"{address.shown} cannot be reached: {detail}.",
        hint="It is tried again; check the host, the network policy and the server.",
        reason="Unreachable",
        retryable=True,
    )


def timed_out(address: Address, detail: str) -> SourceError:
    """The other side took too long."""
    return SourceError(
        f"{address.shown} took too long: {detail}.",
        hint="It is tried again; check the server and the network.",
        reason="Timeout",
        retryable=True,
    )


def cut_off(address: Address, got: int, size: int | None) -> SourceError:
    """The stream ended before the file did."""
    whole = "" if size is None else f" of {size:,}"
    return SourceError(
        f"{address.shown} ended after {got:,}{whole} bytes.",
        hint="It is tried again; check the server.",
        reason="Truncated",
        retryable=True,
    )
