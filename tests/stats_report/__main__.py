"""`make stats-report`: simulates what docs/statistics.md claims, and fails when a claim does.

    python -m tests.stats_report [--quick] [--only errors,power] [--runs 1000] [--jobs 2]

Every cell has a fixed seed and draws whole looks, so the report is the same on every machine.
Tables go to docs/statistics-report.md, plots to docs/img/ when matplotlib is installed.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
from pathlib import Path

from tests.stats_report import (
    business,
    errors,
    ladder,
    latencies,
    oracles,
    page,
    plots,
    power,
    promotion,
    rollout,
    values,
)
from tests.stats_report.rows import Cell, Row

ROOT = Path(__file__).parents[2]
PARTS = {
    "errors": errors,
    "latency": latencies,
    "rollout": rollout,
    "power": power,
    "promotion": promotion,
    "values": values,
    "ladder": ladder,
    "business": business,
    "oracles": oracles,
}
QUICK_RUNS = 200

Results = dict[str, list[Row]]


def main() -> int:
    """The exit code: 0 when every claim holds."""
    chosen = _arguments()
    names = chosen.only.split(",") if chosen.only else list(PARTS)
    unknown = [name for name in names if name not in PARTS]
    if unknown:
        print(f"{', '.join(unknown)}: no such part; there are {', '.join(PARTS)}.")
        return 2
    runs = chosen.runs or (QUICK_RUNS if chosen.quick else 1000)
    cells = [cell for name in names for cell in PARTS[name].cells()]
    begun = time.monotonic()
    results = _simulated(cells, runs, chosen.jobs)
    broken = [row for rows in results.values() for row in rows if row.holds is False]
    print(page.text(results), flush=True)
    if not chosen.quick and not chosen.only:
        drawn = plots.write(ROOT / "docs" / "img", results)
        page.write(ROOT / "docs", results, runs, drawn)
    took = time.monotonic() - begun
    print(f"== {len(cells)} cells of {runs:,} runs in {took:.0f} s, {len(broken)} claims fail")
    return 1 if broken else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.stats_report")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_RUNS} runs a cell, no page")
    parser.add_argument("--only", default="", help=f"some of {', '.join(PARTS)}")
    parser.add_argument("--runs", type=int, default=0, help="runs a cell (default 1,000)")
    parser.add_argument("--jobs", type=int, default=2, help="processes (default 2)")
    return parser.parse_args()


def _simulated(cells: list[Cell], runs: int, jobs: int) -> Results:
    # One thread per process: the arrays are small, and threads would fight over the cores.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    results: Results = {}
    tasks = [(index, runs) for index in range(len(cells))]
    with multiprocessing.get_context("fork").Pool(jobs, _remember, (cells,)) as pool:
        for done, (index, rows, seconds) in enumerate(pool.imap(_run, tasks), 1):
            cell = cells[index]
            results.setdefault(cell.table, []).extend(rows)
            marks = " ".join(_mark(row) for row in rows)
            print(f"[{done}/{len(cells)}] {cell.table}: {cell.name}, {seconds:.1f} s {marks}")
            sys.stdout.flush()
    return results


Outcome = tuple[int, list[Row], float]
_cells: list[Cell] = []


def _remember(cells: list[Cell]) -> None:
    _cells[:] = cells


def _run(task: tuple[int, int]) -> Outcome:
    index, runs = task
    begun = time.process_time()
    cell = _cells[index]
    return index, cell.run(cell.rng(), runs), time.process_time() - begun


def _mark(row: Row) -> str:
    return {True: "ok", False: "FAILS", None: "-"}[row.holds]


if __name__ == "__main__":
    sys.exit(main())
