"""A real Prometheus server for the tests, scraping what a test measures.

    with prometheus_server([f"127.0.0.1:{port}"]) as server:
        server.wait_for("up == 1")            # a first scrape is in

The program is Debian's, unpacked into ``~/.cache/sluice/bin``: no root is needed, nothing is
installed and no service is started.  One in PATH is used as it is.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.tools.ports import free_port

from sluice.local.settings import cache_home

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


@dataclass(frozen=True)
class PrometheusProcess:
    """A running server."""

    url: str
    pid: int

    def ask(self, query: str) -> list[dict[str, Any]]:
        """The series that ``query`` gives now."""
        text = urllib.parse.urlencode({"query": query})
        with urllib.request.urlopen(f"{self.url}/api/v1/query?{text}", timeout=10) as answer:
            result: list[dict[str, Any]] = json.load(answer)["data"]["result"]
            return result

    def wait_for(self, query: str) -> None:
        """Until ``query`` gives a series."""
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            if self.ask(query):
                return
            time.sleep(0.05)
        raise RuntimeError(f"Prometheus has nothing for {query} after 30 s")


@contextlib.contextmanager
def prometheus_server(
    targets: Sequence[str], *, scrape: str = "200ms", web_config: str = ""
) -> Iterator[PrometheusProcess]:
    """Run a server on a free port of the loopback address until the block ends.

    ``web_config`` is the text of its --web.config.file (users, TLS).
    """
    program = obtain()
    with tempfile.TemporaryDirectory(prefix="sluice-prometheus-") as name:
        directory = Path(name)
        job = {"job_name": "test", "static_configs": [{"targets": list(targets)}]}
        interval = {"scrape_interval": scrape, "scrape_timeout": scrape}
        config = directory / "prometheus.json"
        config.write_text(json.dumps({"global": interval, "scrape_configs": [job]}))
        web = directory / "web.yml"
        web.write_text(web_config)
        port = free_port()
        argv = [program, f"--config.file={config}", f"--storage.tsdb.path={directory / 'data'}"]
        argv += [f"--web.listen-address=127.0.0.1:{port}", f"--web.config.file={web}"]
        log = directory / "server.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                argv, stdout=output, stderr=output, cwd=directory, preexec_fn=_end_with_parent
            )
        try:
            _wait(process, log)
            yield PrometheusProcess(f"http://127.0.0.1:{port}", process.pid)
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def obtain() -> Path:
    """The program: PATH, the cache, else the distribution's package, unpacked."""
    if found := shutil.which("prometheus"):
        return Path(found)
    program = cache_home() / "bin" / "prometheus"
    if program.exists():
        return program
    program.parent.mkdir(parents=True, exist_ok=True)
    with (program.parent / ".prometheus.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not program.exists():
            print("unpacking Debian's prometheus for tests", file=sys.stderr, flush=True)
            _unpack(program)
    return program


def _unpack(program: Path) -> None:
    with tempfile.TemporaryDirectory(prefix=".part-", dir=program.parent) as name:
        scratch = Path(name)
        # A package list of our own: an ordinary user cannot refresh the machine's, and a fresh
        # machine has none.
        for part in ("state/lists/partial", "cache/archives/partial"):
            (scratch / part).mkdir(parents=True)
        apt = ["apt-get", "-q", "-o", f"Dir::State::Lists={scratch / 'state/lists'}"]
        apt += ["-o", f"Dir::Cache={scratch / 'cache'}", "-o", "APT::Sandbox::User="]
        try:
            for argv in ([*apt, "update"], [*apt, "download", "prometheus"]):
                subprocess.run(argv, cwd=scratch, check=True, capture_output=True, text=True)
            (package,) = scratch.glob("*.deb")
            subprocess.run(["dpkg", "-x", package, scratch / "root"], check=True)
        except (FileNotFoundError, ValueError, subprocess.CalledProcessError) as error:
            said = getattr(error, "stderr", "") or error
            raise RuntimeError(f"Put a prometheus into PATH; apt-get gave none: {said}") from error
        (scratch / "root/usr/bin/prometheus").replace(program)


def _end_with_parent() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


def _wait(process: subprocess.Popen[bytes], log: Path) -> None:
    """Until it says so: with users, an unknown one is refused from the first moment on."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"Prometheus ended with {process.returncode}: {log.read_text()}")
        if "Server is ready to receive web requests" in log.read_text(errors="replace"):
            return
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.05)
    raise RuntimeError(f"Prometheus was not ready in 30 s: {log.read_text()}")


if __name__ == "__main__":
    print(obtain())
