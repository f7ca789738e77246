"""The reference profile: what inputs and scores looked like when the model was packaged.

Written by the packager into ``profile.json``; read by the runtime, which counts live rows into the
same bins, and by drift and shift checks.  Calls numpy only.

Bins: ``edges`` are the inner edges; a value ``v`` is in bin ``searchsorted(edges, v, "right")``, so
``counts`` has one entry more than ``edges``.  A feature with few distinct values gets one bin each.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from sluice.package.examples import is_missing
from sluice.package.features import Columns
from sluice.package.manifest import Input, Output
from sluice.package.scoring import Answer, positive_index

FEATURE_BINS = 40
SCORE_BINS = 20
CALIBRATION_BINS = 10
CATEGORIES = 100

Array = np.ndarray[Any, Any]


def make_profile(
    inputs: tuple[Input, ...],
    columns: Columns,
    scores: Answer,
    truth: Array | None,
    output: Output,
    *,
    source: str,
) -> dict[str, Any]:
    """The content of ``profile.json``; ``scores`` and ``truth`` belong together, row by row."""
    finite = scores.finite
    values = scores.scores[finite]
    profile: dict[str, Any] = {
        "schemaVersion": 1,
        "rows": len(next(iter(columns.values()))),
        "features": {spec.name: _feature(spec, columns[spec.name]) for spec in inputs},
        "scores": {**bins(values, SCORE_BINS), "rows": len(values), "source": source},
    }
    if scores.labels is not None:
        kept = [v for v, ok in zip(scores.labels, finite.tolist(), strict=True) if ok]
        labels = output.labels or ()
        profile["labels"] = [{"label": v, "count": kept.count(v)} for v in labels[:1000]]
    if truth is not None and len(output.labels or ()) == 2:
        profile["calibration"] = _calibration(values, truth[finite], output)
    return profile


def bins(values: Array, wanted: int) -> dict[str, Any]:
    """Quantile bins of finite values; ties collapse, so there may be fewer than ``wanted``."""
    if not len(values):
        return {"edges": [], "counts": [0]}
    distinct = np.unique(values)
    if len(distinct) <= wanted:
        edges = distinct[:-1] + np.diff(distinct) / 2
        edges = np.unique(np.maximum(edges, np.nextafter(distinct[:-1], np.inf)))
    else:
        edges = np.unique(np.quantile(values, np.arange(1, wanted) / wanted))
        edges = edges[(edges > distinct[0]) & (edges <= distinct[-1])]
    return {"edges": edges.tolist(), "counts": _counts(values, edges)}


def _counts(values: Array, edges: Array) -> list[int]:
    where = np.searchsorted(edges, values, side="right")
    return [int(c) for c in np.bincount(where, minlength=len(edges) + 1)]


def _feature(spec: Input, values: Array) -> dict[str, Any]:
    missing = int(is_missing(values).sum())
    common = {"missing": missing, "missingShare": round(missing / len(values), 9)}
    if spec.type == "string":
        return {"kind": "categorical", **_categories(values), **common}
    finite = values[np.isfinite(values)]
    numeric = {"kind": "numeric", **bins(finite, FEATURE_BINS), **common}
    if len(finite):
        numeric |= {"min": float(finite.min()), "max": float(finite.max())}
    return numeric


def _categories(values: Array) -> dict[str, Any]:
    tally: dict[str, int] = {}
    for value in values.tolist():
        if value is not None:
            tally[value] = tally.get(value, 0) + 1
    ranked = sorted(tally.items(), key=lambda item: (-item[1], item[0]))
    shown, rest = ranked[:CATEGORIES], ranked[CATEGORIES:]
    return {
        "categories": [name for name, _ in shown],
        "counts": [n for _, n in shown],
        "other": sum(n for _, n in rest),
    }


def _calibration(scores: Array, truth: Array, output: Output) -> list[dict[str, Any]]:
    """Mean score and observed rate of the positive label, in bins of equal count."""
    assert output.labels is not None
    positive = output.labels[positive_index(output)]
    hits = np.array([v == positive for v in truth.tolist()], dtype=np.float64)
    order = np.argsort(scores, kind="stable")
    parts = [p for p in np.array_split(order, CALIBRATION_BINS) if len(p)]
    return [
        {"score": float(scores[p].mean()), "rate": float(hits[p].mean()), "count": len(p)}
        for p in parts
    ]
