"""``make failures``: what a failure of the model server does to its clients, measured.

    python -m tests.abuse.failures --only disk

Each case starts a server, sends steady load, makes it fail and prints how the requests ended.  It
fails when a promise is broken: a request that was accepted got no answer, one bad row cost another
request its answer, a server that is stuck says that it is alive.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

from tests.abuse.load import Load, told

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "unit"))

import runtime_support as support  # noqa: E402

from sluice.runtime.predictions import STUCK_SECONDS  # noqa: E402

GOOD = b'{"x": 1.0}'
RAISES = b'{"x": 13.0}'
HANGS = b'{"x": 1e9}'
LEAKS = b'{"x": 60.0}'

_ON_A_FULL_DISK = """
mount -t tmpfs -o size=64k none "$1" && cd "$1" && export TMPDIR="$1" && place="$1" && shift
dd if=/dev/zero of=fill bs=1k count=200 2>/dev/null
exec "$@" >>"$place/out" 2>>"$place/err"
"""
_ON_DEV_FULL = 'shift; exec "$@" >/dev/full 2>/dev/full'


class Broken(Exception):
    """A promise that was not kept."""


def main() -> int:
    """Print what happened; 1 when a promise is broken."""
    parser = argparse.ArgumentParser(description="Make a model server fail under load.")
    parser.add_argument("--only", default=",".join(CASES))
    wanted = parser.parse_args().only.split(",")
    unknown = sorted(set(wanted) - set(CASES))
    if unknown:
        parser.error(f"no case {', '.join(unknown)}; there are {', '.join(CASES)}")
    broken = 0
    with tempfile.TemporaryDirectory() as place:
        package = Path(place) / "odd"
        support.build_odd(package)
        for name in wanted:
            try:
                said = asyncio.run(CASES[name](package))
            except Broken as error:
                broken += 1
                said = f"BROKEN: {error}"
            print(f"{name:<11} {said}", flush=True)
    print("log         there is no prediction log yet, so nothing of it can be lost")
    return 1 if broken else 0


def steady(number: int) -> bytes:
    """The body of any request."""
    return GOOD


def rarely_bad(number: int) -> bytes:
    """One row in a thousand that the model cannot take."""
    return RAISES if number % 1000 == 500 else GOOD


async def killed(package: Path) -> str:
    """SIGKILL, and a new process on the same port, as kubelet does it."""
    with serving(package) as server:
        await ready(server)
        async with Load(server.port, steady).running() as load:
            await asyncio.sleep(2)
            server.process.kill()
            server.process.wait()
            died = time.monotonic()
            before = load.ends["200"]
            with serving(package, "--port", str(server.port)) as again:
                await ready(again)
                back = time.monotonic() - died
                await asyncio.sleep(1)
                load.stop()
                await asyncio.sleep(1)
    if load.ends["no answer"] > 16:
        raise Broken(f"more requests than were in flight got no answer: {told(load.ends)}")
    if load.ends["200"] <= before:
        raise Broken("nobody was answered again")
    return f"{told(load.ends)}; a new process was ready after {back:.1f} s"


async def terminated(package: Path) -> str:
    """SIGTERM: a router that looks at readiness loses nothing."""
    with serving(package, "--drain", "3s") as server:
        await ready(server)
        async with Load(server.port, steady).running() as load:
            await asyncio.sleep(1)
            server.process.send_signal(signal.SIGTERM)
            began = time.monotonic()
            await asyncio.to_thread(server.wait_status, "/readyz", 503)
            unready = time.monotonic() - began
            after = load.ends["200"]
            await asyncio.sleep(0.5)
            answered = load.ends["200"] - after
            load.stop()
        code = await asyncio.to_thread(server.process.wait, 30)
        ended = time.monotonic() - began
    if set(load.ends) != {"200"} or code != 0 or not answered:
        raise Broken(f"exit code {code}; {told(load.ends)}; {answered} answered while not ready")
    return (
        f"{told(load.ends)}, none failed; not ready after {unready * 1e3:.0f} ms, "
        f"{answered:,} answered after that, exit code 0 after {ended:.1f} s"
    )


async def terminated_stubborn(package: Path) -> str:
    """SIGTERM, and clients that go on until they are refused."""
    with serving(package, "--drain", "2s") as server:
        await ready(server)
        async with Load(server.port, steady).running() as load:
            await asyncio.sleep(1)
            server.process.send_signal(signal.SIGTERM)
            code = await asyncio.to_thread(server.process.wait, 30)
            load.stop()
    if load.ends["no answer"] > 16 or code != 0:
        raise Broken(f"exit code {code}; {told(load.ends)}")
    return f"{told(load.ends)} (no answer: still in the kernel's queue as the listener closed)"


async def full_disk(package: Path) -> str:
    """Standard output, standard error, the termination log and TMPDIR on a disk without room."""
    real = await asyncio.to_thread(_may_mount)
    with tempfile.TemporaryDirectory() as place, on_full_disk(package, place, real) as server:
        await ready(server)
        async with Load(server.port, rarely_bad).running() as load:
            await asyncio.sleep(4)
            load.stop()
        alive = server.process.poll() is None
        in_flight = server.counters()["inFlight"]
    if not alive or in_flight or set(load.ends) != {"200", "500"}:
        raise Broken(f"alive {alive}, {in_flight} in flight; {told(load.ends)}")
    where = "a full tmpfs" if real else "/dev/full (no user namespaces here)"
    return f"{told(load.ends)} (500: the rows that the model raises on); on {where}"


def _may_mount() -> bool:
    command = shutil.which("unshare")
    return command is not None and subprocess.run([command, "-rm", "true"]).returncode == 0


async def hanging(package: Path) -> str:
    """A call that never returns, of a model known to take its time: what everyone else gets."""
    known = package.with_name("slow")
    support.build_odd(known, delay=0.002)
    with serving(known, "--timeout", "1s", "--max-in-flight", "32") as server:
        await ready(server)
        began = time.monotonic()
        hung = asyncio.create_task(one(server.port, HANGS))
        await asyncio.sleep(1.5)
        slowest = 0.0
        async with Load(server.port, steady, connections=64).running() as load:
            await asyncio.sleep(5)
            for _ in range(20):
                asked = time.monotonic()
                status, _, _ = await asyncio.to_thread(server.request, "GET", "/livez")
                slowest = max(slowest, time.monotonic() - asked)
                if status != 200:
                    raise Broken(f"/livez said {status} after {asked - began:.1f} s")
            load.stop()
        status = await hung
        while (await asyncio.to_thread(server.request, "GET", "/livez"))[0] == 200:
            if time.monotonic() - began > STUCK_SECONDS + 20:
                raise Broken("/livez never failed")
            await asyncio.sleep(0.2)
        failed = time.monotonic() - began
    if status != 504 or not set(load.ends) <= {"503", "504"}:
        raise Broken(f"the one that hangs got {status}; {told(load.ends)}")
    return (
        f"the one that hangs got 504; others {told(load.ends)}, at most {load.worst:.1f} s; "
        f"/livez answered within {slowest * 1e3:.0f} ms and failed after {failed:.0f} s: "
        "then it is restarted"
    )


async def hanging_suddenly(package: Path) -> str:
    """A call that never returns, of a model that took microseconds until then."""
    with serving(package, "--timeout", "1s") as server:
        await ready(server)
        hung = asyncio.create_task(one(server.port, HANGS))
        await asyncio.sleep(0.5)
        try:
            async with asyncio.timeout(3):
                await one(server.port, GOOD)
        except TimeoutError:
            said = "nobody is answered, /livez neither: the probe times out and it is restarted"
        else:
            raise Broken("a model that hangs on the loop let others through; this text is old")
        finally:
            hung.cancel()
    return said


async def leaking(package: Path) -> str:
    """Ten megabytes kept a call, in a process that may have 1,500."""
    limit = ("sh", "-c", 'ulimit -v 1500000; exec "$@"', "sh")
    with serving(package, prefix=limit) as server:
        await ready(server)
        async with Load(server.port, lambda n: LEAKS if n % 20 == 0 else GOOD).running() as load:
            for _ in range(100):
                await asyncio.sleep(0.1)
                if load.ends["500"] + load.ends["no answer"] > 50:
                    break
            load.stop()
        code = server.process.poll()
        alive = (await asyncio.to_thread(server.request, "GET", "/livez"))[0] if code is None else 0
    if not load.ends["500"] + load.ends["no answer"]:
        raise Broken(f"it never ran out of memory: {told(load.ends)}")
    state = f"alive, /livez {alive}" if code is None else f"ended with {code}"
    return f"{told(load.ends)}; afterwards {state} (under a cgroup's limit it is killed: see kill)"


async def raising(package: Path) -> str:
    """One row in a thousand raises: its request fails, and no other."""
    with serving(package) as server:
        await ready(server)
        async with Load(server.port, rarely_bad, connections=64).running() as load:
            await asyncio.sleep(6)
            load.stop()
        counters = server.counters()
    wrong = {n: end for n, end in load.by_number.items() if n % 1000 != 500 or end != "500"}
    bad = sum(1 for n in range(sum(load.ends.values())) if n % 1000 == 500)
    if wrong or load.ends["500"] != bad or counters["modelErrors"] != bad:
        raise Broken(f"{told(load.ends)}, {bad} bad rows; wrong: {dict(list(wrong.items())[:3])}")
    return f"{told(load.ends)}: each bad row failed alone; worst answer {load.worst * 1e3:.0f} ms"


CASES: dict[str, Callable[[Path], Awaitable[str]]] = {
    "kill": killed,
    "term": terminated,
    "stubborn": terminated_stubborn,
    "disk": full_disk,
    "hang": hanging,
    "hang-quick": hanging_suddenly,
    "leak": leaking,
    "raise": raising,
}


@contextlib.contextmanager
def serving(
    package: Path, *arguments: str, prefix: tuple[str, ...] = ()
) -> Iterator[support.Server]:
    """A server, ended afterwards."""
    server = support.Server(package, "--allow-code", *arguments, prefix=prefix)
    if "--port" in arguments:
        server.port = int(arguments[arguments.index("--port") + 1])
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.process.kill()
        server.process.communicate()


@contextlib.contextmanager
def on_full_disk(package: Path, place: str, real: bool) -> Iterator[support.Server]:
    script, enter = (_ON_A_FULL_DISK, ("unshare", "-rm")) if real else (_ON_DEV_FULL, ())
    prefix = (*enter, "sh", "-c", script, "sh", place)
    env = {"PYTHONPATH": str(HERE.parents[1] / "operator"),
           "SLUICE_TERMINATION_LOG": f"{place}/termination"}  # fmt: skip
    server = support.Server(package, "--allow-code", env=env, prefix=prefix)
    try:
        yield server
    finally:
        server.process.kill()
        server.process.communicate()


async def ready(server: support.Server) -> None:
    """Wait until it answers."""
    await asyncio.to_thread(server.wait_status, "/readyz", 200)


async def one(port: int, body: bytes) -> int:
    """The status of a single request."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    length = b"Content-Length: %d\r\nConnection: close\r\n\r\n" % len(body)
    writer.write(b"POST /predict HTTP/1.1\r\nHost: a\r\n" + length + body)
    answer = await reader.read()
    writer.close()
    json.loads(answer.partition(b"\r\n\r\n")[2])
    return int(answer.split()[1])


if __name__ == "__main__":
    sys.exit(main())
