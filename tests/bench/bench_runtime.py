"""CPU microseconds per request of the model server, by wrk on loopback.

    python tests/bench/bench_runtime.py [seconds per round]

CPU time per request moves little on a shared machine, requests per second a lot; compare the first.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "operator"), str(ROOT / "tests" / "unit")]

import runtime_support as support  # noqa: E402 - needs the path above

CONNECTIONS = (1, 16, 64)


def measure(server: support.Server, row: object, seconds: int, folder: Path) -> None:
    """One round at each number of connections."""
    script = folder / "post.lua"
    script.write_text(
        f'wrk.method="POST"\nwrk.body=[[{json.dumps(row)}]]\n'
        'wrk.headers["Content-Type"]="application/json"\n'
    )
    for connections in CONNECTIONS:
        before = server.counters()
        subprocess.run(
            ["wrk", "-t1", f"-c{connections}", f"-d{seconds}", "-s", str(script),
             f"http://127.0.0.1:{server.port}/predict"],
            check=True, capture_output=True,
        )  # fmt: skip
        after = server.counters()
        requests = after["requests"] - before["requests"]
        cpu = (after["cpuSeconds"] - before["cpuSeconds"]) / requests * 1e6
        answered = after["ok"] - before["ok"]
        print(
            f"  c={connections:<3} {cpu:7.1f} us CPU/request  {requests / seconds:8.0f} requests/s"
            f"  {requests - answered} not answered 200"
        )


def memory(pid: int) -> float:
    """Proportional set size in MB."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    return float("nan")


def main() -> None:
    """Bench an ONNX package and a joblib one of the same pipeline."""
    if shutil.which("wrk") is None:
        sys.exit("wrk is not installed (apt-get install wrk)")
    seconds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    for form in ("onnx", "joblib"):
        with tempfile.TemporaryDirectory() as folder:
            built = support.build_iris(Path(folder) / "package", form=form)
            with support.serving(built.path, "--allow-code") as server:
                print(f"iris as {form}: {memory(server.process.pid):.0f} MB PSS when ready")
                measure(server, built.rows[0], seconds, Path(folder))


if __name__ == "__main__":
    main()
