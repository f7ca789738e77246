"""`make protocol-peers`: clients of other model servers ask ours.

    python -m tests.protocol_peers [--only tritonclient,kserve]

A real server answers with a package built here.  Each client runs in a virtual environment of its
own, is given the rows and what the scikit-learn model says of them, and knows nothing of Sluice.
A check that fails, or a client that cannot be installed, is printed and fails the command.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.fuzz.target import build_package
from tests.tools.peers import Missing, environment, run
from tests.tools.ports import free_port

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "unit"))

import runtime_support as support  # noqa: E402

PEERS = ("tritonclient", "kserve", "mlserver", "schemathesis")
RUN_SECONDS = 600


def main() -> int:
    """Print the table; 1 when a check failed or a client is missing."""
    parser = argparse.ArgumentParser(description="Ask a model server with other clients.")
    parser.add_argument("--only", default=",".join(PEERS))
    wanted = parser.parse_args().only.split(",")
    unknown = sorted(set(wanted) - set(PEERS))
    if unknown:
        parser.error(f"no peer {', '.join(unknown)}; there are {', '.join(PEERS)}")
    with tempfile.TemporaryDirectory() as place:
        built = support.build_iris(Path(place) / "iris")
        grpc_port = free_port()
        named = ("--deployment", "iris", "--revision", "v2", "--grpc-port", str(grpc_port))
        build_package(Path(place) / "any")
        with (
            support.serving(built.path, *named) as server,
            support.serving(Path(place) / "any") as robust,
        ):
            given = questions(built, server.port, grpc_port, robust.port)
            failed = sum(asked(peer, given) for peer in wanted)
    return 1 if failed else 0


def questions(built: support.Built, port: int, grpc_port: int, robust: int) -> dict[str, Any]:
    """What a client needs to ask, and what the model itself answers.

    ``robust`` is the port of another model, with a finite score for whatever its schema allows.
    """
    labels = [str(name) for name in support.load_iris().target_names]
    return {
        "address": f"127.0.0.1:{port}",
        "grpc": f"127.0.0.1:{grpc_port}",
        "robust": f"127.0.0.1:{robust}",
        "model": "iris",
        "version": "v2",
        "features": list(built.rows[0]),
        "rows": built.matrix.tolist(),
        "labels": [labels[k] for k in built.model.predict(built.matrix)],
        "scores": built.model.predict_proba(built.matrix).tolist(),
    }


def asked(peer: str, given: dict[str, Any]) -> int:
    """Print a client's checks; the number of those that failed."""
    try:
        outcomes = answers(peer, given)
    except Missing as missing:
        print(f"{peer:<13} NOT ASKED: {missing}")
        return 1
    for check, failure in outcomes.items():
        print(f"{peer:<13} {check:<60} {'passed' if failure is None else f'FAILED: {failure}'}")
    failed = sum(failure is not None for failure in outcomes.values())
    print(f"{peer:<13} {len(outcomes) - failed} of {len(outcomes)} passed")
    return failed if outcomes else 1


def answers(peer: str, given: dict[str, Any]) -> dict[str, str | None]:
    """By check: None when it passed, else why not."""
    script = HERE / f"peer_{peer}.py"
    python = environment(HERE / f"{peer}.txt")
    found: dict[str, str | None] = json.loads(
        run([str(python), str(script)], RUN_SECONDS, json.dumps(given))
    )
    return found


if __name__ == "__main__":
    sys.exit(main())
