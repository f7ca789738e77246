"""A steady stream of users: real rows in their real order, every answer counted by cause.

Runs where the Service can be reached (``sluice local enter``); prints one JSON line a second with
totals since the start.  ``python -m demo.load URL ROWS.jsonl [LATER.jsonl] --rate 200``
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

import aiohttp

UNITS = 5000
TIMEOUT_SECONDS = 10
MALFORMED = b'{"month": "soon"}'


class Load:
    """Sends requests on a clock, whatever the answers do (open loop)."""

    def __init__(
        self, url: str, rows: list[Path], rate: float, noise: Path | None, later: Path | None
    ) -> None:
        self._url = url
        self._seasons = [itertools.cycle(p.read_bytes().splitlines()) for p in rows]
        self._later = later
        self._rate = rate
        self._noise = noise
        self._rng = random.Random(2013)
        self.causes: Counter[str] = Counter()
        self.by_revision: dict[str, Counter[str]] = {}
        self.first: dict[str, float] = {}
        self.twentieth: dict[str, float] = {}

    async def run(self, stop: asyncio.Event) -> None:
        """Until ``stop``; a line of totals a second."""
        connector = aiohttp.TCPConnector(limit=128, keepalive_timeout=30)
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_SECONDS)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
            pending: set[asyncio.Task[None]] = set()
            start = time.monotonic()
            for number in itertools.count():
                wait = start + number / self._rate - time.monotonic()
                await asyncio.sleep(max(0.0, wait))
                if number % int(self._rate) == 0:
                    self._report()
                if stop.is_set():
                    break
                task = asyncio.create_task(self._one(session))
                pending.add(task)
                task.add_done_callback(pending.discard)
            if pending:
                await asyncio.wait(pending, timeout=TIMEOUT_SECONDS + 1)
        self._report()

    async def _one(self, session: aiohttp.ClientSession) -> None:
        noisy = self._noise is not None and self._rng.random() < 0.1 and self._noise.exists()
        season = -1 if self._later is not None and self._later.exists() else 0
        body = MALFORMED if noisy else next(self._seasons[season])
        unit = f"user-{self._rng.randrange(UNITS)}"
        headers = {"Content-Type": "application/json", "X-User-Id": unit}
        try:
            async with session.post(self._url, data=body, headers=headers) as answer:
                await answer.read()
                revision = answer.headers.get("X-Sluice-Revision", "")
                self._count(_cause(answer.status, noisy, revision), revision)
        except (aiohttp.ClientError, TimeoutError) as error:
            self._count(f"connection:{type(error).__name__}", "")

    def _count(self, cause: str, revision: str) -> None:
        self.causes[cause] += 1
        if not revision:
            return
        counts = self.by_revision.setdefault(revision, Counter())
        counts[cause] += 1
        failed = sum(n for c, n in counts.items() if c.startswith("model"))
        if failed == 1:
            self.first.setdefault(revision, time.time())
        if failed == 20:
            self.twentieth.setdefault(revision, time.time())

    def _report(self) -> None:
        line = {
            "at": time.time(),
            "causes": self.causes,
            "byRevision": self.by_revision,
            "first": self.first,
            "twentieth": self.twentieth,
        }
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()


def _cause(status: int, noisy: bool, revision: str) -> str:
    """Whose failure it is: the model's when a revision answered, else the routing's."""
    if status == 200:
        return "ok"
    if noisy and status in (400, 422):
        return "noise"
    return f"model:{status}" if revision else f"routing:{status}"


async def _main(options: argparse.Namespace) -> None:
    load = Load(options.url, options.rows, options.rate, options.noise_file, options.later_file)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for sign in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(sign, stop.set)
    await load.run(stop)


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("rows", nargs="+", type=Path, help="JSON lines; the last file is for later")
    parser.add_argument("--rate", type=float, default=200.0, help="requests per second")
    parser.add_argument("--noise-file", type=Path, help="while it exists, 10 %% are malformed")
    parser.add_argument("--later-file", type=Path, help="once it exists, rows of the last file")
    asyncio.run(_main(parser.parse_args()))


if __name__ == "__main__":
    main()
