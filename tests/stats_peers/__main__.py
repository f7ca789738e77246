"""`make stats-peers`: Sluice's statistics beside those of other people's packages.

    python -m tests.stats_peers [--only gbstats,savvi]

Each peer gets a virtual environment of its own from a requirements file with hashes, because no
two of them want the same numpy; it is kept in the cache directory and built again when the file
changes.  A peer reads the cases as JSON, answers with numbers, and knows nothing of Sluice.  A
number that is further from ours than its method explains fails the command; a peer that cannot be
installed is said to be, and fails it too.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import venv
from pathlib import Path

from tests.stats_peers import cases

HERE = Path(__file__).parent
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sluice" / "stats-peers"
INSTALL_SECONDS, RUN_SECONDS = 900, 120
LAST_LINES = 3


class Missing(Exception):
    """A peer that could not be installed or did not answer, and why."""


def main() -> int:
    """Print the table; 1 when a number is off or a peer is missing."""
    parser = argparse.ArgumentParser(description="Compare with other packages.")
    parser.add_argument("--only", default=",".join(cases.PEERS))
    wanted = parser.parse_args().only.split(",")
    unknown = sorted(set(wanted) - set(cases.PEERS))
    if unknown:
        parser.error(f"no peer {', '.join(unknown)}; there are {', '.join(cases.PEERS)}")
    print(f"{'peer':<12} {'case':<52} {'ours':>12} {'theirs':>12} {'difference':>11}")
    return 1 if sum(compared(peer) for peer in wanted) else 0


def compared(peer: str) -> int:
    """Print a peer's rows; the number of those that are off."""
    try:
        theirs = answers(peer)
    except Missing as missing:
        print(f"{peer:<12} NOT COMPARED: {missing}")
        return 1
    off = 0
    for row in cases.PEERS[peer]():
        value = theirs[row.name]
        difference = row.ours - value
        bad = not abs(difference) <= row.tolerance
        off += bad
        mark = f"  OFF: more than {row.tolerance:g}" if bad else ""
        print(
            f"{peer:<12} {row.name:<52} {row.ours:>12.6g} {value:>12.6g} {difference:>+11.2g}{mark}"
        )
    return off


def answers(peer: str) -> dict[str, float]:
    """The peer's numbers by name of the case; Missing when there are none."""
    script = HERE / f"peer_{peer.replace('-', '_')}.py"
    command = [str(environment(peer)), str(script)]
    done = run(command, RUN_SECONDS, json.dumps(cases.data()))
    numbers: dict[str, float] = json.loads(done)
    return numbers


def environment(peer: str) -> Path:
    """The Python of the peer's virtual environment, built when it is not there yet."""
    pinned = HERE / f"{peer}.txt"
    digest = hashlib.sha256(pinned.read_bytes() + sys.version.encode()).hexdigest()[:12]
    home = CACHE / f"{peer}-{digest}"
    python, ready = home / "bin" / "python", home / "ready"
    if not ready.exists():
        print(f"{peer:<12} installing {pinned.name}", file=sys.stderr)
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


if __name__ == "__main__":
    sys.exit(main())
