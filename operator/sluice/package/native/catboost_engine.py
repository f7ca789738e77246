"""CatBoost through its Python package, the only way its wheel offers.

Called by ``engines``; calls catboost.  One thread.  A single row goes in as a plain list, which
CatBoost takes faster than a matrix or a frame.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from sluice.package.features import Columns
from sluice.package.manifest import Input, Output
from sluice.package.native.description import Array, NativeModel
from sluice.package.native.rows import Rows
from sluice.package.native.shared_library import not_installed


class CatboostScorer:
    """Scores of a model made from the verified bytes."""

    def __init__(
        self, data: bytes, model: NativeModel, inputs: tuple[Input, ...], output: Output
    ) -> None:
        try:
            import catboost
        except ImportError:
            raise not_installed("catboost") from None

        self._model = catboost.CatBoost()
        self._model.load_model(blob=data)
        self._mode, self._output = model.mode, output
        self._names = tuple(spec.name for spec in inputs)
        self._convert = {
            spec.name: _CONVERT[spec.type]
            for spec, feature in zip(inputs, model.features, strict=True)
            if feature.categorical
        }
        self._rows = Rows(model.features, self._names)

    def raw(self, columns: Columns) -> Array:
        """Scores in float64."""
        rows = len(columns[self._names[0]])
        found = self._model.predict(
            self._given(columns, rows), prediction_type=self._mode, thread_count=1
        )
        values = np.asarray(found, dtype=np.float64)
        if self._output.labels is None:
            return values.reshape(-1)
        return values.reshape(rows, len(self._output.labels))

    def _given(self, columns: Columns, rows: int) -> Any:
        if self._convert:
            listed = [self._values(name, columns[name]) for name in self._names]
            given = [list(row) for row in zip(*listed, strict=True)]
            return given[0] if rows == 1 else given
        matrix = self._rows.fill(columns)
        return matrix[:, 0].tolist() if rows == 1 else np.ascontiguousarray(matrix.T)

    def _values(self, name: str, values: Array) -> list[Any]:
        plain: list[Any] = values.tolist()
        convert = self._convert.get(name)
        return [convert(value) for value in plain] if convert is not None else plain


def _text(value: Any) -> str:
    if value is None:
        raise ValueError("CatBoost takes no missing category")
    return str(value)


# A category is hashed by how it is written: 3.0 and "3" are different ones, 3 and "3" are not.
_CONVERT: dict[str, Any] = {"string": _text, "int": int, "bool": bool, "float": float}
