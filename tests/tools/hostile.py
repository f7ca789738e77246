"""Model files that attack whoever opens them, for tests: each written for a canary path.

A file that runs makes the canary, a directory, and harms nothing.  ``runs`` is how a careless
loader would have opened it; a test shows with it that the file is alive.  Files without ``runs``
attack by what they name (ONNX), by their size, or need a library that is not installed.

for file in CORPUS: path.write_bytes(file.make(canary))
"""

from __future__ import annotations

import bz2
import contextlib
import copyreg
import gzip
import io
import lzma
import os
import pickle
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Make = Callable[[Path], bytes]
Run = Callable[[bytes], object]

EXPANDED = 10 * 1024**3
"""What the bombs say that they expand to, in bytes; they hold one gigabyte of it or all."""


@dataclass(frozen=True, slots=True)
class Hostile:
    """One file: what it is called, its bytes, and a word that its refusal must name."""

    name: str
    filename: str
    make: Make
    says: str
    runs: Run | None = None


class Canary:
    """Makes a directory when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = str(path)

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (self._path,)


# careless loaders


def _unpickle(data: bytes) -> object:
    return pickle.loads(data)


def _unpickle_extension(data: bytes) -> None:
    try:
        _unpickle(data)
    finally:
        copyreg.remove_extension("os", "mkdir", 240)


def _unpickle_cut(data: bytes) -> None:
    """A stream that breaks off has run by then."""
    with contextlib.suppress(Exception):
        _unpickle(data)


def _joblib(data: bytes) -> object:
    return joblib.load(io.BytesIO(data))


def _joblib_cut(data: bytes) -> None:
    with contextlib.suppress(Exception):
        _joblib(data)


def _numpy(data: bytes) -> None:
    found = np.load(io.BytesIO(data), allow_pickle=True)
    if isinstance(found, np.lib.npyio.NpzFile):
        for name in found.files:
            found[name]


def _numpy_cut(data: bytes) -> None:
    with contextlib.suppress(Exception):
        _numpy(data)


def _member(name: str) -> Run:
    """What ``torch.load`` does with the pickle inside its archive."""

    def run(data: bytes) -> None:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            _unpickle_cut(archive.read(name))

    return run


def _tar_member(data: bytes) -> None:
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        member = archive.extractfile("pickle")
        assert member is not None
        _unpickle(member.read())


def _second(data: bytes) -> None:
    """PyTorch's older files are several pickles in a row."""
    stream = io.BytesIO(data)
    while stream.tell() < len(data):
        pickle.load(stream)


# pickles, assembled


def _text(value: str) -> bytes:
    encoded = value.encode()
    return b"X" + struct.pack("<I", len(encoded)) + encoded


def _name(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def _call(module: str, name: str, *args: bytes) -> bytes:
    """GLOBAL, the arguments as a tuple, REDUCE."""
    return _name(module, name) + b"(" + b"".join(args) + b"tR"


def _mkdir(canary: Path) -> bytes:
    return _call("posix", "mkdir", _text(str(canary)))


def _source(canary: Path) -> bytes:
    return _text(f"__import__('os').mkdir({str(canary)!r})")


def _whole(*parts: bytes) -> bytes:
    return b"\x80\x04" + b"".join(parts) + b"."


def _plain(protocol: int) -> Make:
    return lambda canary: pickle.dumps(Canary(canary), protocol=protocol)


def _inst(canary: Path) -> bytes:
    return b"(" + _text(str(canary)) + b"iposix\nmkdir\n."


def _obj(canary: Path) -> bytes:
    return _whole(b"(" + _name("posix", "mkdir") + _text(str(canary)) + b"o")


def _newobj(canary: Path) -> bytes:
    """``tuple.__new__(tuple, map.__new__(map, mkdir, [path]))``: no REDUCE anywhere."""
    paths = b"](" + _text(str(canary)) + b"e"
    lazy = _name("builtins", "map") + b"(" + _name("posix", "mkdir") + paths + b"t\x81"
    return _whole(_name("builtins", "tuple") + lazy + b"\x85\x81")


def _swapped(canary: Path) -> bytes:
    """Names from the memo, pushed in another order than they are used."""
    return _whole(_text("mkdir") + b"\x94" + _text("posix") + b"\x9400h\x01h\x00\x93",
                  b"(" + _text(str(canary)) + b"tR")  # fmt: skip


def _computed(canary: Path) -> bytes:
    """The module's name is the result of a call."""
    joined = _name("builtins", "str.join") + _text("") + b"](" + _text("pos") + _text("ix")
    module = joined + b"e\x86R"
    return _whole(module + _text("mkdir") + b"\x93(" + _text(str(canary)) + b"tR")


def _dotted(canary: Path) -> bytes:
    """A harmless module's attribute that is another module."""
    return _whole(_text("shutil") + _text("os.mkdir") + b"\x93(" + _text(str(canary)) + b"tR")


def _getattr(canary: Path) -> bytes:
    found = _call("importlib", "import_module", _text("posix"))
    return _whole(_call("builtins", "getattr", found, _text("mkdir")), _argument(canary))


def _argument(canary: Path) -> bytes:
    return b"(" + _text(str(canary)) + b"tR"


def _reconstructor(canary: Path) -> bytes:
    """``copyreg``'s constructor, given a class whose ``__init__`` writes a file."""
    handler = _name("logging", "FileHandler")
    return _whole(_call("copyreg", "_reconstructor", handler, handler, _text(str(canary))))


def _extension(canary: Path) -> bytes:
    """A name registered and then called by its number."""
    register = _call("copyreg", "add_extension", _text("os"), _text("mkdir"), b"K\xf0")
    return _whole(register + b"0\x82\xf0", _argument(canary))


def _array(canary: Path) -> bytes:
    """numpy's own ``_reconstruct``, then an element that acts."""
    values = np.array([Canary(canary)], dtype=object)
    return pickle.dumps(values, protocol=4)


def _in_model(canary: Path) -> bytes:
    """A real estimator, with one attribute more."""
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression().fit(np.array([[0.0], [1.0]]), [0, 1])
    model.notes_ = {"made": [("by", Canary(canary))]}
    return _dumped(model)


def _dumped(value: Any, compress: Any = 0) -> bytes:
    buffer = io.BytesIO()
    joblib.dump(value, buffer, compress=compress)
    return buffer.getvalue()


def _in_pickle(canary: Path) -> bytes:
    inner = pickle.dumps(Canary(canary))
    content = b"B" + struct.pack("<I", len(inner)) + inner
    return _whole(_call("_pickle", "loads", content))


def _padded(canary: Path) -> bytes:
    """Nothing, twenty thousand times, before the act."""
    return b"I1\n0" * 20_000 + _mkdir(canary) + b"."


def _second_stream(canary: Path) -> bytes:
    return pickle.dumps({"weights": [0.1]}) + pickle.dumps(Canary(canary))


def _legacy_torch(canary: Path) -> bytes:
    magic = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)
    head = magic + pickle.dumps(1001, protocol=2) + pickle.dumps({}, protocol=2)
    return head + pickle.dumps(Canary(canary), protocol=2)


def _memo_bomb(canary: Path) -> bytes:
    """Two to the hundredth empty tuples, shared; harmless until somebody walks them."""
    doubled = b"".join(b"\x94h" + bytes([i]) + b"\x86" for i in range(100))
    return _whole(b")" + doubled + b"0" + _mkdir(canary))


def _deep(canary: Path) -> bytes:
    return _whole(_mkdir(canary) + b"\x85" * 50_000)


def _declares(opcode: bytes) -> Make:
    """Acts, then claims more bytes than there are."""
    return lambda canary: _whole(_mkdir(canary) + opcode)


def _unprintable(canary: Path) -> bytes:
    """Acts, then asks for a name that would clear the reader's screen."""
    return _whole(_mkdir(canary) + _name("safe\x1b[2J\x1b[H", "Model"))


# compressed


def _lzma_alone(data: bytes) -> bytes:
    return lzma.compress(data, format=lzma.FORMAT_ALONE)


COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "zlib": zlib.compress,
    "gzip": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "lzma": _lzma_alone,
}


def _compressed(name: str) -> Make:
    return lambda canary: COMPRESSORS[name](_dumped({"model": Canary(canary)}))


def _compressed_cut(canary: Path) -> bytes:
    """The checksum is missing and so is the end; what ran, ran."""
    return zlib.compress(_mkdir(canary) + os.urandom(4096))[:-2000]


_ZEROS = 16 * 1024**2


def _bomb(name: str) -> Make:
    """A pickle that claims one string of ten gigabytes, and the beginning of it or all."""

    def make(_: Path) -> bytes:
        head = b"\x80\x04\x8e" + struct.pack("<Q", EXPANDED)
        if name == "gzip":
            return _stream(zlib.compressobj(9, wbits=31), head)
        if name == "zlib":
            return _stream(zlib.compressobj(9), head)
        if name == "xz":
            return lzma.compress(head, preset=0) + lzma.compress(bytes(_ZEROS), preset=0) * 64
        return bz2.compress(head) + bz2.compress(bytes(_ZEROS), 9) * 640

    return make


def _stream(engine: Any, head: bytes, times: int = 64) -> bytes:
    """Deflate repeats what it said of zeros, so that they need not be compressed."""
    parts = [engine.compress(head), engine.flush(zlib.Z_FULL_FLUSH)]
    engine.compress(bytes(_ZEROS))
    engine.flush(zlib.Z_FULL_FLUSH)
    zeros = engine.compress(bytes(_ZEROS)) + engine.flush(zlib.Z_FULL_FLUSH)
    return bytes(b"".join(parts) + zeros * times + engine.flush())


def _dictionary_bomb(_: Path) -> bytes:
    """Asks for a three-gigabyte dictionary in the header of a file of a few bytes."""
    data = bytearray(_lzma_alone(pickle.dumps([0] * 100)))
    data[1:5] = b"\x00\x00\x00\xc0"
    return bytes(data)


# archives


def _zip(members: dict[str, bytes], how: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", how) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def _torch(pickled: Make, **more: bytes) -> Make:
    def make(canary: Path) -> bytes:
        members = {"archive/data.pkl": pickled(canary), "archive/version": b"3\n"}
        return _zip(members | {f"archive/{k.replace('__', '/')}": v for k, v in more.items()})

    return make


def _allowed_names(canary: Path) -> bytes:
    """Names that ``weights_only`` lets through, with a state that replaces what they hold."""
    made = _call("collections", "OrderedDict") + b"}" + _text("__reduce__")
    state = made + _call("torch._utils", "_rebuild_parameter_with_state") + b"sb"
    return _whole(_mkdir(canary) + b"0" + state)


def _from_bytes(canary: Path) -> bytes:
    inner = pickle.dumps(Canary(canary))
    content = b"B" + struct.pack("<I", len(inner)) + inner
    return _whole(_mkdir(canary) + b"0" + _call("torch.storage", "_load_from_bytes", content))


def _torchscript(canary: Path) -> bytes:
    made = _torch(lambda c: _whole(_mkdir(c)))(canary)
    return _with(made, {"archive/code/__torch__.py": b"def forward(self): pass\n",
                        "archive/constants.pkl": b"\x80\x02)."})  # fmt: skip


def _with(archive: bytes, members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO(archive)
    with zipfile.ZipFile(buffer, "a") as opened:
        for name, data in members.items():
            opened.writestr(name, data)
    return buffer.getvalue()


def _legacy_tar(canary: Path) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in ("sys_info", "pickle", "tensors", "storages"):
            data = pickle.dumps(Canary(canary)) if name == "pickle" else pickle.dumps({})
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def _npy(canary: Path) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([Canary(canary)], dtype=object), allow_pickle=True)
    return buffer.getvalue()


def _npy_cut(canary: Path) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([None], dtype=object), allow_pickle=True)
    return buffer.getvalue()[:128] + _whole(_mkdir(canary))[:-1]


def _npz(canary: Path) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, w=np.ones(3), x=np.array([Canary(canary)], dtype=object))
    return buffer.getvalue()


def _npz_with_pickle(canary: Path) -> bytes:
    """An entry that is called an array and is a pickle."""
    return _zip({"w.npy": pickle.dumps(Canary(canary))})


def _skops(schema: str) -> Make:
    return lambda canary: _zip({"schema.json": schema.replace("CANARY", str(canary)).encode(),
                                "1.npy": _npy(canary)})  # fmt: skip


_SKOPS_TYPE = (
    '{"__class__": "system", "__module__": "posix", "__loader__": "FunctionNode",'
    ' "content": {"function": "system", "module_path": "posix"}}'
)
_SKOPS_REDUCE = (
    '{"__class__": "mkdir", "__module__": "os", "__loader__": "ReduceNode",'
    ' "__reduce__": {"args": ["CANARY"]}}'
)
_SKOPS_OBJECTS = '{"__class__": "ndarray", "__module__": "numpy", "type": "numpy", "file": "1.npy"}'


def _zip_bomb(_: Path) -> bytes:
    """A member of ten gigabytes of zeros."""
    head = b"\x80\x04\x8e" + struct.pack("<Q", EXPANDED)
    content = _stream(zlib.compressobj(9, wbits=-15), head, 640)
    small = _zip({"archive/data.pkl": b"\x80\x04N."}, zipfile.ZIP_DEFLATED)
    entry = small.index(b"PK\x01\x02")
    name = b"archive/data.pkl"
    sizes = struct.pack("<III", 0, len(content), 0xFFFFFFFF)
    wide = struct.pack("<HHQ", 1, 8, len(head) + EXPANDED)
    local = b"PK\x03\x04" + small[4:14] + sizes + struct.pack("<HH", len(name), 0) + name
    central = bytearray(small[entry : entry + 46])
    central[16:28] = sizes
    central[30:32] = struct.pack("<H", len(wide))
    central[42:46] = struct.pack("<I", 0)
    directory = bytes(central) + name + wide
    offset = len(local) + len(content)
    end = struct.pack("<4sHHHHIIH", b"PK\x05\x06", 0, 0, 1, 1, len(directory), offset, 0)
    return local + content + directory + end


def _encrypted(canary: Path) -> bytes:
    """The member says that it needs a password."""
    data = bytearray(_torch(_plain(4))(canary))
    for start in (b"PK\x03\x04", b"PK\x01\x02"):
        at = data.index(start) + (6 if start[2] == 3 else 8)
        data[at] |= 1
    return bytes(data)


def _zip_after_pickle(canary: Path) -> bytes:
    """A pickle to one reader, a zip file to another."""
    return pickle.dumps(Canary(canary)) + _torch(_plain(4))(canary)


# formats that are data, holding a pickle


def _catboost_pickle(canary: Path) -> bytes:
    """To pickle, ``C`` skips as many bytes as the ``B`` says; what follows acts."""
    return b"CBM1" + bytes(0x42 - 2) + b"0" + _mkdir(canary) + b"."


def _lightgbm_pickle(canary: Path) -> bytes:
    return b"tree\nversion=v4\n" + pickle.dumps(Canary(canary))


def _safetensors_pickle(canary: Path) -> bytes:
    header = b'{"__metadata__":{"format":"pt"}}'
    return len(header).to_bytes(8, "little") + header + pickle.dumps(Canary(canary))


# ONNX


def _tensor_outside(location: str) -> onnx.TensorProto:
    tensor = numpy_helper.from_array(np.ones(2), "w")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", location
    return tensor


def _graph(
    *nodes: onnx.NodeProto,
    weights: list[onnx.TensorProto] | None = None,
    functions: list[onnx.FunctionProto] | None = None,
) -> onnx.ModelProto:
    value = helper.make_tensor_value_info
    made = helper.make_graph(
        list(nodes) or [helper.make_node("Identity", ["x"], ["y"])],
        "g",
        [value("x", TensorProto.DOUBLE, [None, 2])],
        [value("y", TensorProto.DOUBLE, [None, 2])],
        initializer=weights or [],
    )
    return helper.make_model(made, functions=functions or [], ir_version=9)


def _outside(location: str) -> Make:
    return lambda _: bytes(_graph(weights=[_tensor_outside(location)]).SerializeToString())


def _outside_in_branch(_: Path) -> bytes:
    constant = helper.make_node("Constant", [], ["k"], value=_tensor_outside("/etc/hostname"))
    output = helper.make_tensor_value_info("k", TensorProto.DOUBLE, [2])
    inner = helper.make_graph([constant], "inner", [], [output])
    condition = helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner)
    return bytes(_graph(condition).SerializeToString())


def _outside_in_default(_: Path) -> bytes:
    """The default of a function's attribute."""
    default = helper.make_attribute("value", _tensor_outside("/etc/hostname"))
    constant = onnx.NodeProto(op_type="Constant", output=["y"])
    constant.attribute.add(name="value", ref_attr_name="value", type=onnx.AttributeProto.TENSOR)
    function = helper.make_function(
        "own", "F", [], ["y"], [constant], [helper.make_opsetid("", 17)],
        attribute_protos=[default],
    )  # fmt: skip
    model = _graph(helper.make_node("F", [], ["y"], domain="own"), functions=[function])
    return bytes(model.SerializeToString())


def _operator(domain: str, name: str) -> Make:
    node = helper.make_node(name, ["x"], ["y"], domain=domain)
    return lambda _: bytes(_graph(node).SerializeToString())


def _hidden_operator(_: Path) -> bytes:
    """A function of the file takes the name of an operator that reads files."""
    body = helper.make_node("Identity", ["x"], ["y"])
    opsets = [helper.make_opsetid("", 17)]
    function = helper.make_function("com.microsoft", "EPContext", ["x"], ["y"], [body], opsets)
    node = helper.make_node("EPContext", ["x"], ["y"], domain="com.microsoft")
    return bytes(_graph(node, functions=[function]).SerializeToString())


def _field(number: int, content: bytes) -> bytes:
    size, length = len(content), b""
    while size > 0x7F:
        length += bytes([size & 0x7F | 0x80])
        size >>= 7
    return bytes([number << 3 | 2]) + length + bytes([size]) + content


def _nested_graphs(_: Path) -> bytes:
    inner = b""
    for _depth in range(100):  # a node with an attribute with a graph with a node …
        inner = _field(1, _field(5, _field(6, inner)))
    return b"\x08\x0a" + _field(7, inner) + _field(8, b"\x10\x15")


def _huge_field(_: Path) -> bytes:
    """A graph that claims nine exabytes."""
    return b"\x08\x0a" + _field(8, b"\x10\x15") + b"\x3a" + b"\xff" * 8 + b"\x7f" + bytes(64)


def _ort(_: Path) -> bytes:
    """ONNX Runtime's own format, which it would take for what it is."""
    return struct.pack("<I", 8) + b"ORTM" + bytes(64)


_KERAS = b"\x89HDF\r\n\x1a\n" + b"\0lambda\0marshal\0" * 4


def _cases() -> list[Hostile]:
    system = "posix.mkdir"
    return [
        *(Hostile(f"reduce, protocol {p}", "model.pkl", _plain(p), system, _unpickle)
          for p in range(6)),
        Hostile("eval", "model.pkl", lambda c: _whole(_call("builtins", "eval", _source(c))),
                "builtins.eval", _unpickle),
        Hostile("exec by its older name", "model.pkl",
                lambda c: b"\x80\x02" + _call("__builtin__", "eval", _source(c)) + b".",
                "__builtin__.eval", _unpickle),
        Hostile("a shell", "model.pkl",
                lambda c: _whole(_call("posix", "system", _text(f"mkdir '{c}'"))),
                "posix.system", _unpickle),
        Hostile("the profiler", "model.pkl",
                lambda c: _whole(_call("timeit", "timeit", _text("1"), _source(c))),
                "timeit.timeit", _unpickle),
        Hostile("INST", "model.pkl", _inst, system, _unpickle),
        Hostile("OBJ", "model.pkl", _obj, system, _unpickle),
        Hostile("NEWOBJ alone", "model.pkl", _newobj, system, _unpickle),
        Hostile("names from the memo", "model.pkl", _swapped, system, _unpickle),
        Hostile("a computed name", "model.pkl", _computed, "computed while loading", _unpickle),
        Hostile("a dotted name", "model.pkl", _dotted, "shutil.os.mkdir", _unpickle),
        Hostile("getattr", "model.pkl", _getattr, "importlib.import_module", _unpickle),
        Hostile("copyreg's constructor", "model.pkl", _reconstructor, "copyreg._reconstructor",
                _unpickle),
        Hostile("a name with an escape", "model.pkl", _unprintable, system, _unpickle_cut),
        Hostile("an extension number", "model.pkl", _extension, "copyreg.extension",
                _unpickle_extension),
        Hostile("inside numpy's _reconstruct", "model.pkl", _array, system, _unpickle),
        Hostile("inside a real model", "model.joblib", _in_model, system, _joblib),
        Hostile("a pickle in a pickle", "model.pkl", _in_pickle, "_pickle.loads", _unpickle),
        Hostile("joblib's object array", "model.joblib",
                lambda c: _dumped([np.arange(9.0), np.array([Canary(c)], dtype=object)]),
                system, _joblib),
        Hostile("padding", "model.pkl", _padded, system, _unpickle),
        Hostile("the second of two", "model.pkl", _second_stream, "after its end", _second),
        Hostile("cut after REDUCE", "model.pkl", lambda c: _whole(_mkdir(c))[:-1], system,
                _unpickle_cut),
        Hostile("cut after REDUCE, protocol 0", "model.pkl", lambda c: _plain(0)(c)[:-3], system,
                _unpickle_cut),
        Hostile("memo bomb", "model.pkl", _memo_bomb, system, _unpickle),
        Hostile("fifty thousand tuples deep", "model.pkl", _deep, system, _unpickle),
        *(Hostile(f"a huge {name}", "model.pkl", _declares(opcode), system, _unpickle_cut)
          for name, opcode in {
              "BINBYTES8": b"\x8e" + struct.pack("<Q", 1 << 62),
              "BINUNICODE8": b"\x8d" + struct.pack("<Q", (1 << 64) - 1),
              "LONG4": b"\x8b" + struct.pack("<i", (1 << 31) - 1),
              "FRAME": b"\x95" + struct.pack("<Q", 1 << 63),
              "memo index": b"Nr\xff\xff\xff\x7f",
              "number": b"I" + b"9" * 100_000 + b"\n",
          }.items()),
        *(Hostile(f"joblib by {name}", "model.joblib", _compressed(name), system, _joblib)
          for name in COMPRESSORS),
        Hostile("cut while compressed", "model.joblib", _compressed_cut, system, _joblib_cut),
        *(Hostile(f"{name} bomb", "model.joblib", _bomb(name), "expands")
          for name in ("zlib", "gzip", "bz2", "xz")),
        Hostile("lzma dictionary bomb", "model.joblib", _dictionary_bomb, "usage limit"),
        Hostile("lz4", "model.joblib", lambda c: b"\x04\x22\x4d\x18" + _plain(4)(c), "lz4"),
        Hostile("torch archive", "model.pt", _torch(_plain(2)), system,
                _member("archive/data.pkl")),
        Hostile("torch archive, allowed names", "model.pt", _torch(_allowed_names),
                "torch._utils._rebuild_parameter_with_state", _member("archive/data.pkl")),
        Hostile("torch archive, bytes", "model.pt", _torch(_from_bytes),
                "torch.storage._load_from_bytes", _member("archive/data.pkl")),
        Hostile("TorchScript", "model.pt", _torchscript, system, _member("archive/data.pkl")),
        Hostile("older torch file", "model.pt", _legacy_torch, "after its end", _second),
        Hostile("oldest torch file, a tar", "model.pt", _legacy_tar, "tar", _tar_member),
        Hostile("torch archive, encrypted", "model.pt", _encrypted, "torch"),
        Hostile("zip of ten gigabytes", "model.pt", _zip_bomb, "expands"),
        Hostile("a zip after a pickle", "model.pt", _zip_after_pickle, system, _unpickle),
        Hostile("a zip called json", "model.json", _torch(_plain(2)), "torch",
                _member("archive/data.pkl")),
        Hostile("npy of objects", "model.npy", _npy, system, _numpy),
        Hostile("npy of objects, cut", "model.npy", _npy_cut, system,
                _numpy_cut),
        Hostile("npz of objects", "model.npz", _npz, system, _numpy),
        Hostile("a pickle inside an npz", "model.npz", _npz_with_pickle, system,
                _member("w.npy")),
        Hostile("skops, a foreign type", "model.skops", _skops(_SKOPS_TYPE), "posix.system"),
        Hostile("skops, a foreign call", "model.skops", _skops(_SKOPS_REDUCE), "os.mkdir"),
        Hostile("skops, an array of objects", "model.skops", _skops(_SKOPS_OBJECTS), system),
        Hostile("Keras in HDF5", "model.h5", lambda _: _KERAS, "hdf5"),
        Hostile("CatBoost to one, pickle to another", "model.cbm", _catboost_pickle, "catboost",
                _unpickle),
        Hostile("a pickle after LightGBM", "model.txt", _lightgbm_pickle, "lightgbm"),
        Hostile("a pickle after safetensors", "model.safetensors", _safetensors_pickle,
                "safetensors"),
        Hostile("a pickle called onnx", "model.onnx", _plain(4), system, _unpickle),
        Hostile("an ONNX file called joblib", "model.joblib", _outside("/etc/hostname"),
                "/etc/hostname"),
        Hostile("tensors by absolute path", "model.onnx", _outside("/etc/hostname"),
                "/etc/hostname"),
        Hostile("tensors by traversal", "model.onnx", _outside("../../../etc/hostname"),
                r"\.\./etc/hostname"),
        Hostile("tensors by the file's own folder", "model.onnx", _outside("./model.onnx"),
                r"\./model\.onnx"),
        Hostile("tensors behind a link", "model.onnx", _outside("link.bin"), "link.bin"),
        Hostile("tensors in a branch", "model.onnx", _outside_in_branch, "/etc/hostname"),
        Hostile("tensors in a default", "model.onnx", _outside_in_default, "/etc/hostname"),
        Hostile("a custom operator", "model.onnx", _operator("evil", "Run"), "evil::Run"),
        Hostile("an operator of Python", "model.onnx", _operator("com.microsoft", "PythonOp"),
                "com.microsoft::PythonOp"),
        Hostile("an operator behind a function", "model.onnx", _hidden_operator,
                "com.microsoft::EPContext"),
        Hostile("graphs in graphs", "model.onnx", _nested_graphs, "nested too deep"),
        Hostile("a field of nine exabytes", "model.onnx", _huge_field, "longer than the file"),
        Hostile("ONNX Runtime's own format", "model.onnx", _ort, "ORT"),
    ]  # fmt: skip


CORPUS: tuple[Hostile, ...] = tuple(_cases())
