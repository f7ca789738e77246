"""Rows as clients send them become columns as models take them.

Called by the runtime, the jobs and the packager, so that all three see exactly the same values;
calls numpy, and pandas only for models that take a data frame.

A column is a numpy array: ``float64`` with NaN for missing (float, int, bool inputs), ``object``
holding ``str`` or ``None`` (string inputs).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, Protocol

import numpy as np

from sluice.errors import InvalidInputError
from sluice.package.manifest import Input

Columns = dict[str, "np.ndarray[Any, Any]"]


class Schema(Protocol):
    """The part of a manifest that says how a model takes its columns."""

    @property
    def inputs(self) -> tuple[Input, ...]:
        """Features in the model's order."""

    @property
    def layout(self) -> Literal["Columns", "Matrix"]:
        """Named columns, or one matrix."""


MISSING_TEXT = "\ue000"
"""ONNX has no missing string; this character stands for it, doubled when a client sends it."""

_INT64_END = 2.0**63

_EXPECTED = {
    "float": "a number",
    "int": "a whole number",
    "bool": "true or false",
    "string": "a string",
}


class RowError(InvalidInputError):
    """A row does not fit the schema: which field, in which row, what was expected, what came."""

    reason = "InvalidRow"

    def __init__(self, field: str, row: int, expected: str, got: str) -> None:
        super().__init__(f"Field {field!r} of row {row}: expected {expected}, got {got}.")
        self.field, self.row, self.expected, self.got = field, row, expected, got


def columns_from_rows(inputs: Sequence[Input], rows: Sequence[Mapping[str, Any]]) -> Columns:
    """Check ``rows`` against the schema and turn them into columns; fields not in it are ignored.

    A required field must be there; ``null`` (or NaN) is accepted where the input is nullable, and
    an absent field that is not required counts as ``null``.
    """
    return {spec.name: _column(spec, rows) for spec in inputs}


def _column(spec: Input, rows: Sequence[Mapping[str, Any]]) -> np.ndarray[Any, Any]:
    name = spec.name
    values: list[Any] = []
    for index, row in enumerate(rows):
        value = row.get(name)
        if value is None:
            if name not in row and spec.required:
                raise RowError(name, index, _EXPECTED[spec.type], "nothing (the field is missing)")
            missing = True
        else:
            value, missing = _value(spec, value, index)
        if missing and not spec.nullable:
            raise RowError(name, index, _EXPECTED[spec.type] + " (not nullable)", "null")
        values.append(value)
    if spec.type == "string":
        return _object_array(values)
    return np.array([np.nan if v is None else v for v in values], dtype=np.float64)


def _value(spec: Input, value: Any, row: int) -> tuple[Any, bool]:
    """The value as the column stores it, and whether it is missing."""
    kind = type(value)
    if spec.type == "string":
        if kind is str:
            return value, False
    elif spec.type == "bool":
        if kind is bool:
            return float(value), False
    elif kind is float or kind is int:
        if value != value:
            return None, True
        if kind is int and abs(value) > 2**1023:
            raise RowError(spec.name, row, "a number a double can hold", "a larger one")
        if spec.type == "float" or kind is int or value.is_integer():
            return float(value), False
    if kind is float and value != value:
        return None, True
    raise RowError(spec.name, row, _EXPECTED[spec.type], _describe(value))


def _describe(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return f"the number {value!r}"[:60]
    if isinstance(value, str):
        return f"the string {value[:40]!r}"
    if isinstance(value, (list, dict)):
        return "a list" if isinstance(value, list) else "an object"
    return type(value).__name__


def _object_array(values: Iterable[Any]) -> np.ndarray[Any, Any]:
    items = list(values)
    array = np.empty(len(items), dtype=object)
    array[:] = items
    return array


def to_model_input(columns: Columns, schema: Schema) -> Any:
    """What a Python model's ``predict`` takes: a data frame, or a float64 matrix.

    The frame has the dtypes the examples had: whole numbers and booleans stay so unless a value is
    missing or too large for int64; a missing string is NaN, as pandas and scikit-learn's imputers
    expect it.
    """
    if schema.layout == "Matrix":
        return to_matrix(columns, schema)
    import pandas as pd

    data = {spec.name: _frame_column(spec, columns[spec.name]) for spec in schema.inputs}
    return pd.DataFrame(data, columns=[spec.name for spec in schema.inputs], copy=False)


def to_matrix(columns: Columns, schema: Schema) -> np.ndarray[Any, Any]:
    """The columns side by side, float64; an object matrix when one of them holds strings."""
    stack = [columns[spec.name] for spec in schema.inputs]
    return np.column_stack(stack) if stack else np.empty((0, 0))


def to_onnx_feeds(
    columns: Columns, schema: Schema, onnx_inputs: Sequence[tuple[str, str]]
) -> dict[str, np.ndarray[Any, Any]]:
    """Feeds for ONNX Runtime; ``onnx_inputs`` are its ``(name, type)``, e.g. ``tensor(double)``."""
    if schema.layout == "Matrix":
        name, kind = onnx_inputs[0]
        return {name: _cast(to_matrix(columns, schema), kind)}
    return {name: _cast(columns[name].reshape(-1, 1), kind) for name, kind in onnx_inputs}


_ONNX_DTYPES: dict[str, Any] = {
    "tensor(double)": np.float64,
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(bool)": np.bool_,
    "tensor(string)": np.object_,
}


def _cast(array: np.ndarray[Any, Any], kind: str) -> np.ndarray[Any, Any]:
    if kind == "tensor(string)":
        texts = [_onnx_text(value) for value in array.ravel().tolist()]
        return _object_array(texts).reshape(array.shape)
    dtype = _ONNX_DTYPES[kind]
    if not np.issubdtype(dtype, np.floating) and np.isnan(array).any():
        # A cast would turn the missing value into some number and a silent label.
        raise ValueError(f"a missing value cannot be given to an ONNX input of type {kind}")
    return np.ascontiguousarray(array, dtype=dtype)


def _onnx_text(value: Any) -> Any:
    if value is None:
        return MISSING_TEXT
    return value + value if value == MISSING_TEXT else value


def _frame_column(spec: Input, values: np.ndarray[Any, Any]) -> Any:
    if spec.categorical:
        import pandas as pd

        # As scikit-learn's models do it: a category that training never saw counts as missing.
        categories = list(spec.categories or ())
        codes = {name: code for code, name in enumerate(categories)}
        found = [codes.get(value, -1) for value in values.tolist()]
        return pd.Categorical.from_codes(found, categories=categories)
    if spec.type == "string":
        return np.where(values == None, np.nan, values)  # noqa: E711
    if spec.type == "bool" and not np.isnan(values).any():
        return values.astype(np.bool_)
    if spec.type == "int" and (np.abs(values) < _INT64_END).all():  # false for NaN too
        return values.astype(np.int64)
    return values


__all__ = [
    "Columns",
    "RowError",
    "columns_from_rows",
    "to_matrix",
    "to_model_input",
    "to_onnx_feeds",
]
