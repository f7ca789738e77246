"""`make signing-peers`: signatures of OpenSSF's model-signing and ours, each verified by the other.

    python -m tests.signing_peers

model-signing runs as its users run it, in a virtual environment of its own.  A check that fails, or
a peer that cannot be installed, is printed and fails the command.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from click.testing import CliRunner
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from tests.tools.packages import linear_package
from tests.tools.peers import Missing, environment, run

from sluice.api.modelrevision import PackageInfo
from sluice.api.trustpolicy import TrustPolicySpec
from sluice.cli import group
from sluice.jobs.fetch import fetch, resolve
from sluice.rollout.trust import admitted
from sluice.signature import pem_of

PINNED = Path(__file__).parent / "model-signing.txt"
RUN_SECONDS = 120
CURVES = (ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1())


class Pair:
    """A package, a pair of keys, and both programs."""

    def __init__(self, place: Path, curve: ec.EllipticCurve, python: Path) -> None:
        self.package, self.secret, self.public = place / "p", place / "key.pem", place / "key.pub"
        self.python = python
        linear_package(self.package)
        key = ec.generate_private_key(curve)
        self.secret.write_bytes(
            key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        )
        self.public.write_text(pem_of(key.public_key()))

    def ours(self, verb: str, key: Path) -> bool:
        done = CliRunner().invoke(group, [verb, str(self.package), "--key", str(key)])
        return done.exit_code == 0

    def theirs(self, verb: str, key: Path, package: Path | None = None) -> bool:
        where = package or self.package
        option = "--private_key" if verb == "sign" else "--public_key"
        command = [str(self.python), "-m", "model_signing", verb, "key", str(where)]
        try:
            signature = str(where / "model.sig")
            run([*command, "--signature", signature, option, str(key)], RUN_SECONDS)
        except Missing:
            return False
        return True

    def change(self) -> None:
        model = self.package / "model.onnx"
        model.write_bytes(b"X" + model.read_bytes()[1:])


def ours_read_by_theirs(pair: Pair, stranger: Path) -> dict[str, bool]:
    made = pair.ours("sign", pair.secret)
    copy = fetch(str(pair.package), pair.package.parent / "fetched").path
    outcomes = {
        "model_signing verifies what sluice signed": made and pair.theirs("verify", pair.public),
        "model_signing verifies what was fetched": pair.theirs("verify", pair.public, copy),
        "model_signing refuses another key": not pair.theirs("verify", stranger),
    }
    pair.change()
    return {
        **outcomes,
        "model_signing refuses a changed file": not pair.theirs("verify", pair.public),
    }


def theirs_read_by_ours(pair: Pair, stranger: Path) -> dict[str, bool]:
    made = pair.theirs("sign", pair.secret)
    outcomes = {
        "sluice verifies what model_signing signed": made and pair.ours("verify", pair.public),
        "a TrustPolicy admits what model_signing signed": made and _admitted(pair),
        "sluice refuses another key": not pair.ours("verify", stranger),
    }
    pair.change()
    return {**outcomes, "sluice refuses a changed file": not pair.ours("verify", pair.public)}


def _admitted(pair: Pair) -> bool:
    report = resolve(fetch(str(pair.package), pair.package.parent / "fetched"))
    package = PackageInfo.model_validate({**report, "class": "Code"})
    line = {"signer": {"name": "peer", "publicKey": pair.public.read_text()}}
    policy = TrustPolicySpec.model_validate({"namespaces": ["team"], "admit": [line]})
    found = admitted(package, "team", [policy], 0.0)
    return found is not None and found.signer == "peer"


def main() -> int:
    """Print the table; 1 when a check failed or the peer is missing."""
    try:
        python = environment(PINNED)
    except Missing as missing:
        print(f"model-signing NOT ASKED: {missing}")
        return 1
    failed = 0
    sides: tuple[Callable[[Pair, Path], dict[str, bool]], ...]
    sides = (ours_read_by_theirs, theirs_read_by_ours)
    for curve in CURVES:
        for side in sides:
            with tempfile.TemporaryDirectory() as made:
                place = Path(made)
                stranger = place / "stranger.pub"
                stranger.write_text(pem_of(ec.generate_private_key(curve).public_key()))
                outcomes = side(Pair(place, curve, python), stranger)
            for check, passed in outcomes.items():
                print(f"{curve.name:<10} {check:<50} {'passed' if passed else 'FAILED'}")
            failed += sum(not passed for passed in outcomes.values())
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
