"""The model server on one loopback: `make bench ONLY=runtime`.

CPU time per request moves little on a shared machine, requests per second a lot; compare the first.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from tests.bench.rows import Row, at_most
from tests.unit import runtime_support as support

PROMISED = "runtime, one core, c=16, iris pipeline"
PEERS = ">= 15x KServe, >= 12x tuned MLServer, >= 14x plain FastAPI, >= 2.5x FastAPI + ONNX"


def memory(pid: int) -> float:
    """Proportional set size in MB."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024 / 1e6
    return float("nan")


def cpu_per_request(server: support.Server, row: object, folder: Path, seconds: int) -> float:
    """Microseconds at 16 connections; every request is answered 200."""
    script = folder / "post.lua"
    script.write_text(
        f'wrk.method="POST"\nwrk.body=[[{json.dumps(row)}]]\n'
        'wrk.headers["Content-Type"]="application/json"\n'
    )
    before = server.counters()
    subprocess.run(
        ["wrk", "-t1", "-c16", f"-d{seconds}", "-s", str(script),
         f"http://127.0.0.1:{server.port}/predict"],
        check=True, capture_output=True,
    )  # fmt: skip
    after = server.counters()
    requests = after["requests"] - before["requests"]
    assert after["ok"] - before["ok"] == requests, "some requests were not answered 200"
    return float((after["cpuSeconds"] - before["cpuSeconds"]) / requests * 1e6)


def run(quick: bool) -> list[Row]:
    """An ONNX package and a joblib one of the same pipeline."""
    rows = []
    for form in ("onnx", "joblib"):
        with tempfile.TemporaryDirectory() as folder:
            built = support.build_iris(Path(folder) / "package", form=form)
            begun = time.monotonic()
            with support.serving(built.path, "--allow-code") as server:
                took = time.monotonic() - begun
                held = memory(server.process.pid)
                if form == "onnx":
                    rows += _start(took, held)
                if shutil.which("wrk") is not None:
                    spent = cpu_per_request(server, built.rows[0], Path(folder), 3 if quick else 8)
                    said = f"{spent:.0f} us CPU a request"
                    rows.append(Row(f"{PROMISED}, as {form}", "(peers: make bench-serving)", said))
    if shutil.which("wrk") is not None:
        rows += _mirrored(3 if quick else 8)
    return [*rows, Row(f"{PROMISED}, against peers", PEERS)]


def _mirrored(seconds: int) -> list[Row]:
    """What copying every request costs stable: measured in turn in one process, as a ratio."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        built, file = support.build_iris(folder / "package"), folder / "mirror.json"
        told = ("--deployment", "m", "--mirror-file", str(file))
        with (
            support.serving(built.path, *told, "--revision", "new") as new,
            support.serving(built.path, *told, "--revision", "old") as old,
        ):
            spent = []
            for port in (0, new.port, 1):
                support.point(file, port)
                until = time.monotonic() + 10
                while bool(old.counters()["mirror"]["to"]) is not bool(port):
                    assert time.monotonic() < until, "stable does not follow the file"
                    time.sleep(0.1)
                spent.append(cpu_per_request(old, built.rows[0], folder, seconds))
    off, answers, gone = spent
    return [
        at_most(
            "CPU a request, mirrored to a candidate that is gone", "<= 1.2x", 1.2, gone / off,
            f"{gone / off:.2f}x ({off:.0f} us)",
        ),
        Row("the same, to one that answers", "", f"{answers / off:.2f}x"),
    ]  # fmt: skip


def _start(seconds: float, held: float) -> list[Row]:
    return [
        at_most(
            "runtime cold start, small ONNX package", "<= 1 s", 1.0, seconds, f"{seconds:.2f} s"
        ),
        at_most("runtime memory (PSS), the same", "<= 60 MB", 60.0, held, f"{held:.0f} MB"),
    ]
