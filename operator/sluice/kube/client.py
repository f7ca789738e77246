"""``KubeClient``: the only way to the API server, on one aiohttp session with a bounded pool.

Called by the feed, the lease, the event recorder and by ``controller``.  Objects are plain dicts.
Three rules live here: the first write of an object is a POST; later ones are server-side applies
that carry the uid that was read, so a name that someone else took is a conflict and never taken
over; and only requests that may safely arrive twice are repeated after a connection failure.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterable, AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import aiohttp
import orjson
from aiohttp import ClientHandlerType, ClientRequest, ClientResponse

from sluice.api import meta
from sluice.errors import InvalidInputError
from sluice.kube.connection import Connection, TokenSource, load_connection
from sluice.kube.errors import (
    ConflictError,
    GoneError,
    KubeError,
    NotFoundError,
    UnavailableError,
    from_response,
)
from sluice.kube.resources import Object, Resource, resource
from sluice.version import __version__

_APPLY = "application/apply-patch+yaml"
_MERGE = "application/merge-patch+json"
_JSON_PATCH = "application/json-patch+json"
_RETRIED = frozenset({429, 500, 502, 503, 504})
_NEVER_SENT = (aiohttp.ClientConnectorError, aiohttp.ServerTimeoutError)

ObserveRequest = Callable[[str, str, int], None]
"""(method, kind, status): the metric ``rest_client_requests_total``; status 0 = no answer."""

OnWrite = Callable[[Object], None]
"""Told of each object as the server stored it, so that the store knows what it must yet see."""


@dataclass(slots=True)
class ListResult:
    """One page, or a whole list: the objects and where a watch goes on from."""

    items: list[Object]
    resource_version: str
    next_page: str = ""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and how patiently a request is repeated: doubling, with jitter."""

    attempts: int = 5
    base: float = 0.2
    cap: float = 5.0
    random: Callable[[], float] = field(default=random.random)

    def delay(self, attempt: int, retry_after: float | None) -> float:
        """Seconds before attempt ``attempt + 1``; never earlier than the server asked for."""
        delay = min(self.cap, self.base * 2.0**attempt) * (0.5 + 0.5 * self.random())
        return max(delay, min(retry_after or 0.0, 30.0))


def make_session(connection: Connection, *, limit: int = 32) -> aiohttp.ClientSession:
    """A session with a bounded pool whose requests carry a token that may rotate."""
    middlewares = [_bearer(connection.tokens)] if connection.tokens else []
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=limit, ssl=connection.ssl, keepalive_timeout=60),
        headers={"User-Agent": f"sluice/{__version__}", "Accept": "application/json"},
        middlewares=middlewares,
    )


def _bearer(
    tokens: TokenSource,
) -> Callable[[ClientRequest, ClientHandlerType], Any]:
    async def middleware(request: ClientRequest, handler: ClientHandlerType) -> ClientResponse:
        request.headers["Authorization"] = f"Bearer {await tokens.token()}"
        response = await handler(request)
        if response.status == 401:
            response.release()
            request.headers["Authorization"] = f"Bearer {await tokens.token(refresh=True)}"
            response = await handler(request)
        return response

    return middleware


class KubeClient:
    """Typed verbs over plain dicts.  ``async with KubeClient.connect() as client: ...``."""

    def __init__(
        self,
        connection: Connection,
        *,
        pool: int = 32,
        timeout: float = 30.0,
        retries: RetryPolicy | None = None,
        observe: ObserveRequest | None = None,
        on_write: OnWrite | None = None,
    ) -> None:
        self.connection = connection
        self.on_write = on_write
        self._pool = pool
        self._timeout = timeout
        self._retries = retries or RetryPolicy()
        self._observe = observe
        self._session: aiohttp.ClientSession | None = None

    @classmethod
    def connect(
        cls, kubeconfig: str | None = None, *, context: str | None = None, **options: Any
    ) -> Self:
        """A client for ``kubeconfig``, or for the cluster this process runs in."""
        return cls(load_connection(kubeconfig, context), **options)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the pool; a later request opens a new one."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    @property
    def session(self) -> aiohttp.ClientSession:
        """The pool, opened by the first request, in the loop that makes it."""
        if self._session is None:
            self._session = make_session(self.connection, limit=self._pool)
        return self._session

    # Reading

    async def get(self, kind: str, namespace: str | None, name: str) -> Object:
        """The object; ``NotFoundError`` when there is none."""
        row = resource(kind)
        return await self._call("GET", row, row.path(namespace, name), f"read {kind} {name}")

    async def find(self, kind: str, namespace: str | None, name: str) -> Object | None:
        """The object, or None."""
        try:
            return await self.get(kind, namespace, name)
        except NotFoundError:
            return None

    async def pages(
        self,
        kind: str,
        namespace: str | None = None,
        *,
        label_selector: str = "",
        field_selector: str = "",
        page_size: int = 100,
    ) -> AsyncIterator[ListResult]:
        """A consistent list, page by page, so that a large one is never in memory twice."""
        row = resource(kind)
        params = _selectors(label_selector, field_selector) | {"limit": str(page_size)}
        while True:
            what = f"list {row.plural}{_in(namespace)}"
            body = await self._call("GET", row, row.path(namespace), what, params=params)
            listed = body.get("metadata") or {}
            items = body.get("items") or []
            for item in items:  # The server leaves these out inside lists.
                item.setdefault("kind", kind)
                item.setdefault("apiVersion", row.api_version)
            page = ListResult(items, listed.get("resourceVersion", ""), listed.get("continue", ""))
            yield page
            if not page.next_page:
                return
            params["continue"] = page.next_page

    async def list(
        self,
        kind: str,
        namespace: str | None = None,
        *,
        label_selector: str = "",
        field_selector: str = "",
    ) -> ListResult:
        """Everything that matches."""
        whole = ListResult([], "")
        async for page in self.pages(
            kind, namespace, label_selector=label_selector, field_selector=field_selector
        ):
            whole.items += page.items
            whole.resource_version = page.resource_version
        return whole

    async def watch(
        self,
        kind: str,
        namespace: str | None,
        resource_version: str,
        *,
        label_selector: str = "",
        seconds: int = 300,
        silence: float = 90.0,
    ) -> AsyncIterator[tuple[str, Object]]:
        """Events until the server ends the stream; never repeated, never silent for long.

        ``silence`` bounds a half-open connection: the server sends a bookmark about every minute.
        ``GoneError`` when the version is too old, ``UnavailableError`` when the stream breaks.
        """
        row = resource(kind)
        params = _selectors(label_selector, "") | {
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": resource_version,
            "timeoutSeconds": str(seconds),
        }
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=silence)
        what = f"watch {row.plural}{_in(namespace)}"
        url = self.connection.server + row.path(namespace)
        try:
            async with self.session.get(url, params=params, timeout=timeout) as response:
                self._count("WATCH", row, response.status)
                if response.status != 200:
                    raise from_response(response.status, await _body(response), what)
                async for line in _lines(response.content.iter_any()):
                    event = orjson.loads(line)
                    if event["type"] == "ERROR":
                        status = event["object"]
                        raise from_response(int(status.get("code") or 500), status, what)
                    yield event["type"], event["object"]
        except (aiohttp.ClientError, TimeoutError, orjson.JSONDecodeError) as error:
            raise _away(what, error) from error

    async def pod_logs(
        self,
        namespace: str,
        name: str,
        *,
        container: str = "",
        tail_lines: int = 100,
        previous: bool = False,
        limit_bytes: int = 65536,
    ) -> str:
        """The end of a container's log."""
        params = {"tailLines": str(tail_lines), "limitBytes": str(limit_bytes)}
        if container:
            params["container"] = container
        if previous:
            params["previous"] = "true"
        row = resource("Pod")
        path = row.path(namespace, name, "log")
        raw = await self._send("GET", row, path, f"read the log of Pod {name}", params=params)
        return raw.decode("utf-8", "replace")

    async def served(self, group: str, version: str) -> set[str]:
        """The plurals that the server has under ``group/version``; empty when it has none."""
        row = Resource("APIResourceList", group, version, "")
        path = row.path().rstrip("/")
        try:
            body = await self._call("GET", row, path, f"discover {group}/{version}")
        except NotFoundError:
            return set()
        return {r["name"] for r in body.get("resources") or [] if "/" not in r["name"]}

    # Writing

    async def create(self, obj: Object, *, field_manager: str = meta.MANAGER_CHILDREN) -> Object:
        """POST: the only way an object of ours begins.  ``AlreadyExists`` is a ConflictError."""
        row, namespace, name = _address(obj)
        return await self._write(
            "POST",
            row,
            row.path(namespace),
            f"create {row.kind} {_full(namespace, name)}",
            body=obj,
            params={"fieldManager": field_manager},
            repeatable=False,
        )

    async def apply(
        self,
        obj: Object,
        *,
        uid: str | None = None,
        field_manager: str = meta.MANAGER_CHILDREN,
        force: bool = True,
        subresource: str = "",
    ) -> Object:
        """Server-side apply of ``obj`` onto the object with this ``uid`` and no other.

        Without a uid anywhere it would create, or take over what someone else made; that is for
        tests and for objects that nobody else can name.
        """
        row, namespace, name = _address(obj)
        if uid:
            obj = {**obj, "metadata": {**obj["metadata"], "uid": uid}}
        params = {"fieldManager": field_manager, "force": "true" if force else "false"}
        return await self._write(
            "PATCH",
            row,
            row.path(namespace, name, subresource),
            f"apply {row.kind} {_full(namespace, name)}",
            body=obj,
            params=params,
            content_type=_APPLY,
        )

    async def patch_status(
        self,
        kind: str,
        namespace: str | None,
        name: str,
        status: Mapping[str, Any],
        *,
        uid: str | None = None,
        resource_version: str | None = None,
        field_manager: str = meta.MANAGER_STATUS,
    ) -> Object:
        """Server-side apply of the whole ``status`` that this manager owns.

        On a status the API server ignores the uid: an object recreated meanwhile is only noticed
        afterwards (``UidMismatch``).  ``resource_version`` is held to, and refuses before.
        """
        row = resource(kind)
        metadata = {"name": name} | ({"namespace": namespace} if namespace else {})
        if resource_version:
            metadata["resourceVersion"] = resource_version
        obj = {
            "apiVersion": row.api_version,
            "kind": kind,
            "metadata": metadata,
            "status": dict(status),
        }
        stored = await self.apply(obj, uid=uid, field_manager=field_manager, subresource="status")
        if uid and stored["metadata"]["uid"] != uid:
            raise ConflictError(
                f"{kind} {_full(namespace, name)} was deleted and made anew meanwhile.",
                hint="It is read again.",
                reason="UidMismatch",
            )
        return stored

    async def patch_merge(
        self,
        kind: str,
        namespace: str | None,
        name: str,
        patch: Mapping[str, Any],
        *,
        subresource: str = "",
        field_manager: str = meta.MANAGER_CHILDREN,
        attempts: int | None = None,
    ) -> Object:
        """Merge patch.  A ``metadata.resourceVersion`` in it makes it conditional."""
        row = resource(kind)
        return await self._write(
            "PATCH",
            row,
            row.path(namespace, name, subresource),
            f"patch {kind} {_full(namespace, name)}",
            body=patch,
            params={"fieldManager": field_manager},
            content_type=_MERGE,
            attempts=attempts,
        )

    async def patch_json(
        self,
        kind: str,
        namespace: str | None,
        name: str,
        operations: Sequence[Mapping[str, Any]],
        *,
        subresource: str = "",
        field_manager: str = meta.MANAGER_CHILDREN,
    ) -> Object:
        """JSON patch; begin it with a ``test`` operation where the old value matters."""
        row = resource(kind)
        return await self._write(
            "PATCH",
            row,
            row.path(namespace, name, subresource),
            f"patch {kind} {_full(namespace, name)}",
            body=list(operations),
            params={"fieldManager": field_manager},
            content_type=_JSON_PATCH,
            repeatable=False,
        )

    async def delete(
        self,
        kind: str,
        namespace: str | None,
        name: str,
        *,
        uid: str | None = None,
        propagation: str = "Background",
        grace_seconds: int | None = None,
    ) -> bool:
        """False when it was already gone; ``UidMismatch`` when the name is another object's."""
        row = resource(kind)
        options: dict[str, Any] = {"propagationPolicy": propagation}
        if uid:
            options["preconditions"] = {"uid": uid}
        if grace_seconds is not None:
            options["gracePeriodSeconds"] = grace_seconds
        what = f"delete {kind} {_full(namespace, name)}"
        try:
            await self._call("DELETE", row, row.path(namespace, name), what, body=options)
        except NotFoundError:
            return False
        return True

    async def post_event(self, event: Object) -> Object:
        """An ``events.k8s.io/v1`` Event, built by ``kube.events``."""
        return await self.create(event)

    # One request

    async def _write(
        self, method: str, row: Resource, path: str, what: str, **options: Any
    ) -> Object:
        stored = await self._call(method, row, path, what, **options)
        if self.on_write is not None:
            self.on_write(stored)
        return stored

    async def _call(
        self, method: str, row: Resource, path: str, what: str, **options: Any
    ) -> Object:
        raw = await self._send(method, row, path, what, **options)
        value = orjson.loads(raw) if raw else {}
        if not isinstance(value, dict):
            raise UnavailableError(f"The API server gave no object when asked to {what}.")
        return value

    async def _send(
        self,
        method: str,
        row: Resource,
        path: str,
        what: str,
        *,
        body: Any = None,
        params: Mapping[str, str] | None = None,
        content_type: str = "application/json",
        repeatable: bool = True,
        attempts: int | None = None,
    ) -> bytes:
        data = None if body is None else orjson.dumps(body)
        headers = {"Content-Type": content_type} if data is not None else {}
        limit = attempts or self._retries.attempts
        for attempt in range(limit):
            try:
                return await self._once(method, row, path, what, data, params, headers)
            except UnavailableError as error:
                sent = error.status != 429 and not isinstance(error.__cause__, _NEVER_SENT)
                if attempt + 1 >= limit or (sent and not repeatable):
                    raise
                await asyncio.sleep(self._retries.delay(attempt, error.retry_after))
        raise AssertionError("a retry policy has at least one attempt")

    async def _once(
        self,
        method: str,
        row: Resource,
        path: str,
        what: str,
        data: bytes | None,
        params: Mapping[str, str] | None,
        headers: dict[str, str],
    ) -> bytes:
        try:
            async with self.session.request(
                method,
                self.connection.server + path,
                data=data,
                params=params,
                headers=headers,
                timeout=aiohttp.ClientTimeout(total=self._timeout, sock_connect=10),
            ) as response:
                self._count(method, row, response.status)
                if response.status < 300:
                    return await response.read()
                refused = from_response(
                    response.status, await _body(response), what, _retry_after(response)
                )
        except (aiohttp.ClientError, TimeoutError) as error:
            self._count(method, row, 0)
            raise _away(what, error) from error
        raise refused

    def _count(self, method: str, row: Resource, status: int) -> None:
        if self._observe is not None:
            self._observe(method, row.kind, status)


def _away(what: str, error: Exception) -> UnavailableError:
    said = str(error) or type(error).__name__
    return UnavailableError(
        f"The API server did not answer when asked to {what}: {said}.",
        hint="It is tried again; check the API server and the network.",
        status=0,
    )


async def _body(response: ClientResponse) -> dict[str, Any]:
    raw = await response.read()
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return {"message": raw[:200].decode("utf-8", "replace")}
    return value if isinstance(value, dict) else {}


def _retry_after(response: ClientResponse) -> float | None:
    try:
        return float(response.headers["Retry-After"])
    except (KeyError, ValueError):
        return None


async def _lines(chunks: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    """Whole lines of any length; ``StreamReader.readline`` refuses objects above 128 kB."""
    pending = bytearray()
    async for chunk in chunks:
        pending += chunk
        if b"\n" not in chunk:
            continue
        *lines, rest = pending.split(b"\n")
        pending = rest
        for line in lines:
            if line:
                yield bytes(line)


def _selectors(labels: str, fields: str) -> dict[str, str]:
    params = {}
    if labels:
        params["labelSelector"] = labels
    if fields:
        params["fieldSelector"] = fields
    return params


def _address(obj: Object) -> tuple[Resource, str | None, str]:
    row = resource(obj["kind"])
    metadata = obj["metadata"]
    name = metadata.get("name") or metadata.get("generateName")
    if not name:
        raise InvalidInputError(f"A {row.kind} without a name cannot be written.")
    return row, metadata.get("namespace"), name


def _full(namespace: str | None, name: str) -> str:
    return f"{namespace}/{name}" if namespace else name


def _in(namespace: str | None) -> str:
    return f" in {namespace}" if namespace else ""


__all__ = ["GoneError", "KubeClient", "KubeError", "ListResult", "RetryPolicy", "make_session"]
