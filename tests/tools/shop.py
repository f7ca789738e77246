"""A shop inside a cluster's network for tests of metric checks: real Prometheus, real PostgreSQL.

    python -m tests.tools.shop DIRECTORY DATABASE_SOCKET DATABASE_URL

It sells by revision: counters for Prometheus, rows for PostgreSQL, ``SALES`` a second each.  What
it reads from DIRECTORY/shop.json: ``refunds`` (revision -> share, absent 2 %) and ``away`` (whether
Prometheus hangs and the database refuses).  What it writes there, once it is open: ports.json with
the ports of ``prometheus`` and ``database`` on the loopback address.  Revisions with the same share
have the same refunds: no chance tells them apart.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

import asyncpg
import prometheus_client
from tests.tools.prometheus import prometheus_server

SALES = 200
TICK = 0.1
TABLE = "CREATE TABLE IF NOT EXISTS orders (revision text, at timestamptz, refunded boolean)"


class Shop:
    """Counters and rows of every revision that shop.json names."""

    def __init__(self, directory: Path, url: str) -> None:
        self.directory, self.url = directory, url
        registry = prometheus_client.CollectorRegistry()
        labels = ["revision"]
        self.orders = prometheus_client.Counter("orders", "Sold.", labels, registry=registry)
        self.refunds = prometheus_client.Counter("refunds", "Back.", labels, registry=registry)
        self.exporter, _ = prometheus_client.start_http_server(0, "127.0.0.1", registry=registry)
        self.wishes: dict[str, Any] = {"refunds": {}, "away": False}

    def read(self) -> None:
        """What the test wants now; a file that is half written is read the next time."""
        with contextlib.suppress(OSError, ValueError):
            self.wishes = json.loads((self.directory / "shop.json").read_text())

    async def sell(self) -> None:
        """Sells until it is ended."""
        connection = await asyncpg.connect(self.url)
        await connection.execute(TABLE)
        sold, began = 0, time.monotonic()
        while True:
            await asyncio.sleep(TICK)
            self.read()
            due = int((time.monotonic() - began) * SALES) - sold
            sold += due
            rows = []
            refunds = self.wishes["refunds"]
            drawn = {
                share: sum(random.random() < share for _ in range(due))
                for share in set(refunds.values())
            }
            for revision, share in refunds.items():
                back = drawn[share]
                self.orders.labels(revision).inc(due)
                self.refunds.labels(revision).inc(back)
                rows += [(revision, i < back) for i in range(due)]
            await connection.executemany("INSERT INTO orders VALUES ($1, now(), $2)", rows)


class Relay:
    """The database's socket as a TCP port in this network; refuses while the shop is away."""

    def __init__(self, shop: Shop, socket: Path) -> None:
        self.shop, self.socket = shop, socket

    async def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self.shop.wishes["away"]:
            there = await asyncio.open_unix_connection(self.socket)
            await asyncio.gather(_pump(reader, there[1]), _pump(there[0], writer))
        writer.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    writer.close()


async def _hang(shop: Shop, pid: int) -> None:
    """Stops and continues Prometheus as the test wants."""
    stopped = False
    while True:
        await asyncio.sleep(TICK)
        if shop.wishes["away"] != stopped:
            stopped = shop.wishes["away"]
            os.kill(pid, signal.SIGSTOP if stopped else signal.SIGCONT)


async def main(directory: Path, socket: Path, url: str) -> None:
    """Opens the shop."""
    shop = Shop(directory, url)
    relay = await asyncio.start_server(Relay(shop, socket).take, "127.0.0.1", 0)
    with prometheus_server([f"127.0.0.1:{shop.exporter.server_port}"]) as prometheus:
        ports = {
            "prometheus": int(prometheus.url.rpartition(":")[2]),
            "database": relay.sockets[0].getsockname()[1],
        }
        (directory / "ports.json").write_text(json.dumps(ports))
        await asyncio.gather(shop.sell(), _hang(shop, prometheus.pid))


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]))
