"""``http://`` and ``https://``: plain GETs, resumable, with credentials from the environment.

Redirects are followed by hand, so that they are bounded, never leave http(s), never go from https
back to http, and never carry the credentials to another origin.
"""

from __future__ import annotations

import base64
import os
import re
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from urllib.parse import urljoin

import aiohttp

from sluice.errors import SourceError
from sluice.sources.address import Address, parse
from sluice.sources.base import (
    CHUNK,
    SELF,
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

_REDIRECTS = {301, 302, 303, 307, 308}
_TRY_AGAIN = {408, 425, 429, 500, 502, 503, 504}
_RANGE = re.compile(r"^bytes (\d+)-(\d+)/(\d+)$")


def authorization(environ: Mapping[str, str]) -> str | None:
    """The Authorization header that the environment asks for."""
    if token := environ.get("SLUICE_HTTP_TOKEN"):
        return f"Bearer {token.strip()}"
    user = environ.get("SLUICE_HTTP_USERNAME")
    if user is None:
        return None
    pair = f"{user}:{environ.get('SLUICE_HTTP_PASSWORD', '')}"
    return "Basic " + base64.b64encode(pair.encode()).decode()


class WebSource:
    """Reads files below an http(s) address."""

    def __init__(
        self,
        address: Address,
        *,
        environ: Mapping[str, str] | None = None,
        connect_seconds: float = CONNECT_SECONDS,
        idle_seconds: float = IDLE_SECONDS,
    ) -> None:
        self.address = address
        self._authorization = authorization(os.environ if environ is None else environ)
        self._timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=connect_seconds, sock_read=idle_seconds
        )
        self._session: aiohttp.ClientSession | None = None

    @asynccontextmanager
    async def open(
        self, name: str, *, offset: int = 0, version: str | None = None
    ) -> AsyncIterator[Reader]:
        address = self.address if name == SELF else self.address.child(name)
        headers = {"Accept-Encoding": "identity"}
        if offset and version:
            # Without a strong ETag a resumed file could be two halves of two files.
            headers |= {"Range": f"bytes={offset}-", "If-Range": version}
        try:
            response = await self._get(address, headers)
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            raise _explain(address, error) from error
        try:
            _check_status(address, response)
            start, size = _extent(address, response)
            yield Reader(_chunks(response, address, size), size, start, _strong_etag(response))
        finally:
            response.close()

    async def _get(self, address: Address, headers: dict[str, str]) -> aiohttp.ClientResponse:
        here = address
        for _ in range(MAX_REDIRECTS + 1):
            sent = dict(headers)
            if self._authorization and _origin(here) == _origin(address):
                sent["Authorization"] = self._authorization
            response = await self._open_session().get(here.uri, headers=sent, allow_redirects=False)
            if response.status not in _REDIRECTS:
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
            self._session = aiohttp.ClientSession(
                timeout=self._timeout,
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


def _check_status(address: Address, response: aiohttp.ClientResponse) -> None:
    status = response.status
    if status in (200, 206):
        return
    if status in (404, 410):
        raise missing(address)
    if status in (401, 403):
        raise denied(address, f"HTTP {status}")
    if status in _TRY_AGAIN:
        after = response.headers.get("Retry-After", "")
        if after.isdecimal():
            raise BusyError(address, f"HTTP {status}", float(after))
        raise unreachable(address, f"HTTP {status}")
    raise SourceError(
        f"{address.shown} answers HTTP {status}.",
        hint="A file is expected: HTTP 200 and its bytes.",
        reason="Unreachable",
    )


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
        raise _explain(address, error) from error


def _explain(address: Address, error: Exception) -> SourceError:
    if isinstance(error, TimeoutError):
        return timed_out(address, "no answer within the time limit")
    if isinstance(error, aiohttp.ClientConnectorCertificateError | ssl.SSLError):
        return untrusted(address.host)
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return unreachable(address, f"the name {address.host} is not known")
    if isinstance(error, aiohttp.ClientConnectorError):
        return unreachable(address, error.os_error.strerror or "connection failed")
    if isinstance(error, OSError):
        return unreachable(address, error.strerror or type(error).__name__)
    return unreachable(address, f"its answer is not HTTP ({type(error).__name__})")
