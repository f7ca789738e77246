"""One virtual environment a peer, from its hashed requirements, kept in a cache.

Called by ``tests.bench.serving``; calls ``venv`` and ``pip`` with whatever index is configured.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from sluice.local.settings import cache_home

PEERS = Path(__file__).parent / "peers"
SECONDS = 1200
DONE = "installed"


class NotInstalled(Exception):
    """This machine cannot have that environment; the message is pip's own last word."""


def folder(peer: str) -> Path:
    """Where the environment of ``peer`` belongs: another file or another Python, another folder."""
    pinned = (PEERS / peer / "requirements.txt").read_bytes()
    key = hashlib.sha256(pinned + sys.version.encode()).hexdigest()[:16]
    return cache_home() / "bench" / f"{peer}-{key}"


def python(peer: str) -> Path:
    """The interpreter that has ``peer``, installed first where it is not; raises NotInstalled."""
    place = folder(peer)
    place.parent.mkdir(parents=True, exist_ok=True)
    with place.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two benches may begin at once
        if not (place / DONE).exists():
            _install(place, PEERS / peer / "requirements.txt")
    return place / "bin" / "python"


def _install(place: Path, pinned: Path) -> None:
    shutil.rmtree(place, ignore_errors=True)
    _run(sys.executable, "-m", "venv", str(place))
    _run(
        str(place / "bin" / "python"), "-m", "pip", "install", "-q", "--no-deps",
        "--only-binary", ":all:", "--require-hashes", "-r", str(pinned),
    )  # fmt: skip
    (place / DONE).touch()


def _run(*command: str) -> None:
    """Politely: whoever shares the machine may be measuring something."""
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            preexec_fn=lambda: os.nice(15) and None,
        )
    except subprocess.TimeoutExpired:
        raise NotInstalled(f"not installed within {SECONDS} s") from None
    if done.returncode:
        said = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        raise NotInstalled((said or ["pip said nothing"])[0][:200])
