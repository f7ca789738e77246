"""A real HAProxy, a small DNS server and small model servers on loopback addresses, in one loop."""

from __future__ import annotations

import asyncio
import datetime as dt
import itertools
import json
import os
import random
import shutil
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import cast

import aiohttp
from dnslib import QTYPE, RCODE, RR, A, DNSRecord
from tests.tools.ports import free_port

from sluice.objects.haproxy_config import RouterShape, config_files
from sluice.objects.router_plan import SlotTarget
from sluice.runtime.counters import Counters, Outcome
from sluice.traffic import pki
from sluice.traffic.router import RouterClient, RouterObservation, RouterPod

NAMESPACE = "shop"
NOW = dt.datetime.now(dt.UTC)
_third_octet = itertools.count(random.randrange(1, 60))  # parallel runs rarely meet


@cache
def authority() -> pki.KeyPair:
    return pki.new_authority(NOW)


@cache
def operator_client() -> pki.KeyPair:
    return pki.new_client(authority(), NOW)


class Dns(asyncio.DatagramProtocol):
    """Answers A questions from ``names``; anything else does not exist."""

    def __init__(self) -> None:
        self.names: dict[str, list[str]] = {}
        self.port = 0
        self.trouble: int | None = 0
        """Answer everything with this code; None is silence."""

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(
            lambda: self, local_addr=("127.0.0.1", 0)
        )
        self.port = transport.get_extra_info("sockname")[1]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        question = DNSRecord.parse(data)
        answer = question.reply()
        name = str(question.q.qname).rstrip(".")
        if self.trouble is None:
            return
        if self.trouble:
            answer.header.rcode = self.trouble
        elif name not in self.names:
            answer.header.rcode = RCODE.NXDOMAIN
        elif question.q.qtype == QTYPE.A:
            for address in self.names[name]:
                answer.add_answer(RR(name, QTYPE.A, rdata=A(address), ttl=1))
        self._transport.sendto(answer.pack(), addr)


@dataclass
class Server:
    """A model server.  ``mode``: ok, reset, hang or a status; probes pass while ``ready``."""

    revision: str
    address: str
    port: int
    mode: str = "ok"
    ready: bool = True
    counters: Counters = field(init=False)
    paths: Counter[str] = field(default_factory=Counter)
    headers: list[dict[str, str]] = field(default_factory=list)
    predictions: int = 0

    def __post_init__(self) -> None:
        self.counters = Counters(revision=self.revision)

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, self.address, self.port)

    async def stop(self) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await self._one(reader, writer):
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass  # cancelled: the test ends while this one hangs
        finally:
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        method, path, _ = head[0].split(" ")
        headers = dict(line.lower().split(": ", 1) for line in head[1:] if ": " in line)
        await reader.readexactly(int(headers.get("content-length", 0)))
        if path == "/readyz":
            _answer(writer, 200 if self.ready else 503, self.revision)
            return True
        if path == "/counters":
            _answer(writer, 200, json.dumps(self.counters.as_json()))
            return True
        self.paths[path] += 1
        self.headers.append(headers)
        self.predictions += method == "POST"
        if self.mode == "reset":
            return False
        if self.mode == "hang":
            await asyncio.sleep(60)
        status = 200 if self.mode == "ok" else int(self.mode)
        outcome = _OUTCOMES[status]
        seconds = 0.002 if outcome is Outcome.OK else None
        self.counters.finished(outcome, int(headers["x-sluice-bucket"]), seconds)
        _answer(writer, status, self.revision)
        return True


_OUTCOMES = {
    200: Outcome.OK,
    404: Outcome.CLIENT_ERROR,
    422: Outcome.CLIENT_ERROR,
    500: Outcome.MODEL_ERROR,
    503: Outcome.SHED,
    504: Outcome.TIMEOUT,
}


def _answer(writer: asyncio.StreamWriter, status: int, text: str) -> None:
    body = text.encode()
    head = f"HTTP/1.1 {status} x\r\ncontent-length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)


@dataclass
class Lab:
    """One router and whatever servers a test starts."""

    root: Path
    shape: RouterShape
    dns: Dns
    stable_slot: str = "a"
    stable: SlotTarget = field(default_factory=lambda: SlotTarget("-", "unset.sluice.test"))
    process: asyncio.subprocess.Process | None = None
    servers: list[Server] = field(default_factory=list)
    env: dict[str, str] = field(default_factory=dict)

    @property
    def pod(self) -> RouterPod:
        return RouterPod(NAMESPACE, "router-0", "uid-0", "127.0.0.1", self.shape.admin_port)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.shape.port}"

    def client(self, timeout: float = 4.0) -> RouterClient:
        context = pki.client_context(authority().certificate, operator_client())
        return RouterClient(context, self.shape, timeout=timeout)

    async def revision(self, name: str, count: int = 1, *, listed: bool = True) -> SlotTarget:
        """Start ``count`` servers of a revision and, when ``listed``, tell DNS."""
        host = f"iris-rev-{name}-pods.shop.svc.cluster.local"
        for _ in range(count):
            address = f"127.77.{next(_third_octet)}.{len(self.servers) + 1}"
            server = Server(name, address, self.shape.serving_port)
            await server.start()
            self.servers.append(server)
        if listed:
            self.dns.names[host] = [s.address for s in self.of(name)]
        return SlotTarget(name, host, timeout_ms=400)

    def of(self, revision: str) -> list[Server]:
        return [s for s in self.servers if s.revision == revision]

    def addresses(self, revision: str) -> list[str]:
        return [s.address for s in self.of(revision)]

    async def start(self, slot: str, target: SlotTarget) -> None:
        """Write the files and start HAProxy; returns when the slot has a server."""
        self.write_files(slot, target)
        self.process = await asyncio.create_subprocess_exec(
            shutil.which("haproxy") or "haproxy",
            "-db",
            "-f",
            f"{self.shape.config_dir}/haproxy.cfg",
            env={**os.environ, "POD_IP": "127.0.0.1", **self.env},
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        await self.until(lambda seen: bool(seen.pods) and bool(seen.pods[0].slots[slot].up))

    def write_files(self, slot: str, target: SlotTarget) -> None:
        self.stable_slot, self.stable = slot, target
        config = Path(self.shape.config_dir)
        for name, text in config_files(self.shape, slot, target, {"stable": slot}).items():
            (config / name).write_text(text)

    async def kill(self) -> None:
        if self.process is not None and self.process.returncode is None:
            self.process.kill()
            await self.process.wait()

    async def read(self) -> RouterObservation:
        return await self.client().read([self.pod])

    async def until(self, condition, seconds: float = 8.0) -> RouterObservation:  # type: ignore[no-untyped-def]
        """Poll the router until ``condition`` holds."""
        deadline = asyncio.get_running_loop().time() + seconds
        while True:
            seen = await self.read()
            if condition(seen):
                return seen
            assert asyncio.get_running_loop().time() < deadline, seen
            await asyncio.sleep(0.05)

    async def point(self, slot: str, target: SlotTarget) -> None:
        """Point a slot and wait until it lists exactly the revision's servers."""
        result = await self.client().point_slot([self.pod], slot, target)
        assert result.ok, result.message
        wanted = set(self.addresses(target.revision))
        await self.until(lambda seen: seen.pods[0].slots[slot].up == wanted)


@asynccontextmanager
async def router_lab(root: Path, **shape: object) -> AsyncIterator[Lab]:
    """A lab whose HAProxy and servers are gone afterwards."""
    dns = Dns()
    await dns.start()
    for folder in ("config", "tls", "run"):
        (root / folder).mkdir()
    # A unix socket's path holds 107 characters; pytest's folders are longer than that at times.
    run = Path("/tmp") / f"sluice-lab-{os.getpid()}-{random.randrange(1 << 30)}"
    run.mkdir()
    base = RouterShape(
        unit_header="X-User-Id",
        dns=f"127.0.0.1:{dns.port}",
        servers_per_slot=4,
        port=free_port(),
        health_port=free_port(),
        admin_port=free_port(),
        serving_port=free_port(),
        service_port=free_port(),
        config_dir=str(root / "config"),
        tls_dir=str(root / "tls"),
        run_dir=str(run),
    )
    lab = Lab(root, replace(base, **shape), dns)  # type: ignore[arg-type]
    leaf = pki.new_router(authority(), NAMESPACE, NOW)
    (root / "tls" / "router.pem").write_text(leaf.pem)
    (root / "tls" / "ca.pem").write_text(authority().certificate)
    try:
        yield lab
    finally:
        await lab.kill()
        for server in lab.servers:
            await server.stop()
        shutil.rmtree(run, ignore_errors=True)


Answer = tuple[str | None, int, str]
"""User, status, answering revision."""

CLOSED = 599
"""Instead of a status: the connection was closed without an answer."""


async def ask(
    lab: Lab, users: Iterable[str | None], *, path: str = "/predict", parallel: int = 16
) -> list[Answer]:
    """POST once per user."""
    answers: list[Answer] = []
    waiting = iter(list(users))

    async def worker(session: aiohttp.ClientSession) -> None:
        for user in waiting:
            headers = {"X-User-Id": user} if user is not None else {}
            try:
                async with session.post(lab.url + path, data=b"{}", headers=headers) as response:
                    answers.append((user, response.status, await response.text()))
            except aiohttp.ServerDisconnectedError:
                answers.append((user, CLOSED, ""))

    async with aiohttp.ClientSession() as session:
        await asyncio.gather(*(worker(session) for _ in range(parallel)))
    return answers


def arm_of(answers: list[Answer]) -> dict[str | None, str]:
    """User to revision; every answer must be 200."""
    statuses = Counter(status for _, status, _ in answers)
    assert set(statuses) == {200}, statuses
    return {user: revision for user, _, revision in answers}
