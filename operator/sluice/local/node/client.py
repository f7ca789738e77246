"""The node's connection to the API server: requests, and lists that stay current.

Called by everything in this folder; asks nothing of the others.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp

log = logging.getLogger(__name__)

Object = dict[str, Any]
STRATEGIC = "application/strategic-merge-patch+json"
MERGE = "application/merge-patch+json"


class ApiError(Exception):
    """An answer that is not 2xx."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Client:
    """One keep-alive session with the node's client certificate."""

    def __init__(self, url: str, pki: Path) -> None:
        self.url = url
        context = ssl.create_default_context(cafile=str(pki / "ca.crt"))
        context.load_cert_chain(pki / "node.crt", pki / "node.key")
        connector = aiohttp.TCPConnector(ssl=context, limit=0, keepalive_timeout=60)
        self._session = aiohttp.ClientSession(connector=connector)

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()

    async def call(
        self, method: str, path: str, body: Object | None = None, *, kind: str = "application/json"
    ) -> Object:
        """One request: ApiError unless the answer is 2xx, OSError when there is none."""
        data = None if body is None else json.dumps(body)
        headers = {"Content-Type": kind}
        timeout = aiohttp.ClientTimeout(total=30)
        try:
            async with self._session.request(
                method, self.url + path, data=data, headers=headers, timeout=timeout
            ) as answer:
                status, text = answer.status, await answer.text()
        except aiohttp.ClientError as error:
            raise ConnectionError(repr(error)) from error
        if status >= 300:
            message = text[:500]
            with contextlib.suppress(ValueError):
                message = json.loads(text).get("message", message)
            raise ApiError(status, message)
        parsed: Object = json.loads(text)
        return parsed

    async def get(self, path: str) -> Object:
        """GET."""
        return await self.call("GET", path)

    async def post(self, path: str, body: Object) -> Object:
        """POST."""
        return await self.call("POST", path, body)

    async def patch(self, path: str, body: Object, kind: str = STRATEGIC) -> Object:
        """PATCH."""
        return await self.call("PATCH", path, body, kind=kind)

    async def follow(
        self,
        path: str,
        on_list: Callable[[list[Object]], None],
        on_event: Callable[[str, Object], None],
        selector: str = "",
    ) -> None:
        """List, then watch, for ever; lists again whenever the watch cannot go on."""
        while True:
            try:
                listed = await self.get(f"{path}?{selector}")
                on_list(listed["items"])
                version = listed["metadata"]["resourceVersion"]
                await self._watch(f"{path}?{selector}&watch=1", version, on_event)
            except (OSError, aiohttp.ClientError, ApiError, TimeoutError, ValueError) as error:
                log.info("watch of %s: %r", path, error)
                await asyncio.sleep(0.5)

    async def _watch(
        self, path: str, version: str, on_event: Callable[[str, Object], None]
    ) -> None:
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10)
        while True:
            url = f"{self.url}{path}&allowWatchBookmarks=true&resourceVersion={version}"
            async with self._session.get(url, timeout=timeout) as answer:
                if answer.status != 200:
                    return
                buffer = bytearray()
                async for chunk in answer.content.iter_any():
                    buffer += chunk
                    *lines, rest = buffer.split(b"\n")
                    buffer = bytearray(rest)
                    for line in lines:
                        event = json.loads(line)
                        if event["type"] == "ERROR":
                            return
                        version = event["object"]["metadata"]["resourceVersion"]
                        if event["type"] != "BOOKMARK":
                            on_event(event["type"], event["object"])
