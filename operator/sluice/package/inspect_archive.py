"""What the pickles inside a zip file or a NumPy array would import, found without loading them.

Called by ``inspect``; calls ``inspect_pickle`` on each part that could be a pickle, whatever the
part is called.  The types that a skops schema names are listed too.  As there, the list informs a
person and never makes a file safe.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
import zlib
from typing import IO, Any, cast

from sluice.errors import PackageError
from sluice.package.expand import MAX_EXPANDED_BYTES, bounded
from sluice.package.inspect_pickle import PickleReport, inspect_stream
from sluice.package.plain_text import printable

MAX_MEMBERS = 1_000
MAX_SCHEMA_BYTES = 16 * 1024**2
_NPY = b"\x93NUMPY"
_PICKLES = (".pkl", ".pickle", ".joblib", ".npy")
_BROKEN = (
    zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, RuntimeError,
    NotImplementedError, RecursionError,
)  # fmt: skip


def inspect_archive(data: bytes) -> PickleReport:
    """List the globals of all pickles in ``data``; what cannot be read is a ``problem``.

    Raises PackageError for a member that expands too far.
    """
    report = PickleReport()
    try:
        if data.startswith(_NPY):
            _part(report, "the array", io.BytesIO(data))
        else:
            _members(report, data)
    except _BROKEN as error:
        report.problem = f"it cannot be read to its end: {printable(str(error))[:120]}"
    return report


def _members(report: PickleReport, data: bytes) -> None:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        for member in archive.infolist()[:MAX_MEMBERS]:
            _member(report, archive, member, len(data))
        if len(archive.infolist()) > MAX_MEMBERS:
            report.problem = f"only the first {MAX_MEMBERS} members were read"


def _member(
    report: PickleReport, archive: zipfile.ZipFile, member: zipfile.ZipInfo, size: int
) -> None:
    if member.file_size > MAX_EXPANDED_BYTES:
        raise PackageError(
            f"Its part {printable(member.filename)[:100]} expands to {member.file_size} bytes.",
            hint="Nothing a model needs looks like this: do not load it.",
            reason="TooLarge",
        )
    try:
        with archive.open(member) as raw:
            stream = bounded(raw, size)
            if member.filename.endswith("schema.json"):
                _schema(report, stream)
            else:
                _part(report, member.filename, stream)
    except _BROKEN as error:
        report.problem = (
            f"{printable(member.filename)[:100]} cannot be read: {printable(str(error))[:120]}"
        )


def _part(report: PickleReport, name: str, stream: IO[bytes]) -> None:
    """A pickle, or an array that holds one."""
    head = stream.read(len(_NPY))
    if head == _NPY:
        if not _array_header(stream):
            return
        head = b""
    elif not (head[:1] == b"\x80" or name.endswith(_PICKLES)):
        return
    found = inspect_stream(cast(IO[bytes], _Rest(head, stream)))
    report.imports = sorted({*report.imports, *found.imports})
    if found.problem:
        report.problem = f"{printable(name)[:100]}: {found.problem}"


def _array_header(stream: IO[bytes]) -> bool:
    """Read past NumPy's header; whether its type may hold Python objects."""
    major = stream.read(2)[:1]
    wide = 2 if major == b"\x01" else 4
    size = int.from_bytes(stream.read(wide), "little")
    if size > MAX_SCHEMA_BYTES:
        raise ValueError(f"the array's header claims {size} bytes")
    return bool(re.search(rb"[|<>=']O\d*['\"]|object", stream.read(size)))


def _schema(report: PickleReport, stream: IO[bytes]) -> None:
    """The types that skops would import."""
    text = stream.read(MAX_SCHEMA_BYTES + 1)
    if len(text) > MAX_SCHEMA_BYTES:
        raise ValueError(f"the schema has more than {MAX_SCHEMA_BYTES} bytes")
    waiting: list[Any] = [json.loads(text)]
    names = set(report.imports)
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            for module, name in (("__module__", "__class__"), ("module_path", "function")):
                if module in value and name in value:
                    names.add(printable(f"{value[module]}.{value[name]}"[:250]))
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value
    report.imports = sorted(names)


class _Rest(io.RawIOBase):
    """A stream whose first bytes were read already."""

    def __init__(self, head: bytes, stream: IO[bytes]) -> None:
        self._head, self._stream, self._given = head, stream, 0

    def read(self, size: int = -1, /) -> bytes:
        first, self._head = self._head[: max(size, 0)], self._head[max(size, 0) :]
        data = first + self._stream.read(size - len(first))
        self._given += len(data)
        return data

    def readline(self, size: int | None = -1, /) -> bytes:
        line = bytearray()
        while (byte := self.read(1)) and (size is None or size < 0 or len(line) < size):
            line += byte
            if byte == b"\n":
                break
        return bytes(line)

    def tell(self) -> int:
        return self._given
