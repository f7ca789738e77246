"""Publish a package under its own digest: ``DEST/sha256-<64 hex>/…``.

Called by ``sluice push``.  Such an address can only ever hold these bytes, so pushing again changes
nothing and whoever fetches it needs no other pin.  ``sluice.json`` goes last: a package that is
half uploaded is no package yet.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sluice.errors import SourceError
from sluice.package.load import Package, open_package
from sluice.package.manifest import MANIFEST_NAME, MAX_MANIFEST_BYTES
from sluice.sources import Address, Destination, open_destination, parse
from sluice.sources.transfer import human, silent


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
    progress: Callable[[str], None] = silent,
) -> Pushed:
    """Publish the package at ``package_path`` below ``destination``.

    ``force`` writes every file again: what is there is compared by size, not by content.
    Raises PackageError when the package does not verify, SourceError when it cannot be written.
    """
    package = open_package(package_path, check_environment=False)
    base = parse(destination)
    target = base.child(package.digest.replace(":", "-"))
    return asyncio.run(_push(package, target, force, progress))


async def _push(
    package: Package, target: Address, force: bool, progress: Callable[[str], None]
) -> Pushed:
    destination = open_destination(target)
    try:
        if package.bare:
            return await _push_bare(package, destination, force, progress)
        manifest = (package.path / MANIFEST_NAME).read_bytes()
        if not force and await _is_there(destination, manifest, package):
            progress(f"{target.shown} is there already.")
            return Pushed(target.uri, package.digest, 0)
        for entry in package.manifest.files:
            progress(f"{entry.path} ({human(entry.size)})")
            await destination.write(entry.path, package.path / entry.path)
        await destination.write(MANIFEST_NAME, package.path / MANIFEST_NAME)
        await _confirm(destination, manifest, MANIFEST_NAME)
        return Pushed(target.uri, package.digest, len(package.manifest.files) + 1)
    finally:
        await destination.close()


async def _push_bare(
    package: Package, destination: Destination, force: bool, progress: Callable[[str], None]
) -> Pushed:
    """A model file without a package: one object, no ``sluice.json``."""
    name = package.path.name
    uri = destination.address.child(name).uri
    if not force and await destination.size(name) == package.size:
        progress(f"{destination.address.child(name).shown} is there already.")
        return Pushed(uri, package.digest, 0)
    # The verified bytes, not the path: the file could have changed since it was opened.
    with tempfile.TemporaryDirectory(prefix="sluice-push-") as scratch:
        verified = Path(scratch) / name
        verified.write_bytes(package.model_bytes)
        progress(f"{name} ({human(package.size)})")
        await destination.write(name, verified)
    return Pushed(uri, package.digest, 1)


async def _is_there(destination: Destination, manifest: bytes, package: Package) -> bool:
    if await destination.read(MANIFEST_NAME, MAX_MANIFEST_BYTES + 1) != manifest:
        return False
    for entry in package.manifest.files:
        if await destination.size(entry.path) != entry.size:
            return False
    return True


async def _confirm(destination: Destination, data: bytes, name: str) -> None:
    """Read back what makes it a package, so that success is said only of what can be fetched."""
    if await destination.read(name, len(data) + 1) != data:
        raise SourceError(
            f"{destination.address.child(name).shown} does not read back as it was written.",
            hint="Push again; check the store.",
            reason="Truncated",
            retryable=True,
        )
