"""A registry as the OCI distribution specification has it: tokens, manifests, blobs, uploads.

Called by ``oci``; calls ``http_client`` and ``docker_config``.  Knows digests and bytes, not what
an artifact means.
"""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
import json
import os
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urljoin

import aiohttp

from sluice.errors import SourceError
from sluice.sources.address import Address, parse
from sluice.sources.base import Reader, denied, missing
from sluice.sources.docker_config import login
from sluice.sources.http_client import (
    CONNECT_SECONDS,
    IDLE_SECONDS,
    HttpClient,
    check_status,
    reader,
    whole,
)
from sluice.sources.web import basic

MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
INDEX_TYPES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
_ACCEPT = ", ".join(
    (MANIFEST_TYPE, "application/vnd.docker.distribution.manifest.v2+json", *INDEX_TYPES)
)
UPLOAD_PART = 32 * 1024 * 1024
MAX_TOKEN = 16 * 1024

_PARAMETER = re.compile(r'(\w+)="([^"]*)"')
_ALIASES = {"docker.io": "registry-1.docker.io", "index.docker.io": "registry-1.docker.io"}


class OciRegistry:
    """One repository of one registry."""

    def __init__(
        self,
        address: Address,
        *,
        connect_seconds: float = CONNECT_SECONDS,
        idle_seconds: float = IDLE_SECONDS,
        upload_part: int = UPLOAD_PART,
    ) -> None:
        self.address = address
        self._repository = address.artifact.repository
        self._scheme = "http" if _plain_http(address.host) else "https"
        self._host = _ALIASES.get(address.host, address.host)
        self._login = login(address.host, self._repository, os.environ)
        self._authorization = f"Bearer {self._login.token}" if self._login.token else None
        self._http = HttpClient(connect_seconds=connect_seconds, idle_seconds=idle_seconds)
        self._upload_part = upload_part

    async def close(self) -> None:
        """Close the connections."""
        await self._http.close()

    async def manifest(self, reference: str) -> bytes:
        """The manifest that a tag or digest names; a digest is checked."""
        place = self._at(f"manifests/{reference}")
        async with self._send("GET", place, headers={"Accept": _ACCEPT}) as response:
            check_status(self.address, response)
            data = await whole(reader(response, self.address), self.address)
        if reference.startswith("sha256:") and _digest(data) != reference:
            raise SourceError(
                f"{self.address.shown}: the registry sent a manifest with digest {_digest(data)}.",
                hint="The registry's copy is damaged or was changed: publish it again.",
                reason="Corrupt",
            )
        return data

    async def manifest_digest(self, reference: str) -> str | None:
        """The digest of what a tag names now; None when it names nothing."""
        try:
            return _digest(await self.manifest(reference))
        except SourceError as error:
            if error.reason != "Missing":
                raise
            return None

    @asynccontextmanager
    async def blob(self, digest: str, about: Address, *, offset: int = 0) -> AsyncIterator[Reader]:
        """A blob's bytes; its digest names them, so that resuming needs no ETag."""
        headers = {"Accept-Encoding": "identity"}
        if offset:
            headers["Range"] = f"bytes={offset}-"
        async with self._send("GET", self._at(f"blobs/{digest}"), headers=headers) as response:
            if response.status == 404:
                raise missing(about)
            check_status(about, response)
            found = reader(response, about, version=digest)
            yield Reader(found.chunks, found.size, found.offset, digest, digest)

    async def has_blob(self, digest: str) -> bool:
        """Whether the repository holds the blob."""
        async with self._send("HEAD", self._at(f"blobs/{digest}")) as response:
            if response.status == 404:
                return False
            check_status(self.address, response)
            return True

    async def put_blob(self, digest: str, file: Path) -> None:
        """Upload a file whose SHA-256 is ``digest``; the registry refuses other bytes."""
        place = await self._begin_upload()
        start = 0
        with file.open("rb") as stream:
            while part := await asyncio.to_thread(stream.read, self._upload_part):
                headers = {
                    "Content-Type": "application/octet-stream",
                    "Content-Range": f"{start}-{start + len(part) - 1}",
                }
                async with self._send("PATCH", place, headers=headers, data=part) as response:
                    await _expect(self.address, response, 202)
                    place = self._next(place, response)
                start += len(part)
        last = parse(f"{place.uri}{'&' if place.query else '?'}digest={digest}")
        async with self._send("PUT", last, headers={"Content-Length": "0"}) as response:
            await _expect(self.address, response, 201)

    async def put_manifest(self, reference: str, data: bytes) -> None:
        """Store a manifest under a tag."""
        place = self._at(f"manifests/{reference}")
        headers = {"Content-Type": MANIFEST_TYPE}
        async with self._send("PUT", place, headers=headers, data=data) as response:
            await _expect(self.address, response, 201)

    async def _begin_upload(self) -> Address:
        place = self._at("blobs/uploads/")
        async with self._send("POST", place, headers={"Content-Length": "0"}) as response:
            await _expect(self.address, response, 202)
            return self._next(place, response)

    def _next(self, here: Address, response: aiohttp.ClientResponse) -> Address:
        target = parse(urljoin(here.uri, response.headers.get("Location", "")))
        if target.scheme != self._scheme or target.host != here.host:
            raise SourceError(
                f"{self.address.shown}: the registry sends the upload to {target.scheme}://"
                f"{target.host}, which is not followed.",
                hint="Push to the address under which the registry knows itself.",
                reason="AccessDenied",
            )
        return target

    def _at(self, tail: str) -> Address:
        return Address(self._scheme, self._host, f"/v2/{self._repository}/{tail}", "")

    @asynccontextmanager
    async def _send(
        self,
        method: str,
        place: Address,
        *,
        headers: dict[str, str] | None = None,
        data: bytes | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """A request, again with a token when the registry asks for one."""
        about = self.address
        for last in (False, True):
            async with self._http.send(
                method, place, about, headers=headers, authorization=self._authorization, data=data
            ) as response:
                challenge = response.headers.get("WWW-Authenticate", "")
                if last or response.status != 401 or not challenge or self._login.token:
                    yield response
                    return
            self._authorization = await self._authenticate(challenge, write=method != "GET")

    async def _authenticate(self, challenge: str, *, write: bool) -> str | None:
        who = self._login
        mine = basic(who.user, who.password) if who.user else None
        if challenge.lower().startswith("basic"):
            if mine is None:
                raise denied(self.address, "the registry asks for a name and a password")
            return mine
        given = dict(_PARAMETER.findall(challenge))
        realm = parse(given.get("realm") or "nowhere")
        if realm.scheme != "https" and not (realm.scheme == self._scheme == "http"):
            raise denied(self.address, "the registry names no https address for tokens")
        query = {
            # Ours, not the challenge's: a registry must not widen what a token may do.
            "scope": f"repository:{self._repository}:{'pull,push' if write else 'pull'}",
            **({"service": given["service"]} if "service" in given else {}),
        }
        joined = "&".join(filter(None, (realm.query, urlencode(query))))
        place = Address(realm.scheme, realm.host, realm.path, joined)
        return f"Bearer {_token(self.address, await self._ask(place, mine))}"

    async def _ask(self, place: Address, mine: str | None) -> bytes:
        async with self._http.send("GET", place, self.address, authorization=mine) as response:
            if response.status in (400, 401, 403):
                raise denied(self.address, f"no token: HTTP {response.status}")
            check_status(self.address, response)
            return await whole(reader(response, self.address), self.address)


def _plain_http(host: str) -> bool:
    """Whether to speak http: said by the environment, else only to this machine itself."""
    said = os.environ.get("SLUICE_OCI_PLAIN_HTTP", "").lower()
    if said:
        return said in ("1", "true")
    name = host.rpartition(":")[0] if re.search(r":\d+$", host) else host
    try:
        return ipaddress.ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return name == "localhost"


def _token(about: Address, answer: bytes) -> str:
    try:
        found: Any = json.loads(answer)
        token = found.get("token") or found.get("access_token")
    except (ValueError, AttributeError, RecursionError):
        token = None
    if not isinstance(token, str) or not token.isascii() or not 0 < len(token) <= MAX_TOKEN:
        raise denied(about, "the token server's answer holds no token")
    return token


async def _expect(about: Address, response: aiohttp.ClientResponse, status: int) -> None:
    if response.status == status:
        return
    if response.status == 404:
        raise SourceError(
            f"There is no repository to push to at {about.shown}.",
            hint="Some registries want it created first; check its name.",
            reason="Missing",
        )
    if 200 <= response.status < 300:
        raise SourceError(
            f"{about.shown}: the registry answers HTTP {response.status} instead of {status}.",
            hint="It may not be an OCI registry.",
            reason="Unreachable",
        )
    check_status(about, response)


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"
