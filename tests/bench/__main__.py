"""The table of targets: `make bench` (QUICK=1 for a short look, ONLY=stats,router for a part).

Each bench is a module with ``run(quick) -> list[Row]``.  The numbers also go to build/bench.json.
How to read them: docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import resource
import sys
import textwrap
import time
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from tests.bench.rows import Row

ROOT = Path(__file__).parents[2]
BENCHES = ("stats", "router", "runtime", "local", "operator")

LATER = (
    Row("0.2 -> 0.6 % errors at 100 requests/s, 5-50 % ramp", "found in >= 99 %, median <= 420 s"),
    Row("false rollback of an equal candidate, shared outage included", "<= 1 % a rollout"),
    Row("metrics source down 10 min in a canary", "0 aborts, weight frozen"),
    Row("10,000 idle ModelDeployments", "<= 1 % of a core, <= 350 MB"),
    Row("prediction log", "<= 5 us CPU a record, nothing lost or repeated through kill -9"),
    Row("drift counting", "<= 1.5 us a row"),
    Row("batch", "<= 260 MB at any input size; 20 kills, 0 lost, 0 duplicate rows"),
    Row("hostile model files", "0 execute without a TrustPolicy (make test: package, jobs)"),
)
"""Promised, and not measured by this command."""

WIDTHS = (46, 34, 44)


def cpu_seconds() -> float:
    """Of this process and its ended children."""
    both = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(u.ru_utime + u.ru_stime for u in map(resource.getrusage, both))


def shown(row: Row) -> str:
    """The row as lines of the table."""
    cells = zip((row.what, row.target, row.measured), WIDTHS, strict=True)
    columns = [textwrap.wrap(text, width) or [""] for text, width in cells]
    share = "" if row.share is None else f"{row.share:.2f}x"
    lines = []
    for number in range(max(map(len, columns))):
        parts = [
            (column[number] if number < len(column) else "").ljust(width)
            for column, width in zip(columns, WIDTHS, strict=True)
        ]
        end = f"{share:>8}  {row.verdict}" if number == 0 else ""
        lines.append(("  ".join(parts) + end).rstrip())
    return "\n".join(lines)


def measured(name: str, quick: bool) -> list[Row]:
    """One bench; a failure is a row, not the end."""
    begun, load = time.monotonic(), os.getloadavg()[0]
    spent = cpu_seconds()
    print(f"... {name}", file=sys.stderr, flush=True)
    try:
        rows = list(importlib.import_module(f"tests.bench.bench_{name}").run(quick))
    except Exception as error:
        rows = [Row(name, "", f"failed: {type(error).__name__}: {str(error)[:150]}", met=False)]
    said = (
        f"... {name}: {time.monotonic() - begun:.0f} s, {cpu_seconds() - spent:.1f} CPU s here,"
        f" load {load:.1f} -> {os.getloadavg()[0]:.1f}"
    )
    print(said, file=sys.stderr, flush=True)
    return rows


def main() -> int:
    """Measures, prints, keeps."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="about three minutes")
    parser.add_argument("--only", default="", help=f"some of {','.join(BENCHES)}")
    options = parser.parse_args()
    names = options.only.split(",") if options.only else list(BENCHES)
    if unknown := set(names) - set(BENCHES):
        parser.error(f"there is no bench {', '.join(sorted(unknown))}")
    begun, load = time.monotonic(), os.getloadavg()[0]
    rows = [row for name in names for row in measured(name, options.quick)]
    if not options.only:
        rows += LATER
    head = Row("what", "target", "measured here")
    print(shown(head).replace("not measured here", "").rstrip() + "   share  ")
    print("-" * 150)
    for row in rows:
        print(shown(row))
    where = (
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {os.cpu_count()} cores, Python"
        f" {platform.python_version()}, load {load:.1f} -> {os.getloadavg()[0]:.1f},"
        f" {time.monotonic() - begun:.0f} s{', quick' if options.quick else ''}"
    )
    print(f"{where}. share: measured part of what is allowed. See docs/benchmarks.md.")
    keep = ROOT / "build" / "bench.json"
    keep.parent.mkdir(exist_ok=True)
    about = {"where": where, "rows": [{**asdict(r), "verdict": r.verdict} for r in rows]}
    keep.write_text(json.dumps(about, indent=1))
    return int(any(row.measured.startswith("failed:") for row in rows))


if __name__ == "__main__":
    sys.exit(main())
