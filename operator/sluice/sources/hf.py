"""``hf://ORG/REPOSITORY[@REVISION]/PATH``: files of a repository of the Hugging Face Hub.

A branch or tag is looked up once and every file is then asked for at the commit that it named, so
that a push in between cannot mix two versions.  ``HF_ENDPOINT`` names another Hub, such as a mirror
in one's own network; ``HF_TOKEN`` opens private and gated repositories.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote

from sluice.errors import SourceError
from sluice.sources.address import Address, parse
from sluice.sources.base import SELF, Reader, missing
from sluice.sources.http_client import (
    CONNECT_SECONDS,
    IDLE_SECONDS,
    HttpClient,
    check_status,
    reader,
    whole,
)

ENDPOINT = "https://huggingface.co"

_COMMIT = re.compile(r"[0-9a-f]{40}")


class HubSource:
    """Reads files below one directory of a repository, all at one commit."""

    def __init__(
        self,
        address: Address,
        *,
        connect_seconds: float = CONNECT_SECONDS,
        idle_seconds: float = IDLE_SECONDS,
    ) -> None:
        self.address = address
        self._place = address.hub_file
        self._hub = _endpoint()
        token = os.environ.get("HF_TOKEN", "").strip()
        self._authorization = f"Bearer {token}" if token else None
        self._http = HttpClient(connect_seconds=connect_seconds, idle_seconds=idle_seconds)
        self._commit = ""

    @asynccontextmanager
    async def open(
        self, name: str, *, offset: int = 0, version: str | None = None
    ) -> AsyncIterator[Reader]:
        about = self.address if name == SELF else self.address.child(name)
        path = "/".join(part for part in (self._place.file, name) if part)
        if not path:
            raise missing(about)
        await self._pin()
        place = self._at(f"{self._place.repository}/resolve/{self._commit}/{path}")
        async with self._http.stream(
            place, about, authorization=self._authorization, offset=offset, version=version
        ) as found:
            yield found

    async def file_name(self) -> str:
        await self._pin()
        return self._place.file.rpartition("/")[2]

    async def close(self) -> None:
        """Close the connections."""
        await self._http.close()

    def _at(self, path: str) -> Address:
        hub = self._hub
        return Address(hub.scheme, hub.host, f"{hub.path.rstrip('/')}/{quote(path)}", "")

    async def _pin(self) -> None:
        if not self._commit:
            named = _COMMIT.fullmatch(self._place.revision)
            self._commit = self._place.revision if named else await self._look_up()

    async def _look_up(self) -> str:
        revision = self._place.revision
        place = self._at(f"api/models/{self._place.repository}/revision/{revision}")
        async with self._http.send(
            "GET", place, self.address, authorization=self._authorization
        ) as response:
            if response.status in (401, 403, 404):
                raise self._refused(response.status, response.headers.get("X-Error-Code", ""))
            check_status(self.address, response)
            answer = await whole(reader(response, self.address), self.address)
        return _commit(self.address, answer)

    def _refused(self, status: int, code: str) -> SourceError:
        repository = self._place.repository
        if code == "RevisionNotFound":
            return SourceError(
                f"{repository} has no branch, tag or commit {self._place.revision!r}.",
                hint="Check what follows the '@' in the address.",
                reason="Missing",
            )
        if code == "GatedRepo" or status == 403:
            return SourceError(
                f"{repository} is open only to those whom its owner admitted.",
                hint="Ask for access on its page, and give a token of that account as HF_TOKEN.",
                reason="AccessDenied",
            )
        # The Hub does not tell a stranger whether a private repository exists.
        return SourceError(
            f"There is no repository {repository} on {self._hub.host} that we may see.",
            hint="Check the name; for a private one give a token as HF_TOKEN.",
            reason="AccessDenied" if status == 401 else "Missing",
        )


def _endpoint() -> Address:
    given = os.environ.get("HF_ENDPOINT") or ENDPOINT
    hub = parse(given)
    if hub.scheme not in ("http", "https") or hub.query:
        raise SourceError(
            "HF_ENDPOINT is not an http(s) address.",
            hint="Write, for example, https://hub.example.",
            reason="InvalidAddress",
        )
    return hub


def _commit(about: Address, answer: bytes) -> str:
    try:
        found: Any = json.loads(answer)
        commit = found.get("sha")
    except (ValueError, AttributeError, RecursionError):
        commit = None
    if not isinstance(commit, str) or not _COMMIT.fullmatch(commit):
        raise SourceError(
            f"{about.shown}: the answer names no commit.",
            hint="Check HF_ENDPOINT: what answers there is not a Hub.",
            reason="Unreachable",
        )
    return commit
