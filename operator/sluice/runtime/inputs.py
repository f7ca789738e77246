"""The bytes of a body become rows of the model's schema, or a Problem that names the field.

Called by the protocols; calls msgspec and ``sluice.package.features``.  The fast path decodes into
a type built from the schema.  Whatever it refuses goes the slow way, which accepts a little more
(``3.0`` for a whole number, columns, extra fields) and otherwise says what is wrong; so a body gets
the same verdict by either way.

Unknown fields: they are ignored and counted, so that a client may send one row to several models;
a row with no known field at all is refused, because it was meant for something else.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta

from sluice.package.features import Columns, RowError, columns_from_rows
from sluice.package.manifest import Input
from sluice.runtime.problems import Problem, bad, describe

MAX_ROWS = 10_000
LARGEST = float(np.finfo(np.float32).max)
"""Many models calculate in 32 bits: for more than this they have no answer."""

_TYPES: dict[str, Any] = {
    "float": float,
    "int": Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)],
    "bool": bool,
    "string": str,
}


@dataclass(slots=True)
class Rows:
    """Rows that fit the schema: tuples in schema order (fast path) or columns already."""

    count: int
    tuples: list[tuple[Any, ...]] | None = None
    columns: Columns | None = None
    unknown_fields: int = 0


class RowReader:
    """The inputs of one model, as decoders."""

    def __init__(self, inputs: Sequence[Input]) -> None:
        self.inputs = tuple(inputs)
        self.names = [spec.name for spec in inputs]
        self._known = frozenset(self.names)
        self.row_type = _row_type(self.inputs)
        self.tuple_type: Any = tuple[tuple(_field_type(s) for s in self.inputs)]  # type: ignore[misc]

    def columns(self, parts: Sequence[Rows]) -> Columns:
        """The rows of several requests as one set of columns, in order."""
        built = [self._columns_of(group) for group in _grouped(parts)]
        if len(built) == 1:
            return built[0]
        return {name: np.concatenate([columns[name] for columns in built]) for name in self.names}

    def _columns_of(self, group: list[tuple[Any, ...]] | Columns) -> Columns:
        if isinstance(group, dict):
            return group
        columns: Columns = {}
        for spec, values in zip(self.inputs, zip(*group, strict=True), strict=True):
            # numpy reads None as NaN in a float64 array.
            columns[spec.name] = (
                _objects(values) if spec.type == "string" else np.array(values, dtype=np.float64)
            )
        return columns

    def from_documents(self, rows: Sequence[Any], *, where: str = "") -> Rows:
        """Rows as JSON values: objects by feature name, or lists in schema order."""
        check_count(len(rows))
        named = [self._named(row, i if len(rows) > 1 else None) for i, row in enumerate(rows)]
        unknown = sum(len(row) - len(self._known & row.keys()) for row in named)
        return self.from_named(named, unknown=unknown)

    def from_named(self, rows: Sequence[Mapping[str, Any]], *, unknown: int = 0) -> Rows:
        """Rows as mappings; the schema is checked by the code that the jobs use too."""
        try:
            columns = columns_from_rows(self.inputs, rows)
        except RowError as error:
            raise _row_problem(error, len(rows)) from None
        return Rows(len(rows), columns=columns, unknown_fields=unknown)

    def _named(self, row: Any, index: int | None) -> Mapping[str, Any]:
        place = "" if index is None else f"row {index}: "
        if isinstance(row, list):
            if len(row) != len(self.names):
                raise bad(
                    "WrongShape",
                    f"{place}expected {len(self.names)} values "
                    f"({_listed(self.names)}), got {len(row)}",
                )
            return dict(zip(self.names, row, strict=True))
        if not isinstance(row, dict):
            raise bad(
                "WrongShape",
                f"{place}expected an object with the fields {_listed(self.names)}, "
                f"got {describe(row)}",
            )
        if not self._known & row.keys():
            came = f"the fields {_listed(list(row))}" if row else "an object without fields"
            raise bad(
                "UnknownFields",
                f"{place}expected the fields {_listed(self.names)}, got {came}",
                field=next(iter(row), None),
            )
        return row


def check_count(rows: int) -> None:
    """At least one row, at most 10,000."""
    if rows == 0:
        raise bad("Empty", "expected at least one row, got an empty list")
    if rows > MAX_ROWS:
        raise Problem(
            413,
            "TooManyRows",
            f"expected at most {MAX_ROWS} rows, got {rows}; split the request or use batch",
        )


def decode_any(body: bytes) -> Any:
    """A JSON document of any shape, or a Problem that says why it is none."""
    if not body.strip():
        raise bad("Empty", "expected a JSON body, got an empty one")
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise explain_json(body, error) from None


def explain_json(body: bytes, error: Exception) -> Problem:
    """Why ``body`` is not JSON that a model can take."""
    try:
        text = body.decode()
    except UnicodeDecodeError as utf8:
        return bad(
            "InvalidUtf8",
            f"expected UTF-8, got the byte 0x{body[utf8.start]:02x} at position {utf8.start}",
        )
    try:
        document = json.loads(text, parse_constant=_Constant)
    except json.JSONDecodeError as position:
        return bad(
            "InvalidJson",
            f"expected JSON, got something else at line {position.lineno} "
            f"column {position.colno}: {position.msg}",
        )
    except RecursionError:
        return bad("TooDeep", "expected a flat document, got one that is nested too deeply")
    except ValueError:  # an integer of more than 4,300 digits
        return bad("OutOfRange", "a number is larger than a double can hold")
    return _find_bad_value(document) or bad("InvalidJson", f"expected JSON: {error}")


class _Constant:
    """NaN, Infinity or -Infinity, which JSON does not have."""

    def __init__(self, name: str) -> None:
        self.name = name


def _find_bad_value(document: Any) -> Problem | None:
    """The first value that JSON or a double cannot hold, with the field it stands in."""
    stack: list[tuple[str, Any]] = [("", document)]
    while stack:
        field, value = stack.pop()
        if isinstance(value, dict):
            stack += [(str(key), item) for key, item in value.items()]
            stack += [(str(key), str(key)) for key in value]
        elif isinstance(value, list):
            stack += [(field, item) for item in value]
        elif (found := _bad_value(value)) is not None:
            code, text = found
            return bad(code, f"{_at(field)}{text}", field=field or None)
    return None


def _bad_value(value: Any) -> tuple[str, str] | None:
    if isinstance(value, _Constant):
        return "NotFinite", f"expected a finite number or null, got {value.name}"
    if isinstance(value, float) and math.isinf(value):
        return _OUT_OF_RANGE
    if isinstance(value, int) and abs(value) > 2**1023:
        return _OUT_OF_RANGE
    if isinstance(value, str) and not _is_unicode(value):
        return "InvalidUnicode", "expected text, got half of a surrogate pair"
    return None


_OUT_OF_RANGE = ("OutOfRange", "expected a number that a double can hold, got a larger one")


def _at(field: str) -> str:
    return f"field {field[:80]!r}: " if field else ""


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _row_problem(error: RowError, rows: int) -> Problem:
    place = f" of row {error.row}" if rows > 1 else ""
    code = "WrongType"
    if error.got.startswith("nothing"):
        code = "MissingField"
    elif error.got == "null":
        code = "NotNullable"
    elif "double can hold" in error.expected:
        code = "OutOfRange"
    return bad(
        code,
        f"field {error.field!r}{place}: expected {error.expected}, got {error.got}",
        field=error.field,
    )


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name[:60]) for name in names[:8])
    return shown if len(names) <= 8 else f"{shown} and {len(names) - 8} more"


def _field_type(spec: Input) -> Any:
    kind = _TYPES[spec.type]
    return kind | None if spec.nullable else kind


def _row_type(inputs: Sequence[Input]) -> type[msgspec.Struct] | None:
    """A struct with one field an input; None when a name cannot be a JSON key of msgspec's."""
    fields: list[Any] = []
    rename: dict[str, str] = {}
    for index, spec in enumerate(inputs):
        attribute = f"f{index}"
        rename[attribute] = spec.name
        optional = spec.nullable and not spec.required
        field = (attribute, _field_type(spec))
        fields.append((*field, None) if optional else field)
    try:
        return msgspec.defstruct(
            "Row", fields, rename=rename, kw_only=True, forbid_unknown_fields=True, gc=False
        )
    except ValueError:
        return None


def too_large(columns: Columns) -> Problem | None:
    """Why a model that has failed on these rows is not to blame; None when it is."""
    for name, values in columns.items():
        if values.dtype == object:
            continue
        beyond = np.abs(values) > LARGEST
        if beyond.any():
            row = int(np.argmax(beyond))
            place = f"row {row}: " if len(values) > 1 else ""
            return bad(
                "OutOfRange",
                f"{place}{name[:60]!r}: the model has no answer for numbers beyond {LARGEST:.2g}, "
                f"got {describe(float(values[row]))}",
                field=name,
            )
    return None


def _grouped(parts: Sequence[Rows]) -> list[list[tuple[Any, ...]] | Columns]:
    """Neighbouring tuples together, so that numpy is asked once for all of them."""
    groups: list[list[tuple[Any, ...]] | Columns] = []
    for part in parts:
        if part.columns is not None:
            groups.append(part.columns)
        elif part.tuples is not None:
            last = groups[-1] if groups else None
            if isinstance(last, list):
                last.extend(part.tuples)
            else:
                groups.append(list(part.tuples))
    return groups


def _objects(values: Sequence[Any]) -> np.ndarray[Any, Any]:
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array
