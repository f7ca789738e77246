"""The gate between a converted model and the one it came from.

Called by the packager; calls numpy.  The conversion is used only when nobody could tell the two
apart: no label differs, no score differs by more than 1e-9, on reference rows and on perturbed ones
(jitter, uniform over the range, shuffled columns, missing values, unseen categories), a batch gives
what its rows give one by one, and where the original refuses the conversion gives no number either.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np

from sluice.package.examples import count, is_missing, spread, take, without_value
from sluice.package.features import Columns
from sluice.package.manifest import Conversion, Input
from sluice.package.scoring import Answer, ModelSchema, answer

TOLERANCE = 1e-9
ROWS = 1000
ROWS_ONE_BY_ONE = 32
REFUSALS = 4
UNSEEN = "\u2063unseen category"

Array = np.ndarray[Any, Any]


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
    """Passed or Failed with the reason; ``nullable`` columns get missing values too."""
    base = take(columns, spread(count(columns), ROWS))
    rows = 0
    try:
        for name, block in _blocks(base, schema.inputs, nullable):
            rows += count(block)
            _compare(name, original, converted, block, schema)
        _one_by_one(converted, base, schema)
    except _DifferenceError as difference:
        return Conversion(parity="Failed", detail=str(difference)[:1000])
    return Conversion(
        parity="Passed", detail=f"equal on {rows} reference and perturbed rows (1e-9, all labels)"
    )


def _blocks(
    base: Columns, inputs: tuple[Input, ...], nullable: set[str]
) -> Iterator[tuple[str, Columns]]:
    random = np.random.default_rng(20130101)
    yield "reference rows", base
    yield "jittered rows", {s.name: _jitter(s, base[s.name], random) for s in inputs}
    yield "rows spread over the range", {s.name: _uniform(s, base[s.name], random) for s in inputs}
    shuffled = {s.name: random.permutation(base[s.name]) for s in inputs}
    yield "rows of shuffled columns", shuffled
    few = take(base, spread(count(base), 16))
    for spec in inputs:
        if spec.name in nullable:
            yield f"rows without {spec.name!r}", without_value(few, spec.name)
        if spec.type == "string":
            blank = np.full_like(few[spec.name], UNSEEN)
            yield f"rows with an unseen {spec.name!r}", {**few, spec.name: blank}
            blank = np.full_like(few[spec.name], "")
            yield f"rows with an empty {spec.name!r}", {**few, spec.name: blank}
    if nullable:
        holes = {
            s.name: _holes(base[s.name], random) if s.name in nullable else base[s.name]
            for s in inputs
        }
        yield "rows with random missing values", holes


def _jitter(spec: Input, values: Array, random: np.random.Generator) -> Array:
    if spec.type == "float":
        finite = values[np.isfinite(values)]
        scale = float(finite.std()) if len(finite) else 0.0
        return values + random.normal(0.0, 0.01 * scale + 1e-12, size=len(values))
    if spec.type == "int":
        return values + random.integers(-1, 2, size=len(values))
    return values


def _uniform(spec: Input, values: Array, random: np.random.Generator) -> Array:
    if spec.type == "string" or spec.min is None or spec.max is None:
        return random.permutation(values)
    margin = 0.1 * (spec.max - spec.min)
    drawn = random.uniform(spec.min - margin, spec.max + margin, size=len(values))
    filled = np.rint(drawn) if spec.type == "int" else drawn
    return np.where(np.isnan(values), values, filled)


def _holes(values: Array, random: np.random.Generator) -> Array:
    holes = values.copy()
    holes[random.random(len(values)) < 0.3] = None if values.dtype == object else np.nan
    return holes


def _compare(
    name: str, original: Scorer, converted: Scorer, block: Columns, schema: ModelSchema
) -> None:
    want = _ask(original, block, schema)
    if want is None:
        _compare_refusals(name, original, converted, block, schema)
        return
    got = _ask(converted, block, schema)
    if got is None:
        raise _DifferenceError(f"the converted model fails on {name}")
    _same(name, want, got)


def _compare_refusals(
    name: str, original: Scorer, converted: Scorer, block: Columns, schema: ModelSchema
) -> None:
    """The original refuses some row: row by row, refused ones must not get a number."""
    rows = spread(count(block), REFUSALS if _all_missing(block) else ROWS_ONE_BY_ONE)
    for row in rows:
        one = take(block, np.array([row]))
        want, got = _ask(original, one, schema), _ask(converted, one, schema)
        if want is not None and got is not None:
            _same(name, want, got)
        elif want is not None:
            raise _DifferenceError(f"the converted model fails on {name}")
        elif got is not None and got.finite.all():
            raise _DifferenceError(
                f"the converted model answers {name}, which the original refuses"
            )


def _all_missing(block: Columns) -> bool:
    return any(is_missing(values).all() for values in block.values())


def _ask(scorer: Scorer, block: Columns, schema: ModelSchema) -> Answer | None:
    """The answer; None when the model raises, whatever it raises."""
    try:
        return answer(scorer.raw(block), schema.output)
    except Exception:
        return None


def _same(name: str, want: Answer, got: Answer) -> None:
    if not np.array_equal(want.finite, got.finite):
        raise _DifferenceError(f"on {name} one model gives a number where the other gives none")
    keep = want.finite
    a = (want.scores if want.matrix is None else want.matrix)[keep]
    b = (got.scores if got.matrix is None else got.matrix)[keep]
    scale = 1.0 if want.matrix is not None else max(1.0, float(np.abs(a).max(initial=0.0)))
    difference = float(np.abs(a - b).max(initial=0.0))
    if want.labels is not None and got.labels is not None:
        pairs = zip(want.labels, got.labels, keep.tolist(), strict=True)
        wrong = sum(x != y for x, y, ok in pairs if ok)
        if wrong:
            raise _DifferenceError(
                f"{wrong} of {len(want.labels)} labels differ on {name} "
                f"(largest score difference {difference:.3g})"
            )
    if not difference <= TOLERANCE * scale:
        raise _DifferenceError(f"scores differ by up to {difference:.3g} on {name}")


def _one_by_one(converted: Scorer, base: Columns, schema: ModelSchema) -> None:
    few = take(base, spread(count(base), ROWS_ONE_BY_ONE))
    batch = _ask(converted, few, schema)
    rows = [_ask(converted, take(few, np.array([i])), schema) for i in range(count(few))]
    if batch is None or any(r is None for r in rows):
        return  # refused rows were compared above
    whole = np.concatenate([r.scores for r in rows if r is not None])
    if not np.allclose(whole, batch.scores, rtol=0, atol=TOLERANCE, equal_nan=True):
        raise _DifferenceError("a batch does not give what its rows give one by one")
