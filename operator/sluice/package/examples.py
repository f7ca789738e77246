"""Example rows as people hold them (frames, arrays, lists) become columns and a schema.

Called by the packager only; calls pandas.  The dtypes that pandas knows are folded into the four
types of a schema; what cannot be folded is refused by name, with the line that would fix it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sluice.errors import InvalidInputError
from sluice.package.features import Columns
from sluice.package.manifest import MAX_CATEGORIES, MAX_INPUTS, Input, InputType

_LISTED_CATEGORIES = 200
_LONGEST_CATEGORY = 256


def read_examples(path: Path) -> pd.DataFrame:
    """A parquet, CSV or JSON-lines file, known by its content."""
    try:
        with path.open("rb") as stream:
            head = stream.read(64)
        if head[:4] == b"PAR1":
            return pd.read_parquet(path)
        if head.lstrip()[:1] == b"{":
            return pd.read_json(path, lines=True)
        return pd.read_csv(path)
    except FileNotFoundError:
        raise InvalidInputError(f"There is no file {path}.", hint="Check the path.") from None
    except (ValueError, OSError, UnicodeDecodeError) as error:
        raise InvalidInputError(
            f"{path} cannot be read as parquet, CSV or JSON lines: {str(error)[:200]}."
        ) from None


def as_frame(rows: Any, names: list[str] | None = None) -> pd.DataFrame:
    """A data frame with unique text column names; an array's columns are ``names`` or x0, x1, …"""
    if hasattr(rows, "to_pandas"):  # polars, arrow and others
        rows = rows.to_pandas()
    if isinstance(rows, pd.DataFrame):
        frame = rows.copy(deep=False)
    elif isinstance(rows, (dict, list)) and rows and not _is_matrix(rows):
        frame = pd.DataFrame(rows)
    else:
        array = np.asarray(rows)
        if array.ndim != 2:
            raise InvalidInputError(
                f"The examples have {array.ndim} dimension(s); two are needed: rows and features.",
                hint="For one feature use X.reshape(-1, 1) or a DataFrame with one column.",
            )
        columns = names or [f"x{i}" for i in range(array.shape[1])]
        if len(columns) != array.shape[1]:
            raise InvalidInputError(
                f"The examples have {array.shape[1]} columns; the model was trained on "
                f"{len(columns)}.",
                hint="Give exactly the columns of the training data, in its order.",
            )
        frame = pd.DataFrame(array, columns=columns)
    frame.columns = [str(c) for c in frame.columns]
    twice = frame.columns[frame.columns.duplicated()]
    if len(twice):
        raise InvalidInputError(f"The examples have two columns named {twice[0]!r}.")
    if len(frame.columns) > MAX_INPUTS or any(not 0 < len(c) <= 256 for c in frame.columns):
        raise InvalidInputError(
            f"The examples have {len(frame.columns)} columns; at most {MAX_INPUTS} with names of "
            "1 to 256 characters can be served."
        )
    if not len(frame) or not len(frame.columns):
        raise InvalidInputError(
            "The examples are empty.", hint="Give some rows of the training data."
        )
    return frame.reset_index(drop=True)


def _is_matrix(rows: Any) -> bool:
    return isinstance(rows, list) and isinstance(rows[0], (list, tuple))


def describe(frame: pd.DataFrame) -> tuple[tuple[Input, ...], Columns]:
    """One input and one canonical column for each column of the frame; nothing is nullable yet."""
    inputs, columns = [], {}
    for name in frame.columns:
        spec, values = _describe_column(name, frame[name])
        inputs.append(spec)
        columns[name] = values
    return tuple(inputs), columns


def _describe_column(name: str, series: pd.Series[Any]) -> tuple[Input, np.ndarray[Any, Any]]:
    if isinstance(series.dtype, pd.CategoricalDtype):
        return _categorical(name, series)
    kind = _type_of(name, series)
    if kind == "string":
        text = _strings(series)
        return Input(name=name, type=kind, categories=_categories(text)), text
    numbers = _numbers(series)
    finite = numbers[np.isfinite(numbers)]
    if kind == "bool" or not len(finite):
        return Input(name=name, type=kind), numbers
    return Input(name=name, type=kind, min=float(finite.min()), max=float(finite.max())), numbers


def _type_of(name: str, series: pd.Series[Any]) -> InputType:
    types = pd.api.types
    if types.is_bool_dtype(series.dtype):
        return "bool"
    if types.is_integer_dtype(series.dtype):
        return "int"
    if types.is_float_dtype(series.dtype):
        return "float"
    if types.is_object_dtype(series.dtype) or types.is_string_dtype(series.dtype):
        return _type_of_objects(name, series)
    raise InvalidInputError(
        f"Column {name!r} has the type {series.dtype}, which a model cannot be sent as JSON.",
        hint=f"Turn it into numbers or text before the model, e.g. X[{name!r}].astype(str).",
    )


def _type_of_objects(name: str, series: pd.Series[Any]) -> InputType:
    present = series[series.notna()]
    kinds = {type(v) for v in present}
    if all(issubclass(k, str) for k in kinds):
        return "string"
    if kinds <= {bool, np.bool_}:
        return "bool"
    if all(issubclass(k, (int, np.integer)) and k is not bool for k in kinds):
        return "int"
    if all(issubclass(k, (int, float, np.number)) and k is not bool for k in kinds):
        return "float"
    names = ", ".join(sorted(k.__name__ for k in kinds))
    raise InvalidInputError(
        f"Column {name!r} mixes values of several types ({names[:100]}).",
        hint=f"Make it one type, e.g. X[{name!r}].astype(str), as the model was trained.",
    )


def _categorical(name: str, series: pd.Series[Any]) -> tuple[Input, np.ndarray[Any, Any]]:
    categories = series.cat.categories.tolist()
    if not all(isinstance(c, str) for c in categories) or len(categories) > MAX_CATEGORIES:
        raise InvalidInputError(
            f"Column {name!r} has the category type with {len(categories)} categories that are "
            f"not at most {MAX_CATEGORIES} strings.",
            hint=f"Train on X[{name!r}].astype(str).astype('category') with fewer categories.",
        )
    text = _strings(series.astype(object))
    spec = Input(name=name, type="string", categories=tuple(categories), categorical=True)
    return spec, text


def _strings(series: pd.Series[Any]) -> np.ndarray[Any, Any]:
    values = np.empty(len(series), dtype=object)
    missing = series.isna().to_numpy()
    values[:] = [
        None if absent else str(v)
        for v, absent in zip(series.tolist(), missing.tolist(), strict=True)
    ]
    return values


def _numbers(series: pd.Series[Any]) -> np.ndarray[Any, Any]:
    if series.dtype == object:
        return np.array(
            [np.nan if pd.isna(v) else float(v) for v in series.tolist()], dtype=np.float64
        )
    return np.asarray(series.to_numpy(dtype=np.float64, na_value=np.nan))


def _categories(text: np.ndarray[Any, Any]) -> tuple[str, ...] | None:
    seen = {v for v in text.tolist() if v is not None}
    if not seen or len(seen) > _LISTED_CATEGORIES or max(map(len, seen)) > _LONGEST_CATEGORY:
        return None
    return tuple(sorted(seen))


def take(columns: Columns, rows: np.ndarray[Any, Any]) -> Columns:
    """Some rows of all columns."""
    return {name: values[rows] for name, values in columns.items()}


def count(columns: Columns) -> int:
    """How many rows the columns have."""
    return len(next(iter(columns.values())))


def spread(total: int, wanted: int) -> np.ndarray[Any, Any]:
    """At most ``wanted`` row numbers, evenly spaced, the same every time."""
    if total <= wanted:
        return np.arange(total)
    return np.linspace(0, total - 1, wanted).astype(np.int64)


def missing_rows(columns: Columns) -> np.ndarray[Any, Any]:
    """Per row: whether any value is missing."""
    result = np.zeros(count(columns), dtype=bool)
    for values in columns.values():
        result |= is_missing(values)
    return result


def is_missing(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Per value: None or NaN."""
    if values.dtype == object:
        return np.array([v is None for v in values.tolist()], dtype=bool)
    return np.asarray(np.isnan(values))


def without_value(columns: Columns, name: str) -> Columns:
    """The same columns with every value of one missing."""
    values = columns[name]
    blank: Any = None if values.dtype == object else np.nan
    return {**columns, name: np.full_like(values, blank)}
