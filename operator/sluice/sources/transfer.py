"""One file from a source to a file: bounded, hashed, retried, resumed, with progress.

Called by ``sluice.jobs``.  All patience lives here: sources only say whether another try can help.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Protocol

from sluice.errors import SourceError
from sluice.sources.address import Address
from sluice.sources.base import SELF, BusyError, Source, cut_off, unreachable

ATTEMPTS = 5
FIRST_WAIT = 0.5
LONGEST_WAIT = 15.0

Progress = Callable[[str], None]


def silent(_line: str) -> None:
    """A progress function that says nothing."""


class _Hash(Protocol):
    def update(self, data: bytes, /) -> None: ...
    def hexdigest(self) -> str: ...


@dataclass
class Budget:
    """What is left of the bytes that one fetch may write, over all its files."""

    limit: int
    used: int = 0

    def check(self, address: Address, more: int) -> None:
        """Raise when ``more`` bytes would go over the limit."""
        if self.used + more > self.limit:
            raise SourceError(
                f"{address.shown} is larger than the limit of {human(self.limit)}.",
                hint="Raise --max-bytes, or make the package smaller.",
                reason="TooLarge",
            )


@dataclass(frozen=True)
class Transferred:
    """What was written."""

    size: int
    digest: str


@dataclass
class _State:
    sink: BinaryIO
    hash: _Hash = field(default_factory=hashlib.sha256)
    written: int = 0
    version: str | None = None
    pinned: str | None = None

    def restart(self) -> None:
        self.sink.seek(0)
        self.sink.truncate()
        self.hash, self.written, self.version = hashlib.sha256(), 0, None


async def copy_to_file(
    source: Source,
    name: str,
    target: Path,
    budget: Budget,
    *,
    progress: Progress = silent,
    attempts: int = ATTEMPTS,
    first_wait: float = FIRST_WAIT,
) -> Transferred:
    """Copy ``name`` to the new file ``target``; what was read is kept between tries."""
    try:
        with target.open("xb") as sink:
            state = _State(sink)
            await _patiently(source, name, state, budget, progress, attempts, first_wait)
    except OSError as error:  # also when the last bytes, at the end, find the disk full
        raise _cannot_write(target, error) from error
    address = source.address if name == SELF else source.address.child(name)
    budget.used += state.written
    digest = f"sha256:{state.hash.hexdigest()}"
    if state.pinned is not None and digest != state.pinned:
        raise SourceError(
            f"{address.shown} has digest {digest}, but its address pins {state.pinned}.",
            hint="The server's copy is damaged or was changed: publish it again.",
            reason="Corrupt",
        )
    return Transferred(state.written, digest)


async def _patiently(
    source: Source,
    name: str,
    state: _State,
    budget: Budget,
    progress: Progress,
    attempts: int,
    first_wait: float,
) -> None:
    address = source.address if name == SELF else source.address.child(name)
    for attempt in range(1, attempts + 1):
        before = state.written
        try:
            return await _once(source, name, address, state, budget, progress)
        except SourceError as error:
            if not error.retryable or attempt == attempts:
                raise
            wait = _wait(attempt, first_wait, error)
            progress(f"{error.message} Trying again in {wait:.1f} s ({attempt}/{attempts - 1}).")
            if state.written == before:
                # No byte came: an ETag from an earlier try may be what the server chokes on.
                state.restart()
            await asyncio.sleep(wait)
    return None


async def _once(
    source: Source,
    name: str,
    address: Address,
    state: _State,
    budget: Budget,
    progress: Progress,
) -> None:
    async with source.open(name, offset=state.written, version=state.version) as reader:
        if reader.offset != state.written or reader.version != state.version:
            if reader.offset != 0:
                state.restart()
                raise unreachable(address, "the file changed while it was read")
            if state.written:
                state.restart()
        state.version, state.pinned = reader.version, reader.digest
        if reader.size is not None:
            budget.check(address, reader.size)
        meter = _Meter(address, reader.size, progress, state.written)
        async for chunk in reader.chunks:
            budget.check(address, state.written + len(chunk))
            state.sink.write(chunk)
            state.hash.update(chunk)
            state.written += len(chunk)
            meter.show(state.written)
        if reader.size is not None and state.written < reader.size:
            raise cut_off(address, state.written, reader.size)
        if reader.size is not None and state.written > reader.size:
            state.restart()
            raise unreachable(address, "it sent more bytes than it announced")


def _wait(attempt: int, first: float, error: SourceError) -> float:
    if isinstance(error, BusyError):
        return min(error.retry_after, LONGEST_WAIT)
    doubled: float = first * 2 ** (attempt - 1)
    # Spread: a thousand pods that failed together must not come back together.
    return min(doubled, LONGEST_WAIT) * random.uniform(0.75, 1.25)  # noqa: S311


def _cannot_write(target: Path, error: OSError) -> SourceError:
    return SourceError(
        f"{target} cannot be written: {error.strerror or error}.",
        hint="Check the free space and the permissions there (in a pod: the volume's sizeLimit).",
        reason="CannotWrite",
    )


class _Meter:
    """A line every few seconds, so that a long transfer is seen to move."""

    EVERY = 5.0

    def __init__(
        self, address: Address, size: int | None, progress: Progress, begun_at: int = 0
    ) -> None:
        self._address, self._size, self._progress = address, size, progress
        self._start, self._begun_at = time.monotonic(), begun_at
        self._next = self._start + self.EVERY

    def show(self, written: int) -> None:
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + self.EVERY
        self._progress(self.line(written, now - self._start))

    def line(self, written: int, seconds: float) -> str:
        """``name: 1.2 GiB of 3.0 GiB, 40.0 MiB/s, 46 s to go``."""
        rate = (written - self._begun_at) / max(seconds, 1e-3)
        parts = f"{self._address.name}: {human(written)}"
        if self._size:
            parts += f" of {human(self._size)}"
        parts += f", {human(int(rate))}/s"
        if self._size and rate >= 1:
            parts += f", {max(self._size - written, 0) / rate:.0f} s to go"
        return parts


def human(size: int) -> str:
    """``size`` bytes for a person."""
    value = float(size)
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} GiB"
