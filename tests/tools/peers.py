"""Other people's packages, each in a virtual environment of its own.

Called by ``make stats-peers``, ``protocol-peers`` and ``signing-peers``; calls pip.  No two peers
want the same numpy, so each has a requirements file with hashes.  Its environment is kept in the
cache directory and built again when the file changes.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import venv
from pathlib import Path

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sluice"
INSTALL_SECONDS = 900
LAST_LINES = 3


class Missing(Exception):
    """A peer that could not be installed or did not answer, and why."""


def environment(pinned: Path) -> Path:
    """The Python of a requirements file's environment, built when it is not there yet."""
    digest = hashlib.sha256(pinned.read_bytes() + sys.version.encode()).hexdigest()[:12]
    home = CACHE / pinned.parent.name.replace("_", "-") / f"{pinned.stem}-{digest}"
    python, ready = home / "bin" / "python", home / "ready"
    if not ready.exists():
        print(f"{pinned.stem:<12} installing {pinned.name}", file=sys.stderr)
        venv.create(home, with_pip=True, clear=True)
        pip = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
        run([*pip, "--require-hashes", "-r", str(pinned)], INSTALL_SECONDS)
        ready.touch()
    return python


def run(command: list[str], seconds: float, given: str = "") -> str:
    """What a command prints; Missing, with the end of its complaint, when it fails."""
    # The peer must find its own packages, not this repository's.
    surroundings = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    try:
        done = subprocess.run(
            command, input=given, capture_output=True, text=True, timeout=seconds, env=surroundings
        )
    except subprocess.TimeoutExpired as error:
        raise Missing(f"no answer within {seconds:g} s") from error
    if done.returncode:
        raise Missing(" / ".join(done.stderr.strip().splitlines()[-LAST_LINES:]))
    return done.stdout
