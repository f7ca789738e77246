"""``mlflow://models/NAME@ALIAS`` or ``…/NAME/VERSION``: a model of an MLflow registry.

The tracking server is asked once which version the alias names and where that version's files are;
then the source of that place reads them: an object store, or the server itself when it keeps the
artifacts (``mlflow-artifacts:``).  ``MLFLOW_TRACKING_URI`` names the server.
"""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from sluice.errors import SourceError
from sluice.sources.address import STORES, Address, parse
from sluice.sources.base import SELF, Reader, Source, missing
from sluice.sources.http_client import (
    CONNECT_SECONDS,
    IDLE_SECONDS,
    HttpClient,
    check_status,
    reader,
    whole,
)
from sluice.sources.web import WebSource, basic

_PROXIED = "mlflow-artifacts"


class MlflowSource:
    """Reads the files of one registered version, wherever they are."""

    def __init__(
        self,
        address: Address,
        open_source: Callable[[Address], Source],
        *,
        connect_seconds: float = CONNECT_SECONDS,
        idle_seconds: float = IDLE_SECONDS,
    ) -> None:
        self.address = address
        self._open_source = open_source
        self._server = _tracking_server()
        self._authorization = _authorization()
        self._http = HttpClient(connect_seconds=connect_seconds, idle_seconds=idle_seconds)
        self._files: Source | None = None

    @asynccontextmanager
    async def open(
        self, name: str, *, offset: int = 0, version: str | None = None
    ) -> AsyncIterator[Reader]:
        if name == SELF:
            raise missing(self.address)  # a registered version is a directory
        if self._files is None:
            self._files = self._source(await self._location())
        async with self._files.open(name, offset=offset, version=version) as found:
            yield found

    async def file_name(self) -> str:
        return ""

    async def close(self) -> None:
        """Close the connections."""
        await self._http.close()
        if self._files is not None:
            await self._files.close()

    async def _location(self) -> str:
        wanted = self.address.registered
        version = wanted.version
        if wanted.alias:
            asked = {"name": wanted.name, "alias": wanted.alias}
            named = (await self._ask("registered-models/alias", asked)).get("model_version")
            if not isinstance(named, dict) or not str(named.get("version")).isdecimal():
                raise self._not_mlflow()
            version = str(named["version"])
        asked = {"name": wanted.name, "version": version}
        found = await self._ask("model-versions/get-download-uri", asked)
        place = found.get("artifact_uri")
        if not isinstance(place, str) or not place:
            raise self._not_mlflow()
        return place

    async def _ask(self, call: str, asked: dict[str, str]) -> dict[str, Any]:
        server = self._server
        path = f"{server.path.rstrip('/')}/api/2.0/mlflow/{call}"
        place = Address(server.scheme, server.host, path, urlencode(asked))
        async with self._http.send(
            "GET", place, self.address, authorization=self._authorization
        ) as response:
            if response.status in (400, 404):
                raise self._unknown(asked)
            check_status(self.address, response)
            answer = await whole(reader(response, self.address), self.address)
        try:
            found = json.loads(answer)
        except (ValueError, RecursionError):
            raise self._not_mlflow() from None
        if not isinstance(found, dict):
            raise self._not_mlflow()
        return found

    def _source(self, location: str) -> Source:
        """The source of the place where MLflow says that the files are."""
        parts = urlsplit(location)
        if parts.scheme == _PROXIED:
            return self._proxied(parts.path)
        if parts.scheme in (*STORES, "http", "https"):
            return self._open_source(parse(location))
        # A path of the server's own disk is not ours to open, whatever lies there on this machine.
        raise SourceError(
            f"MLflow keeps the files of {self.address.shown} at {parts.scheme or 'a path'}:…, "
            "which cannot be fetched.",
            hint="Start the tracking server with --serve-artifacts, or keep artifacts in s3, gs, "
            "az or http(s).",
            reason="UnsupportedScheme",
        )

    def _proxied(self, path: str) -> Source:
        server = self._server
        segments = path.strip("/").split("/")
        if set(segments) & {"", ".", ".."}:
            raise self._not_mlflow()
        base = f"{server.path.rstrip('/')}/api/2.0/mlflow-artifacts/artifacts"
        below = Address(server.scheme, server.host, f"{base}/{quote('/'.join(segments))}", "")
        return WebSource(below, authorization=self._authorization)

    def _unknown(self, asked: dict[str, str]) -> SourceError:
        which = " ".join(f"{key} {value!r}" for key, value in asked.items())
        return SourceError(
            f"The MLflow registry knows no model with {which}.",
            hint="Check the name and the alias or version, and MLFLOW_TRACKING_URI.",
            reason="Missing",
        )

    def _not_mlflow(self) -> SourceError:
        return SourceError(
            f"{self.address.shown}: the answer is not one of an MLflow tracking server.",
            hint="Check MLFLOW_TRACKING_URI.",
            reason="Unreachable",
        )


def _tracking_server() -> Address:
    given = os.environ.get("MLFLOW_TRACKING_URI", "")
    server = parse(given) if "://" in given else None
    if server is None or server.scheme not in ("http", "https") or server.query:
        raise SourceError(
            "MLFLOW_TRACKING_URI does not name a tracking server.",
            hint="Set it to an http(s) address, in a cluster as a key of the Secret.",
            reason="InvalidAddress",
        )
    return server


def _authorization() -> str | None:
    if token := os.environ.get("MLFLOW_TRACKING_TOKEN"):
        return f"Bearer {token.strip()}"
    if user := os.environ.get("MLFLOW_TRACKING_USERNAME"):
        return basic(user, os.environ.get("MLFLOW_TRACKING_PASSWORD", ""))
    return None
