"""``oci://REGISTRY/REPOSITORY[:TAG][@sha256:…]``: a package, or one model file, as an OCI artifact.

The artifact follows the ModelPack convention (artifact and media types, a file's path in an
annotation) with one uncompressed layer a file, so that other tools can read it, a changed file is
uploaded alone, and the layer of ``sluice.json`` has the very digest of the package.
Layers are found by their path, never written to it: what is written is what ``sluice.json`` lists.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from sluice.errors import SourceError
from sluice.sources.address import Address
from sluice.sources.base import SELF, Reader, missing
from sluice.sources.http_client import CONNECT_SECONDS, IDLE_SECONDS
from sluice.sources.oci_registry import INDEX_TYPES, MANIFEST_TYPE, OciRegistry

ARTIFACT_TYPE = "application/vnd.cncf.model.manifest.v1+json"
CONFIG_TYPE = "application/vnd.cncf.model.config.v1+json"
LAYER_TYPE = "application/vnd.cncf.model.{kind}.v1.raw"
PATH_KEYS = ("org.cncf.model.filepath", "org.opencontainers.image.title")
MAX_LAYERS = 4_000


@dataclass(frozen=True)
class Layer:
    """One file of an artifact.  ``kind`` is ModelPack's: weight, weight.config, code, dataset."""

    path: str
    digest: str
    size: int
    kind: str


def build_manifest(layers: list[Layer], config: bytes, config_digest: str) -> bytes:
    """The manifest of an artifact; the same files give the same bytes, so the same digest."""
    written = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "artifactType": ARTIFACT_TYPE,
        "config": {"mediaType": CONFIG_TYPE, "digest": config_digest, "size": len(config)},
        "layers": [
            {
                "mediaType": LAYER_TYPE.format(kind=layer.kind),
                "digest": layer.digest,
                "size": layer.size,
                "annotations": dict.fromkeys(PATH_KEYS, layer.path),
            }
            for layer in layers
        ],
    }
    return json.dumps(written, separators=(",", ":")).encode()


def build_config(name: str, model_format: str, layers: list[Layer]) -> bytes:
    """ModelPack's description of an artifact, without a date, so that it does not change."""
    written = {
        "descriptor": {"name": name},
        "config": {"format": model_format},
        "modelfs": {"type": "layers", "diffIds": [layer.digest for layer in layers]},
    }
    return json.dumps(written, separators=(",", ":"), ensure_ascii=False).encode()


def read_manifest(address: Address, data: bytes) -> dict[str, Layer]:
    """Layers by path.  Raises SourceError for anything that is not a usable artifact."""
    try:
        manifest: Any = json.loads(data)
    except (ValueError, RecursionError):
        manifest = None
    if not isinstance(manifest, dict):
        raise _unusable(address, "its manifest is not JSON")
    if manifest.get("mediaType") in INDEX_TYPES or "manifests" in manifest:
        raise _unusable(address, "it is an index of several artifacts; name one by its digest")
    layers = manifest.get("layers")
    if not isinstance(layers, list) or len(layers) > MAX_LAYERS:
        raise _unusable(address, f"its manifest does not list up to {MAX_LAYERS} layers")
    found: dict[str, Layer] = {}
    for written in layers:
        layer = _layer(address, written)
        if layer is None:
            continue
        if layer.path in found:
            raise _unusable(address, f"it holds {layer.path} twice")
        found[layer.path] = layer
    if not found:
        raise _unusable(
            address, "none of its layers is a plain file; an image or an archive is not unpacked"
        )
    return found


def _layer(address: Address, written: Any) -> Layer | None:
    """A plain file; None for an archive, which stays where it is."""
    try:
        media, digest, size = written["mediaType"], written["digest"], written["size"]
        names = written.get("annotations") or {}
        path = next((names[key] for key in PATH_KEYS if key in names), None)
        if not (isinstance(media, str) and isinstance(digest, str) and isinstance(size, int)):
            raise TypeError
    except (TypeError, KeyError, AttributeError):
        raise _unusable(address, "a layer of its manifest is malformed") from None
    if path is None or ".tar" in media or media.endswith(("+gzip", "+zstd")):
        return None
    if not _is_sha256(digest):
        raise _unusable(address, "a layer's digest is not sha256 and 64 hex digits")
    if not isinstance(path, str) or not _is_safe(path):
        raise _unusable(address, "a layer's path leads out of the package")
    kind = media.removeprefix("application/vnd.cncf.model.").partition(".v1")[0]
    return Layer(path, digest, size, kind)


def _is_sha256(digest: str) -> bool:
    name, _, value = digest.partition(":")
    return name == "sha256" and len(value) == 64 and not set(value) - set("0123456789abcdef")


def _is_safe(path: str) -> bool:
    return (
        0 < len(path) <= 1024
        and not path.startswith("/")
        and "\\" not in path
        and "\0" not in path
        and not set(path.split("/")) & {"", ".", ".."}
    )


def _unusable(address: Address, what: str) -> SourceError:
    return SourceError(
        f"The artifact at {address.shown} cannot be used: {what}.",
        hint="Publish the package with `sluice push PACKAGE oci://…`.",
        reason="Corrupt",
    )


class OciSource:
    """Reads the files of one artifact."""

    def __init__(
        self,
        address: Address,
        *,
        connect_seconds: float = CONNECT_SECONDS,
        idle_seconds: float = IDLE_SECONDS,
    ) -> None:
        self.address = address
        self._registry = OciRegistry(
            address, connect_seconds=connect_seconds, idle_seconds=idle_seconds
        )
        self._layers: dict[str, Layer] | None = None

    @asynccontextmanager
    async def open(
        self, name: str, *, offset: int = 0, version: str | None = None
    ) -> AsyncIterator[Reader]:
        layer = await self._find(name)
        # Which bytes these are is settled by their digest; a version from before is the same one.
        start = offset if version == layer.digest else 0
        about = self.address if name == SELF else self.address.child(name)
        async with self._registry.blob(layer.digest, about, offset=start) as found:
            yield found

    async def file_name(self) -> str:
        return PurePosixPath((await self._find(SELF)).path).name

    async def close(self) -> None:
        """Close the connections."""
        await self._registry.close()

    async def _find(self, name: str) -> Layer:
        if self._layers is None:
            data = await self._registry.manifest(self.address.artifact.reference)
            self._layers = read_manifest(self.address, data)
        if name != SELF:
            if name not in self._layers:
                raise missing(self.address.child(name))
            return self._layers[name]
        files = list(self._layers.values())
        models = [layer for layer in files if layer.kind == "weight"] or files
        if len(models) != 1:
            raise SourceError(
                f"The artifact at {self.address.shown} holds {len(models)} model files and no "
                "sluice.json.",
                hint="Publish a package, or an artifact of one model file.",
                reason="Missing",
            )
        return models[0]
