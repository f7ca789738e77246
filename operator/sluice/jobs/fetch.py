"""Copy a package to a directory, verified, or not at all.

Called by ``sluice fetch`` (an init container, and the Job that resolves a new revision).  First
``sluice.json``, whose digest is checked before it is believed; then exactly the files that it
lists, each with its size and SHA-256; then the signature, where there is one.  Nothing is ever
loaded, and a signature is only reported: who is trusted is decided elsewhere.
"""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from sluice.errors import PackageError, SluiceError, SourceError
from sluice.jobs import place
from sluice.package.inspect import imports_of
from sluice.package.load import Package, open_package
from sluice.package.manifest import (
    MANIFEST_NAME,
    MAX_MANIFEST_BYTES,
    FileEntry,
    Manifest,
    decode,
)
from sluice.package.mlflow_model import MAX_MLMODEL_BYTES, MLMODEL_NAME, model_file
from sluice.signature import (
    MAX_BUNDLE_BYTES,
    MAX_PACKED,
    SIGNATURE_NAME,
    packed,
    read_bundle,
)
from sluice.sources import (
    Address,
    Budget,
    Source,
    Transferred,
    copy_to_file,
    open_source,
    parse,
)
from sluice.sources.base import SELF
from sluice.sources.transfer import human, silent

_Work = Callable[[Source, asyncio.Timeout], Awaitable[Any]]

MAX_IMPORTS = 20
_NOT_THERE = ("Missing", "AccessDenied", "Unreachable")


@dataclass(frozen=True)
class Limits:
    """What one fetch may take."""

    max_bytes: int = 5 * 1024**3
    seconds: float = 1800.0
    slowest: float = 2 * 1024**2
    """Bytes a second that are still waited for: a package that needs longer than ``seconds`` at
    this rate gets the time that it needs.  Infinity: never longer."""
    attempts: int = 5
    first_wait: float = 0.5
    """Seconds before the second try; doubled for each one after."""


NO_LIMITS_GIVEN = Limits()


@dataclass(frozen=True)
class Fetched:
    """What now lies in the directory."""

    path: Path
    digest: str
    size: int
    mutable: bool
    """Whether other bytes could be put at the same address."""


def fetch(
    uri: str,
    to: Path,
    *,
    digest: str | None = None,
    limits: Limits = NO_LIMITS_GIVEN,
    progress: Callable[[str], None] = silent,
    signature_matters: bool = False,
) -> Fetched:
    """Copy the package at ``uri`` to the directory ``to``.  Raises SourceError, PackageError.

    ``signature_matters``: trouble with fetching ``model.sig`` is an error, worth another try.  A
    pod that starts needs no signature, so there it is no more than a line in the log.
    """
    address = parse(uri)
    if address.name == MANIFEST_NAME:
        address = address.parent()
    wanted = _wanted(address, digest)
    mutable = digest is None and not address.immutable
    if wanted is not None and (size := place.already_there(to, wanted)) is not None:
        progress(f"{to} already holds {wanted}.")
        return Fetched(to, wanted, size, mutable)
    place.refuse_foreign(to)
    with place.staging(to if to.is_dir() else to.parent) as scratch:
        stage = Path(scratch) / "package"
        stage.mkdir()
        work = _Fetch(address, stage, wanted, limits, progress, signature_matters)
        found = _run(work.run, address, limits)
        place.publish(stage, to)
    progress(f"{human(work.size)} in {to}, {found}.")
    return Fetched(to, found, work.size, mutable)


def fetch_file(
    uri: str,
    to: Path,
    *,
    digest: str | None = None,
    limits: Limits = NO_LIMITS_GIVEN,
    progress: Callable[[str], None] = silent,
) -> Fetched:
    """Copy the single file at ``uri`` to the file ``to``: a dataset, not a package."""
    address = parse(uri)
    with place.staging(to.parent) as scratch:
        staged = Path(scratch) / "file"

        async def one(source: Source, _deadline: asyncio.Timeout) -> Transferred:
            budget = Budget(limits.max_bytes)
            return await _copy(source, SELF, staged, budget, limits, progress)

        done = _run(one, address, limits)
        if digest is not None and done.digest != digest:
            raise _mismatch(address, digest, done.digest)
        try:
            staged.replace(to)
        except OSError as error:
            raise place.cannot_write(to, error) from error
    return Fetched(to, done.digest, done.size, mutable=digest is None)


def resolve(fetched: Fetched, *, max_bytes: int = NO_LIMITS_GIVEN.max_bytes) -> dict[str, Any]:
    """What the operator wants to know of a fetched package, checked by content, never loaded."""
    package: Package = open_package(fetched.path, fetched.digest, max_bytes=max_bytes)
    manifest = package.manifest
    return {
        "digest": package.digest,
        "name": manifest.name,
        "format": manifest.model.format,
        "class": manifest.model.trust_class,
        "size": fetched.size,
        "imports": imports_of(package)[:MAX_IMPORTS],
        "mutableSource": fetched.mutable,
        **_signature(fetched.path / SIGNATURE_NAME),
    }


def _signature(file: Path) -> dict[str, str]:
    """The signature as the operator takes it, or why it cannot; nothing when there is none."""
    if not file.is_file():
        return {}
    try:
        short = packed(read_bundle(file.read_bytes()))
    except PackageError as error:
        return {"signatureProblem": error.message}
    if len(short) > MAX_PACKED:
        return {"signatureProblem": "The signature lists more files than a report has room for."}
    return {"signature": short}


class _Fetch:
    """One fetch in progress: a package directory, or else a bare file."""

    def __init__(
        self,
        address: Address,
        stage: Path,
        wanted: str | None,
        limits: Limits,
        progress: Callable[[str], None],
        signature_matters: bool,
    ) -> None:
        self._address, self._stage, self._wanted = address, stage, wanted
        self._limits, self._progress = limits, progress
        self._signature_matters = signature_matters
        self.size = 0

    async def run(self, source: Source, deadline: asyncio.Timeout) -> str:
        """Fill the stage; the digest of what came."""
        self._progress(f"Fetching {self._address.shown}")
        try:
            return await self._package(source, deadline)
        except SourceError as error:
            # Not only Missing: an object store that may not be listed says 403 for what is not
            # there, and a signed address of one file is refused with anything appended to it.
            if error.retryable or error.reason not in _NOT_THERE:
                raise
            return await self._bare(source, error)

    async def _package(self, source: Source, deadline: asyncio.Timeout) -> str:
        target = self._stage / MANIFEST_NAME
        head = Budget(min(MAX_MANIFEST_BYTES, self._limits.max_bytes))
        done = await self._copy(source, MANIFEST_NAME, target, head)
        manifest = self._checked(target.read_bytes(), done.digest)
        total = done.size + sum(entry.size for entry in manifest.files)
        self._fits(total)
        if (needed := total / self._limits.slowest) > self._limits.seconds:
            deadline.reschedule(asyncio.get_running_loop().time() + needed)
        for entry in manifest.files:
            try:
                await self._file(source, entry)
            except SourceError as error:
                raise _incomplete(self._address, entry, error) from error
        self.size = total
        await self._signature(source)
        return done.digest

    async def _signature(self, source: Source) -> None:
        """Outside the digest and perhaps not there, so only trouble that may pass is an error."""
        target = self._stage / SIGNATURE_NAME
        limits = self._limits if self._signature_matters else replace(self._limits, attempts=1)
        try:
            await _copy(
                source, SIGNATURE_NAME, target, Budget(MAX_BUNDLE_BYTES), limits, self._progress
            )
        except SourceError as error:
            target.unlink(missing_ok=True)
            if error.retryable and self._signature_matters:
                raise
            if error.reason not in ("Missing", "AccessDenied"):
                self._progress(f"{SIGNATURE_NAME} is left out: {error.message}")

    def _checked(self, data: bytes, found: str) -> Manifest:
        if self._wanted is not None and found != self._wanted:
            raise _mismatch(self._address, self._wanted, found)
        return decode(data)

    def _fits(self, total: int) -> None:
        Budget(self._limits.max_bytes).check(self._address, total)
        free = shutil.disk_usage(self._stage).free
        if total > free:
            raise SourceError(
                f"The package needs {human(total)}, {self._stage.parent} has {human(free)} free.",
                hint="Free some space, or raise the volume's size.",
                reason="CannotWrite",
            )

    async def _copy(self, source: Source, name: str, target: Path, budget: Budget) -> Transferred:
        return await _copy(source, name, target, budget, self._limits, self._progress)

    async def _file(self, source: Source, entry: FileEntry) -> None:
        target = self._stage / entry.path
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
        except FileExistsError:
            raise _corrupt(self._address, entry) from None  # listed both as file and directory
        except OSError as error:
            raise place.cannot_write(target.parent, error) from error
        # One byte more than listed is enough to know that it is another file.
        done = await self._copy(source, entry.path, target, Budget(entry.size))
        if done.size < entry.size:
            raise PackageError(
                f"{entry.path} has {done.size:,} bytes at {self._address.shown}, "
                f"{MANIFEST_NAME} says {entry.size:,}.",
                hint="The upload was cut short: publish it again with `sluice push --force`.",
                reason="Truncated",
            )
        if done.digest != f"sha256:{entry.sha256}":
            raise _corrupt(self._address, entry)

    async def _bare(self, source: Source, no_package: SourceError) -> str:
        (self._stage / MANIFEST_NAME).unlink(missing_ok=True)
        inside = await self._mlflow_file(source)
        name = PurePosixPath(inside).name or await _name(source, no_package)
        if not name or name.startswith("."):
            raise no_package
        target = self._stage / Path(name).name
        try:
            done = await self._copy(source, inside, target, Budget(self._limits.max_bytes))
        except SourceError as error:
            if error.reason != "Missing" or no_package.reason != "Missing":
                raise (error if error.reason != "Missing" else no_package) from error
            raise _nothing(self._address, inside) from error
        if self._wanted is not None and done.digest != self._wanted:
            raise _mismatch(self._address, self._wanted, done.digest)
        self.size = done.size
        return done.digest

    async def _mlflow_file(self, source: Source) -> str:
        """The model of an MLflow directory; ``SELF`` when the address is no such directory."""
        listing = self._stage / MLMODEL_NAME
        try:
            await self._copy(source, MLMODEL_NAME, listing, Budget(MAX_MLMODEL_BYTES))
            found = model_file(listing.read_bytes())
        except SourceError as error:
            if error.retryable or error.reason not in _NOT_THERE:
                raise
            return SELF
        finally:
            listing.unlink(missing_ok=True)
        self._progress(f"{self._address.shown} is an MLflow model: {found}")
        return found


async def _name(source: Source, no_package: SourceError) -> str:
    try:
        return await source.file_name()
    except SourceError as error:
        raise (error if error.reason == "Missing" else no_package) from error


async def _copy(
    source: Source,
    name: str,
    target: Path,
    budget: Budget,
    limits: Limits,
    progress: Callable[[str], None],
) -> Transferred:
    return await copy_to_file(
        source,
        name,
        target,
        budget,
        progress=progress,
        attempts=limits.attempts,
        first_wait=limits.first_wait,
    )


def _run(work: _Work, address: Address, limits: Limits) -> Any:
    """Run the coroutine that ``work`` makes of an open source, within the time limit."""

    async def bounded() -> Any:
        source = open_source(address)
        started = time.monotonic()
        try:
            async with asyncio.timeout(limits.seconds) as deadline:
                return await work(source, deadline)
        except TimeoutError as error:
            raise SourceError(
                f"Fetching {address.shown} was not done after {time.monotonic() - started:.0f} s.",
                hint="It is tried again; raise --timeout for a large package on a slow link.",
                reason="Timeout",
                retryable=True,
            ) from error
        finally:
            await source.close()

    return asyncio.run(bounded())


def _wanted(address: Address, digest: str | None) -> str | None:
    named = address.content_digest
    if digest is not None and named is not None and digest != named:
        raise PackageError(
            f"The address {address.shown} names {named}, but the digest asked for is {digest}.",
            hint="Change uri and digest together, or leave digest out: the address pins the bytes.",
            reason="DigestMismatch",
        )
    return digest or named


def _nothing(address: Address, inside: str) -> SourceError:
    if inside:
        return SourceError(
            f"{MLMODEL_NAME} at {address.shown} names {inside}, which is not there.",
            hint="The model was not logged whole: log it again with MLflow.",
            reason="Missing",
        )
    return SourceError(
        f"There is no package at {address.shown}: neither {MANIFEST_NAME} nor {MLMODEL_NAME} below "
        "it, nor a file.",
        hint="Check the address; `sluice push` prints the one it wrote.",
        reason="Missing",
    )


def _incomplete(address: Address, entry: FileEntry, error: SourceError) -> SluiceError:
    """What a failed file means for the package: it is listed, so it must be there and no larger."""
    if error.reason == "TooLarge":
        return _corrupt(address, entry)
    if error.reason == "Missing":
        return PackageError(
            f"{entry.path} is listed in {MANIFEST_NAME} but is not at {address.shown}.",
            hint="The upload is incomplete: publish it again with `sluice push`.",
            reason="Missing",
        )
    return error


def _corrupt(address: Address, entry: FileEntry) -> PackageError:
    return PackageError(
        f"{entry.path} at {address.shown} is not the file that was packaged: its bytes differ from "
        f"what {MANIFEST_NAME} lists.",
        hint="The copy is damaged or was changed: publish it again with `sluice push --force`.",
        reason="Corrupt",
    )


def _mismatch(address: Address, wanted: str, found: str) -> PackageError:
    return PackageError(
        f"What lies at {address.shown} has digest {found}, not {wanted}.",
        hint="Something else was published there, or only one of uri and digest was changed: set "
        "the digest that you mean, or leave it out.",
        reason="DigestMismatch",
    )
