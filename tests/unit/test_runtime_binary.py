"""V2's binary tensors: values cross unchanged, and every malformed form is a 400 with a reason."""

from __future__ import annotations

import http.client
import json
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sluice.package.manifest import FileEntry, Input, Manifest, ModelFile, Output
from sluice.package.scoring import answer
from sluice.runtime.inputs import RowReader, Rows
from sluice.runtime.problems import Problem
from sluice.runtime.protocols.v2 import V2Protocol

sys.path.insert(0, str(Path(__file__).parent))

import runtime_support as support
from runtime_support import DEADLINE, Built, Server, serving

INPUTS = (
    Input(name="age", type="float"),
    Input(name="rooms", type="int"),
    Input(name="owner", type="bool"),
    Input(name="town", type="string"),
    Input(name="debt", type="float", nullable=True),
)
READER = RowReader(INPUTS)


def protocol(inputs: tuple[Input, ...], labels: tuple[Any, ...] = ("no", "ja")) -> V2Protocol:
    manifest = Manifest(
        name="flat",
        task="classification",
        model=ModelFile(file="m", format="onnx", trust_class="Data"),
        inputs=inputs,
        output=Output(labels=labels, positive=labels[1]),
        files=(FileEntry(path="m", sha256="0" * 64, size=0),),
    )
    return V2Protocol("flat", "abc", manifest, RowReader(inputs))


V2 = protocol(INPUTS)


def texts(*items: str | bytes) -> bytes:
    raw = [item.encode() if isinstance(item, str) else item for item in items]
    return b"".join(struct.pack("<I", len(item)) + item for item in raw)


def part(
    name: str, datatype: str, raw: bytes, shape: list[int], **changes: Any
) -> tuple[Any, bytes]:
    """A tensor's JSON and its bytes."""
    said = {"name": name, "datatype": datatype, "shape": shape}
    said["parameters"] = {"binary_data_size": len(raw)}
    return said | changes, raw


def message(*parts: tuple[Any, bytes], **changes: Any) -> tuple[bytes, bytes]:
    """A body, and the length of its JSON as the header says it."""
    document = json.dumps({"inputs": [said for said, _ in parts], **changes}).encode()
    return document + b"".join(raw for _, raw in parts), b"%d" % len(document)


GOOD = (
    part("age", "FP32", struct.pack("<2f", 3.5, 4.25), [2]),
    part("rooms", "INT16", struct.pack("<2h", -2, 300), [2, 1]),
    part("owner", "BOOL", b"\1\0", [2]),
    part("town", "BYTES", texts("Rome", "Tromsø"), [2]),
    part("debt", "FP64", struct.pack("<2d", float("nan"), 5e-324), [2]),
)


def columns(rows: Rows, reader: RowReader = READER) -> dict[str, list[Any]]:
    return {name: column.tolist() for name, column in reader.columns([rows]).items()}


def refused(body: bytes, length: bytes | None, v2: V2Protocol = V2) -> str:
    with pytest.raises(Problem) as caught:
        v2.parse(body, length)
    assert caught.value.status == 400
    return caught.value.message


def test_values_of_every_kind_arrive_as_they_were_sent() -> None:
    _, rows = V2.parse(*message(*GOOD))
    found = columns(rows)
    assert np.isnan(found["debt"][0])
    assert found["debt"][1] == 5e-324
    del found["debt"]
    assert found == {
        "age": [3.5, 4.25],
        "rooms": [-2, 300],
        "owner": [1.0, 0.0],
        "town": ["Rome", "Tromsø"],
    }


@pytest.mark.parametrize(
    "datatype",
    ["FP16", "FP32", "FP64", *(f"{s}INT{b}" for s in ("", "U") for b in (8, 16, 32, 64))],
)
def test_each_number_type_reads_its_extremes_little_endian(datatype: str) -> None:
    code = {"F": "f", "I": "i", "U": "u"}[datatype[0]]
    bits = int(datatype.lstrip("FPINTU"))
    dtype = np.dtype(f"<{code}{bits // 8}")
    info: Any = np.finfo(dtype) if code == "f" else np.iinfo(dtype)
    values = np.array([info.min, info.max, 1, 0], dtype)
    v2 = protocol((Input(name="a", type="float"), Input(name="b", type="float")))
    raw = np.repeat(values, 2).tobytes()
    _, rows = v2.parse(*message(part("any name", datatype, raw, [4, 2])))
    wanted = values.astype(np.float64).tolist()
    reader = RowReader((Input(name="a", type="float"), Input(name="b", type="float")))
    assert columns(rows, reader) == {"a": wanted, "b": wanted}


def test_binary_and_json_tensors_mix_in_one_request() -> None:
    said = {"name": "rooms", "datatype": "INT64", "shape": [2], "data": [1, 2]}
    _, rows = V2.parse(*message(GOOD[0], (said, b""), *GOOD[2:]))
    assert columns(rows)["rooms"] == [1, 2]


def _changed(index: int, raw: bytes, **changes: Any) -> tuple[bytes, bytes]:
    parts = list(GOOD)
    said = parts[index][0] | {"parameters": {"binary_data_size": len(raw)}} | changes
    parts[index] = (said, raw)
    return message(*parts)


@pytest.mark.parametrize(
    ("name", "body", "words"),
    [
        ("age", _changed(0, b"1234567"), "2 values of FP32, which is 8 bytes; binary_data_size"),
        ("age", _changed(0, b""), "binary_data_size says 0"),
        ("age", _changed(0, GOOD[0][1], shape=[3]), "3 values of FP32, which is 12 bytes"),
        ("age", _changed(0, GOOD[0][1], shape=[10**9, 10**9]), "expected shape [n] or [n,1]"),
        ("age", _changed(0, GOOD[0][1], shape=[10**9]), "which is 4000000000 bytes"),
        ("age", _changed(0, GOOD[0][1], shape=[]), "expected shape"),
        ("age", _changed(0, GOOD[0][1], datatype="FP128"), "expected a datatype"),
        ("age", _changed(0, GOOD[0][1], datatype="BYTES"), "expected FP64, got BYTES"),
        ("age", _changed(0, GOOD[0][1], data=[1, 2]), "got both"),
        ("age", _changed(0, b"", parameters={}), "got neither"),
        ("age", _changed(0, struct.pack("<2f", 1, float("inf"))), "got inf at position 1"),
        ("age", _changed(0, struct.pack("<2f", 1, float("nan"))), "row 1: expected a number"),
        ("rooms", _changed(1, struct.pack("<2d", 1, 1.5), datatype="FP64"), "a whole number"),
        ("owner", _changed(2, b"\1\2"), "expected the bytes 0 and 1 in BOOL, got 2 at position 1"),
        ("town", _changed(3, texts("Rome")), "says 2 values, the data has 1"),
        ("town", _changed(3, texts("a", "b", "c")), "says 2 values, 5 bytes follow"),
        ("town", _changed(3, texts("a") + b"\1\0"), "begins with a length of 4 bytes, only 2"),
        ("town", _changed(3, texts("a") + b"\2\0\0\0x"), "is said to have 2 bytes, only 1"),
        ("town", _changed(3, texts("a") + b"\xff" * 5), "said to have 4294967295 bytes"),
        ("town", _changed(3, texts("a", b"\xc3")), "expected UTF-8 in value 1, got the byte 0xc3"),
        *(
            ("age", _changed(0, b"", parameters={"binary_data_size": size}), words)
            for size, words in [
                (-8, "expected binary_data_size to be a number of bytes, got the number -8"),
                (True, "got true"),
                (8.0, "got the number 8.0"),
                ("8", "got the string '8'"),
                (None, "got null"),
                ([8], "got a list"),
                (10**30, "the body has"),
            ]
        ),
    ],
)
def test_a_malformed_tensor_is_named_with_what_to_do(
    name: str, body: tuple[bytes, bytes], words: str
) -> None:
    found = refused(*body)
    assert repr(name) in found
    assert words in found


def test_a_truncated_body_names_the_tensor_that_lacks_bytes() -> None:
    body, length = message(*GOOD)
    assert "'debt': binary_data_size says 16 bytes, the body has 15 left" in refused(
        body[:-1], length
    )
    for end in range(int(length), len(body)):
        assert "left for it" in refused(body[:end], length)


def test_bytes_left_over_are_refused() -> None:
    body, length = message(*GOOD)
    assert "'debt': 3 bytes follow the last tensor" in refused(body + b"abc", length)


@pytest.mark.parametrize(
    ("length", "words"),
    [
        (b"", "got ''"),
        (b"abc", "got 'abc'"),
        (b"-1", "got '-1'"),
        (b"+1", "got '+1'"),
        (b"1_0", "got '1_0'"),
        (b"1.0", "got '1.0'"),
        (b"\xb2", "got '²'"),
        (b"1, 1", "got '1, 1'"),
        (b"9" * 30, "the number of bytes"),
        (b"999999", "is said to have 999999 bytes, the body has only"),
        (b"0", "an empty one"),
        (b"7", "JSON"),
    ],
)
def test_a_length_header_that_cannot_be_is_refused(length: bytes, words: str) -> None:
    assert words in refused(message(*GOOD)[0], length)


def test_a_size_without_the_header_says_which_header_is_missing() -> None:
    body, _ = message((GOOD[0][0], b""))
    assert "'age': binary_data_size needs the header Inference-Header" in refused(body, None)


@pytest.mark.parametrize("value", [1, "true", None, [True]])
def test_binary_flags_are_booleans(value: Any) -> None:
    for changes in (
        {"parameters": {"binary_data_output": value}},
        {"outputs": [{"name": "score", "parameters": {"binary_data": value}}]},
    ):
        assert "true or false" in refused(*message(*GOOD, **changes))


def read_outputs(body: bytes, length: int) -> dict[str, bytes]:
    document, at = json.loads(body[:length]), length
    found = {}
    for output in document["outputs"]:
        size = output.get("parameters", {}).get("binary_data_size", 0)
        assert ("data" in output) is not (size > 0)
        found[output["name"]] = body[at : at + size]
        at += size
    assert at == len(body)
    return found


MATRIX = np.array([[0.25, 0.75], [0.9, 0.1]])


@pytest.mark.parametrize(
    ("changes", "binary"),
    [
        ({"parameters": {"binary_data_output": True}}, {"label", "score", "scores"}),
        ({"outputs": [{"name": "scores", "parameters": {"binary_data": True}}]}, {"scores"}),
        (
            {
                "parameters": {"binary_data_output": True},
                "outputs": [
                    {"name": "score", "parameters": {"binary_data": False}},
                    {"name": "label"},
                ],
            },
            {"label"},
        ),
    ],
)
def test_outputs_are_binary_where_asked(changes: Any, binary: set[str]) -> None:
    request, _ = V2.parse(*message(*GOOD, **changes))
    given_back = V2.render(request, answer(MATRIX, Output(labels=("no", "ja"), positive="ja")))
    assert given_back.content_type == b"application/octet-stream"
    [(name, length)] = given_back.headers
    assert name == b"inference-header-content-length"
    found = read_outputs(given_back.body, int(length))
    wanted = {
        "label": texts("ja", "no"),
        "score": struct.pack("<2d", 0.75, 0.1),
        "scores": MATRIX.astype("<f8").tobytes(),
    }
    assert {name: raw for name, raw in found.items() if raw} == {n: wanted[n] for n in binary}


@pytest.mark.parametrize(
    ("labels", "raw"), [((0, 1), struct.pack("<2q", 1, 0)), ((False, True), b"\1\0")]
)
def test_labels_that_are_no_text_are_binary_too(labels: tuple[Any, ...], raw: bytes) -> None:
    v2 = protocol(INPUTS, labels)
    request, _ = v2.parse(*message(*GOOD, parameters={"binary_data_output": True}))
    given_back = v2.render(request, answer(MATRIX, Output(labels=labels, positive=labels[1])))
    assert read_outputs(given_back.body, int(given_back.headers[0][1]))["label"] == raw


# A real server.


@pytest.fixture(scope="module")
def iris(tmp_path_factory: pytest.TempPathFactory) -> Built:
    return support.build_iris(tmp_path_factory.mktemp("iris"))


@pytest.fixture(scope="module")
def server(iris: Built) -> Iterator[Server]:
    with serving(iris.path, "--revision", "rev1", "--deployment", "flowers") as running:
        yield running


def exchange(server: Server, path: str, body: bytes, **headers: bytes) -> tuple[int, Any, bytes]:
    """Status, headers and raw body of a POST."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=DEADLINE)
    try:
        named: Any = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request("POST", path, body, named)
        response = connection.getresponse()
        return response.status, response.headers, response.read()
    finally:
        connection.close()


INFER = "/v2/models/flowers/infer"


@pytest.mark.parametrize("path", [INFER, "/v2/models/flowers/versions/rev1/infer"])
@pytest.mark.parametrize("rows", [1, 150, 9000])
def test_a_server_answers_in_bytes_what_it_answers_in_json(
    server: Server, iris: Built, path: str, rows: int
) -> None:
    matrix = np.resize(iris.matrix, (rows, 4))
    sent = part("x", "FP64", matrix.astype("<f8").tobytes(), [rows, 4])
    body, length = message(sent, parameters={"binary_data_output": True})
    status, headers, raw = exchange(
        server,
        path,
        body,
        Content_Type=b"application/octet-stream",
        Inference_Header_Content_Length=length,
    )
    assert (status, headers["content-type"]) == (200, "application/octet-stream")
    assert headers["x-sluice-revision"] == "rev1"
    found = read_outputs(raw, int(headers["inference-header-content-length"]))
    scores = np.frombuffer(found["scores"], "<f8").reshape(rows, 3)
    assert np.abs(scores - iris.model.predict_proba(matrix)).max() < 1e-9
    said = {"name": "x", "datatype": "FP64", "shape": [rows, 4], "data": matrix.ravel().tolist()}
    status, document = server.post(path, {"inputs": [said]})
    assert status == 200
    outputs = {output["name"]: output["data"] for output in document["outputs"]}
    assert found["label"] == texts(*outputs["label"])
    assert np.frombuffer(found["score"], "<f8").tolist() == outputs["score"]


def test_bytes_need_the_header_and_only_v2_takes_them(server: Server, iris: Built) -> None:
    body, length = message(part("x", "FP64", iris.matrix[:1].tobytes(), [1, 4]))
    octets = b"application/octet-stream"
    status, _, raw = exchange(server, INFER, body, Content_Type=octets)
    assert status == 415
    assert list(json.loads(raw)) == ["error"]
    named = {"Content_Type": octets, "Inference_Header_Content_Length": length}
    assert exchange(server, "/predict", body, **named)[0] == 415
    assert exchange(server, "/v1/models/flowers:predict", body, **named)[0] == 415
    assert exchange(server, INFER, body, Inference_Header_Content_Length=length)[0] == 200


sizes = st.integers(-2, 200) | st.sampled_from([2**31, 2**63, 10**30, True, None, "8", 1.5, []])
shapes = st.lists(st.integers(-1, 40) | st.sampled_from([2**31, 10**9, "4", None]), max_size=4)
tensors = st.fixed_dictionaries(
    {
        "name": st.sampled_from(["x", "sepal length (cm)", "petal width (cm)"]) | st.text(),
        "shape": shapes | st.sampled_from([[1, 4], [2, 4], [5]]),
        "datatype": st.sampled_from(["FP16", "FP32", "FP64", "INT8", "UINT64", "BOOL", "BYTES"])
        | st.text(max_size=4),
    },
    optional={
        "data": st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=8),
        "parameters": st.fixed_dictionaries({"binary_data_size": sizes}),
    },
)
fuzz = settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])


@fuzz
@given(
    st.lists(tensors, max_size=4),
    st.binary(max_size=200),
    st.integers(-50, 50) | st.just(0),
    st.booleans(),
)
def test_no_tensors_and_bytes_make_a_5xx_or_a_crash(
    server: Server, inputs: list[Any], tail: bytes, off: int, binary: bool
) -> None:
    document = {"inputs": inputs, "parameters": {"binary_data_output": binary}}
    head = json.dumps(document).encode()
    length = b"%d" % (len(head) + off)
    status, _, raw = exchange(server, INFER, head + tail, Inference_Header_Content_Length=length)
    assert status in (200, 400)
    assert status == 200 or json.loads(raw)["error"]
    assert server.process.poll() is None


@fuzz
@given(st.binary(max_size=4 * 8 * 4), st.sampled_from(["FP64", "FP32", "FP16", "BYTES", "UINT8"]))
def test_any_bits_in_a_well_formed_frame_are_answered_or_refused(
    server: Server, raw: bytes, datatype: str
) -> None:
    width = {"FP64": 8, "FP32": 4, "FP16": 2}.get(datatype, 1) * 4
    rows = max(1, len(raw) // width)
    sent = part("x", datatype, raw.ljust(rows * width, b"\0")[: rows * width], [rows, 4])
    body, length = message(sent, parameters={"binary_data_output": True})
    status, _, _ = exchange(server, INFER, body, Inference_Header_Content_Length=length)
    assert status in (200, 400)
    assert server.process.poll() is None


@fuzz
@given(st.binary(max_size=80), st.integers(0, 12))
def test_any_bytes_as_text_elements_are_values_or_a_problem(raw: bytes, count: int) -> None:
    v2 = protocol((Input(name="town", type="string"),))
    try:
        _, rows = v2.parse(*message(part("town", "BYTES", raw, [count])))
    except Problem as found:
        assert found.status == 400
    else:
        assert rows.count == count
        assert texts(*columns(rows, RowReader((Input(name="town", type="string"),)))["town"]) == raw
