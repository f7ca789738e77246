"""What a pickle would import, found without loading it.

Called by ``sniff``, ``package`` and ``inspect``; calls ``pickletools`` and decompressors, never
``pickle.load``.  The stream is interpreted symbolically: strings, memo and stack are followed so
that names built at run time are seen, and nothing is ever called.  joblib's streams (arrays as raw
bytes between opcodes, nested pickles for object arrays, zlib, gzip, bz2, xz, lzma around all) are
read to their end.

The list informs a person; it never makes a pickle safe.  A pickle is of class Code whatever it
lists, and a stream that cannot be followed to its end says so in ``problem``.
"""

from __future__ import annotations

import io
import lzma
import pickletools
import re
import zlib
from dataclasses import dataclass, field
from typing import IO, Any, cast

from sluice.errors import PackageError
from sluice.package.expand import expand
from sluice.package.plain_text import printable

MAX_OPCODES = 20_000_000
MAX_LINE = 16 * 1024**2
MAX_NESTED = 100
KEPT_BYTES = 1024 * 1024
"""Of one string; no name is longer, and a string may claim gigabytes."""


@dataclass(slots=True)
class PickleReport:
    """Globals in the order of their names, and whether the whole stream was understood."""

    imports: list[str] = field(default_factory=list)
    compression: str = ""
    expanded_bytes: int = 0
    opcodes: int = 0
    problem: str = ""

    @property
    def modules(self) -> list[str]:
        """Top-level modules that loading would import."""
        return sorted({name.split(".", 1)[0] for name in self.imports})


def inspect_pickle(data: bytes) -> PickleReport:
    """List the globals of a pickle or joblib file; bad input is a ``problem``.

    Raises PackageError only for a file that expands too far, or that lz4 keeps closed.
    """
    stream, compression = expand(data)
    report = inspect_stream(stream)
    report.compression = compression
    return report


def inspect_stream(stream: IO[bytes]) -> PickleReport:
    """The same for one uncompressed pickle that has yet to be read."""
    report = PickleReport()
    imports: set[str] = set()
    machine = _Machine(imports)
    try:
        machine.run(stream)
        if stream.read(1):
            report.problem = "more follows after its end, which another loader would read"
    except PackageError:
        raise
    except (EOFError, OSError, zlib.error, lzma.LZMAError) as error:
        report.problem = f"the stream is cut short or damaged: {str(error)[:120]}"
    except (ValueError, KeyError, IndexError, TypeError, RecursionError, OverflowError) as error:
        report.problem = f"the stream cannot be followed: {type(error).__name__} {str(error)[:120]}"
    report.imports = sorted(imports)
    report.expanded_bytes = stream.tell()
    report.opcodes = machine.opcodes
    return report


class _Skimmed(io.RawIOBase):
    """The stream as ``genops`` wants it, with the beginning of what is long."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream

    def read(self, size: int = -1, /) -> bytes:
        if size <= KEPT_BYTES:
            return self._stream.read(size)
        head = self._stream.read(KEPT_BYTES)
        _skip(self._stream, size - len(head))
        return _Long(head[: _whole_characters(head)], size)

    def readline(self, size: int | None = -1, /) -> bytes:
        return self._stream.readline(MAX_LINE if size is None or size < 0 else size)

    def tell(self) -> int:
        return self._stream.tell()


class _Long(bytes):
    """The beginning of a string that claims the length it had."""

    def __new__(cls, head: bytes, size: int) -> _Long:
        made = super().__new__(cls, head)
        made._size = size
        return made

    _size: int

    def __len__(self) -> int:
        return self._size


def _whole_characters(head: bytes) -> int:
    """Where UTF-8 may be cut: not after the first bytes of a character."""
    end = len(head)
    while end and head[end - 1] & 0xC0 == 0x80:
        end -= 1
    return max(end - 1, 0)


class _Mark:
    """The stack mark."""


@dataclass(slots=True)
class _Global:
    name: str


@dataclass(slots=True)
class _Object:
    """Something a call would have made: what was called, with what, and its state."""

    made_by: Any
    args: Any = None
    state: Any = None


_UNKNOWN = object()
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_PUSH_NAMES = (
    "INT BININT BININT1 BININT2 LONG LONG1 LONG4 STRING BINSTRING SHORT_BINSTRING BINBYTES "
    "SHORT_BINBYTES BINBYTES8 BYTEARRAY8 UNICODE SHORT_BINUNICODE BINUNICODE BINUNICODE8 "
    "FLOAT BINFLOAT"
)
_PUSH_ARG = frozenset(_PUSH_NAMES.split())
_WRAPPER = "joblib.numpy_pickle.NumpyArrayWrapper"


class _Machine:
    """The pickle machine without its hands: it moves symbols and calls nothing."""

    def __init__(self, imports: set[str], nested: int = 0) -> None:
        self.imports = imports
        self.opcodes = 0
        self._nested = nested
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def run(self, stream: IO[bytes]) -> None:
        self._stack, self._memo = [], {}
        for opcode, arg, _ in pickletools.genops(cast(IO[bytes], _Skimmed(stream))):
            self.opcodes += 1
            if self.opcodes > MAX_OPCODES:
                raise ValueError(f"more than {MAX_OPCODES} operations")
            name = opcode.name
            if name in _PUSH_ARG:
                self._stack.append(arg)
            elif name in _CONSTANTS:
                self._stack.append(_CONSTANTS[name])
            else:
                self._step(name, arg, stream)

    def _step(self, name: str, arg: Any, stream: IO[bytes]) -> None:
        handler = getattr(self, f"_op_{name.lower()}", None)
        if handler is not None:
            handler(arg)
            if name == "BUILD":
                self._array(stream)
        elif name not in ("PROTO", "FRAME", "STOP", "READONLY_BUFFER"):
            self._stack.append(_UNKNOWN)

    def _pop_mark(self) -> list[Any]:
        for index in range(len(self._stack) - 1, -1, -1):
            if isinstance(self._stack[index], _Mark):
                items = self._stack[index + 1 :]
                del self._stack[index:]
                return items
        raise ValueError("no mark on the stack")

    def _found(self, module: Any, name: Any) -> None:
        known = isinstance(module, str) and isinstance(name, str)
        full = printable(f"{module}.{name}"[:250]) if known else "(a name computed while loading)"
        self.imports.add(full)
        self._stack.append(_Global(full))

    # names

    def _op_global(self, arg: str) -> None:
        module, _, name = arg.partition(" ")
        self._found(module, name)

    def _op_stack_global(self, _: Any) -> None:
        name = self._stack.pop()
        self._found(self._stack.pop(), name)

    def _op_inst(self, arg: str) -> None:
        args = self._pop_mark()
        self._op_global(arg)
        self._stack.append(_Object(self._stack.pop(), tuple(args)))

    def _op_ext1(self, arg: int) -> None:
        self._found("copyreg", f"extension {arg}")

    _op_ext2 = _op_ext1
    _op_ext4 = _op_ext1

    # calls that are not made

    def _op_reduce(self, _: Any) -> None:
        args = self._stack.pop()
        self._stack.append(_Object(self._stack.pop(), args))

    _op_newobj = _op_reduce

    def _op_newobj_ex(self, _: Any) -> None:
        self._stack.pop()
        self._op_reduce(None)

    def _op_obj(self, _: Any) -> None:
        items = self._pop_mark()
        self._stack.append(_Object(items[0], tuple(items[1:])))

    def _op_build(self, _: Any) -> None:
        state = self._stack.pop()
        if isinstance(self._stack[-1], _Object):
            self._stack[-1].state = state

    # containers

    def _op_mark(self, _: Any) -> None:
        self._stack.append(_Mark())

    def _op_pop(self, _: Any) -> None:
        self._stack.pop()

    def _op_pop_mark(self, _: Any) -> None:
        self._pop_mark()

    def _op_dup(self, _: Any) -> None:
        self._stack.append(self._stack[-1])

    def _op_empty_list(self, _: Any) -> None:
        self._stack.append([])

    def _op_empty_tuple(self, _: Any) -> None:
        self._stack.append(())

    def _op_empty_dict(self, _: Any) -> None:
        self._stack.append({})

    def _op_empty_set(self, _: Any) -> None:
        self._stack.append([])

    def _op_list(self, _: Any) -> None:
        self._stack.append(self._pop_mark())

    def _op_tuple(self, _: Any) -> None:
        self._stack.append(tuple(self._pop_mark()))

    _op_frozenset = _op_tuple

    def _op_dict(self, _: Any) -> None:
        self._stack.append(_pairs(self._pop_mark()))

    def _tuple_of(self, count: int) -> None:
        items = tuple(self._stack[-count:])
        del self._stack[-count:]
        self._stack.append(items)

    def _op_tuple1(self, _: Any) -> None:
        self._tuple_of(1)

    def _op_tuple2(self, _: Any) -> None:
        self._tuple_of(2)

    def _op_tuple3(self, _: Any) -> None:
        self._tuple_of(3)

    def _op_append(self, _: Any) -> None:
        self._stack.pop()

    def _op_appends(self, _: Any) -> None:
        self._pop_mark()

    _op_additems = _op_appends

    def _op_setitem(self, _: Any) -> None:
        value = self._stack.pop()
        self._set({_key(self._stack.pop()): value})

    def _op_setitems(self, _: Any) -> None:
        self._set(_pairs(self._pop_mark()))

    def _set(self, items: dict[Any, Any]) -> None:
        if isinstance(self._stack[-1], dict):
            self._stack[-1].update(items)

    # memo and persistence

    def _op_put(self, arg: int) -> None:
        self._memo[arg] = self._stack[-1]

    _op_binput = _op_put
    _op_long_binput = _op_put

    def _op_memoize(self, _: Any) -> None:
        self._memo[len(self._memo)] = self._stack[-1]

    def _op_get(self, arg: int) -> None:
        self._stack.append(self._memo[arg])

    _op_binget = _op_get
    _op_long_binget = _op_get

    def _op_binpersid(self, _: Any) -> None:
        self._stack.pop()
        self._stack.append(_UNKNOWN)

    # joblib's arrays, whose bytes lie between two opcodes

    def _array(self, stream: IO[bytes]) -> None:
        top = self._stack[-1]
        if not (isinstance(top, _Object) and isinstance(top.made_by, _Global)):
            return
        if top.made_by.name != _WRAPPER or not isinstance(top.state, dict):
            return
        count = 1
        for size in top.state.get("shape", ()):
            count *= int(size)
        item_size = _item_size(top.state.get("dtype"))
        if item_size is None:
            if self._nested >= MAX_NESTED:
                raise ValueError("object arrays are nested too deep")
            inner = _Machine(self.imports, self._nested + 1)
            inner.opcodes = self.opcodes
            inner.run(stream)
            self.opcodes = inner.opcodes
            return
        if top.state.get("numpy_array_alignment_bytes") is not None:
            _skip(stream, _skip(stream, 1)[0])
        _skip(stream, count * item_size)


def _key(value: Any) -> Any:
    return value if isinstance(value, (str, int, float, bytes, bool, type(None))) else id(value)


def _pairs(items: list[Any]) -> dict[Any, Any]:
    return {_key(k): v for k, v in zip(items[::2], items[1::2], strict=False)}


def _item_size(dtype: Any) -> int | None:
    """Bytes of one element; None for an array of Python objects."""
    if isinstance(dtype, _Object) and isinstance(dtype.args, tuple) and dtype.args:
        code = dtype.args[0]
        if isinstance(code, str):
            match = re.fullmatch(r"[<>|=]?([biufcSUVMm])(\d+)", code)
            if match:
                return int(match[2]) * (4 if match[1] == "U" else 1)
            if code.startswith(("O", "|O")):
                return None
    raise ValueError("an array of unknown element type")


def _skip(stream: IO[bytes], size: int) -> bytes:
    """Read past ``size`` bytes; the first of them are returned."""
    first = b""
    while size > 0:
        chunk = stream.read(min(size, 1024 * 1024))
        if not chunk:
            raise EOFError("array data ends early")
        first = first or chunk[:1]
        size -= len(chunk)
    return first
