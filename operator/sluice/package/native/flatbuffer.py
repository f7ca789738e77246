"""A flatbuffer read with every offset checked, as far as a CatBoost model needs it.

Called by ``catboost_file``; calls numpy.  Tables are dicts from field number to position.  The
encoding is flatbuffers.dev/internals: offsets forward to tables, texts and rows of values, and a
table's own offset back to the list of its fields.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

Table = dict[int, int]
MAX_FIELDS = 200
MAX_TABLES = 200_000


class NotFlatbufferError(ValueError):
    """An offset or a length points outside the file."""


class Flatbuffer:
    """Reads from ``data``; every method raises NotFlatbufferError for what is not there."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._left = 4 * len(data) + 1024

    def root(self) -> Table:
        """The outermost table."""
        return self._table(self._follow(0))

    def number(self, table: Table, field: int, default: int = 0) -> int:
        """A 32-bit whole number."""
        return self._read("<i", table[field]) if field in table else default

    def byte(self, table: Table, field: int) -> int:
        """A number of one byte; 0 when absent."""
        return self._read("<B", table[field]) if field in table else 0

    def flag(self, table: Table, field: int) -> bool:
        """True or false; false when absent."""
        return self.byte(table, field) != 0

    def table(self, table: Table, field: int) -> Table:
        """A table within a table; empty when absent."""
        return self._table(self._follow(table[field])) if field in table else {}

    def text(self, table: Table, field: int) -> str:
        """A text; empty when absent."""
        if field not in table:
            return ""
        start, size = self._vector(table[field], 1)
        self._spend(size)
        try:
            return self._data[start : start + size].decode()
        except UnicodeDecodeError:
            raise NotFlatbufferError("a text is not UTF-8") from None

    def array(self, table: Table, field: int, kind: str) -> np.ndarray[Any, Any]:
        """A row of numbers of a numpy type; empty when absent."""
        dtype = np.dtype(kind)
        if field not in table:
            return np.zeros(0, dtype=dtype)
        start, count = self._vector(table[field], dtype.itemsize)
        return np.frombuffer(self._data, dtype=dtype, count=count, offset=start)

    def tables(self, table: Table, field: int) -> list[Table]:
        """A row of tables; empty when absent."""
        if field not in table:
            return []
        start, count = self._vector(table[field], 4)
        if count > MAX_TABLES:
            raise NotFlatbufferError(f"it lists {count} parts")
        return [self._table(self._follow(start + 4 * i)) for i in range(count)]

    def texts(self, table: Table, field: int) -> list[str]:
        """A row of texts; empty when absent."""
        if field not in table:
            return []
        start, count = self._vector(table[field], 4)
        if count > MAX_TABLES:
            raise NotFlatbufferError(f"it lists {count} texts")
        return [self.text({0: start + 4 * i}, 0) for i in range(count)]

    def count(self, table: Table, field: int, size: int) -> int:
        """How many values of ``size`` bytes a row has."""
        return self._vector(table[field], size)[1] if field in table else 0

    def _read(self, kind: str, position: int) -> int:
        try:
            return int(struct.unpack_from(kind, self._data, position)[0])
        except struct.error:
            raise NotFlatbufferError("an offset points outside: it may be truncated") from None

    def _follow(self, position: int) -> int:
        return position + self._read("<I", position)

    def _vector(self, position: int, size: int) -> tuple[int, int]:
        start = self._follow(position)
        count = self._read("<I", start)
        if start + 4 + count * size > len(self._data):
            raise NotFlatbufferError("a row is longer than the file: it may be truncated")
        return start + 4, count

    def _table(self, position: int) -> Table:
        fields = position - self._read("<i", position)
        if fields < 0:
            raise NotFlatbufferError("a table's fields lie outside")
        count = (self._read("<H", fields) - 4) // 2
        if not 0 <= count <= MAX_FIELDS:
            raise NotFlatbufferError(f"a table has {count} fields")
        offsets = [self._read("<H", fields + 4 + 2 * i) for i in range(count)]
        found = {i: position + offset for i, offset in enumerate(offsets) if offset}
        self._spend(8 * len(found))
        return found

    def _spend(self, size: int) -> None:
        """Parts may lie over each other, and a small file then holds any amount of them."""
        self._left -= size
        if self._left < 0:
            raise NotFlatbufferError("its parts lie over each other")
