"""What a file is, by its content; and what a pickle would import, without loading it."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import lzma
import pickle
import zipfile
import zlib
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from tests.unit import package_support as support

from sluice.errors import PackageError
from sluice.package import expand as room
from sluice.package.inspect_archive import inspect_archive
from sluice.package.inspect_pickle import inspect_pickle
from sluice.package.onnx_file import NotOnnxError, read_onnx
from sluice.package.sniff import look, sniff

COMPRESSORS = {
    "zlib": zlib.compress,
    "gzip": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "lzma": lambda data: lzma.compress(data, format=lzma.FORMAT_ALONE),
}


def graph(*nodes: onnx.NodeProto, extra: list[onnx.TensorProto] | None = None) -> bytes:
    made = helper.make_graph(
        list(nodes) or [helper.make_node("Identity", ["x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.DOUBLE, [None, 2])],
        [helper.make_tensor_value_info("y", TensorProto.DOUBLE, [None, 2])],
        initializer=extra or [],
    )
    return bytes(helper.make_model(made, producer_name="t").SerializeToString())


def test_onnx_is_data_and_described() -> None:
    found = sniff(graph())
    assert (found.format, found.trust_class) == ("onnx", "Data")
    assert found.onnx is not None
    assert [(v.name, v.type, v.shape) for v in found.onnx.inputs] == [
        ("x", "tensor(double)", (None, 2))
    ]


def outside(location: str) -> onnx.TensorProto:
    tensor = numpy_helper.from_array(np.ones(2), "w")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", location
    return tensor


def test_tensors_outside_the_file_must_be_listed() -> None:
    data = graph(extra=[outside("weights.bin")])
    assert sniff(data, external_files={"weights.bin"}).trust_class == "Data"
    with pytest.raises(PackageError, match=r"weights\.bin") as error:
        sniff(data)
    assert error.value.reason == "UnsafeModel"


def test_tensors_outside_are_found_wherever_they_hide() -> None:
    inner = helper.make_graph(
        [helper.make_node("Constant", [], ["k"], value=outside("/etc/passwd"))],
        "inner",
        [],
        [helper.make_tensor_value_info("k", TensorProto.DOUBLE, [2])],
    )
    condition = helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner)
    with pytest.raises(PackageError, match="/etc/passwd"):
        sniff(graph(condition))


@pytest.mark.parametrize(
    ("domain", "operator"),
    [("evil.ops", "Run"), ("com.microsoft", "PythonOp"), ("com.microsoft", "EPContext")],
)
def test_operators_that_do_more_than_compute_are_refused(domain: str, operator: str) -> None:
    with pytest.raises(PackageError, match=f"{domain}::{operator}"):
        sniff(graph(helper.make_node(operator, ["x"], ["y"], domain=domain)))


def test_deeply_nested_graphs_are_refused() -> None:
    def message(field: int, content: bytes) -> bytes:
        size, length = len(content), b""
        while size > 0x7F:
            length += bytes([size & 0x7F | 0x80])
            size >>= 7
        return bytes([field << 3 | 2]) + length + bytes([size]) + content

    inner = b""
    for _ in range(100):  # a node with an attribute with a graph with a node …
        inner = message(1, message(5, message(6, inner)))
    with pytest.raises(PackageError, match="nested too deep"):
        sniff(b"\x08\x0a" + message(7, inner) + message(8, b"\x10\x15"))


@pytest.mark.parametrize("protocol", range(6))
def test_every_pickle_protocol_is_code(protocol: int, tmp_path: Path) -> None:
    data = support.hostile(tmp_path / "m", protocol)
    assert sniff(data).trust_class == "Code"
    assert inspect_pickle(data).imports == ["posix.mkdir"]
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize("name", COMPRESSORS)
def test_code_is_seen_through_compression(name: str, tmp_path: Path) -> None:
    data = COMPRESSORS[name](support.hostile(tmp_path / "m"))
    found = sniff(data)
    assert (found.format, found.trust_class) == ("joblib", "Code")
    report = inspect_pickle(data)
    assert (report.imports, report.compression, report.problem) == (["posix.mkdir"], name, "")


@pytest.mark.parametrize("name", COMPRESSORS)
def test_a_small_file_cannot_fill_the_memory(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "RATIO_FREE_BYTES", 1024)
    bomb = COMPRESSORS[name](b"\x80\x04\x8d" + (1 << 25).to_bytes(8, "little") + bytes(1 << 25))
    with pytest.raises(PackageError) as error:
        inspect_pickle(bomb)
    assert error.value.reason == "TooLarge"


def test_a_compressed_file_of_something_else_is_unknown() -> None:
    with pytest.raises(PackageError, match="not a pickle"):
        sniff(gzip.compress(b"a,b\n1,2\n"))
    with pytest.raises(PackageError) as error:
        sniff(b"\x1f\x8b" + bytes(20))
    assert error.value.reason == "UnknownFormat"


def test_zip_files_are_judged_by_what_they_list() -> None:
    def archive(*names: str) -> bytes:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as file:
            for name in names:
                file.writestr(name, b"x")
        return buffer.getvalue()

    assert sniff(archive("schema.json", "1.npy")).trust_class == "Restricted"
    assert sniff(archive("archive/data.pkl", "archive/data/0")).format == "torch"
    assert sniff(archive("a.npy")).trust_class == "Code"
    for data in (archive("readme.txt"), archive("a")[:-5]):
        with pytest.raises(PackageError):
            sniff(data)


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"CBM1" + bytes(40), "catboost"),
        (b"tree\nversion=v4\n", "lightgbm"),
        (b'{"learner":{}}', "xgboost"),
        ((2).to_bytes(8, "little") + b"{}" + bytes(8), "safetensors"),
        (b"\x89HDF\r\n\x1a\n" + bytes(9), "hdf5"),
    ],
)
def test_other_formats_are_named(data: bytes, kind: str) -> None:
    assert sniff(data).format == kind


def test_names_built_at_load_time_are_followed(tmp_path: Path) -> None:
    """Scanners that read only the text before STACK_GLOBAL miss names that come from the memo."""
    name = b"\x8c\x05posix\x94\x8c\x06system\x94"
    stream = b"\x80\x04" + name + b"00h\x00h\x01\x93\x8c\x04true\x85R."
    assert inspect_pickle(stream).imports == ["posix.system"]


def test_a_stream_cut_after_the_call_is_still_listed() -> None:
    """Loading it would run the call and only then fail."""
    stream = b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x04true\x85R"
    report = inspect_pickle(stream)
    assert report.imports == ["posix.system"] and report.problem
    assert sniff(stream).trust_class == "Code"


def test_joblib_arrays_are_stepped_over_and_nested_pickles_are_not() -> None:
    class Row:
        pass

    Row.__module__, Row.__qualname__ = "__main__", "Row"
    import __main__

    __main__.Row = Row  # type: ignore[attr-defined]
    try:
        arrays = [np.arange(1000.0), np.array([Row()], dtype=object), np.array(["a", "bc"])]
        data = support.dumped({"x": arrays, "last": pickle.PickleBuffer})
    finally:
        del __main__.Row  # type: ignore[attr-defined]
    report = inspect_pickle(data)
    assert report.problem == ""
    assert {"__main__.Row", "pickle.PickleBuffer"} <= set(report.imports)


@given(st.binary(max_size=400))
@settings(max_examples=300)
def test_no_bytes_crash_the_readers(data: bytes) -> None:
    for prefix in (b"", b"\x80\x04", b"\x08\x0a", b"x\x9c", b"PK\x03\x04", b"\x1f\x8b"):
        with contextlib.suppress(PackageError):
            look(prefix + data)
        inspect_pickle(b"\x80\x04" + data)
    for prefix in (b"", b"PK\x03\x04", b"\x93NUMPY\x01\x00", b"\x93NUMPY\x02\x00"):
        with contextlib.suppress(PackageError):
            inspect_archive(prefix + data)


@given(st.integers(min_value=0), st.integers(0, 255))
@settings(max_examples=200)
def test_damaged_archives_are_read_or_refused(position: int, byte: int) -> None:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, x=np.array([{"a": 1}], dtype=object))
    data = bytearray(buffer.getvalue())
    data[position % len(data)] = byte
    for damaged in (bytes(data), bytes(data[: position % len(data)])):
        with contextlib.suppress(PackageError):
            inspect_archive(damaged)


def test_long_strings_are_passed_over_and_what_follows_is_seen() -> None:
    words = "ä" * 3_000_000
    report = inspect_pickle(zlib.compress(pickle.dumps([words, bytes(5_000_000), zlib.adler32])))
    assert (report.imports, report.problem) == (["zlib.adler32"], "")


@given(st.integers(min_value=0), st.integers(0, 255))
@settings(max_examples=200)
def test_damaged_onnx_is_read_or_refused(position: int, byte: int) -> None:
    data = bytearray(graph(extra=[outside("w")]))
    data[position % len(data)] = byte
    for damaged in (bytes(data), bytes(data[: position % len(data)])):
        try:
            read_onnx(damaged)
        except NotOnnxError:
            continue
