"""Which source serves which scheme.  Imports a source only when it is needed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sluice.errors import SourceError
from sluice.sources.address import STORES, Address
from sluice.sources.base import Destination, Source

if TYPE_CHECKING:
    from sluice.sources.bucket import Bucket


def open_source(address: Address) -> Source:
    """The source that reads ``address``."""
    if address.scheme in ("file", "pvc"):
        from sluice.sources.local import LocalSource

        return LocalSource(address)
    if address.scheme in STORES:
        return _store(address)
    if address.scheme == "oci":
        from sluice.sources.oci import OciSource

        return OciSource(address)
    if address.scheme == "hf":
        from sluice.sources.hf import HubSource

        return HubSource(address)
    if address.scheme == "mlflow":
        from sluice.sources.mlflow import MlflowSource

        return MlflowSource(address, open_source)
    from sluice.sources.web import WebSource

    return WebSource(address)


def open_destination(address: Address) -> Destination:
    """The destination that writes to ``address``."""
    if address.scheme == "file":
        from sluice.sources.local import LocalDestination

        return LocalDestination(address)
    if address.scheme in STORES:
        return _store(address)
    raise SourceError(
        f"Nothing can be pushed to {address.scheme}://.",
        hint="Push to s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, az://CONTAINER/PREFIX, "
        "oci://REGISTRY/REPOSITORY or a directory.",
        reason="UnsupportedScheme",
    )


def _store(address: Address) -> Bucket:
    try:
        from sluice.sources.bucket import Bucket
    except ModuleNotFoundError as error:
        raise SourceError(
            f"{address.scheme}:// needs the package {error.name!r}, which is not installed.",
            hint="Install sluice-operator[sources].",
            reason="UnsupportedScheme",
        ) from error
    return Bucket(address)
