"""Plots of the report, when matplotlib is installed.

Called by tests.stats_report.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.stats_report.rows import Row

SALT = "sluice"
OURS, CLAIM = "#3b6ea5", "#b3402a"
COLOURS = (OURS, "#d08c2e", "#4f8a4c")


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
        promoted = [row.points for row in rows if "promoted" in row.points]
        if promoted:
            drawn.append(_promoted(folder / f"{name}.svg", promoted))
    return drawn


def _shares(path: Path, title: str, rows: list[tuple[str, Any]]) -> Path:
    """Measured shares as bars, what is claimed as a tick on each."""
    figure, axes = _canvas(title, [case for case, _ in rows], "runs that fired, %")
    places = range(len(rows))
    axes.barh(places, [100 * points["share"] for _, points in rows], height=0.6, color=OURS)
    claimed = [100 * points["alpha"] for _, points in rows]
    axes.plot(
        claimed,
        places,
        "|",
        color=CLAIM,
        markersize=11,
        markeredgewidth=2,
        label="claim: at most this",
    )
    axes.set_xlim(0.0, 1.15 * max(claimed + [100 * points["share"] for _, points in rows]))
    _legend(axes)
    return _saved(figure, path)


def _medians(path: Path, title: str, rows: list[tuple[str, Any]]) -> Path:
    """Measured times over the reference's, with the 25 % that are allowed."""
    label = "requests or units needed, as a multiple of the reference"
    figure, axes = _canvas(title, [case for case, _ in rows], label)
    ratios = [points["median"] / points["reference"] for _, points in rows]
    axes.axvspan(0.75, 1.25, color=CLAIM, alpha=0.12, label="claim: within 25 %")
    axes.axvline(1.0, color=CLAIM, linewidth=0.8)
    axes.plot(ratios, range(len(rows)), "o", color=OURS, markersize=5)
    axes.set_xlim(0.0, max(1.6, 1.1 * max(ratios)))
    _legend(axes)
    return _saved(figure, path)


def _promoted(path: Path, points: list[Any]) -> Path:
    """How often a candidate is promoted, by how much oftener it fails: one panel a traffic."""
    from matplotlib import pyplot

    rates = sorted({p["rps"] for p in points})
    figure, panels = pyplot.subplots(1, len(rates), figsize=(3.0 * len(rates), 3.2), sharey=True)
    for axes, rps in zip(panels, rates, strict=True):
        for base, colour in zip(sorted({p["base"] for p in points}), COLOURS, strict=False):
            line = [p for p in points if p["rps"] == rps and p["base"] == base]
            axes.plot(
                [p["factor"] for p in line],
                [100 * p["promoted"] for p in line],
                "o-",
                color=colour,
                markersize=4,
                label=f"stable fails {100 * base:g} %",
            )
        axes.axhline(2.5, color=CLAIM, linewidth=0.8, linestyle="--", label="2.5 %")
        axes.set_title(f"{rps:,.0f} requests/s", fontsize=10)
        axes.set_xlabel("candidate fails so many times as often", fontsize=8)
        axes.set_xticks([1.5, 2, 3, 6], ["1.5", "2", "3", "6"])
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("runs promoted, %")
    panels[-1].legend(fontsize=8, frameon=False)
    figure.suptitle("Promotion of candidates that fail more often", fontsize=11)
    figure.tight_layout()
    return _saved(figure, path)


def _canvas(title: str, cases: list[str], label: str) -> tuple[Any, Any]:
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9.0, 1.2 + 0.28 * len(cases)))
    axes.set_title(title, loc="left", fontsize=11)
    axes.set_yticks(range(len(cases)), cases, fontsize=8)
    axes.set_xlabel(label, fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="x", linewidth=0.4, alpha=0.5)
    axes.set_axisbelow(True)
    axes.set_ylim(len(cases) - 0.4, -0.6)
    return figure, axes


def _legend(axes: Any) -> None:
    """Below the axis, where no bar can be."""
    axes.legend(loc="upper right", bbox_to_anchor=(0.0, 0.0), fontsize=8, frameon=False)


def _saved(figure: Any, path: Path) -> Path:
    from matplotlib import pyplot

    figure.savefig(path, format="svg", bbox_inches="tight", metadata={"Date": None})
    pyplot.close(figure)
    return path
