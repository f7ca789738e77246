"""Compressed files as bounded streams: a small file can never fill the memory.

Called by ``sniff`` and ``inspect_pickle``; calls the standard library's decompressors.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zlib
from typing import IO, Any, cast

from sluice.errors import PackageError

MAX_EXPANDED_BYTES = 4 * 1024**3
MAX_RATIO = 200
RATIO_FREE_BYTES = 64 * 1024**2
MAX_LZMA_MEMORY = 256 * 1024**2
"""xz and lzma files say how large their dictionary is; the strongest preset needs 65 MiB."""
COMPRESSIONS: dict[bytes, str] = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bz2",
    b"\xfd7zXZ": "xz",
    b"\x5d\x00": "lzma",
    b"\x04\x22\x4d\x18": "lz4",
}


def compression_of(data: bytes) -> str:
    """Name of the compression around ``data``, or an empty string."""
    for prefix, name in COMPRESSIONS.items():
        if data.startswith(prefix):
            return name
    if len(data) > 2 and data[0] == 0x78 and (data[0] * 256 + data[1]) % 31 == 0:
        return "zlib"
    return ""


def expand(data: bytes, *, limit: int = MAX_EXPANDED_BYTES) -> tuple[IO[bytes], str]:
    """A bounded stream of the content, decompressed when it is compressed, and by what."""
    name = compression_of(data)
    raw: Any
    if name == "gzip":
        raw = gzip.GzipFile(fileobj=io.BytesIO(data))
    elif name == "bz2":
        raw = bz2.BZ2File(io.BytesIO(data))
    elif name in ("xz", "lzma"):
        raw = io.BufferedReader(_Lzma(data))
    elif name == "zlib":
        raw = io.BufferedReader(_Zlib(data))
    elif name == "lz4":
        raise PackageError(
            "The file is compressed with lz4, which cannot be looked into.",
            hint="Save it with joblib.dump(model, path, compress=3) instead.",
            reason="UnknownFormat",
        )
    else:
        return io.BytesIO(data), ""
    return bounded(raw, len(data), limit=limit), name


def bounded(raw: Any, size: int, *, limit: int = MAX_EXPANDED_BYTES) -> IO[bytes]:
    """``raw``, which comes out of a file of ``size`` bytes, as far as that is credible."""
    allowed = min(limit, max(RATIO_FREE_BYTES, MAX_RATIO * size))
    return cast(IO[bytes], _Bounded(raw, allowed))


class _Zlib(io.RawIOBase):
    """``zlib`` as a stream that never expands more than it is asked for."""

    def __init__(self, data: bytes) -> None:
        self._pending = data
        self._engine = zlib.decompressobj()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        if self._engine.eof:
            return 0
        chunk = self._engine.decompress(self._pending, len(buffer))
        self._pending = self._engine.unconsumed_tail
        if not chunk and not self._engine.eof:
            raise EOFError("the compressed data ends early")
        buffer[: len(chunk)] = chunk
        return len(chunk)


class _Lzma(io.RawIOBase):
    """xz and lzma as a stream that gives no file the memory it asks for."""

    def __init__(self, data: bytes) -> None:
        self._pending = data
        self._engine = self._new()

    @staticmethod
    def _new() -> lzma.LZMADecompressor:
        return lzma.LZMADecompressor(memlimit=MAX_LZMA_MEMORY)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        chunk = b""
        while not chunk:
            if self._engine.eof:
                self._pending = self._engine.unused_data
                if not self._pending:
                    return 0
                self._engine = self._new()  # streams follow one another in one file
            if self._engine.needs_input and not self._pending:
                raise EOFError("the compressed data ends early")
            chunk = self._engine.decompress(self._pending, len(buffer))
            self._pending = b""
        buffer[: len(chunk)] = chunk
        return len(chunk)


class _Bounded(io.RawIOBase):
    """Refuses to hand out more than ``limit`` bytes, so a small file cannot fill the memory."""

    def __init__(self, raw: IO[bytes], limit: int) -> None:
        self._raw, self._limit, self._given = raw, limit, 0

    def _count(self, data: bytes) -> bytes:
        self._given += len(data)
        if self._given > self._limit:
            raise PackageError(
                f"The compressed file expands to more than {self._limit} bytes.",
                hint="Nothing a model needs looks like this: do not load it.",
                reason="TooLarge",
            )
        return data

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        left = self._limit - self._given + 1
        return self._count(self._raw.read(left if size is None or size < 0 else min(size, left)))

    def readline(self, size: int | None = -1, /) -> bytes:
        left = self._limit - self._given + 1
        bounded = left if size is None or size < 0 else min(size, left)
        return self._count(self._raw.readline(bounded))

    def tell(self) -> int:
        return self._given
