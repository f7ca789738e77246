"""The report as Markdown tables.

Called by tests.stats_report.
"""

from __future__ import annotations

from pathlib import Path

from tests.stats_report.rows import Row

HEAD = """# What the simulations say

Written by `make stats-report`: {runs:,} runs a cell, fixed seeds, the same functions of
`sluice.stats` that judge live traffic. `ok` is a claim that holds, **fails** one that does not,
`-` a line that claims nothing and is there to be compared with. What the methods are, and where
they fail: [statistics.md](statistics.md).
"""


def text(results: dict[str, list[Row]]) -> str:
    """Every table."""
    return "\n\n".join(_table(title, rows) for title, rows in results.items())


def write(docs: Path, results: dict[str, list[Row]], runs: int, plots: list[Path]) -> None:
    """docs/statistics-report.md, with the plots at its end."""
    images = "".join(f"\n![{p.stem}]({p.relative_to(docs)})\n" for p in plots)
    body = f"{HEAD.format(runs=runs)}\n{text(results)}\n{images}"
    (docs / "statistics-report.md").write_text(body, encoding="utf-8")


def _table(title: str, rows: list[Row]) -> str:
    """Rows of the same columns together: no column is empty for most of its rows."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row.cells), []).append(row)
    parts = [_grid(list(columns), found) for columns, found in groups.items()]
    return f"## {title}\n\n" + "\n\n".join(parts)


def _grid(columns: list[str], rows: list[Row]) -> str:
    lines = [
        f"| case | {' | '.join(columns)} | |",
        f"|---|{'---|' * (len(columns) + 1)}",
    ]
    for row in rows:
        mark = {True: "ok", False: "**fails**", None: "-"}[row.holds]
        cells = " | ".join(row.cells[name] for name in columns)
        lines.append(f"| {row.case} | {cells} | {mark} |")
    return "\n".join(lines)
