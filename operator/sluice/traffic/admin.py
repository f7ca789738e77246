"""Conversations with routers: HAProxy's runtime API over mutual TLS.

Called by ``traffic.router``; knows commands and prompts, nothing of slots and weights.  Opening a
connection costs three times what reading a router costs, so an ``AdminPool`` keeps them between
looks.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType

from sluice.errors import SluiceError

PROMPT = b"\n> "
MAX_ANSWER = 8 << 20
BATCH = 50
"""Commands in flight on a connection: few enough to fit HAProxy's buffer."""


class RouterError(SluiceError):
    """A router cannot be reached, or does not do what it is told."""

    reason = "RouterUnreachable"


@dataclass(frozen=True)
class RouterPod:
    """Where a router's admin port is."""

    namespace: str
    name: str
    uid: str
    address: str
    port: int = 9999


class AdminSession:
    """An admin connection.  Use with ``async with``, or open and close it; any error ends it."""

    def __init__(self, pod: RouterPod, context: ssl.SSLContext, server_name: str) -> None:
        self._pod = pod
        self._context = context
        self._server_name = server_name
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def __aenter__(self) -> AdminSession:
        await self.open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    async def open(self) -> None:
        """Connect, show our certificate, and ask for prompts."""
        try:
            self._reader, self._writer = await asyncio.open_connection(
                self._pod.address,
                self._pod.port,
                ssl=self._context,
                server_hostname=self._server_name,
                limit=MAX_ANSWER,
            )
        except (OSError, ssl.SSLError) as error:
            raise self._unreachable(error) from error
        await self.run(["prompt"])

    def close(self) -> None:
        """Nothing is owed to the other side: every answer was read, or the session failed."""
        if self._writer is not None:
            self._writer.transport.abort()

    @property
    def alive(self) -> bool:
        """The other side has not hung up."""
        return self._reader is not None and not self._reader.at_eof()

    async def run(self, commands: Sequence[str]) -> list[str]:
        """The answers to ``commands``, in order."""
        answers: list[str] = []
        for start in range(0, len(commands), BATCH):
            answers += await self._batch(commands[start : start + BATCH])
        return answers

    async def _batch(self, commands: Sequence[str]) -> list[str]:
        assert self._reader is not None and self._writer is not None
        try:
            self._writer.write("".join(f"{command}\n" for command in commands).encode())
            await self._writer.drain()
            return [
                (await self._reader.readuntil(PROMPT))[: -len(PROMPT)].decode("utf-8", "replace")
                for _ in commands
            ]
        except asyncio.LimitOverrunError as error:
            raise RouterError(
                f"Router {self._pod.namespace}/{self._pod.name} sent an answer of more than "
                f"{MAX_ANSWER} bytes.",
                hint="Delete the pod; its Deployment replaces it.",
                reason="RouterAnswer",
            ) from error
        except (OSError, ssl.SSLError, asyncio.IncompleteReadError) as error:
            raise self._unreachable(error) from error

    def _unreachable(self, error: BaseException) -> RouterError:
        detail = "it closed the connection" if isinstance(error, EOFError) else str(error)
        return RouterError(
            f"Router {self._pod.namespace}/{self._pod.name} at {self._pod.address}:"
            f"{self._pod.port} does not talk to the operator: {detail}.",
            hint="The operator tries again; see the pod's log if this stays.",
        )


class AdminPool:
    """Open connections between looks, one a router, each for ``idle`` seconds at most.

    Belongs to one event loop.  Routers hang up after 30 s without a command.
    """

    def __init__(self, context: ssl.SSLContext, *, idle: float = 20.0) -> None:
        self._context = context
        self._idle = idle
        self._kept: dict[RouterPod, tuple[AdminSession, float]] = {}

    def new(self, pod: RouterPod, server_name: str) -> AdminSession:
        """A session that is not open yet."""
        return AdminSession(pod, self._context, server_name)

    def take(self, pod: RouterPod) -> AdminSession | None:
        """An open session that nobody uses, if there is one."""
        self._sweep()
        session, _ = self._kept.pop(pod, (None, 0.0))
        return session

    def give(self, pod: RouterPod, session: AdminSession) -> None:
        """Keep an open session whose answers were all read."""
        previous = self.take(pod)
        if previous is not None:
            previous.close()
        if self._idle > 0:
            self._kept[pod] = (session, asyncio.get_running_loop().time() + self._idle)
        else:
            session.close()

    def close(self) -> None:
        """End all that are kept."""
        for session, _ in self._kept.values():
            session.close()
        self._kept.clear()

    def _sweep(self) -> None:
        now = asyncio.get_running_loop().time()
        for pod, (session, until) in list(self._kept.items()):
            if until < now or not session.alive:
                del self._kept[pod]
                session.close()
