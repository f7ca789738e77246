"""``http://`` and ``https://``: plain GETs, resumable, with credentials from the environment."""

from __future__ import annotations

import base64
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from sluice.sources.address import Address
from sluice.sources.base import SELF, Reader
from sluice.sources.http_client import CONNECT_SECONDS, IDLE_SECONDS, HttpClient


def from_environment(environ: Mapping[str, str]) -> str | None:
    """The Authorization header that the environment asks for."""
    if token := environ.get("SLUICE_HTTP_TOKEN"):
        return f"Bearer {token.strip()}"
    user = environ.get("SLUICE_HTTP_USERNAME")
    if user is None:
        return None
    return basic(user, environ.get("SLUICE_HTTP_PASSWORD", ""))


def basic(user: str, password: str) -> str:
    """The Authorization header of a name and a password."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


class WebSource:
    """Reads files below an http(s) address."""

    def __init__(
        self,
        address: Address,
        *,
        environ: Mapping[str, str] | None = None,
        authorization: str | None = None,
        connect_seconds: float = CONNECT_SECONDS,
        idle_seconds: float = IDLE_SECONDS,
    ) -> None:
        self.address = address
        self._authorization = authorization or from_environment(
            os.environ if environ is None else environ
        )
        self._http = HttpClient(connect_seconds=connect_seconds, idle_seconds=idle_seconds)

    @asynccontextmanager
    async def open(
        self, name: str, *, offset: int = 0, version: str | None = None
    ) -> AsyncIterator[Reader]:
        address = self.address if name == SELF else self.address.child(name)
        async with self._http.stream(
            address, address, authorization=self._authorization, offset=offset, version=version
        ) as found:
            yield found

    async def file_name(self) -> str:
        return self.address.name

    async def close(self) -> None:
        """Close the connections."""
        await self._http.close()
