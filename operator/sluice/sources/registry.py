"""Which source serves which scheme.  Imports a source only when it is needed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sluice.errors import SourceError
from sluice.sources.address import Address
from sluice.sources.base import Destination, Source

if TYPE_CHECKING:
    from sluice.sources.s3 import S3


def open_source(address: Address) -> Source:
    """The source that reads ``address``."""
    if address.scheme in ("file", "pvc"):
        from sluice.sources.local import LocalSource

        return LocalSource(address)
    if address.scheme == "s3":
        return _s3(address)
    from sluice.sources.web import WebSource

    return WebSource(address)


def open_destination(address: Address) -> Destination:
    """The destination that writes to ``address``."""
    if address.scheme == "file":
        from sluice.sources.local import LocalDestination

        return LocalDestination(address)
    if address.scheme == "s3":
        return _s3(address)
    raise SourceError(
        f"Nothing can be pushed to {address.scheme}://.",
        hint="Push to s3://BUCKET/PREFIX or to a directory.",
        reason="UnsupportedScheme",
    )


def _s3(address: Address) -> S3:
    try:
        from sluice.sources.s3 import S3
    except ModuleNotFoundError as error:
        raise SourceError(
            f"s3:// needs the package {error.name!r}, which is not installed.",
            hint="Install sluice-operator[sources].",
            reason="UnsupportedScheme",
        ) from error
    return S3(address)
