"""A string that should not have done what it did: shortened, written down, read again."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path

from tests.fuzz.run import answer_alone
from tests.fuzz.strings import Sent
from tests.fuzz.target import Failure, Target

PLACE = Path("build/fuzz")
TRIES = 2000


async def report(target: Target, failure: Failure) -> None:
    """Print the failure, the shortest string that does the same, and how to repeat it."""
    shortest = await shorten(target, failure)
    path = PLACE / f"{hashlib.sha256(shortest.data).hexdigest()[:12]}.bin"
    write(path, shortest)
    print(f"FAILED: {failure.what}")
    print(f"  kind {shortest.kind}, {len(shortest.data)} bytes, written to {path}:")
    print(f"  {shortest.data[:400]!r}")
    print(f"  again: PYTHONPATH=operator:. .venv/bin/python -m tests.fuzz --repeat {path}")


async def shorten(target: Target, failure: Failure) -> Sent:
    """Take pieces away as long as it still fails in the same way."""
    best = failure.sent
    if await _fails(target, plain := Sent(best.kind, best.data), failure):
        best = plain
    tries, size = 0, max(1, len(best.data) // 2)
    while size and tries < TRIES:
        at = 0
        while at < len(best.data) and tries < TRIES:
            data = best.data[:at] + best.data[at + size :]
            cuts = tuple(c for c in best.cuts if c < len(data))
            shorter = dataclasses.replace(best, data=data, cuts=cuts)
            tries += 1
            if await _fails(target, shorter, failure):
                best = shorter
            else:
                at += size
        size //= 2
    return best


async def _fails(target: Target, sent: Sent, like: Failure) -> bool:
    try:
        await answer_alone(target, sent)
    except Failure as failure:
        return failure.what.split(":")[0] == like.what.split(":")[0]
    return False


def write(path: Path, sent: Sent) -> None:
    """A line of JSON, then the bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    about = {"kind": sent.kind, "cuts": sent.cuts, "hangs_up": sent.hangs_up}
    path.write_bytes(json.dumps(about).encode() + b"\n" + sent.data)


def read(path: Path) -> Sent:
    """What ``write`` wrote."""
    line, _, data = path.read_bytes().partition(b"\n")
    about = json.loads(line)
    return Sent(about["kind"], data, tuple(about["cuts"]), about["hangs_up"])
