"""One HTTP client for every source that speaks HTTP: bounded redirects, streams that can resume.

Called by ``web``, ``oci_registry``, ``hf`` and ``mlflow``; calls aiohttp.  Redirects are followed
by hand, so that they are bounded, never leave http(s), never go from https back to http, and never
carry the credentials to another origin.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urljoin

import aiohttp

from sluice.errors import SourceError
from sluice.sources.address import Address, parse
from sluice.sources.authorities import extra_authorities
from sluice.sources.base import (
    CHUNK,
    BusyError,
    Reader,
    cut_off,
    denied,
    missing,
    timed_out,
    unreachable,
    untrusted,
)
from sluice.version import __version__

MAX_REDIRECTS = 5
CONNECT_SECONDS = 10.0
IDLE_SECONDS = 30.0
MAX_DOCUMENT_BYTES = 4 * 1024 * 1024

_REDIRECTS = {301, 302, 303, 307, 308}
_TRY_AGAIN = {408, 425, 429, 500, 502, 503, 504}
_RANGE = re.compile(r"^bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18})$")


class HttpClient:
    """Sends requests; every failure is a SourceError about ``about``, the address people know."""

    def __init__(
        self, *, connect_seconds: float = CONNECT_SECONDS, idle_seconds: float = IDLE_SECONDS
    ) -> None:
        self._timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=connect_seconds, sock_read=idle_seconds
        )
        self._session: aiohttp.ClientSession | None = None

    @asynccontextmanager
    async def send(
        self,
        method: str,
        address: Address,
        about: Address,
        *,
        headers: Mapping[str, str] | None = None,
        authorization: str | None = None,
        data: Any = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """The answer, whatever its status; only GET and HEAD follow redirects."""
        try:
            response = await self._follow(method, address, headers or {}, authorization, data)
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            raise _explain(about, address, error) from error
        try:
            yield response
        finally:
            response.close()

    @asynccontextmanager
    async def stream(
        self,
        address: Address,
        about: Address,
        *,
        headers: Mapping[str, str] | None = None,
        authorization: str | None = None,
        offset: int = 0,
        version: str | None = None,
    ) -> AsyncIterator[Reader]:
        """The file at ``address``, from ``offset`` when ``version`` still names its bytes."""
        asked = {"Accept-Encoding": "identity", **(headers or {})}
        if offset and version:
            # Without a strong ETag a resumed file could be two halves of two files.
            asked |= {"Range": f"bytes={offset}-", "If-Range": version}
        async with self.send(
            "GET", address, about, headers=asked, authorization=authorization
        ) as response:
            check_status(about, response)
            yield reader(response, about)

    async def _follow(
        self,
        method: str,
        address: Address,
        headers: Mapping[str, str],
        authorization: str | None,
        data: Any,
    ) -> aiohttp.ClientResponse:
        here = address
        for _ in range(MAX_REDIRECTS + 1):
            sent = dict(headers)
            if authorization and _origin(here) == _origin(address):
                sent["Authorization"] = authorization
            response = await self._open_session().request(
                method, here.uri, headers=sent, data=data, allow_redirects=False
            )
            if response.status not in _REDIRECTS or method not in ("GET", "HEAD"):
                return response
            location = response.headers.get("Location", "")
            response.close()
            here = _redirected(here, location)
        raise SourceError(
            f"{address.shown} redirects more than {MAX_REDIRECTS} times.",
            hint="Give the address that it ends at.",
            reason="Unreachable",
        )

    def _open_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            context = ssl.create_default_context()  # reads SSL_CERT_FILE
            if (authorities := extra_authorities()) is not None:
                context.load_verify_locations(cadata=authorities)
            self._session = aiohttp.ClientSession(
                timeout=self._timeout,
                connector=aiohttp.TCPConnector(ssl=context),
                auto_decompress=False,  # digests are of the bytes as published
                trust_env=True,  # HTTPS_PROXY and NO_PROXY
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"User-Agent": f"sluice/{__version__}"},
                max_line_size=16 * 1024,
            )
        return self._session

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()


def reader(
    response: aiohttp.ClientResponse, about: Address, *, version: str | None = None
) -> Reader:
    """The body of an answer as a stream; ``version`` when the address itself names the bytes."""
    start, size = _extent(about, response)
    return Reader(_chunks(response, about, size), size, start, version or _strong_etag(response))


async def whole(found: Reader, about: Address, limit: int = MAX_DOCUMENT_BYTES) -> bytes:
    """All bytes of a small file."""
    data = bytearray()
    async for chunk in found.chunks:
        data += chunk
        if len(data) > limit:
            raise SourceError(
                f"{about.shown} answers with more than {limit:,} bytes where a small document "
                "is expected.",
                hint="Check the address and the server.",
                reason="TooLarge",
            )
    return bytes(data)


def check_status(about: Address, response: aiohttp.ClientResponse) -> None:
    """Raise what an HTTP status other than 200 and 206 means."""
    status = response.status
    if status in (200, 206):
        return
    if status in (404, 410):
        raise missing(about)
    if status in (401, 403):
        raise denied(about, f"HTTP {status}")
    if status in _TRY_AGAIN:
        after = response.headers.get("Retry-After", "")
        if after.isdecimal():
            raise BusyError(about, f"HTTP {status}", float(after))
        raise unreachable(about, f"HTTP {status}")
    raise SourceError(
        f"{about.shown} answers HTTP {status}.",
        hint="A file is expected: HTTP 200 and its bytes.",
        reason="Unreachable",
    )


def _origin(address: Address) -> tuple[str, str]:
    default = {"http": ":80", "https": ":443"}[address.scheme]
    return address.scheme, address.host.lower().removesuffix(default)


def _redirected(here: Address, location: str) -> Address:
    if not location:
        raise SourceError(
            f"{here.shown} redirects to nowhere.",
            hint="Give the address that it should end at.",
            reason="Unreachable",
        )
    target = parse(urljoin(here.uri, location))
    if target.scheme not in ("http", "https") or (here.scheme, target.scheme) == ("https", "http"):
        raise SourceError(
            f"{here.shown} redirects from {here.scheme} to {target.scheme}, which is not followed.",
            hint="Give the address that it ends at.",
            reason="AccessDenied",
        )
    return target


def _extent(address: Address, response: aiohttp.ClientResponse) -> tuple[int, int | None]:
    """Where the answer starts in the file, and the whole file's size."""
    if response.status == 200:
        return 0, response.content_length
    found = _RANGE.match(response.headers.get("Content-Range", ""))
    if not found:
        raise unreachable(address, "its partial answer does not say which part it is")
    return int(found.group(1)), int(found.group(3))


def _strong_etag(response: aiohttp.ClientResponse) -> str | None:
    etag = response.headers.get("ETag", "")
    return etag if etag.startswith('"') else None


async def _chunks(
    response: aiohttp.ClientResponse, address: Address, size: int | None
) -> AsyncIterator[bytes]:
    got = 0
    try:
        async for chunk in response.content.iter_chunked(CHUNK):
            got += len(chunk)
            yield chunk
    except aiohttp.ClientPayloadError as error:
        raise cut_off(address, got, size) from error
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        raise _explain(address, address, error) from error


def _explain(about: Address, asked: Address, error: Exception) -> SourceError:
    if isinstance(error, TimeoutError):
        return timed_out(about, "no answer within the time limit")
    if isinstance(error, aiohttp.ClientConnectorCertificateError | ssl.SSLError):
        return untrusted(asked.host)
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return unreachable(about, f"the name {asked.host} is not known")
    if isinstance(error, aiohttp.ClientConnectorError):
        return unreachable(about, error.os_error.strerror or "connection failed")
    if isinstance(error, OSError):
        return unreachable(about, error.strerror or type(error).__name__)
    return unreachable(about, f"its answer is not HTTP ({type(error).__name__})")
