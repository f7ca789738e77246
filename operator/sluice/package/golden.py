"""Golden examples: rows and what the packaged model answered, kept in ``golden.json``.

Called by the packager; calls numpy.  They are rows of the examples, so they are as private as the
training data; ``golden=0`` leaves them out.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from sluice.package.examples import count, missing_rows, spread, take
from sluice.package.features import Columns
from sluice.package.manifest import MAX_GOLDEN, Input
from sluice.package.parity import Scorer
from sluice.package.scoring import Answer, ModelSchema, answer

MAX_CELLS = 100_000


def make_golden(
    scorer: Scorer, columns: Columns, schema: ModelSchema, wanted: int
) -> list[dict[str, Any]]:
    """Up to ``wanted`` examples that fit the schema and that the model answers."""
    wanted = min(wanted, MAX_GOLDEN, max(1, MAX_CELLS // len(schema.inputs)))
    fitting = np.flatnonzero(_fits(columns, schema.inputs))
    if not wanted or not len(fitting):
        return []
    chosen = take(columns, _choose(columns, fitting, wanted))
    try:
        result = answer(scorer.raw(chosen), schema.output)
    except Exception:
        return _one_by_one(scorer, chosen, schema)
    return [
        _example(chosen, i, result, schema.inputs) for i in range(count(chosen)) if result.finite[i]
    ]


def _choose(columns: Columns, fitting: np.ndarray[Any, Any], wanted: int) -> np.ndarray[Any, Any]:
    """Evenly spaced rows, a fifth of them with missing values where there are such rows."""
    holes = missing_rows(columns)[fitting]
    with_holes = fitting[holes][spread(int(holes.sum()), wanted // 5)] if holes.any() else []
    rest = fitting[spread(len(fitting), wanted - len(with_holes))]
    return np.unique(np.concatenate([rest, np.asarray(with_holes, dtype=np.int64)]))


def _fits(columns: Columns, inputs: tuple[Input, ...]) -> np.ndarray[Any, Any]:
    strict = {s.name: columns[s.name] for s in inputs if not s.nullable}
    ok = ~missing_rows(strict) if strict else np.ones(count(columns), dtype=bool)
    for values in columns.values():
        if values.dtype != object:
            ok &= ~np.isinf(values)
    return ok


def _one_by_one(scorer: Scorer, chosen: Columns, schema: ModelSchema) -> list[dict[str, Any]]:
    examples = []
    for i in range(count(chosen)):
        one = take(chosen, np.array([i]))
        try:
            result = answer(scorer.raw(one), schema.output)
        except Exception:  # noqa: S112 - a row the model refuses is no example
            continue
        if result.finite[0]:
            examples.append(_example(one, 0, result, schema.inputs))
    return examples


def _example(columns: Columns, row: int, result: Answer, inputs: tuple[Input, ...]) -> Any:
    example = {
        "row": {s.name: _cell(s, columns[s.name][row]) for s in inputs},
        "score": float(result.scores[row]),
    }
    if result.labels is not None:
        example["label"] = result.labels[row]
    return example


def _cell(spec: Input, value: Any) -> float | int | bool | str | None:
    """A value as JSON carries it."""
    if value is None or value != value:
        return None
    if spec.type == "string":
        return str(value)
    if spec.type == "bool":
        return bool(value)
    return int(value) if spec.type == "int" else float(value)
