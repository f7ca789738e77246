"""``s3://BUCKET/KEY`` on any S3 server, configured by the usual AWS_* environment variables.

The node's own credentials (instance metadata) are used only when AWS_EC2_METADATA_DISABLED=false
says so: fetching a model must not silently run with the rights of the machine it landed on.
Without any credentials requests are anonymous.

obstore's synchronous calls are used, in threads: its asynchronous ones hold Python objects in
threads of their own, and a process that ended right after them was aborted in 12 of 90 runs.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator, Mapping
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
from obstore.store import S3Store

from sluice.errors import SourceError
from sluice.sources.address import Address
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

if TYPE_CHECKING:
    from obstore.store import ClientConfig

CONNECT_SECONDS = 10
IDLE_SECONDS = 30

_CODE = re.compile(r"<Code>([A-Za-z0-9.]{1,64})</Code>")
_REGION = re.compile(r"<Region>([a-z0-9-]{1,32})</Region>")
_STATUS = re.compile(r"status code: (\d{3})")
_BAD_KEYS = {
    "SignatureDoesNotMatch",
    "InvalidAccessKeyId",
    "ExpiredToken",
    "InvalidToken",
    "XAdminUserNotFound",  # Versity's gateway answers an unknown key with 404
}
_WRONG_REGION = {"AuthorizationHeaderMalformed", "PermanentRedirect", "IllegalLocationConstraint"}
_CREDENTIALS = (
    "AWS_ACCESS_KEY_ID",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
)


class S3:
    """Reads and writes objects below one prefix of one bucket."""

    def __init__(
        self,
        address: Address,
        *,
        connect_seconds: float = CONNECT_SECONDS,
        idle_seconds: float = IDLE_SECONDS,
    ) -> None:
        self.address = address
        self._prefix = address.path.strip("/")
        more: ClientConfig = {}
        if authority := _authority(os.environ):
            more["root_certificate"] = authority
        try:
            self._store = S3Store(
                address.host,
                config={"skip_signature": True} if _anonymous(os.environ) else {},
                client_options={
                    # An endpoint given as http:// is the user's explicit choice of no TLS.
                    "allow_http": _endpoint(os.environ).startswith("http://"),
                    "connect_timeout": timedelta(seconds=connect_seconds),
                    "read_timeout": timedelta(seconds=idle_seconds),
                    "timeout": timedelta(hours=24),  # the caller's deadline is the real one
                    **more,
                },
                # All patience is in `transfer`, which knows what was already read.
                retry_config={"max_retries": 0},
            )
        except BaseError as error:
            raise SourceError(
                f"The S3 client cannot be set up for {address.shown}: {_first_line(error)}.",
                hint="Check the AWS_* environment variables.",
                reason="InvalidAddress",
            ) from error

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
            raise _explain(address, error) from error
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
            explained = _explain(self.address.child(name), error)
            if explained.reason == "Missing":
                return None
            raise explained from error
        return meta["size"]

    async def write(self, name: str, file: Path) -> None:
        try:
            await asyncio.to_thread(obstore.put, self._store, self._key(name), file)
        except (BaseError, OSError) as error:
            raise _explain(self.address.child(name), error) from error

    async def close(self) -> None:
        """Connections close with the store."""


def _anonymous(environ: Mapping[str, str]) -> bool:
    if environ.get("AWS_EC2_METADATA_DISABLED", "").lower() == "false":
        return False
    return not any(environ.get(name) for name in _CREDENTIALS)


def _authority(environ: Mapping[str, str]) -> bytes | None:
    """Certificates to trust beside the system's: a store in one's own network has its own."""
    path = environ.get("AWS_CA_BUNDLE") or environ.get("SSL_CERT_FILE")
    if not path:
        return None
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise SourceError(
            f"The certificate file {path} cannot be read: {error.strerror}.",
            hint="Correct AWS_CA_BUNDLE or SSL_CERT_FILE.",
            reason="AccessDenied",
        ) from error


def _endpoint(environ: Mapping[str, str]) -> str:
    names = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
    return next((environ[name] for name in names if environ.get(name)), "")


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


def _explain(address: Address, error: Exception) -> SourceError:
    """The server's word in ours.  Its text is never passed on: it may quote what was signed."""
    text = str(error)
    found = _CODE.search(text)
    code = found.group(1) if found else ""
    if code == "NoSuchBucket":
        return SourceError(
            f"There is no bucket {address.host!r} on {_where(text)}.",
            hint="Check the bucket's name and AWS_ENDPOINT_URL.",
            reason="Missing",
        )
    if isinstance(error, PermissionDeniedError | UnauthenticatedError) or code in _BAD_KEYS:
        return denied(address, code)
    if isinstance(error, NotFoundError | FileNotFoundError):
        return missing(address)
    if code in _WRONG_REGION or "StatusCode(301)" in text or "status code: 301" in text:
        region = _REGION.search(text)
        return SourceError(
            f"The bucket {address.host!r} is not in the region that was asked.",
            hint=f"Set AWS_REGION{'=' + region.group(1) if region else ''}.",
            reason="AccessDenied",
        )
    if "InvalidCertificate" in text:
        return untrusted(_where(text))
    if isinstance(error, PreconditionError):
        return unreachable(address, "the object changed while it was read")
    if "timed out" in text.lower() or "timedout" in text.lower():
        return timed_out(address, "no answer within the time limit")
    return _other(address, code, text)


def _other(address: Address, code: str, text: str) -> SourceError:
    status = _STATUS.search(text)
    if status is None:
        return unreachable(address, f"no connection to {_where(text)}")
    number = int(status.group(1))
    detail = f"HTTP {number}{' ' + code if code else ''}"
    if number >= 500 or number in (408, 429) or code in ("SlowDown", "RequestTimeout"):
        return unreachable(address, detail)
    return SourceError(
        f"{address.shown}: the S3 server answers {detail}.",
        hint="Check the bucket, the key and the AWS_* environment variables.",
        reason="Unreachable",
    )


_HOST = re.compile(r"\b(https?://[^/\s\"]+)")


def _where(text: str) -> str:
    found = _HOST.search(text)
    return found.group(1) if found else "the S3 server"


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
