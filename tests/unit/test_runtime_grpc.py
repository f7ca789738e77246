"""V2 over gRPC: the same answers as over HTTP, and every mistake a status with a reason."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.tools.ports import free_port

from sluice.runtime.grpc_port import to_http
from sluice.runtime.problems import Problem
from sluice.runtime.protocols.grpc_messages import MESSAGES, SERVICE

sys.path.insert(0, str(Path(__file__).parent))

import runtime_support as support
from runtime_support import DEADLINE, Built, Server, serving

INFER = MESSAGES["ModelInferRequest"]


@pytest.fixture(scope="module")
def iris(tmp_path_factory: pytest.TempPathFactory) -> Built:
    return support.build_iris(tmp_path_factory.mktemp("iris"))


class Client:
    """A channel to a real server that speaks gRPC too."""

    def __init__(self, server: Server, port: int) -> None:
        self.server = server
        self.channel = grpc.insecure_channel(f"127.0.0.1:{port}")

    def raw(self, method: str, body: bytes, metadata: Any = ()) -> tuple[bytes, dict[str, Any]]:
        call = self.channel.unary_unary(f"/{SERVICE}/{method}")
        reply, done = call.with_call(body, timeout=DEADLINE, metadata=metadata)
        return reply, dict(done.trailing_metadata())

    def ask(self, method: str, message: Any = None, metadata: Any = ()) -> Any:
        sent = message if message is not None else MESSAGES[f"{method}Request"]()
        reply, _ = self.raw(method, sent.SerializeToString(), metadata)
        return MESSAGES[f"{method}Response"].FromString(reply)

    def refused(self, method: str, message: Any) -> tuple[grpc.StatusCode, str]:
        with pytest.raises(grpc.RpcError) as caught:
            self.ask(method, message)
        return caught.value.code(), caught.value.details()


@pytest.fixture(scope="module")
def client(iris: Built) -> Iterator[Client]:
    port = free_port()
    named = ("--revision", "rev1", "--deployment", "flowers", "--grpc-port", str(port))
    with serving(iris.path, *named) as server:
        found = Client(server, port)
        yield found
        found.channel.close()


def matrix(rows: Any, **changes: Any) -> Any:
    """One matrix in raw_input_contents."""
    tensor = {"name": "x", "datatype": "FP64", "shape": [len(rows), 4]}
    raw = [np.asarray(rows, "<f8").tobytes()]
    said = {"model_name": "flowers", "inputs": [tensor], "raw_input_contents": raw}
    return INFER(**(said | changes))


def typed(datatype: str, shape: list[int], name: str = "x", **contents: Any) -> Any:
    tensor = {"name": name, "datatype": datatype, "shape": shape, "contents": contents}
    return INFER(model_name="flowers", inputs=[tensor])


def test_health_and_metadata_are_those_of_http(client: Client) -> None:
    assert client.ask("ServerLive").live
    assert client.ask("ServerReady").ready
    assert client.ask("ServerMetadata").name == "sluice"
    named = {"name": "flowers", "version": "rev1"}
    assert client.ask("ModelReady", MESSAGES["ModelReadyRequest"](**named)).ready
    found = client.ask("ModelMetadata", MESSAGES["ModelMetadataRequest"](**named))
    wanted = client.server.request("GET", "/v2/models/flowers")[2]
    assert [t.name for t in found.inputs] == [t["name"] for t in wanted["inputs"]]
    assert [list(t.shape) for t in found.outputs] == [t["shape"] for t in wanted["outputs"]]
    assert (found.platform, list(found.versions)) == (wanted["platform"], ["rev1"])


def test_raw_is_answered_raw_and_contents_in_contents(client: Client, iris: Built) -> None:
    rows = iris.matrix[::10]
    raw = client.ask("ModelInfer", matrix(rows, id="42"))
    assert (raw.model_name, raw.model_version, raw.id) == ("flowers", "rev1", "42")
    assert [output.name for output in raw.outputs] == ["label", "score", "scores"]
    scores = np.frombuffer(raw.raw_output_contents[2], "<f8").reshape(-1, 3)
    assert np.abs(scores - iris.model.predict_proba(rows)).max() < 1e-9
    flat = rows.ravel().tolist()
    plain = client.ask("ModelInfer", typed("FP64", [len(rows), 4], fp64_contents=flat))
    assert not plain.raw_output_contents
    label, score, whole = plain.outputs
    assert whole.contents.fp64_contents == scores.ravel().tolist()
    assert score.contents.fp64_contents == scores.max(axis=1).tolist()
    wanted = client.server.post("/v2/models/flowers/infer", {"inputs": [{
        "name": "x", "datatype": "FP64", "shape": [len(rows), 4], "data": flat}]})[1]  # fmt: skip
    assert [b.decode() for b in label.contents.bytes_contents] == wanted["outputs"][0]["data"]


def test_a_call_is_counted_once_and_carries_the_revision(client: Client, iris: Built) -> None:
    before = client.server.counters()
    _, trailer = client.raw("ModelInfer", matrix(iris.matrix[:2]).SerializeToString())
    assert trailer["x-sluice-revision"] == "rev1"
    code, _ = client.refused("ModelInfer", matrix([[1, 2, 3, float("inf")]]))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    code, _ = client.refused("ModelInfer", matrix([[1, 2, 3, 4]], raw_input_contents=[b""] * 2))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    after = client.server.counters()
    assert after["requests"] - before["requests"] == 3
    assert after["rows"] - before["rows"] == 2


@pytest.mark.parametrize(
    ("changes", "code", "words"),
    [
        ({"model_name": "other"}, grpc.StatusCode.NOT_FOUND, "expected the model 'flowers'"),
        ({"model_name": ""}, grpc.StatusCode.NOT_FOUND, "expected the model 'flowers'"),
        ({"model_name": "flowers/versions/rev1"}, grpc.StatusCode.NOT_FOUND, "expected the model"),
        ({"model_version": "9"}, grpc.StatusCode.NOT_FOUND, "expected the version 'rev1'"),
        ({"inputs": []}, grpc.StatusCode.INVALID_ARGUMENT, "one element for each of 0 inputs"),
        (
            {"outputs": [{"name": "proba"}]},
            grpc.StatusCode.INVALID_ARGUMENT,
            "expected label, score, scores",
        ),
        (
            {"raw_input_contents": [b"1234567"]},
            grpc.StatusCode.INVALID_ARGUMENT,
            "'x': the shape says 4 values of FP64, which is 32 bytes",
        ),
        (
            {"inputs": [{"name": "x", "datatype": "FP64", "shape": [-1, 4]}]},
            grpc.StatusCode.INVALID_ARGUMENT,
            "shape",
        ),
    ],
)
def test_a_mistake_is_refused_in_the_words_of_http(
    client: Client, changes: Any, code: grpc.StatusCode, words: str
) -> None:
    found, said = client.refused("ModelInfer", matrix([[1, 2, 3, 4]], **changes))
    assert found is code
    assert words in said


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (typed("FP64", [1, 4], fp32_contents=[1, 2, 3, 4]), "in fp64_contents, got fp32_contents"),
        (typed("FP16", [1, 4], fp32_contents=[1, 2, 3, 4]), "others in raw_input_contents"),
        (typed("INT8", [1, 4], int_contents=[1, 2, 3, 400]), "values of INT8, got a larger one"),
        (typed("UINT16", [1, 1], uint_contents=[70000]), "values of UINT16, got a larger one"),
        (
            INFER(
                inputs=[{"name": "x", "contents": {"fp64_contents": [1]}}],
                raw_input_contents=[b""],
            ),
            "either contents or raw_input_contents",
        ),
    ],
)
def test_contents_that_do_not_fit_name_the_tensor(message: Any, words: str) -> None:
    with pytest.raises(Problem) as caught:
        to_http(message, ())
    assert "'x': " in caught.value.message
    assert words in caught.value.message


def test_every_kind_of_contents_becomes_its_bytes() -> None:
    for datatype, field, values, raw in [
        ("BOOL", "bool_contents", [True, False], b"\1\0"),
        ("INT8", "int_contents", [-1, 127], b"\xff\x7f"),
        ("INT32", "int_contents", [-1, 1], b"\xff\xff\xff\xff\1\0\0\0"),
        ("INT64", "int64_contents", [-(2**63)], b"\0" * 7 + b"\x80"),
        ("UINT16", "uint_contents", [65535], b"\xff\xff"),
        ("UINT64", "uint64_contents", [2**64 - 1], b"\xff" * 8),
        ("FP32", "fp32_contents", [1.0], b"\0\0\x80\x3f"),
        ("FP64", "fp64_contents", [1.0], b"\0\0\0\0\0\0\xf0\x3f"),
        ("BYTES", "bytes_contents", [b"ab", b""], b"\2\0\0\0ab\0\0\0\0"),
    ]:
        request = to_http(typed(datatype, [len(values)], **{field: values}), ())
        length = int(request.headers[b"inference-header-content-length"])
        assert request.body[length:] == raw, datatype
        [tensor] = json.loads(request.body[:length])["inputs"]
        assert tensor["parameters"] == {"binary_data_size": len(raw)}


@pytest.mark.parametrize("name", ["a/b", "x HTTP/1.1\r\nx-injected: 1\r\nfoo:", "模型", "?q"])
def test_a_strange_name_stays_one_part_of_a_path(name: str) -> None:
    path = to_http(INFER(model_name=name, model_version="1 2"), ()).path
    assert path.isascii() and path.isprintable() and " " not in path and path.count("/") == 6


def test_metadata_become_headers_but_never_the_frame() -> None:
    request = to_http(
        typed("FP64", [1], fp64_contents=[1]),
        [("x-sluice-unit", "u7"), ("inference-header-content-length", "3"), ("t-bin", b"\xff")],
    )
    assert request.headers[b"x-sluice-unit"] == b"u7"
    assert request.headers[b"t-bin"] == b"\xff"
    assert int(request.headers[b"inference-header-content-length"]) > 3


def test_another_revision_is_unavailable_with_retry_after(client: Client) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        client.ask("ModelInfer", matrix([[1, 2, 3, 4]]), [("x-sluice-revision", "other")])
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert dict(caught.value.trailing_metadata())["retry-after"] == "0"


def test_a_model_that_raises_is_internal_and_one_that_sleeps_too_long_a_deadline(
    tmp_path: Path,
) -> None:
    odd = support.build_odd(tmp_path / "odd")
    port = free_port()
    arguments = ("--allow-code", "--timeout", "1s", "--grpc-port", str(port))
    with serving(odd.path, *arguments) as server:
        client = Client(server, port)

        def ask(x: float) -> Any:
            tensor = {
                "name": "x",
                "datatype": "FP64",
                "shape": [1],
                "contents": {"fp64_contents": [x]},
            }
            return INFER(model_name="odd", inputs=[tensor])

        code, said = client.refused("ModelInfer", ask(13))
        assert code is grpc.StatusCode.INTERNAL
        assert "ArithmeticError" in said
        assert client.refused("ModelInfer", ask(3000))[0] is grpc.StatusCode.DEADLINE_EXCEEDED
        client.channel.close()


def test_a_port_that_is_taken_is_said_and_sigterm_ends_the_server(
    iris: Built, client: Client
) -> None:
    port = free_port()
    with serving(iris.path, "--grpc-port", str(port)) as server:
        taken = Server(iris.path, "--grpc-port", str(port))
        code, _, said = taken.stop(0)
        assert code == 3
        assert f"Cannot listen on 127.0.0.1:{port} for gRPC." in said
        other = Client(server, port)
        assert other.ask("ServerReady").ready
        assert server.stop(signal.SIGTERM)[0] == 0
        with pytest.raises(grpc.RpcError) as caught:
            other.ask("ServerReady")
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        other.channel.close()


def test_without_the_library_a_server_says_what_to_install(iris: Built, tmp_path: Path) -> None:
    (tmp_path / "grpc.py").write_text("raise ImportError('gone', name='grpc')")
    port = free_port()
    without = {"PYTHONPATH": f"{tmp_path}:operator"}
    server = Server(iris.path, "--grpc-port", str(port), env=without)
    code, _, said = server.stop(0)
    assert code == 3
    assert "GrpcMissing: gRPC needs a library that is not installed: grpc." in said
    assert "sluice-operator[grpc]" in said
    with serving(iris.path, env=without) as running:
        assert running.request("GET", "/v2/health/ready")[0] == 200


tensors = st.fixed_dictionaries(
    {
        "name": st.sampled_from(["x", "sepal length (cm)"]) | st.text(max_size=4),
        "datatype": st.sampled_from(["FP32", "FP64", "INT8", "BOOL", "BYTES"])
        | st.text(max_size=4),
        "shape": st.lists(st.integers(-1, 8) | st.sampled_from([2**62, 4]), max_size=3),
    },
    optional={
        "contents": st.fixed_dictionaries(
            {},
            optional={
                "fp64_contents": st.lists(st.floats(), max_size=8),
                "int_contents": st.lists(st.integers(-500, 500), max_size=8),
                "bytes_contents": st.lists(st.binary(max_size=5), max_size=4),
            },
        )
    },
)
FINE = (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND)


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.binary(max_size=100)
    | st.builds(
        lambda inputs, raw: INFER(
            model_name="flowers", inputs=inputs, raw_input_contents=raw
        ).SerializeToString(),
        st.lists(tensors, max_size=3),
        st.lists(st.binary(max_size=40), max_size=3),
    )
)
def test_no_message_is_a_fault_of_the_server(client: Client, body: bytes) -> None:
    try:
        client.raw("ModelInfer", body)
    except grpc.RpcError as error:
        assert error.code() in FINE, (error.code(), error.details())
        assert error.details()
    assert client.server.process.poll() is None
