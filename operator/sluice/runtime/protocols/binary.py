"""V2's binary tensors: little-endian values behind the JSON of a request or an answer.

Called by ``v2.py``; calls numpy.  Written after the binary tensor data extension of the Open
Inference Protocol: the header ``Inference-Header-Content-Length`` says where the JSON ends, the
tensors follow in the order in which the JSON names them, ``binary_data_size`` bytes each.  Numbers
and BOOL stand side by side; each element of BYTES has its length before it, four bytes unsigned.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sluice.runtime.problems import Problem, bad, describe

Array = np.ndarray[Any, Any]

HEADER_LENGTH = b"inference-header-content-length"
CONTENT_TYPE = b"application/octet-stream"
SIZE = "binary_data_size"

_PREFIX = 4
_DTYPES = {
    "BOOL": "u1",
    "FP16": "<f2",
    "FP32": "<f4",
    "FP64": "<f8",
    **{f"INT{bits}": f"<i{bits // 8}" for bits in (8, 16, 32, 64)},
    **{f"UINT{bits}": f"<u{bits // 8}" for bits in (8, 16, 32, 64)},
}


def split(body: bytes, length: bytes) -> tuple[bytes, memoryview]:
    """The JSON of a body and what follows it; ``length`` is the header's value."""
    # int() would take "+1" and "1_0"; 18 digits are more than any body.
    if not length.isdigit() or len(length) > 18:
        raise bad(
            "BadRequest",
            "Inference-Header-Content-Length: expected the number of bytes of the JSON part, "
            f"got {length[:40].decode('latin-1')!r}",
        )
    end = int(length)
    if end > len(body):
        raise bad(
            "BadRequest",
            f"Inference-Header-Content-Length: the JSON part is said to have {end} bytes, "
            f"the body has only {len(body)}",
        )
    return body[:end], memoryview(body)[end:]


class Tail:
    """The bytes behind the JSON, taken tensor by tensor."""

    def __init__(self, raw: memoryview) -> None:
        self._raw = raw
        self._taken = 0

    def take(self, name: str, parameters: Mapping[str, Any]) -> memoryview | None:
        """The bytes of a tensor; None when its parameters name no size."""
        if SIZE not in parameters:
            return None
        size = parameters[SIZE]
        if type(size) is not int or size < 0:
            got = describe(size)
            raise _wrong(name, f"expected {SIZE} to be a number of bytes, got {got}")
        left = len(self._raw) - self._taken
        if size > left:
            raise _wrong(
                name,
                f"{SIZE} says {size} bytes, the body has {left} left for it; send all the bytes, "
                "or correct the size or Inference-Header-Content-Length",
            )
        start, self._taken = self._taken, self._taken + size
        return self._raw[start : self._taken]

    def check_empty(self, names: Sequence[str]) -> None:
        """No byte may be left over: some size would be wrong, and with it some value."""
        left = len(self._raw) - self._taken
        if left:
            raise _wrong(
                names[-1],
                f"{left} bytes follow the last tensor; give every binary tensor its {SIZE}",
            )


def decode(name: str, datatype: str, count: int, raw: memoryview) -> Array | list[Any]:
    """``count`` values: an array of numbers or bools, or a list of str."""
    if datatype == "BYTES":
        return _texts(name, count, raw)
    dtype = np.dtype(_DTYPES[datatype])
    expected = count * dtype.itemsize
    if len(raw) != expected:
        raise _wrong(
            name,
            f"the shape says {count} values of {datatype}, which is {expected} bytes; "
            f"{SIZE} says {len(raw)}",
        )
    values = np.frombuffer(raw, dtype)
    if datatype == "BOOL":
        return _bools(name, values)
    if dtype.kind == "f":
        return _floats(name, values)
    return values


def encode(datatype: str, values: Any) -> bytes:
    """Values of one output as bytes; a BYTES output holds str."""
    if datatype != "BYTES":
        return np.asarray(values).astype(_DTYPES[datatype]).tobytes()
    return frame([text.encode() for text in values])


def frame(elements: Sequence[bytes]) -> bytes:
    """Elements of BYTES, each with its length before it."""
    return b"".join(len(element).to_bytes(_PREFIX, "little") + element for element in elements)


def _bools(name: str, values: Array) -> Array:
    if values.size and values.max() > 1:
        row = int(np.argmax(values > 1))
        raise bad(
            "WrongType",
            f"{name[:60]!r}: expected the bytes 0 and 1 in BOOL, "
            f"got {int(values[row])} at position {row}",
            field=name[:60],
        )
    return values.astype(bool)


def _floats(name: str, values: Array) -> Array:
    """As float64.  NaN is a missing value; an infinity is refused, as JSON refuses it."""
    infinite = np.isinf(values)
    if infinite.any():
        row = int(np.argmax(infinite))
        raise bad(
            "NotFinite",
            f"{name[:60]!r}: expected finite numbers, or NaN for a missing value, "
            f"got {float(values[row])} at position {row}",
            field=name[:60],
        )
    with np.errstate(invalid="ignore"):  # a signalling NaN is a NaN
        return values.astype(np.float64)


def _texts(name: str, count: int, raw: memoryview) -> list[str]:
    texts: list[str] = []
    at, end = 0, len(raw)
    while at < end:
        index = len(texts)
        if index == count:
            raise _wrong(name, f"the shape says {count} values, {end - at} bytes follow them")
        if end - at < _PREFIX:
            raise _wrong(
                name,
                f"value {index} begins with a length of 4 bytes, only {end - at} are left; "
                f"correct {SIZE} or the lengths",
            )
        size = int.from_bytes(raw[at : at + _PREFIX], "little")
        at += _PREFIX
        if size > end - at:
            raise _wrong(
                name,
                f"value {index} is said to have {size} bytes, only {end - at} are left; lengths "
                "are 4 bytes, little endian",
            )
        texts.append(_text(name, index, bytes(raw[at : at + size])))
        at += size
    if len(texts) != count:
        raise _wrong(name, f"the shape says {count} values, the data has {len(texts)}")
    return texts


def _text(name: str, index: int, raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise bad(
            "InvalidUtf8",
            f"{name[:60]!r}: expected UTF-8 in value {index}, got the byte "
            f"0x{raw[error.start]:02x} at position {error.start}",
            field=name[:60],
        ) from None


def _wrong(name: str, message: str) -> Problem:
    return bad("WrongShape", f"{name[:60]!r}: {message}", field=name[:60])
