"""Our model server beside its peers: `make bench-serving` (QUICK=1 for a minute's look).

Every peer has its own pinned environment, made here and kept; every answer is compared with the
model; servers take turns on one core while the load has the other.  The numbers also go to
build/serving.json.  How to read them: docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from tests.bench.__main__ import ROOT, shown
from tests.bench.serving import environments, measure, models, plot, summary
from tests.bench.serving.servers import ALL, QUICK, Server

LOADS = (1, 16, 64)
TOLERANCE = 2.0
"""A quick look on a shared machine fails at twice what is allowed, not before."""


@dataclass
class Taken:
    """Everything seen, and what could not be."""

    seen: dict[tuple[str, str], list[measure.Seen]] = field(default_factory=dict)
    failed: dict[tuple[str, str], str] = field(default_factory=dict)

    def add(self, kind: str, server: Server, python: Path, model: models.Model, folder: Path,
            loads: tuple[int, ...], seconds: int) -> None:  # fmt: skip
        """One server started once; a failure takes all its numbers for that model away."""
        key = (kind, server.name)
        if key in self.failed:
            return
        try:
            one = measure.run(server, python, model, folder, loads, seconds)
        except measure.Failed as error:
            self.failed[key] = str(error)
            self.seen.pop(key, None)
        else:
            self.seen.setdefault(key, []).append(one)
        _say(f"    {server.title}: {self.failed.get(key, 'ok')}")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def interpreters(servers: list[Server], taken: Taken, kinds: list[str]) -> dict[str, Path]:
    """By server; one whose environment cannot be had here has failed with that reason."""
    found = {}
    for server in servers:
        try:
            _say(f"... environment of {server.title}")
            name = server.environment
            found[server.name] = Path(sys.executable) if name is None else environments.python(name)
        except environments.NotInstalled as error:
            taken.failed |= {(kind, server.name): f"not installed: {error}" for kind in kinds}
    return found


def take(servers: list[Server], kinds: list[str], rounds: int, seconds: int,
         loads: tuple[int, ...]) -> Taken:  # fmt: skip
    """Rounds interleaved: every server once, then every server again."""
    taken = Taken()
    measure.need_tools()
    pythons = interpreters(servers, taken, kinds)
    with tempfile.TemporaryDirectory(prefix="sluice-serving-") as place:
        made = {kind: models.build(kind, Path(place) / kind) for kind in kinds}
        for turn in range(rounds):
            for kind, model in made.items():
                _say(f"... round {turn + 1} of {rounds}: {models.KINDS[kind]}")
                for server in servers:
                    if server.name in pythons:
                        folder = Path(place) / f"{turn}-{kind}-{server.name}"
                        python = pythons[server.name]
                        taken.add(kind, server, python, model, folder, loads, seconds)
    return taken


def keep(path: Path, where: str, found: summary.Found, taken: Taken) -> None:
    """The numbers as a document."""
    path.parent.mkdir(exist_ok=True)
    results = [
        {"model": kind, "server": name, "title": summary.TITLES[name],
         "rounds": len(taken.seen[kind, name]), **asdict(seen)}
        for (kind, name), seen in found.items()
    ]  # fmt: skip
    failed = [{"model": k, "server": n, "reason": why} for (k, n), why in taken.failed.items()]
    rows = [{**asdict(row), "verdict": row.verdict} for row in summary.promises(found)]
    about = {"where": where, "results": results, "notMeasured": failed, "promises": rows}
    path.write_text(json.dumps(about, indent=1))


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="make bench-serving", description=__doc__)
    parser.add_argument("--quick", action="store_true", help=f"{', '.join(QUICK)}, iris, 16")
    parser.add_argument("--only", default="", help="some servers, by name, with commas")
    parser.add_argument("--models", default="", help=f"some of {','.join(models.KINDS)}")
    parser.add_argument("--rounds", type=int, help="times each server is started (3; quick: 2)")
    parser.add_argument("--seconds", type=int, help="of each load (6; quick: 2)")
    parser.add_argument("--plot", type=Path, default=ROOT / "build" / "serving.svg")
    return parser.parse_args()


def _chosen(given: str, known: list[str]) -> list[str]:
    names = given.split(",") if given else known
    if unknown := set(names) - set(known):
        sys.exit(f"There is no {', '.join(sorted(unknown))}; there are {', '.join(known)}.")
    return names


def main() -> int:
    """Measures, prints, keeps; 1 when ours failed or, quickly, is far from what was promised."""
    options = arguments()
    quick = options.quick
    names = _chosen(options.only or (",".join(QUICK) if quick else ""), [s.name for s in ALL])
    kinds = _chosen(options.models or ("iris" if quick else ""), list(models.KINDS))
    loads = (summary.AT,) if quick else LOADS
    rounds, seconds = options.rounds or (2 if quick else 3), options.seconds or (2 if quick else 6)
    before = os.getloadavg()[0]
    servers = [server for server in ALL if server.name in names]
    try:
        taken = take(servers, kinds, rounds, seconds, loads)
    except measure.Failed as error:
        sys.exit(str(error))
    order = [(kind, name) for kind in kinds for name in names if (kind, name) in taken.seen]
    found = {key: summary.middle(taken.seen[key]) for key in order}
    where = (
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, Python {platform.python_version()}, server and"
        f" load on a core each, {rounds} rounds of {seconds} s, load average {before:.1f} ->"
        f" {os.getloadavg()[0]:.1f}"
    )
    rows = summary.promises(found)
    if found:
        print(summary.table(found, loads))
        print("\nratios: CPU a request / requests a second, of ours with all features.")
        print(f"{summary.generator(found)}.\n")
    for (kind, name), why in taken.failed.items():
        print(f"not measured: {summary.TITLES[name]}, {models.KINDS[kind]}: {why}")
    print("\n".join(map(shown, rows)))
    print(f"{where}. See docs/benchmarks.md.")
    keep(ROOT / "build" / "serving.json", where, found, taken)
    if found and not quick:
        plot.write(options.plot, found)
    own = any(name.startswith("sluice") for _, name in taken.failed)
    far = any(row.share is not None and row.share > TOLERANCE for row in rows)
    return int(own or not found or (quick and far))


if __name__ == "__main__":
    sys.exit(main())
