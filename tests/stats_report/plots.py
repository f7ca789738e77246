"""Plots of the report, when matplotlib is installed.

Called by tests.stats_report.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.stats_report.rows import Row

SALT = "sluice"


def write(folder: Path, results: dict[str, list[Row]]) -> list[Path]:
    """SVG files in ``folder``; none without matplotlib."""
    try:
        import matplotlib
    except ImportError:
        return []
    matplotlib.use("svg")
    # The same picture for the same numbers: no random ids, no date.
    matplotlib.rcParams["svg.hashsalt"] = SALT
    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    for title, rows in results.items():
        shares = [(row.case, row.points) for row in rows if "alpha" in row.points]
        medians = [(row.case, row.points) for row in rows if "reference" in row.points]
        name = title.lower().replace(" ", "-")
        if shares:
            drawn.append(_shares(folder / f"{name}.svg", title, shares))
        if medians:
            drawn.append(_medians(folder / f"{name}-medians.svg", title, medians))
    return drawn


def _shares(path: Path, title: str, rows: list[tuple[str, Any]]) -> Path:
    """Measured shares as bars, what is claimed as a tick on each."""
    figure, axes = _canvas(title, [case for case, _ in rows], "runs, %")
    axes.barh(range(len(rows)), [100 * points["share"] for _, points in rows], height=0.6)
    claimed = [100 * points["alpha"] for _, points in rows]
    axes.plot(claimed, range(len(rows)), "|", color="black", markersize=14, label="claim")
    axes.legend(loc="lower right")
    return _saved(figure, path)


def _medians(path: Path, title: str, rows: list[tuple[str, Any]]) -> Path:
    """Measured medians over the reference's, with the 25 % that are allowed."""
    figure, axes = _canvas(title, [case for case, _ in rows], "median / reference")
    ratios = [points["median"] / points["reference"] for _, points in rows]
    axes.plot(ratios, range(len(rows)), "o")
    axes.axvspan(0.75, 1.25, alpha=0.15)
    axes.set_xlim(left=0.0)
    return _saved(figure, path)


def _canvas(title: str, cases: list[str], label: str) -> tuple[Any, Any]:
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9.0, 1.2 + 0.28 * len(cases)))
    axes.set_title(title)
    axes.set_yticks(range(len(cases)), cases, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel(label)
    return figure, axes


def _saved(figure: Any, path: Path) -> Path:
    from matplotlib import pyplot

    figure.savefig(path, format="svg", bbox_inches="tight", metadata={"Date": None})
    pyplot.close(figure)
    return path
