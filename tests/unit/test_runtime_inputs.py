"""Bodies become rows, or a sentence that names the field, what was expected and what came."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sluice.package.manifest import FileEntry, Input, Manifest, ModelFile, Output
from sluice.package.scoring import answer
from sluice.runtime.inputs import MAX_ROWS, RowReader, Rows
from sluice.runtime.problems import Problem
from sluice.runtime.protocols.predict import PredictProtocol
from sluice.runtime.protocols.v1 import V1Protocol
from sluice.runtime.protocols.v2 import V2Protocol

INPUTS = (
    Input(name="age", type="float", min=0.0, max=100.0),
    Input(name="rooms", type="int"),
    Input(name="owner", type="bool", nullable=True),
    Input(name="town", type="string", nullable=True, required=False, categories=("Rome", "Oslo")),
)
ROW = {"age": 3.5, "rooms": 2, "owner": True, "town": "Rome"}
READER = RowReader(INPUTS)
MANIFEST = Manifest(
    name="flat",
    task="classification",
    model=ModelFile(file="m", format="onnx", trust_class="Data"),
    inputs=INPUTS,
    output=Output(labels=(0, 1), positive=1),
    files=(FileEntry(path="m", sha256="0" * 64, size=0),),
)
PREDICT = PredictProtocol(MANIFEST, READER, "abc")
V1 = V1Protocol("flat", READER)
V2 = V2Protocol("flat", "abc", MANIFEST, READER)


def body(document: Any) -> bytes:
    return document if isinstance(document, bytes) else json.dumps(document).encode()


def parse(document: Any) -> Rows:
    return PREDICT.parse(body(document))


def values(rows: Rows) -> dict[str, list[Any]]:
    return {name: column.tolist() for name, column in READER.columns([rows]).items()}


def problem(document: Any, protocol: Any = PREDICT) -> Problem:
    with pytest.raises(Problem) as caught:
        protocol.parse(body(document))
    assert 400 <= caught.value.status < 500
    protocol.error(caught.value)
    return caught.value


ONE = {"age": [3.5], "rooms": [2.0], "owner": [1.0], "town": ["Rome"]}


@pytest.mark.parametrize(
    "document",
    [
        ROW,
        [ROW],
        {name: [value] for name, value in ROW.items()},
        {**ROW, "unknown": [1, 2]},
        {**ROW, "rooms": 2.0},
        [[3.5, 2, True, "Rome"]],
    ],
)
def test_every_form_of_a_row_gives_the_same_columns(document: Any) -> None:
    assert values(parse(document)) == ONE


def test_missing_values_are_nan_and_none_by_either_way() -> None:
    fast = values(parse({"age": 1, "rooms": 2, "owner": None}))
    slow = values(parse({"age": 1, "rooms": 2, "owner": None, "extra": 1}))
    for columns in (fast, slow):
        assert np.isnan(columns["owner"][0])
        assert columns["town"] == [None]


def test_unknown_fields_are_counted() -> None:
    assert parse({**ROW, "a": 1, "b": 2}).unknown_fields == 2
    assert parse(ROW).unknown_fields == 0


def test_parts_of_a_batch_keep_their_order() -> None:
    parts = [parse({**ROW, "age": 1}), parse([{**ROW, "age": 2, "more": 0}, {**ROW, "age": 3}]),
             parse({**ROW, "age": 4}), parse({**ROW, "age": 5})]  # fmt: skip
    assert READER.columns(parts)["age"].tolist() == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("document", "code", "field", "words"),
    [
        ({"rooms": 2, "owner": True}, "MissingField", "age", "the field is missing"),
        ({**ROW, "age": "old"}, "WrongType", "age", "expected a number, got the string 'old'"),
        ({**ROW, "age": True}, "WrongType", "age", "got true"),
        ({**ROW, "age": {}}, "WrongType", "age", "got an object"),
        ({**ROW, "age": None}, "NotNullable", "age", "got null"),
        ({**ROW, "rooms": 2.5}, "WrongType", "rooms", "a whole number, got the number 2.5"),
        ({**ROW, "owner": 1}, "WrongType", "owner", "true or false"),
        ({**ROW, "town": 5}, "WrongType", "town", "a string, got the number 5"),
        ([ROW, {**ROW, "age": "x"}], "WrongType", "age", "of row 1"),
        ({"other": 1}, "UnknownFields", "other", "expected the fields 'age', 'rooms'"),
        ({}, "UnknownFields", None, "an object without fields"),
        ([], "Empty", None, "an empty list"),
        ([1], "WrongShape", None, "got the number 1"),
        ([[1, 2]], "WrongShape", None, "expected 4 values"),
        ([[ROW]], "WrongShape", None, "expected 4 values"),
        ("text", "WrongShape", None, "got the string 'text'"),
        (None, "WrongShape", None, "got null"),
        ({**ROW, "age": [1, 2]}, "WrongShape", "rooms", "expected a list as in the other fields"),
        ({"age": [1, 2], "rooms": [1]}, "WrongShape", "rooms", "expected 2 values"),
        ({"age": [], "rooms": []}, "Empty", None, "an empty list"),
        ({"age": [1]}, "MissingField", "rooms", "missing"),
        (b"", "Empty", None, "an empty one"),
        (b"  ", "Empty", None, "an empty one"),
        (b"{", "InvalidJson", None, "line 1 column 2"),
        (b"age=3", "InvalidJson", None, "line 1 column 1"),
        (b'{"age": NaN}', "NotFinite", "age", "got NaN"),
        (b'[{"age": -Infinity}]', "NotFinite", "age", "got -Infinity"),
        (b'{"age": 1e999}', "OutOfRange", "age", "a double can hold"),
        ({**ROW, "rooms": 10**400}, "OutOfRange", "rooms", "a double can hold"),
        (b'{"rooms": 1' + b"0" * 5000 + b"}", "OutOfRange", None, "a double can hold"),
        (b'{"town": "\xff"}', "InvalidUtf8", None, "0xff at position 10"),
        (b'{"town": "\\ud800"}', "InvalidUnicode", "town", "surrogate"),
        (b'{"\\ud800": 1}', "InvalidUnicode", "?", "surrogate"),
        (b"[" * 100_000, "TooDeep", None, "nested"),
        (b'{"a":' * 100_000, "TooDeep", None, "nested"),
    ],
)
def test_what_is_wrong_is_named(document: Any, code: str, field: str | None, words: str) -> None:
    found = problem(document)
    assert found.status == 400
    assert (found.code, found.field) == (code, field)
    assert words in found.message
    error = json.loads(PREDICT.error(found))["error"]
    assert error["code"] == code
    assert error["message"] == found.message
    assert error.get("field") == field


def test_too_many_rows_are_refused_in_every_form() -> None:
    many = [ROW] * (MAX_ROWS + 1)
    assert problem(many).code == "TooManyRows"
    assert problem({"age": [1] * (MAX_ROWS + 1), "rooms": []}).code == "TooManyRows"
    assert problem({"instances": many}, V1).status == 413
    assert parse([ROW] * MAX_ROWS).count == MAX_ROWS


def test_names_that_no_struct_can_have_work() -> None:
    reader = RowReader((Input(name='say "hi"\\', type="float"),))
    manifest = Manifest(
        name="x", task="regression", model=MANIFEST.model, inputs=reader.inputs,
        output=Output(), files=MANIFEST.files,
    )  # fmt: skip
    rows = PredictProtocol(manifest, reader, "").parse(body({'say "hi"\\': 4}))
    assert reader.columns([rows])['say "hi"\\'].tolist() == [4]


# V1


@pytest.mark.parametrize("key", ["instances", "inputs"])
@pytest.mark.parametrize("row", [ROW, list(ROW.values())])
def test_v1_takes_lists_and_objects_under_both_names(key: str, row: Any) -> None:
    rows = V1.parse(body({key: [row, row], "signature_name": "x"}))
    assert rows.count == 2
    assert {name: column[:1] for name, column in values(rows).items()} == ONE


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ([ROW], 'expected {"instances": [...]}'),
        ({"rows": []}, "instances"),
        ({"instances": 3}, "a list of rows, got the number 3"),
        ({"instances": []}, "an empty list"),
        ({"instances": [[1, 2]]}, "expected 4 values"),
        ({"instances": [["x", 2, True, "Rome"]]}, "field 'age': expected a number"),
        (b'{"instances": [[NaN]]}', "NaN"),
        (b"\xff", "UTF-8"),
    ],
)
def test_v1_says_what_is_wrong(document: Any, words: str) -> None:
    found = problem(document, V1)
    assert words in found.message
    assert json.loads(V1.error(found)) == {"error": found.message}


# V2


def tensor(name: str, datatype: str, data: list[Any], shape: list[int] | None = None) -> Any:
    return {"name": name, "datatype": datatype, "shape": shape or [len(data)], "data": data}


TENSORS = [
    tensor("age", "FP64", [3.5]),
    tensor("rooms", "INT64", [2], [1, 1]),
    tensor("owner", "BOOL", [True]),
    tensor("town", "BYTES", ["Rome"]),
]


def test_v2_takes_a_tensor_a_feature() -> None:
    request, rows = V2.parse(body({"id": "42", "inputs": TENSORS}))
    assert values(rows) == ONE
    raw = np.array([[0.25, 0.75]])
    document = json.loads(V2.render(request, answer(raw, MANIFEST.output)).body)
    assert document == {
        "model_name": "flat",
        "model_version": "abc",
        "id": "42",
        "outputs": [
            {"name": "label", "datatype": "INT64", "shape": [1], "data": [1]},
            {"name": "score", "datatype": "FP64", "shape": [1], "data": [0.75]},
            {"name": "scores", "datatype": "FP64", "shape": [1, 2], "data": [0.25, 0.75]},
        ],
    }


def test_v2_gives_only_the_outputs_asked_for() -> None:
    request, _ = V2.parse(body({"inputs": TENSORS, "outputs": [{"name": "score"}]}))
    rendered = V2.render(request, answer(np.array([[0.9, 0.1]]), MANIFEST.output))
    document = json.loads(rendered.body)
    assert [output["name"] for output in document["outputs"]] == ["score"]
    assert document["id"]


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ([], "not an inference request"),
        ({"inputs": []}, "at least one tensor"),
        ({"inputs": [{"name": "age"}]}, "missing required field"),
        ({"inputs": TENSORS[:1]}, "field 'rooms'"),
        ({"inputs": [tensor("age", "FP128", [1.0])]}, "expected a datatype"),
        ({"inputs": [tensor("age", "BYTES", ["1"]), *TENSORS[1:]]}, "expected FP64, got BYTES"),
        ({"inputs": [tensor("age", "FP64", ["1"]), *TENSORS[1:]]}, "expected a number"),
        ({"inputs": [tensor("age", "FP64", [1.0], [2]), *TENSORS[1:]]}, "the shape says 2"),
        ({"inputs": [tensor("age", "FP64", [1.0], [-1]), *TENSORS[1:]]}, "$.inputs[0].shape[0]"),
        ({"inputs": [tensor("age", "FP64", [[1.0], [2]], [1, 1]), *TENSORS[1:]]}, "shape says 1"),
        ({"inputs": [tensor("age", "FP64", [1.0, 2.0]), *TENSORS[1:]]}, "of one length"),
        ({"inputs": [tensor("x", "FP64", [1, 2, 3, 4], [2, 2])]}, "expected shape [n,4]"),
        ({"inputs": [tensor("x", "FP64", [], [0, 4])]}, "at least one row"),
        ({"inputs": TENSORS, "outputs": [{"name": "p"}]}, "expected label, score, scores"),
        (b'{"inputs": [{"name": "age", "shape": [1], "datatype": "FP64", "data": [NaN]}]}', "NaN"),
    ],
)
def test_v2_says_what_is_wrong(document: Any, words: str) -> None:
    found = problem(document, V2)
    assert words in found.message
    assert json.loads(V2.error(found)) == {"error": found.message}


def test_v2_takes_one_matrix_flat_or_nested() -> None:
    inputs = tuple(Input(name=n, type="float") for n in "ab")
    manifest = Manifest(
        name="m", task="regression", model=MANIFEST.model, inputs=inputs, output=Output(),
        files=MANIFEST.files,
    )  # fmt: skip
    reader = RowReader(inputs)
    protocol = V2Protocol("m", "1", manifest, reader)
    for data in ([1, 2, 3, 4], [[1, 2], [3, 4]]):
        _, rows = protocol.parse(body({"inputs": [tensor("any", "FP32", data, [2, 2])]}))
        assert {k: v.tolist() for k, v in reader.columns([rows]).items()} == {
            "a": [1, 3],
            "b": [2, 4],
        }


# Fuzz

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda children: (
        st.lists(children, max_size=4)
        | st.dictionaries(
            st.sampled_from([*ROW, "instances", "inputs", "name", "shape", "data", "datatype"])
            | st.text(max_size=3),
            children,
            max_size=5,
        )
    ),
    max_leaves=12,
)


@settings(max_examples=300)
@given(json_values)
def test_any_document_gives_rows_or_a_problem(document: Any) -> None:
    data = json.dumps(document).encode()
    for protocol in (PREDICT, V1, V2):
        try:
            parsed = protocol.parse(data)
        except Problem as found:
            assert 400 <= found.status < 500
            json.loads(protocol.error(found))
        else:
            rows = parsed[1] if isinstance(parsed, tuple) else parsed
            assert all(len(c) == rows.count for c in READER.columns([rows]).values())


@settings(max_examples=300)
@given(st.binary(max_size=100), st.sampled_from([b"", b"{", b'{"age":', b'[{"age":1,']))
def test_any_bytes_give_rows_or_a_problem(tail: bytes, start: bytes) -> None:
    for protocol in (PREDICT, V1, V2):
        try:
            protocol.parse(start + tail)
        except Problem as found:
            json.loads(protocol.error(found))


plain_rows = st.fixed_dictionaries(
    {
        "age": st.floats(allow_nan=False, allow_infinity=False),
        "rooms": st.integers(-(2**62), 2**62),
        "owner": st.none() | st.booleans(),
    },
    optional={"town": st.none() | st.text(st.characters(exclude_categories=["Cs"]))},
)


@settings(max_examples=200)
@given(plain_rows)
def test_fast_and_slow_way_agree(row: dict[str, Any]) -> None:
    fast, slow = parse(row), parse({**row, "extra": 1})
    assert fast.tuples is not None
    assert slow.columns is not None
    one, two = READER.columns([fast]), READER.columns([slow])
    for name in one:
        np.testing.assert_array_equal(one[name], two[name])
