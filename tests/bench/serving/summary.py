"""From what was seen to medians, ratios, a table and the promises.

Called by ``tests.bench.serving``; pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields
from statistics import median

from tests.bench.rows import Row, at_most
from tests.bench.serving.measure import Cell, Seen
from tests.bench.serving.models import KINDS
from tests.bench.serving.servers import ALL, BARE, EXPERT, KSERVE, MLSERVER, OURS, TUTORIAL

Found = Mapping[tuple[str, str], Seen]
"""By kind of model and name of server: medians of the rounds."""

TITLES = {server.name: f"{server.title} {server.version}".strip() for server in ALL}
AT = 16
"""Connections of the promises."""
FASTER = {KSERVE: 15.0, MLSERVER: 12.0, TUTORIAL: 14.0, EXPERT: 2.5}
FOREST = 100.0
WIDTH = 32


def middle(rounds: Iterable[Seen]) -> Seen:
    """The median of every number."""
    seen = list(rounds)
    cells = {
        load: Cell(
            *(median(getattr(one.cells[load], f.name) for one in seen) for f in fields(Cell))
        )
        for load in seen[0].cells
    }
    return Seen(
        median(one.cold for one in seen),
        median(one.cold_cpu for one in seen),
        median(one.memory for one in seen),
        max(one.processes for one in seen),
        cells,
    )


def ratios(found: Found, kind: str, name: str, load: int) -> tuple[float, float]:
    """How many times the CPU of ours a request, and how many times fewer requests a second."""
    ours, other = found[kind, OURS].cells[load], found[kind, name].cells[load]
    return other.cpu / ours.cpu, ours.rate / other.rate


def table(found: Found, loads: tuple[int, ...]) -> str:
    """One block a model; ratios are of CPU a request and of requests a second."""
    blocks = []
    for kind in dict.fromkeys(kind for kind, _ in found):
        groups = "".join(f"{f'{load} connections':>42}" for load in loads)
        columns = f"{'req/s':>9}{'p50':>7}{'p99':>8}{'us CPU':>8}{'ratios':>10}"
        lines = [
            f"{KINDS[kind]:<{WIDTH}}{groups}",
            f"{'':<{WIDTH}}{columns * len(loads)}{'PSS MB':>8}{'start s':>9}{'load':>6}",
        ]
        lines += [_line(found, kind, name, loads) for k, name in found if k == kind]
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def _line(found: Found, kind: str, name: str, loads: tuple[int, ...]) -> str:
    seen = found[kind, name]
    text = f"{TITLES[name]:<{WIDTH}}"
    for load in loads:
        cell = seen.cells[load]
        said = "x/".join(
            f"{r:.1f}" if r < 10 else f"{r:.0f}" for r in _both(found, kind, name, load)
        )
        text += (
            f"{cell.rate:>9,.0f}{cell.p50:>7.1f}{cell.p99:>8.1f}{cell.cpu:>8,.0f}{said + 'x':>10}"
        )
    busy = max(cell.load_busy for cell in seen.cells.values())
    return f"{text}{seen.memory:>8.0f}{seen.cold:>9.2f}{busy:>6.0%}"


def _both(found: Found, kind: str, name: str, load: int) -> tuple[float, ...]:
    return ratios(found, kind, name, load) if (kind, OURS) in found else ()


def promises(found: Found) -> list[Row]:
    """What the design promised and these numbers can say; judged by CPU a request."""
    rows = []
    if ("iris", OURS) in found:
        rows += [
            _faster(found, "iris", name, least)
            for name, least in FASTER.items()
            if ("iris", name) in found
        ]
        rows += _own(found["iris", OURS])
    if ("iris", OURS) in found and ("iris", KSERVE) in found:
        ours, other = (found["iris", name].cells[AT].p99 for name in (OURS, KSERVE))
        text = f"{ours:.1f} of {other:.1f} ms"
        rows.append(at_most("p99 at 16 connections", "<= 1/4 of KServe's", other / 4, ours, text))
    if ("forest", OURS) in found and ("forest", KSERVE) in found:
        rows.append(_faster(found, "forest", KSERVE, FOREST))
    if ("iris", OURS) in found and ("iris", BARE) in found:
        full, bare = (found["iris", name].cells[AT].cpu for name in (OURS, BARE))
        text = f"{full - bare:+.1f} us of {full:.1f}"
        rows.append(at_most("features, CPU a request", "<= 10 us", 10.0, full - bare, text))
    return rows


def _faster(found: Found, kind: str, name: str, least: float) -> Row:
    cpu, rate = ratios(found, kind, name, AT)
    text = f"{cpu:.1f}x by CPU a request, {rate:.1f}x by requests/s"
    what = f"{KINDS[kind]}, 16 connections, to {TITLES[name]}"
    return at_most(what, f">= {least:g}x", 1 / least, 1 / cpu, text)


def _own(seen: Seen) -> list[Row]:
    return [
        at_most("cold start, small ONNX package", "<= 1 s", 1.0, seen.cold, f"{seen.cold:.2f} s"),
        at_most(
            "memory (PSS) after load, the same", "<= 60 MB", 60.0, seen.memory,
            f"{seen.memory:.0f} MB",
        ),
    ]  # fmt: skip


def generator(found: Found) -> str:
    """Whether the load generator was ever what was measured."""
    busiest = max(
        (cell.load_busy, name, load)
        for (_, name), seen in found.items()
        for load, cell in seen.cells.items()
    )
    busy, name, load = busiest
    said = "never the limit" if busy < 0.9 else "THE LIMIT THERE: that ratio is a lower bound"
    return (
        f"load generator: at most {busy:.0%} of its own core ({TITLES[name]}, {load} connections),"
        f" {said}"
    )
