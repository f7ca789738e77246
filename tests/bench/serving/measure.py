"""One server at a time on one core, the load on another; every answer is checked.

Called by ``tests.bench.serving``; starts servers and ``wrk``, and reads /proc.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.bench.bench_runtime import memory
from tests.bench.rows import descendants, use
from tests.bench.serving.models import Model
from tests.bench.serving.servers import Launch, Server, environment_of
from tests.tools.ports import free_port

START_SECONDS = 90
SERVER_CORE, LOAD_CORE = "0", "1"
WARM_UP = 1
"""Seconds of load that are not counted."""

SCRIPT = """
local bodies, requests, n = {%(bodies)s}, {}, 0
local headers = {%(headers)s}
init = function()
  for i, body in ipairs(bodies) do
    requests[i] = wrk.format("POST", "%(path)s", headers, body)
  end
end
request = function()
  n = n %% #requests + 1
  return requests[n]
end
done = function(summary, latency)
  local e = summary.errors
  io.write(string.format("\\n[%%d,%%d,%%d,%%d,%%d]", summary.requests, summary.duration,
    e.status + e.connect + e.read + e.write + e.timeout,
    latency:percentile(50), latency:percentile(99)))
end
"""


class Failed(Exception):
    """That server has no numbers; the message says why."""


@dataclass(frozen=True)
class Cell:
    """One server under one load."""

    requests: int
    rate: float
    """Requests a second."""
    p50: float
    p99: float
    """Milliseconds."""
    cpu: float
    """Microseconds a request, of all processes of the server."""
    server_busy: float
    load_busy: float
    """Parts of a core.  A load generator near 1 is what was measured."""


@dataclass(frozen=True)
class Seen:
    """One server started once."""

    cold: float
    """Seconds from the start of the process to its first answer."""
    cold_cpu: float
    """CPU seconds until then."""
    memory: float
    """PSS in MB after the load, of all processes."""
    processes: int
    cells: dict[int, Cell]
    """By connections."""


def need_tools() -> None:
    """Raises Failed where nothing can be measured."""
    for tool, package in (("wrk", "wrk"), ("taskset", "util-linux")):
        if shutil.which(tool) is None:
            raise Failed(f"{tool} is not on this machine: apt-get install {package}")
    if not {int(SERVER_CORE), int(LOAD_CORE)} <= os.sched_getaffinity(0):
        raise Failed("two cores are needed, one for the server and one for the load")


def run(
    server: Server, python: Path, model: Model, folder: Path, loads: tuple[int, ...], seconds: int
) -> Seen:
    """Start, check, load, check again, stop; raises Failed."""
    folder.mkdir(parents=True)
    port = free_port()
    begun = time.monotonic()
    with _started(server, Launch(python, model, port, folder)) as process:
        _until_answered(server, model, port, process, folder)
        cold, cold_cpu = time.monotonic() - begun, _cpu(process.pid)
        check(server, model, port)
        script = folder / "post.lua"
        script.write_text(_script(server, model))
        _wrk(script, port, max(loads), WARM_UP)
        cells = {c: _cell(process.pid, script, port, c, seconds) for c in loads}
        check(server, model, port)
        everyone = [process.pid, *descendants(process.pid)]
        held = sum(memory(pid) for pid in everyone)
    return Seen(cold, cold_cpu, held, len(everyone), cells)


@contextlib.contextmanager
def _started(server: Server, launch: Launch) -> Iterator[subprocess.Popen[bytes]]:
    with (launch.folder / "log").open("wb") as log:
        process = subprocess.Popen(
            ["taskset", "-c", SERVER_CORE, *server.command(launch)],
            cwd=launch.folder,
            env=environment_of(server, launch),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        yield process
    finally:
        below = descendants(process.pid)
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(5)
        process.kill()
        process.wait()
        for pid in below:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _until_answered(
    server: Server, model: Model, port: int, process: subprocess.Popen[bytes], folder: Path
) -> None:
    limit = time.monotonic() + START_SECONDS
    said = "nothing listens"
    while time.monotonic() < limit:
        if process.poll() is not None:
            raise Failed(f"exited {process.returncode}: {_last_words(folder)}")
        try:
            status, answer = _ask(server, model, port, model.rows[0])
        except OSError as error:
            said = str(error)
        else:
            if status == 200:
                return
            said = f"{status} {answer[:100]!r}"
        time.sleep(0.01)
    raise Failed(f"no answer in {START_SECONDS} s: {said}; {_last_words(folder)}")


def _last_words(folder: Path) -> str:
    lines = (folder / "log").read_text(errors="replace").strip().splitlines()
    return lines[-1][:200] if lines else "it said nothing"


def _ask(server: Server, model: Model, port: int, row: list[float]) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        headers = {"Content-Type": "application/json", **server.headers}
        connection.request("POST", server.path, server.payload(model, row), headers)
        response = connection.getresponse()
        return response.status, response.read()
    except http.client.HTTPException as error:
        raise OSError(f"{type(error).__name__}: {error}") from None
    finally:
        connection.close()


def check(server: Server, model: Model, port: int) -> None:
    """Every row, many at once so that batches are made of different ones."""
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda row: _ask(server, model, port, row), model.rows))
    for (status, raw), right, row in zip(answers, model.answers, model.rows, strict=True):
        if status != 200:
            raise Failed(f"answered {status} {raw[:100]!r}")
        if (got := server.answer(json.loads(raw))) != right:
            raise Failed(f"wrong answer for {row[:4]}: {got}, the model says {right}")


def _script(server: Server, model: Model) -> str:
    bodies = ",\n".join(f"[==[{server.payload(model, row)}]==]" for row in model.rows)
    sent = {"Content-Type": "application/json", **server.headers}
    headers = ",".join(f'["{name}"]="{value}"' for name, value in sent.items())
    return SCRIPT % {"bodies": bodies, "headers": headers, "path": server.path}


def _wrk(script: Path, port: int, connections: int, seconds: int) -> list[int]:
    """Requests, microseconds, errors, p50 and p99 in microseconds."""
    done = subprocess.run(
        ["taskset", "-c", LOAD_CORE, "wrk", "-t1", f"-c{connections}", f"-d{seconds}",
         "--timeout", "10", "-s", str(script), f"http://127.0.0.1:{port}/"],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    numbers: list[int] = json.loads(done.stdout.splitlines()[-1])
    return numbers


def _cell(pid: int, script: Path, port: int, connections: int, seconds: int) -> Cell:
    used, load_used = _cpu(pid), _children()
    requests, took, errors, p50, p99 = _wrk(script, port, connections, seconds)
    spent, load_spent = _cpu(pid) - used, _children() - load_used
    if errors:
        raise Failed(f"{errors} of {requests} requests failed at {connections} connections")
    if not requests:
        raise Failed(f"no request answered at {connections} connections")
    wall = took / 1e6
    return Cell(
        requests, requests / wall, p50 / 1e3, p99 / 1e3, spent / requests * 1e6, spent / wall,
        load_spent / wall,
    )  # fmt: skip


def _cpu(pid: int) -> float:
    return sum(use(one).cpu for one in (pid, *descendants(pid)))


def _children() -> float:
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return ended.ru_utime + ended.ru_stime
