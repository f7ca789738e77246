"""`make sources-peers`: other people's servers and clients beside our sources.

    python -m tests.sources_peers [--only mlflow,azurite,oras]

An MLflow tracking server logs models and we fetch them by alias; Azurite keeps a package that we
push and fetch; oras pulls what we pushed to a registry and pushes what we fetch.  Each is installed
from a pinned file of its own.  A check that fails, or a peer that cannot be installed, is printed
and fails the command.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.sources_peers import peer_azurite, peer_mlflow, peer_oras
from tests.tools.peers import Missing

PEERS: dict[str, Callable[[Path], Iterator[tuple[str, str | None]]]] = {
    "mlflow": peer_mlflow.checks,
    "azurite": peer_azurite.checks,
    "oras": peer_oras.checks,
}


def main() -> int:
    """Print the table; 1 when a check failed or a peer is missing."""
    parser = argparse.ArgumentParser(description="Try our sources with other people's programs.")
    parser.add_argument("--only", default=",".join(PEERS))
    wanted = parser.parse_args().only.split(",")
    unknown = sorted(set(wanted) - set(PEERS))
    if unknown:
        parser.error(f"no peer {', '.join(unknown)}; there are {', '.join(PEERS)}")
    return 1 if sum(asked(peer) for peer in wanted) else 0


def asked(peer: str) -> int:
    """Print a peer's checks; the number of those that failed."""
    passed = failed = 0
    with tempfile.TemporaryDirectory() as home, nobody(home):
        try:
            for check, failure in PEERS[peer](Path(home)):
                said = "passed" if failure is None else f"FAILED: {failure}"
                print(f"{peer:<9} {check:<66} {said}", flush=True)
                passed, failed = passed + (failure is None), failed + (failure is not None)
        except Missing as missing:
            print(f"{peer:<9} NOT ASKED: {missing}")
            return 1
    print(f"{peer:<9} {passed} of {passed + failed} passed", flush=True)
    return failed if passed + failed else 1


@contextmanager
def nobody(home: str) -> Iterator[None]:
    """The environment without this machine's own credentials, as it was afterwards."""
    before = dict(os.environ)
    prefixes = ("AZURE_", "MLFLOW_", "SLUICE_REGISTRY", "SLUICE_DOCKER", "DOCKER_")
    for name in [name for name in os.environ if name.startswith(prefixes)]:
        del os.environ[name]
    os.environ["DOCKER_CONFIG"] = home
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


if __name__ == "__main__":
    sys.exit(main())
