"""``make abuse``: what hostile clients do to the others, as a table.

Each attack runs against a model server of its own while a healthy client keeps asking.  It fails
when the healthy client is refused or gets no answer, when the server holds more than its bounds,
or when it is not as small afterwards as it was before.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from tests.abuse import attacks
from tests.abuse.healthy import Seen, asking
from tests.fuzz.memory import resident
from tests.fuzz.target import build_package

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "unit"))

import runtime_support as support  # noqa: E402

CONNECTIONS = 2000
BOUND = 600 * 1024 * 1024
"""Of the server's memory: unfinished bodies and unread answers have bounds of 256 and 128 MB."""


@dataclass(frozen=True, slots=True)
class Case:
    """One attack."""

    name: str
    attack: attacks.Attack
    size: int
    quick: int
    what: str = "sockets"


CASES = (
    Case("nothing", attacks.flood, 0, 0),
    Case("headers byte by byte", attacks.slow_headers, 1000, 1000),
    Case("bodies byte by byte", attacks.slow_bodies, 1000, 1000),
    Case("answers never read", attacks.never_reading, 1000, 300),
    Case("answers read slowly", attacks.slow_reading, 1000, 300),
    Case("100 MB declared", attacks.huge_declared, 32, 8),
    Case("100 MB in chunks", attacks.huge_chunked, 32, 8),
    Case("15 MB in tiny chunks", attacks.tiny_chunks, 32, 4),
    Case("pipelined requests", attacks.pipelined, 1_000_000, 50_000, "requests"),
    Case("half-closed, whole request", attacks.half_closed, 1000, 300),
    Case("half-closed, half a request", attacks.half_sent, 1000, 300),
    Case("more than may connect", attacks.flood, 5000, 3000),
    Case("connect and reset", attacks.reconnecting, 50, 20),
)


@dataclass(slots=True)
class Watched:
    """The memory and descriptors of a server process, looked at all the time."""

    pid: int
    memory: int = 0
    files: int = 0
    _stop: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Watched:
        threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()

    def _watch(self) -> None:
        while not self._stop.wait(0.05):
            self.memory = max(self.memory, resident(self.pid))
            self.files = max(self.files, files(self.pid))


def files(pid: int) -> int:
    """How many descriptors a process has open."""
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())


def main() -> int:
    """Print the table; 1 when a promise is broken."""
    parser = argparse.ArgumentParser(description="Attack a model server and watch the others.")
    parser.add_argument("--quick", action="store_true", help="smaller and shorter")
    parser.add_argument("--only", help="words of the names of attacks, separated by commas")
    arguments = parser.parse_args()
    words = (arguments.only or "").split(",")
    cases = [case for case in CASES if any(word in case.name for word in words)]
    with tempfile.TemporaryDirectory() as place:
        package = Path(place) / "package"
        build_package(package)
        print(f"{'attack':<28} {'size':>9} {'healthy':>11} {'p50 ms':>7} {'p99 ms':>7} {'worst':>6}"
              f" {'livez':>6} {'MB':>4} {'files':>5}  what the sockets got")  # fmt: skip
        broken = [wrong for case in cases for wrong in attacked(case, package, arguments.quick)]
    for wrong in broken:
        print(f"BROKEN: {wrong}")
    return 1 if broken else 0


def attacked(case: Case, package: Path, quick: bool) -> list[str]:
    """Run one attack and print its row; the promises that were broken."""
    size, seconds = (case.quick, 4.0) if quick else (case.size, 12.0)
    limits = ("--max-connections", str(CONNECTIONS), "--read-timeout", "3s")
    gc.collect()
    with support.serving(package, *limits) as server:
        before = files(server.process.pid)
        with Watched(server.process.pid) as watched, asking(server.port) as seen:
            time.sleep(1.0)
            got = asyncio.run(case.attack(server.port, size, seconds))
            if not size:
                time.sleep(seconds)
        # Nobody is connected any more; a refused upload is read for two seconds.
        time.sleep(4.0)
        left = files(server.process.pid) - before
        counters = server.counters()
    healthy = seen[0]
    _print_row(case, size, healthy, watched, got)
    return [f"{case.name}: {wrong}" for wrong in _broken(healthy, watched, left, counters)]


def _print_row(case: Case, size: int, seen: Seen, watched: Watched, got: attacks.Got) -> None:
    outcomes = ", ".join(f"{name} {count:,}" for name, count in got.most_common(4))
    good = len(seen.seconds)
    print(
        f"{case.name:<28} {size:>9,} {good:>5}/{seen.asked:<5} {seen.milliseconds(0.5):>7.1f} "
        f"{seen.milliseconds(0.99):>7.1f} {seen.milliseconds(1):>6.0f} "
        f"{max(seen.alive, default=0) * 1e3:>6.0f} {watched.memory / 1e6:>4.0f} {watched.files:>5}"
        f"  {outcomes}",
        flush=True,
    )


def _broken(seen: Seen, watched: Watched, left: int, counters: dict[str, object]) -> list[str]:
    wrong = [f"the healthy client: {failure}" for failure in seen.failures[:3]]
    if len(seen.seconds) < 50:
        wrong.append(f"the healthy client got only {len(seen.seconds)} answers")
    if watched.memory > BOUND:
        wrong.append(f"the server took {watched.memory / 1e6:.0f} MB")
    if watched.files > CONNECTIONS + 192:
        wrong.append(f"the server had {watched.files} descriptors open")
    if left > 2:
        wrong.append(f"{left} descriptors stayed open")
    if counters["inFlight"]:
        wrong.append(f"{counters['inFlight']} requests are still in flight")
    return wrong


if __name__ == "__main__":
    sys.exit(main())
