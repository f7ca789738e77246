"""``s3://``, ``gs://`` and ``az://``: objects below one prefix of one bucket or container.

Called through ``registry``; what differs between the three is in ``stores``.

obstore's synchronous calls are used, in threads: its asynchronous ones hold Python objects in
threads of their own, and a process that ended right after them was aborted in 12 of 90 runs.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import obstore
from obstore.exceptions import (
    BaseError,
    NotFoundError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)

from sluice.errors import SourceError
from sluice.sources.address import Address
from sluice.sources.authorities import extra_authorities
from sluice.sources.base import (
    CHUNK,
    SELF,
    Reader,
    cut_off,
    denied,
    missing,
    timed_out,
    unreachable,
    untrusted,
)
from sluice.sources.stores import STORES, Store

if TYPE_CHECKING:
    from obstore.store import ClientConfig

CONNECT_SECONDS = 10
IDLE_SECONDS = 30

_CODE = re.compile(r"<Code>([A-Za-z0-9.]{1,64})</Code>")
_REGION = re.compile(r"<Region>([a-z0-9-]{1,32})</Region>")
_STATUS = re.compile(r"status code: (\d{3})")


class Bucket:
    """Reads and writes objects below one prefix."""

    def __init__(
        self,
        address: Address,
        *,
        connect_seconds: float = CONNECT_SECONDS,
        idle_seconds: float = IDLE_SECONDS,
    ) -> None:
        self.address = address
        self._prefix = address.path.strip("/")
        self._kind = STORES[address.scheme]
        options: ClientConfig = {
            # An endpoint given as http:// is the user's explicit choice of no TLS.
            "allow_http": self._kind.endpoint(os.environ).startswith("http://"),
            "connect_timeout": timedelta(seconds=connect_seconds),
            "read_timeout": timedelta(seconds=idle_seconds),
            "timeout": timedelta(hours=24),  # the caller's deadline is the real one
        }
        authorities = extra_authorities(*self._kind.authority_files)
        if authorities is not None:
            options["root_certificate"] = authorities.encode()
        try:
            self._store = self._kind.connect(address.host, os.environ, options)
        except (BaseError, ValueError) as error:
            # Not its text: the client may quote a key that it cannot read.
            raise SourceError(
                f"The {self._kind.name} client cannot be set up for {address.shown}: "
                f"{type(error).__name__}.",
                hint=f"Check the {self._kind.variables} environment variables, and the name.",
                reason="InvalidAddress",
            ) from error

    async def file_name(self) -> str:
        return self.address.name

    def _key(self, name: str) -> str:
        return "/".join(part for part in (self._prefix, name) if part)

    @asynccontextmanager
    async def open(
        self, name: str, *, offset: int = 0, version: str | None = None
    ) -> AsyncIterator[Reader]:
        address = self.address if name == SELF else self.address.child(name)
        key = self._key(name)
        if not key:
            raise missing(address)
        options: obstore.GetOptions = {}
        if offset and version:
            options = {"range": {"offset": offset}, "if_match": version}
        try:
            result = await asyncio.to_thread(obstore.get, self._store, key, options=options)
        except (BaseError, OSError) as error:
            raise _explain(self._kind, address, error) from error
        start, _ = result.range
        size = result.meta["size"]
        yield Reader(_chunks(result, address, size), size, start, result.meta["e_tag"])

    async def read(self, name: str, limit: int) -> bytes | None:
        try:
            async with self.open(name) as reader:
                data = b""
                async for chunk in reader.chunks:
                    data += chunk
                    if len(data) >= limit:
                        break
                return data[:limit]
        except SourceError as error:
            if error.reason == "Missing":
                return None
            raise

    async def size(self, name: str) -> int | None:
        try:
            meta = await asyncio.to_thread(obstore.head, self._store, self._key(name))
        except (BaseError, OSError) as error:
            explained = _explain(self._kind, self.address.child(name), error)
            if explained.reason == "Missing":
                return None
            raise explained from error
        return meta["size"]

    async def write(self, name: str, file: Path) -> None:
        try:
            await asyncio.to_thread(obstore.put, self._store, self._key(name), file)
        except (BaseError, OSError) as error:
            raise _explain(self._kind, self.address.child(name), error) from error

    async def close(self) -> None:
        """Connections close with the store."""


async def _chunks(result: obstore.GetResult, address: Address, size: int) -> AsyncIterator[bytes]:
    got = 0
    try:
        stream = iter(result.stream(min_chunk_size=CHUNK))
        while (chunk := await asyncio.to_thread(next, stream, None)) is not None:
            got += len(chunk)
            yield bytes(chunk)
    except (BaseError, OSError) as error:
        if "timed out" in str(error).lower() or "timedout" in str(error).lower():
            raise timed_out(address, "no data within the time limit") from error
        raise cut_off(address, got, size) from error


def _explain(kind: Store, address: Address, error: Exception) -> SourceError:
    """The server's word in ours.  Its text is never passed on: it may quote what was signed."""
    text = str(error)
    found = _CODE.search(text)
    code = found.group(1) if found else ""
    if code in kind.no_place or any(words in text for words in kind.no_place_words):
        return SourceError(
            f"There is no {kind.place} {address.host!r} on {_where(kind, text)}.",
            hint=f"Check the {kind.place}'s name and {kind.endpoint_variable}.",
            reason="Missing",
        )
    status = _STATUS.search(text)
    if (
        isinstance(error, PermissionDeniedError | UnauthenticatedError)
        or code in kind.bad_keys
        or (status is not None and status.group(1) in ("401", "403"))
    ):
        return denied(address, code)
    if isinstance(error, NotFoundError | FileNotFoundError):
        return missing(address)
    if code in kind.wrong_region or "StatusCode(301)" in text or "status code: 301" in text:
        region = _REGION.search(text)
        return SourceError(
            f"The bucket {address.host!r} is not in the region that was asked.",
            hint=f"Set AWS_REGION{'=' + region.group(1) if region else ''}.",
            reason="AccessDenied",
        )
    if "InvalidCertificate" in text or "invalid peer certificate" in text:
        return untrusted(_where(kind, text))
    if isinstance(error, PreconditionError):
        return unreachable(address, "the object changed while it was read")
    if "timed out" in text.lower() or "timedout" in text.lower():
        return timed_out(address, "no answer within the time limit")
    return _other(kind, address, code, text)


def _other(kind: Store, address: Address, code: str, text: str) -> SourceError:
    status = _STATUS.search(text)
    if status is None:
        where = _where(kind, text)
        if "dns error" in text.lower() or "failed to lookup address" in text.lower():
            return unreachable(address, f"the name in {where} is not known")
        return unreachable(address, f"no connection to {where}")
    number = int(status.group(1))
    detail = f"HTTP {number}{' ' + code if code else ''}"
    if number >= 500 or number in (408, 429) or code in ("SlowDown", "RequestTimeout"):
        return unreachable(address, detail)
    return SourceError(
        f"{address.shown}: the {kind.name} server answers {detail}.",
        hint=f"Check the {kind.place}, the key and the {kind.variables} environment variables.",
        reason="Unreachable",
    )


_HOST = re.compile(r"\b(https?://[^/\s\"?@]+)")


def _where(kind: Store, text: str) -> str:
    # A signed address is left out of the text: then what was configured tells more than nothing.
    found = _HOST.search(text) or _HOST.search(kind.endpoint(os.environ))
    return found.group(1) if found else f"the {kind.name} server"
