"""Loads, answers, answers the same twice, and a batch equals its rows."""

from __future__ import annotations

import time

import numpy as np

from sluice.jobs.gates.bench import Bench, GateFailedError, answer
from sluice.package.scoring import Answer, Array

BATCH_TOLERANCE = 1e-6
"""Relative: a float32 model may round a batch otherwise than a row, and no user can tell."""

REPEAT_TOLERANCE = 1e-12


def run(bench: Bench) -> str:
    started = time.perf_counter()
    predictor = bench.predictor
    loaded = time.perf_counter() - started
    rows = bench.rows()
    batch = answer(predictor, rows)
    again = answer(predictor, rows)
    _same(batch, again, REPEAT_TOLERANCE, "asked twice, row {row} scores {first!r} then {second!r}")
    _rows_equal_batch(bench, batch)
    made_up = "" if bench.candidate.golden() else " (made up: the package has no examples)"
    return (
        f"loads in {loaded:.2f} s ({predictor.engine}), answers {len(rows)} "
        f"row{'s' if len(rows) != 1 else ''}{made_up} the same twice, batch = rows"
    )


def _rows_equal_batch(bench: Bench, batch: Answer) -> None:
    singles = [answer(bench.predictor, [row]) for row in bench.rows()]
    joined = Answer(
        np.concatenate([single.scores for single in singles]),
        None if batch.labels is None else [label for s in singles for label in (s.labels or [])],
        None,
    )
    _same(
        batch,
        joined,
        BATCH_TOLERANCE,
        "row {row} scores {first!r} in a batch and {second!r} alone",
    )


def _same(first: Answer, second: Answer, tolerance: float, message: str) -> None:
    row = _first_difference(first.scores, second.scores, tolerance)
    if row is None and first.labels != second.labels:
        row = _differing_label(first, second, tolerance)
    if row is not None:
        raise GateFailedError(
            message.format(
                row=row, first=float(first.scores[row]), second=float(second.scores[row])
            )
        )


def _first_difference(first: Array, second: Array, tolerance: float) -> int | None:
    limit = tolerance * np.maximum(1.0, np.abs(first))
    differing = np.flatnonzero(np.abs(first - second) > limit)
    return int(differing[0]) if len(differing) else None


def _differing_label(first: Answer, second: Answer, tolerance: float) -> int | None:
    """A label that differs although the scores are not the two sides of a tie."""
    for row, (one, other) in enumerate(zip(first.labels or [], second.labels or [], strict=True)):
        tie = 0 < abs(float(first.scores[row] - second.scores[row])) <= tolerance
        if one != other and not tie:
            return row
    return None
