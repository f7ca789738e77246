"""Publish a package under its own digest: ``DEST/sha256-<64 hex>/…``.

Called by ``sluice push``.  Such an address can only ever hold these bytes, so pushing again changes
nothing and whoever fetches it needs no other pin.  ``sluice.json`` goes last: a package that is
half uploaded is no package yet.  A signature goes with it, and alone to where the package is.
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from sluice.errors import SourceError
from sluice.jobs.push_artifact import push_artifact
from sluice.package.load import Package, open_package
from sluice.package.manifest import MANIFEST_NAME, MAX_MANIFEST_BYTES
from sluice.package.signing import read_signature
from sluice.signature import SIGNATURE_NAME
from sluice.sources import Address, Destination, open_destination, parse
from sluice.sources.transfer import Progress, human, silent

RETRY_SECONDS = (0.5, 2.0, 5.0)


@dataclass(frozen=True)
class Pushed:
    """Where the package now is."""

    uri: str
    digest: str
    uploaded: int
    """Files that were written; 0 when all of it was there before."""


def push(
    package_path: Path,
    destination: str,
    *,
    force: bool = False,
    progress: Progress = silent,
) -> Pushed:
    """Publish the package at ``package_path`` below ``destination``, or in a registry.

    ``force`` writes every file again: what is there is compared by size, not by content.
    Raises PackageError when the package does not verify, SourceError when it cannot be written.
    """
    package = open_package(package_path, check_environment=False)
    base = parse(destination)
    if base.scheme == "oci":
        if base.artifact.digest:
            raise SourceError(
                "A digest cannot be pushed to: it follows from what is pushed.",
                hint="Push to oci://REGISTRY/REPOSITORY or oci://REGISTRY/REPOSITORY:TAG.",
                reason="InvalidAddress",
            )
        uri, sent = asyncio.run(
            push_artifact(package, base, force=force, progress=progress, retry=_again)
        )
        return Pushed(uri, package.digest, sent)
    target = base.child(package.digest.replace(":", "-"))
    return asyncio.run(_push(package, target, force, progress))


async def _push(package: Package, target: Address, force: bool, progress: Progress) -> Pushed:
    destination = open_destination(target)
    try:
        if package.bare:
            return await _push_bare(package, destination, force, progress)
        manifest = (package.path / MANIFEST_NAME).read_bytes()
        signatures = await _push_signature(package, destination, progress)
        if not force and await _is_there(destination, manifest, package):
            progress(f"{target.shown} is there already.")
            return Pushed(target.uri, package.digest, signatures)
        for entry in package.manifest.files:
            progress(f"{entry.path} ({human(entry.size)})")
            await _write(destination, entry.path, package.path / entry.path, progress)
        await _write(destination, MANIFEST_NAME, package.path / MANIFEST_NAME, progress)
        await _confirm(destination, manifest, progress)
        return Pushed(target.uri, package.digest, len(package.manifest.files) + 1 + signatures)
    finally:
        await destination.close()


async def _push_signature(
    package: Package, destination: Destination, progress: Callable[[str], None]
) -> int:
    """Publish ``model.sig`` unless the same is there; how many were written."""
    file = package.path / SIGNATURE_NAME
    if not file.exists():
        return 0
    read_signature(package.path)
    data = file.read_bytes()
    with contextlib.suppress(SourceError):
        if await destination.read(SIGNATURE_NAME, len(data) + 1) == data:
            return 0
    progress(f"{SIGNATURE_NAME} ({human(len(data))})")
    await _write(destination, SIGNATURE_NAME, file, progress)
    return 1


async def _push_bare(
    package: Package, destination: Destination, force: bool, progress: Progress
) -> Pushed:
    """A model file without a package: one object, no ``sluice.json``."""
    name = package.path.name
    uri = destination.address.child(name).uri
    if not force and await _has_size(destination, name, package.size):
        progress(f"{destination.address.child(name).shown} is there already.")
        return Pushed(uri, package.digest, 0)
    # The verified bytes, not the path: the file could have changed since it was opened.
    with tempfile.TemporaryDirectory(prefix="sluice-push-") as scratch:
        verified = Path(scratch) / name
        verified.write_bytes(package.model_bytes)
        progress(f"{name} ({human(package.size)})")
        await _write(destination, name, verified, progress)
    return Pushed(uri, package.digest, 1)


async def _has_size(destination: Destination, name: str, size: int) -> bool:
    try:
        return await destination.size(name) == size
    except SourceError as error:
        if error.reason != "AccessDenied":
            raise
        return False


async def _write(destination: Destination, name: str, file: Path, progress: Progress) -> None:
    await _again(lambda: destination.write(name, file), progress)


async def _again(write: Callable[[], Awaitable[None]], progress: Progress) -> None:
    """Write, again when the store has a bad moment; writing twice changes nothing."""
    for wait in RETRY_SECONDS:
        try:
            return await write()
        except SourceError as error:
            if not error.retryable:
                raise
            progress(f"{error.message} Trying again in {wait:g} s.")
            await asyncio.sleep(wait)
    return await write()


async def _is_there(destination: Destination, manifest: bytes, package: Package) -> bool:
    try:
        if await destination.read(MANIFEST_NAME, MAX_MANIFEST_BYTES + 1) != manifest:
            return False
    except SourceError as error:
        if error.reason != "AccessDenied":
            raise
        return False  # credentials that may write but not read: writing will tell
    for entry in package.manifest.files:
        if not await _has_size(destination, entry.path, entry.size):
            return False
    return True


async def _confirm(destination: Destination, manifest: bytes, progress: Progress) -> None:
    """Read back what makes it a package, so that success is said only of what can be fetched."""
    try:
        found = await destination.read(MANIFEST_NAME, len(manifest) + 1)
    except SourceError as error:
        if error.reason != "AccessDenied":
            raise
        progress("Written; these credentials may not read it back.")
        return
    if found != manifest:
        raise SourceError(
            f"{destination.address.shown} does not read back as it was written.",
            hint="Push again; check the store.",
            reason="Truncated",
            retryable=True,
        )
