"""Universal Binary JSON as XGBoost writes it, read with every length checked.

Called by ``xgboost_file``; calls numpy.  Numbers in a row become one array without a copy, so a
large model costs no more memory than its file.  The format: ubjson.org/type-reference.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

MAX_DEPTH = 32
MAX_ITEMS = 4_000_000

_NUMBERS = {
    b"i": ">i1",
    b"U": ">u1",
    b"I": ">i2",
    b"l": ">i4",
    b"L": ">i8",
    b"d": ">f4",
    b"D": ">f8",
}
_CONSTANTS = {b"Z": None, b"T": True, b"F": False}


class NotUbjsonError(ValueError):
    """The bytes are no UBJSON of this kind."""


def read_ubjson(data: bytes) -> Any:
    """The value: dicts, lists, texts, numbers, and numpy arrays for rows of numbers."""
    reader = _Reader(data)
    value = reader.value(reader.take(1), 0)
    if reader.position != len(data):
        raise NotUbjsonError(f"{len(data) - reader.position} bytes follow its end")
    return value


class _Reader:
    def __init__(self, data: bytes) -> None:
        self.data, self.position, self.items = data, 0, 0

    def take(self, size: int) -> bytes:
        end = self.position + size
        if size < 0 or end > len(self.data):
            raise NotUbjsonError("it ends too early: it may be truncated")
        found = self.data[self.position : end]
        self.position = end
        return found

    def value(self, kind: bytes, depth: int) -> Any:
        self.items += 1
        if depth > MAX_DEPTH or self.items > MAX_ITEMS:
            raise NotUbjsonError("it is nested too deeply or has too many parts")
        if kind in _NUMBERS:
            return self.number(kind)
        if kind in _CONSTANTS:
            return _CONSTANTS[kind]
        if kind == b"S":
            return self.text()
        if kind == b"[":
            return self.array(depth)
        if kind == b"{":
            return self.object(depth)
        raise NotUbjsonError(f"it has a value of the unknown kind {kind!r}")

    def number(self, kind: bytes) -> int | float:
        (found,) = struct.unpack(_STRUCTS[kind], self.take(_SIZES[kind]))
        return found  # type: ignore[no-any-return]

    def length(self) -> int:
        kind = self.take(1)
        if kind not in _NUMBERS or kind in (b"d", b"D"):
            raise NotUbjsonError("a length is not a whole number")
        size = int(self.number(kind))
        if not 0 <= size <= len(self.data):
            raise NotUbjsonError("a length is larger than the file: it may be truncated")
        return size

    def text(self) -> str:
        try:
            return self.take(self.length()).decode()
        except UnicodeDecodeError:
            raise NotUbjsonError("a text is not UTF-8") from None

    def array(self, depth: int) -> Any:
        kind = b""
        if self.data[self.position : self.position + 1] == b"$":
            self.take(1)
            kind = self.take(1)
        if self.data[self.position : self.position + 1] == b"#":
            self.take(1)
            count = self.length()
            if kind in _NUMBERS:
                raw = self.take(count * _SIZES[kind])
                return np.frombuffer(raw, dtype=_NUMBERS[kind])
            return [self.value(kind or self.take(1), depth + 1) for _ in range(count)]
        if kind:
            raise NotUbjsonError("an array of one kind has no length")
        found = []
        while (mark := self.take(1)) != b"]":
            found.append(self.value(mark, depth + 1))
        return found

    def object(self, depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        while self.data[self.position : self.position + 1] != b"}":
            name = self.text()
            if name in found:
                raise NotUbjsonError(f"an object has {name[:60]!r} twice")
            found[name] = self.value(self.take(1), depth + 1)
        self.take(1)
        return found


_SIZES = {kind: np.dtype(form).itemsize for kind, form in _NUMBERS.items()}
_STRUCTS = {b"i": ">b", b"U": ">B", b"I": ">h", b"l": ">i", b"L": ">q", b"d": ">f", b"D": ">d"}
