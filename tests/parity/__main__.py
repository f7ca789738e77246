"""`make parity`: every kind of model, packaged, beside scikit-learn; fails when they differ.

    python -m tests.parity [--quick] [--only forest,SVC] [--rows 100000]

Data and models have fixed seeds.  The table goes to docs/parity.md after a full run.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from tests.parity import page
from tests.parity.compare import Result, compare
from tests.parity.kinds import KINDS

ROOT = Path(__file__).parents[2]
ROWS, QUICK_ROWS = 100_000, 2_000


def main() -> int:
    """The exit code: 0 when no kind differs."""
    chosen = _arguments()
    wanted = [part.lower() for part in chosen.only.split(",") if part]
    kinds = [k for k in KINDS if not wanted or any(part in k.name.lower() for part in wanted)]
    if not kinds:
        print(f"{chosen.only}: no such kind; there are {', '.join(k.name for k in KINDS)}.")
        return 2
    rows = chosen.rows or (QUICK_ROWS if chosen.quick else ROWS)
    begun = time.monotonic()
    results: list[Result] = []
    with tempfile.TemporaryDirectory() as scratch:
        for number, kind in enumerate(kinds):
            results.append(compare(kind, rows, Path(scratch) / str(number)))
            print(page.progress(number + 1, len(kinds), results[-1]), flush=True)
    if not chosen.quick and not chosen.only:
        (ROOT / "docs" / "parity.md").write_text(page.text(results, rows))
    print(f"== {page.summary(results)} ({time.monotonic() - begun:.0f} s)")
    return 0 if all(result.holds for result in results) else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.parity")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_ROWS:,} rows, no page")
    parser.add_argument("--only", default="", help="kinds whose name has one of these words")
    parser.add_argument("--rows", type=int, default=0, help=f"rows a kind (default {ROWS:,})")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
