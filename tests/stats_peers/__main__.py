"""`make stats-peers`: Sluice's statistics beside those of other people's packages.

    python -m tests.stats_peers [--only gbstats,savvi]

Each peer runs in a virtual environment of its own.  It reads the cases as JSON, answers with
numbers, and knows nothing of Sluice.  A number that is further from ours than its method explains
fails the command; a peer that cannot be installed is said to be, and fails it too.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from tests.stats_peers import cases
from tests.tools.peers import Missing, environment, run

HERE = Path(__file__).parent
RUN_SECONDS = 120


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
    command = [str(environment(HERE / f"{peer}.txt")), str(script)]
    done = run(command, RUN_SECONDS, json.dumps(cases.data()))
    numbers: dict[str, float] = json.loads(done)
    return numbers


if __name__ == "__main__":
    sys.exit(main())
