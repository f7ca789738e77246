"""Users of an experiment: each asks for a prediction, and some of them buy a little later.

Runs in the cluster's network; prints a JSON line of totals a second.  How many buy depends on the
revision that answered, so a test plants an effect; users of a revision may stay away from then on,
which plants a broken sample.  Users with a number below POOL come again and again, others once.

    python -m tests.tools.shoppers URL TOKEN PLAN.json --rate 200 --pool 0

PLAN.json, read again when it changes: {"buy": {REVISION: share}, "away": {REVISION: share}}.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import random
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp

ROW = b'{"a": 0.3, "b": 0.4}'
TIMEOUT_SECONDS = 10


class Shoppers:
    """Sends on a clock, whatever the answers do."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._url, self._token = options.url, options.token
        self._path, self._rate, self._pool = options.plan, options.rate, options.pool
        self._numbers = itertools.cycle(range(self._pool)) if self._pool else itertools.count()
        self._plan: dict[str, Any] = {}
        self._read_at = 0.0
        self._arm: dict[int, str] = {}
        self.totals: Counter[str] = Counter()
        self.asked: Counter[str] = Counter()
        self.bought: Counter[str] = Counter()

    async def run(self, stop: asyncio.Event) -> None:
        """Until ``stop``."""
        connector = aiohttp.TCPConnector(limit=128, keepalive_timeout=30)
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_SECONDS)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
            start, pending = time.monotonic(), set()
            for sent in itertools.count():
                await asyncio.sleep(max(0.0, start + sent / self._rate - time.monotonic()))
                if sent % int(self._rate) == 0:
                    self._report()
                if stop.is_set():
                    break
                task = asyncio.create_task(self._visit(session, next(self._numbers)))
                pending.add(task)
                task.add_done_callback(pending.discard)
            if pending:
                await asyncio.wait(pending, timeout=TIMEOUT_SECONDS + 1)
        self._report()

    async def _visit(self, session: aiohttp.ClientSession, number: int) -> None:
        plan = self._current()
        away = plan.get("away", {}).get(self._arm.get(number, ""), 0.0)
        if self._draw("away", number) < away:
            self.totals["away"] += 1
            return
        headers = {"X-User-Id": f"user-{number}", "Content-Type": "application/json"}
        try:
            url = f"{self._url}/predict"
            async with session.post(url, data=ROW, headers=headers) as answer:
                await answer.read()
                self.totals[f"predict:{answer.status}"] += 1
                revision = answer.headers.get("X-Sluice-Revision", "")
            self._arm[number] = revision
            self.asked[revision] += 1
            if self._draw("buy", number) < plan.get("buy", {}).get(revision, 0.0):
                await self._buy(session, number, headers, revision)
        except (aiohttp.ClientError, TimeoutError) as error:
            self.totals[type(error).__name__] += 1

    async def _buy(
        self, session: aiohttp.ClientSession, number: int, headers: dict[str, str], revision: str
    ) -> None:
        await asyncio.sleep(0.05 + self._draw("wait", number))
        self.bought[revision] += 1
        url, named = f"{self._url}/feedback", {"Authorization": f"Bearer {self._token}"}
        async with session.post(url, data=b'{"value": 1}', headers=headers | named) as answer:
            await answer.read()
            self.totals[f"feedback:{answer.status}"] += 1

    def _draw(self, what: str, number: int) -> float:
        """A user's own chance between 0 and 1, whenever and however often they come."""
        return random.Random(f"{what}-{number}").random()

    def _current(self) -> dict[str, Any]:
        if self._path.stat().st_mtime != self._read_at:
            self._read_at = self._path.stat().st_mtime
            self._plan = json.loads(self._path.read_text())
        return self._plan

    def _report(self) -> None:
        line = {"totals": self.totals, "asked": self.asked, "bought": self.bought}
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()


async def _main(options: argparse.Namespace) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await Shoppers(options).run(stop)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("url")
    parser.add_argument("token")
    parser.add_argument("plan", type=Path)
    parser.add_argument("--rate", type=float, default=200)
    parser.add_argument("--pool", type=int, default=0)
    asyncio.run(_main(parser.parse_args()))
