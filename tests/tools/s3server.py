"""A real S3 server for the tests: Versity's gateway over a temporary directory.

    with s3_server() as s3:
        environ = s3.environ            # AWS_ENDPOINT_URL, keys, region
        s3.make_bucket("models")

The program is built once from the pinned ``tests/tools/s3/go.mod`` (40 s on two cores) into
``~/.cache/sluice/bin``.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sluice.local.binaries import _go as find_go
from sluice.local.settings import cache_home

MODULE = Path(__file__).parent / "s3"
PROGRAM = "github.com/versity/versitygw/cmd/versitygw"


@dataclass(frozen=True)
class S3Server:
    """A running server."""

    endpoint: str
    access_key: str
    secret_key: str
    root: Path
    pid: int
    region: str = "us-east-1"

    @property
    def environ(self) -> dict[str, str]:
        """What a client needs in its environment."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_REGION": self.region,
        }

    def make_bucket(self, name: str) -> str:
        """Create a bucket; the gateway takes any directory of its root for one."""
        (self.root / name).mkdir(exist_ok=True)
        return f"s3://{name}"

    def object_path(self, bucket: str, key: str) -> Path:
        """Where an object's bytes lie, so that a test can damage them behind the server's back."""
        return self.root / bucket / key


@contextlib.contextmanager
def s3_server(host: str = "127.0.0.1", workdir: Path | None = None) -> Iterator[S3Server]:
    """Run the server on a free port of ``host``; it ends with the block."""
    program = build()
    with tempfile.TemporaryDirectory(prefix="sluice-s3-", dir=workdir) as directory:
        root, sidecar = Path(directory, "buckets"), Path(directory, "metadata")
        root.mkdir()
        sidecar.mkdir()
        port = _free_port(host)
        access, secret = "test" + secrets.token_hex(6), secrets.token_hex(20)
        argv = [str(program), "--quiet", "--keep-alive", "--port", f"{host}:{port}"]
        argv += ["posix", "--sidecar", str(sidecar), str(root)]
        keys = {"ROOT_ACCESS_KEY_ID": access, "ROOT_SECRET_ACCESS_KEY": secret}
        log = Path(directory, "server.log")
        with log.open("wb") as output:
            process = subprocess.Popen(
                argv, env=os.environ | keys, stdout=output, stderr=output, cwd=directory
            )
        try:
            _wait(process, host, port, log)
            yield S3Server(f"http://{host}:{port}", access, secret, root, process.pid)
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def build() -> Path:
    """The program, built at most once for a given ``go.sum``."""
    cache = cache_home() / "bin"
    version = _version()
    program = cache / f"versitygw-{version}"
    if program.exists():
        return program
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / ".versitygw.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not program.exists():
            _say(f"building the S3 server for tests, {version}: about a minute")
            partial = program.with_name(f".{program.name}.{os.getpid()}")
            flags = ["-trimpath", "-mod=readonly", "-ldflags=-s -w", "-o", str(partial)]
            environ = os.environ | {"CGO_ENABLED": "0", "GOFLAGS": ""}
            subprocess.run(
                ["nice", find_go(_say), "build", *flags, PROGRAM],
                cwd=MODULE,
                env=environ,
                check=True,
            )
            partial.replace(program)
    return program


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _version() -> str:
    for line in (MODULE / "go.mod").read_text().splitlines():
        if line.split()[:1] == ["github.com/versity/versitygw"]:
            return line.split()[1]
    raise RuntimeError(f"{MODULE}/go.mod does not name github.com/versity/versitygw")


def _free_port(host: str) -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


def _wait(process: subprocess.Popen[bytes], host: str, port: int, log: Path) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"The S3 server ended with {process.returncode}: {log.read_text()}")
        with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=1):
            return
        _moment(process, 0.05)
    raise RuntimeError(f"The S3 server did not listen within 20 s: {log.read_text()}")


def _moment(process: subprocess.Popen[bytes], seconds: float) -> None:
    """Wait a moment, or until the process ends."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(seconds)


if __name__ == "__main__":
    print(build())
    with s3_server() as server:
        server.make_bucket("models")
        print("\n".join(f"export {k}={v}" for k, v in server.environ.items()), flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            input("The server runs until you press Enter. ")
