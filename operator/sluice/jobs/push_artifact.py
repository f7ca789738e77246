"""Publish a package, or a bare model file, to a registry as an OCI artifact.

Called by ``push``.  One layer a file, ``sluice.json`` first; blobs that are there are not sent
again, and the manifest goes last, so a half uploaded package has no name.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

from sluice.package.load import Package
from sluice.package.manifest import MANIFEST_NAME
from sluice.package.signing import read_signature
from sluice.signature import SIGNATURE_NAME
from sluice.sources import Address
from sluice.sources.address import CONTENT_TAG
from sluice.sources.oci import Layer, build_config, build_manifest
from sluice.sources.oci_registry import OciRegistry
from sluice.sources.transfer import Progress, human

Retry = Callable[[Callable[[], Awaitable[None]], Progress], Awaitable[None]]


async def push_artifact(
    package: Package, base: Address, *, force: bool, progress: Progress, retry: Retry
) -> tuple[str, int]:
    """The address of the artifact, pinned by digest, and how many files were uploaded.

    Without a tag in ``base`` the artifact is named by the package's digest.  Raises SourceError.
    """
    registry = OciRegistry(base)
    artifact = base.artifact
    tag = artifact.tag or f"{CONTENT_TAG}{package.digest.removeprefix('sha256:')}"
    with tempfile.TemporaryDirectory(prefix="sluice-push-") as scratch:
        files = _files(package, Path(scratch))
        layers = [_layer(package, path, file) for path, file in files.items()]
        config = build_config(package.manifest.name, package.manifest.model.format, layers)
        manifest = build_manifest(layers, config, _digest(config))
        uri = f"oci://{base.host}/{artifact.repository}:{tag}@{_digest(manifest)}"
        try:
            before = await registry.manifest_digest(tag)
            if before == _digest(manifest) and not force:
                progress(f"{uri} is there already.")
                return uri, 0
            (Path(scratch) / "config").write_bytes(config)
            blobs = {layer.digest: files[layer.path] for layer in layers}
            blobs[_digest(config)] = Path(scratch) / "config"
            sent = 0
            for digest, file in blobs.items():
                if not force and await registry.has_blob(digest):
                    continue
                progress(f"{file.name} ({human(file.stat().st_size)})")
                await retry(partial(registry.put_blob, digest, file), progress)
                sent += 1
            await retry(partial(registry.put_manifest, tag, manifest), progress)
        finally:
            await registry.close()
    if before not in (None, _digest(manifest)):
        progress(f"The tag {tag} named {before} before; it names this package now.")
    return uri, sent


def _files(package: Package, scratch: Path) -> dict[str, Path]:
    """Every file of the package by its path in the artifact, in a fixed order."""
    if package.bare:
        # The verified bytes, not the path: the file could have changed since it was opened.
        verified = scratch / package.path.name
        verified.write_bytes(package.model_bytes)
        return {package.path.name: verified}
    entries = [entry.path for entry in package.manifest.files]
    if (package.path / SIGNATURE_NAME).exists():
        read_signature(package.path)
        entries.append(SIGNATURE_NAME)
    return {path: package.path / path for path in (MANIFEST_NAME, *entries)}


def _layer(package: Package, path: str, file: Path) -> Layer:
    digests = {entry.path: f"sha256:{entry.sha256}" for entry in package.manifest.files}
    digests[package.path.name if package.bare else MANIFEST_NAME] = package.digest
    digest = digests.get(path) or _digest(file.read_bytes())
    return Layer(path, digest, file.stat().st_size, _kind(package, path))


def _kind(package: Package, path: str) -> str:
    manifest = package.manifest
    if package.bare or path == manifest.model.file:
        return "weight"
    return "code" if path in manifest.code else "weight.config"


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"
