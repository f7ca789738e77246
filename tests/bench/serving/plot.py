"""The picture of the comparison, when matplotlib is installed.

Called by ``tests.bench.serving``.
"""

from __future__ import annotations

from pathlib import Path

from tests.bench.serving.models import KINDS
from tests.bench.serving.servers import ALL
from tests.bench.serving.summary import AT, TITLES, Found

LEFT = 10.0
"""Microseconds where every bar begins."""
OWN, PEER = "#3b6ea5", "#b9bdc4"


def write(path: Path, found: Found) -> bool:
    """CPU of one request at 16 connections, one panel a model; False without matplotlib."""
    try:
        import matplotlib
    except ImportError:
        return False
    matplotlib.use("svg")
    # The same picture for the same numbers: no random ids, no date.
    matplotlib.rcParams["svg.hashsalt"] = "sluice"
    from matplotlib.figure import Figure

    kinds = list(dict.fromkeys(kind for kind, _ in found))
    names = [s.name for s in reversed(ALL) if any((kind, s.name) in found for kind in kinds)]
    height = 1.3 + 0.3 * len(names)
    figure = Figure(figsize=(2.6 + 2.9 * len(kinds), height), layout="constrained")
    panels = figure.subplots(1, len(kinds), squeeze=False, sharex=True)[0]
    for axes, kind in zip(panels, kinds, strict=True):
        shown = [(n, found[kind, n].cells[AT].cpu) for n in names if (kind, n) in found]
        colours = [OWN if name.startswith("sluice") else PEER for name, _ in shown]
        bars = axes.barh([TITLES[n] for n, _ in shown], [cpu for _, cpu in shown], color=colours)
        axes.bar_label(bars, [f"{cpu:,.0f}" for _, cpu in shown], padding=3, fontsize=8)
        axes.set_title(KINDS[kind], fontsize=10)
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
        if kind != kinds[0]:
            axes.set_yticklabels([])
    panels[0].set_xscale("log")
    panels[0].set_xlim(LEFT, 5 * max(seen.cells[AT].cpu for seen in found.values()))
    figure.supxlabel(f"CPU microseconds a request, one row, {AT} connections (log)", fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})
    return True
