"""The tables of category statistics behind the core of a CatBoost file, checked.

Called by ``catboost_file``; calls the flatbuffer reader.  CatBoost looks a category's hash up in a
table of buckets (a 64-bit hash and a 32-bit index, packed) until it meets an empty one, and takes
what the index points to: a table without an empty bucket is searched forever, and an index past
the end reads other memory.  Field numbers are those of CatBoost's ``ctr_data.fbs``.
"""

from __future__ import annotations

import numpy as np

from sluice.package.native.description import Array, damaged
from sluice.package.native.flatbuffer import Flatbuffer

KIND = "CatBoost"
MAX_TABLES = 100_000
_PROVIDER = "static_provider_v1"
_BASE, _BUCKETS, _VALUES, _DENOMINATOR, _CLASSES = range(5)
_TYPE = 1
_MEANS = (2, 3)
"""Statistics that are a sum and a count, 8 bytes; the others are counts of 4 bytes, by class."""
_BY_CLASS = (0, 1)
_EMPTY = np.uint64(2**64 - 1)


def check_tables(rest: bytes, parts: list[str]) -> None:
    """Refuse damaged tables; ``rest`` is what follows the core, ``parts`` what the core lists."""
    if parts not in ([], [_PROVIDER]):
        damaged(KIND, f"its part {parts[0][:40]!r} is not known")
    if not parts:
        if rest:
            damaged(KIND, f"{len(rest)} bytes follow its end")
        return
    count, position = int.from_bytes(rest[:4], "little"), 4
    if len(rest) < 4 or count > MAX_TABLES:
        damaged(KIND, f"it has {count} tables of categories")
    for index in range(count):
        size = int.from_bytes(rest[position : position + 4], "little")
        table = rest[position + 4 : position + 4 + size]
        if len(table) != size or not size:
            damaged(KIND, f"table {index} is shorter than it says")
        _check_table(index, Flatbuffer(table))
        position += 4 + size
    if position != len(rest):
        damaged(KIND, f"{len(rest) - position} bytes follow its end")


def _check_table(index: int, buffer: Flatbuffer) -> None:
    root = buffer.root()
    raw = buffer.array(root, _BUCKETS, "u1")
    values = buffer.array(root, _VALUES, "u1")
    kind = buffer.byte(buffer.table(root, _BASE), _TYPE)
    size = 8 if kind in _MEANS else 4
    if kind in _BY_CLASS:
        classes = buffer.number(root, _CLASSES)
        if not 1 <= classes <= 10_000:
            damaged(KIND, f"table {index} is for {classes} classes")
        size = 4 * classes
    buckets = np.frombuffer(
        raw.tobytes()[: len(raw) // 12 * 12], dtype=[("hash", "<u8"), ("index", "<u4")]
    )
    _check_buckets(index, len(raw), buckets["hash"])
    used = buckets["index"][buckets["hash"] != _EMPTY]
    if len(values) % size or (len(used) and int(used.max()) >= len(values) // size):
        damaged(KIND, f"table {index} points outside")


def _check_buckets(index: int, length: int, hashes: Array) -> None:
    count = len(hashes)
    power = count and not count & (count - 1)
    if length % 12 or not power or not (hashes == _EMPTY).any():
        damaged(KIND, f"table {index} cannot be searched")
