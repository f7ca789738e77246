"""The gate between a converted model and the one it came from.

Called by the packager; calls the probes.  The conversion is used only when nobody could tell the
two apart: no label differs, no score differs by more than 1e-9 (a value or a decision: of its own
size, where that is above 1), on reference rows and on all that ``parity_probes`` makes of them, a
batch gives what its rows give one by one, and where the original refuses the conversion gives no
number either.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from sluice.package.examples import count, spread, take
from sluice.package.features import Columns
from sluice.package.manifest import Conversion
from sluice.package.parity_probes import blocks
from sluice.package.scoring import Answer, Array, ModelSchema, answer

TOLERANCE = 1e-9
ROWS = 1000
ROWS_ONE_BY_ONE = 32
REFUSALS = 2
OVERFLOW = 1e300
"""A value beyond it counts as infinite: which sum of such numbers overflows depends on its order,
which neither library promises."""


class Scorer(Protocol):
    """Anything that turns columns into raw scores."""

    def raw(self, columns: Columns) -> Array:
        """Scores of all rows; raises when the model does."""


class _DifferenceError(Exception):
    """The two models can be told apart."""


def judge(
    original: Scorer,
    converted: Scorer,
    columns: Columns,
    schema: ModelSchema,
    *,
    nullable: set[str],
) -> Conversion:
    """Passed or Failed with the reason; ``nullable`` columns get missing values more often."""
    base = take(columns, spread(count(columns), ROWS))
    rows = 0

    def score(block: Columns) -> Array | None:
        got = _ask(converted, block, schema)
        return None if got is None else _numbers(got)

    try:
        for name, block in blocks(base, schema.inputs, nullable, score):
            rows += count(block)
            _compare(name, original, converted, block, schema)
        _one_by_one(converted, base, schema)
    except _DifferenceError as difference:
        return Conversion(parity="Failed", detail=str(difference)[:1000])
    return Conversion(
        parity="Passed", detail=f"equal on {rows} reference and perturbed rows (1e-9, all labels)"
    )


def _compare(
    name: str, original: Scorer, converted: Scorer, block: Columns, schema: ModelSchema
) -> None:
    """Whole blocks where both answer; else the rows that one of them refuses, one by one."""
    want, got = _ask(original, block, schema), _ask(converted, block, schema)
    if want is not None and got is not None:
        _same(name, want, got, schema)
    elif count(block) == 1:
        _both_refuse(name, want, got)
    else:
        for rows in _parts(count(block), got):
            _compare(name, original, converted, take(block, rows), schema)


def _parts(total: int, got: Answer | None) -> list[Array]:
    """Some rows without a number alone, and those with one together, in halves at the end."""
    if got is None:
        return [np.array([row]) for row in spread(total, ROWS_ONE_BY_ONE)]
    silent, answered = np.flatnonzero(~got.finite), np.flatnonzero(got.finite)
    alone = [np.array([row]) for row in silent[spread(len(silent), REFUSALS)]]
    together = [answered] if len(silent) else np.array_split(answered, 2)
    return [*alone, *(rows for rows in together if len(rows))]


def _both_refuse(name: str, want: Answer | None, got: Answer | None) -> None:
    if want is not None and want.finite.all():
        raise _DifferenceError(f"the converted model fails on {name}")
    if got is not None and got.finite.all():
        raise _DifferenceError(f"the converted model answers {name}, which the original refuses")


def _ask(scorer: Scorer, block: Columns, schema: ModelSchema) -> Answer | None:
    """The answer; None when the model raises, whatever it raises."""
    try:
        return answer(scorer.raw(block), schema.output)
    except Exception:
        return None


def _same(name: str, want: Answer, got: Answer, schema: ModelSchema) -> None:
    a, b = _numbers(want), _numbers(got)
    size = np.zeros(len(a))
    keep, kept = want.finite, got.finite
    if schema.output.score_name != "probability":
        size = np.abs(a).max(axis=1)
        keep, kept = keep & (size <= OVERFLOW), kept & (np.abs(b).max(axis=1) <= OVERFLOW)
    if not np.array_equal(keep, kept):
        raise _DifferenceError(f"on {name} one model gives a number where the other gives none")
    difference = np.abs(a - b)[keep].max(axis=1, initial=0.0)
    largest = float(difference.max(initial=0.0))
    if want.labels is not None and got.labels is not None:
        pairs = zip(want.labels, got.labels, keep.tolist(), strict=True)
        wrong = sum(x != y for x, y, ok in pairs if ok)
        if wrong:
            raise _DifferenceError(
                f"{wrong} of {len(want.labels)} labels differ on {name} "
                f"(largest score difference {largest:.3g})"
            )
    if (difference > TOLERANCE * np.maximum(1.0, size[keep])).any():
        raise _DifferenceError(f"scores differ by up to {largest:.3g} on {name}")


def _numbers(given: Answer) -> Array:
    """``[rows, labels]`` scores or ``[rows, 1]`` values."""
    whole = given.scores if given.matrix is None else given.matrix
    return whole.reshape(len(whole), -1)


def _one_by_one(converted: Scorer, base: Columns, schema: ModelSchema) -> None:
    few = take(base, spread(count(base), ROWS_ONE_BY_ONE))
    batch = _ask(converted, few, schema)
    rows = [_ask(converted, take(few, np.array([i])), schema) for i in range(count(few))]
    if batch is None or any(r is None for r in rows):
        return  # refused rows were compared above
    whole = np.concatenate([r.scores for r in rows if r is not None])
    if not np.allclose(whole, batch.scores, rtol=0, atol=TOLERANCE, equal_nan=True):
        raise _DifferenceError("a batch does not give what its rows give one by one")
