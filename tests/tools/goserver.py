"""Real servers for the tests, built with Go from a pinned module and run on a free port.

Called by ``s3server``, ``registryserver``, ``gcsserver`` and ``tests.sources_peers``.  A program is
built once for its ``go.mod`` into ``~/.cache/sluice/bin``.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from sluice.local.binaries import _go as find_go
from sluice.local.settings import cache_home


def build(module: Path, package: str) -> Path:
    """The program of ``package``, built at most once for a given version in ``module``/go.mod."""
    name, version = package.rsplit("/", 1)[-1], _version(module, package)
    cache = cache_home() / "bin"
    program = cache / f"{name}-{version}"
    if program.exists():
        return program
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / f".{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not program.exists():
            _say(f"building {name} {version} for tests: about a minute")
            partial = program.with_name(f".{program.name}.{os.getpid()}")
            flags = ["-trimpath", "-mod=readonly", "-ldflags=-s -w", "-o", str(partial)]
            environ = os.environ | {"CGO_ENABLED": "0", "GOFLAGS": ""}
            subprocess.run(
                ["nice", find_go(_say), "build", *flags, package],
                cwd=module,
                env=environ,
                check=True,
            )
            partial.replace(program)
    return program


@contextlib.contextmanager
def running(
    argv: list[str],
    *,
    host: str,
    port: int,
    home: Path,
    environ: Mapping[str, str] | None = None,
    seconds: float = 20.0,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server until the block ends; it answers on ``host``:``port`` when the block begins."""
    log = home / f"server-{port}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            argv, env={**os.environ, **(environ or {})}, stdout=output, stderr=output, cwd=home
        )
    try:
        _wait(process, host, port, log, seconds)
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _version(module: Path, package: str) -> str:
    for line in (module / "go.mod").read_text().splitlines():
        words = line.split()
        if (
            len(words) >= 2
            and words[1].startswith("v")
            and f"{package}/".startswith(f"{words[0]}/")
        ):
            return words[1]
    raise RuntimeError(f"{module}/go.mod does not require the module of {package}")


def _wait(
    process: subprocess.Popen[bytes], host: str, port: int, log: Path, seconds: float
) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"The server ended with {process.returncode}: {log.read_text()}")
        with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=1):
            return
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.05)
    raise RuntimeError(f"The server did not listen within {seconds:g} s: {log.read_text()}")
