"""The picture of ``sluice judge --plot``: effect with its confidence sequence, and the evidence.

Called by sluice.cli.judge.  matplotlib is the extra ``plot`` and is imported only here.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sluice.errors import InvalidInputError, SluiceError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, GREY, BLUE, RED = "#1f2933", "#7b8794", "#1f6feb", "#c62828"
STYLE: dict[Any, Any] = {
    "font.size": 10.5,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": GREY,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "svg.hashsalt": "sluice",
    "svg.fonttype": "none",
}


def draw(target: Path, name: str, rows: list[dict[str, Any]], words: dict[str, Any]) -> None:
    """Write ``target`` (.svg or .png) with the judged ``rows`` of the file ``name``.

    InvalidInputError when ``target`` cannot be written, SluiceError without matplotlib.
    """
    if target.suffix not in (".svg", ".png"):
        raise InvalidInputError(f"--plot {target} is neither .svg nor .png.")
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        raise SluiceError(
            "--plot needs matplotlib.", hint="pip install 'sluice-operator[plot]'"
        ) from error
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9.0, 6.4), layout="constrained")
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
        # A file may be called anything, also what matplotlib would read as a formula.
        above.set_title(
            _title(name, rows, words),
            loc="left",
            parse_math=False,
            fontsize=13,
            weight="bold",
            pad=26,
        )
        _draw_effect(above, rows, words)
        _draw_evidence(below, rows, words)
        metadata = {"Date": None} if target.suffix == ".svg" else {}
        try:
            figure.savefig(target, dpi=150, metadata=metadata)
        except OSError as error:
            raise InvalidInputError(f"{target} cannot be written: {error.strerror}.") from error


def _title(name: str, rows: list[dict[str, Any]], words: dict[str, Any]) -> str:
    proven = next((r["look"] for r in rows if r["verdict"] == "Fail"), None)
    verdict = "inconclusive so far" if proven is None else f"fails since look {proven}"
    return f"{name}: {verdict} (α = {words['alpha']:g})"


def _draw_effect(axes: Axes, rows: list[dict[str, Any]], words: dict[str, Any]) -> None:
    looks = [r["look"] for r in rows]
    columns = {k: [_known(r[k]) for r in rows] for k in ("estimate", "low", "high", "margin")}
    low, high = _limits(columns, ratio=words["ratio"])
    if words["ratio"]:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("{x:g}")
    # A bound beyond what the engine looks at lies beyond the picture as well.
    floor = [low if math.isnan(v) else v for v in columns["low"]]
    roof = [high if math.isnan(v) else v for v in columns["high"]]
    axes.fill_between(
        looks,
        floor,
        roof,
        color=BLUE,
        alpha=0.16,
        lw=0,
        label=f"{100 * (1 - words['alpha']):.7g} % confidence sequence (may be looked at any time)",
    )
    marker = "o" if len(rows) <= 40 else ""
    axes.plot(
        looks, columns["estimate"], color=BLUE, lw=1.8, marker=marker, ms=3.5, label="estimate"
    )
    axes.plot(looks, columns["margin"], color=RED, lw=1.4, ls="--", label=words["margin"])
    axes.set_ylim(low, high)
    axes.set_ylabel(words["effect"])
    # Above the axes, where no line can run behind it.
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(0.0, 1.0),
        ncols=3,
        frameon=False,
        fontsize=9,
        borderaxespad=0.2,
        columnspacing=1.6,
    )
    axes.grid(axis="y", color=GREY, alpha=0.2)


def _draw_evidence(axes: Axes, rows: list[dict[str, Any]], words: dict[str, Any]) -> None:
    looks, need = [r["look"] for r in rows], words["need"]
    evidence = [r["log10_evidence"] for r in rows]
    marker = "o" if len(rows) <= 40 else ""
    axes.plot(looks, evidence, color=INK, lw=1.8, marker=marker, ms=3.5)
    axes.axhline(need, color=RED, lw=1.4, ls="--")
    # On the side of the threshold where the last evidence is not.
    above = evidence[-1] < need
    axes.annotate(
        f"enough at {need:.3g} (1 : {10**need:,.0f})",
        (1.0, need),
        xycoords=("axes fraction", "data"),
        xytext=(-2, 4 if above else -4),
        textcoords="offset points",
        ha="right",
        va="bottom" if above else "top",
        color=RED,
        fontsize=9,
    )
    axes.set_ylim(
        max(-2.0 * need, min(-0.5, *evidence) * 1.1), max(1.35 * need, max(evidence) * 1.08)
    )
    axes.set_ylabel("evidence,\nlog10")
    axes.set_xlabel("look")
    axes.locator_params(axis="x", integer=True)
    axes.grid(axis="y", color=GREY, alpha=0.2)


def _limits(columns: dict[str, list[float]], *, ratio: bool) -> tuple[float, float]:
    """Limits that show estimates and margin, and the band as it is late: early it is huge."""
    late = len(columns["low"]) // 3
    lines = columns["margin"] + columns["estimate"][late:]
    seen = [v for v in (*lines, *columns["low"][late:], *columns["high"][late:]) if v == v]
    if ratio:
        seen = [math.log(v) for v in seen if v > 0] or [0.0]
    low, high = min(seen, default=0.0), max(seen, default=0.0)
    pad = 0.12 * (high - low) or max(0.1, 0.1 * abs(high))
    if ratio:
        return math.exp(low - pad), math.exp(high + pad)
    return low - pad, high + pad


def _known(value: float | None) -> float:
    return math.nan if value is None else value
