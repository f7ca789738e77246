"""A real server process on loopback: answers, edges of the protocol, overload, drain, refusals."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))

import runtime_support as support
from runtime_support import DEADLINE, Built, Server, serving


def until(condition: Callable[[], Any], what: str) -> Any:
    """Poll a condition with a deadline."""
    deadline = time.monotonic() + DEADLINE
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.01)
    raise AssertionError(f"never happened: {what}")


@pytest.fixture(scope="module")
def iris(tmp_path_factory: pytest.TempPathFactory) -> Built:
    return support.build_iris(tmp_path_factory.mktemp("iris"))


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Built:
    return support.build_odd(tmp_path_factory.mktemp("odd"))


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Two milliseconds a call: predicted off the event loop."""
    return support.build_odd(tmp_path_factory.mktemp("slow"), delay=0.002)


@pytest.fixture(scope="module")
def server(iris: Built) -> Iterator[Server]:
    with serving(iris.path, "--revision", "rev1", "--deployment", "flowers") as running:
        yield running


@pytest.fixture(scope="module")
def slow_server(slow: Built) -> Iterator[Server]:
    with serving(slow.path, "--allow-code", "--revision", "r") as running:
        yield running


def connect(server: Server, *, admin: bool = False) -> socket.socket:
    port = server.admin_port if admin else server.port
    return socket.create_connection(("127.0.0.1", port), timeout=DEADLINE)


def post_bytes(row: Any, *extra: str, path: str = "/predict", close: bool = False) -> bytes:
    body = json.dumps(row).encode()
    lines = [f"POST {path} HTTP/1.1", "Host: x", f"Content-Length: {len(body)}", *extra]
    if close:
        lines.append("Connection: close")
    return "\r\n".join([*lines, "", ""]).encode() + body


def read_all(sock: socket.socket) -> bytes:
    data = b""
    with contextlib.suppress(ConnectionResetError):
        while chunk := sock.recv(65536):
            data += chunk
    return data


def statuses(data: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) [A-Z]", data)]


# Answers.


@pytest.mark.parametrize(
    ("build", "form", "arguments"),
    [
        (support.build_iris, "onnx", ()),
        (support.build_cancer, "onnx", ()),
        (support.build_iris, "joblib", ("--allow-code",)),
    ],
)
def test_answers_equal_scikit_learns(
    tmp_path: Path, build: Any, form: str, arguments: tuple[str, ...]
) -> None:
    built = build(tmp_path, form=form)
    with serving(built.path, *arguments) as running:
        status, answer = running.post("/predict", built.rows)
        assert status == 200
        assert answer["revision"] == built.digest.removeprefix("sha256:")[:10]
        predictions = answer["predictions"]
        expected = built.model.predict_proba(built.matrix)
        labels = list(predictions[0]["scores"])
        got = np.array([list(p["scores"].values()) for p in predictions])
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-12)
        assert [labels.index(p["label"]) for p in predictions] == (
            built.model.predict(built.matrix).tolist()
        )
        column = expected[:, 1] if len(labels) == 2 else expected.max(axis=1)
        np.testing.assert_allclose([p["score"] for p in predictions], column, atol=1e-12)
        assert len({p["eventId"] for p in predictions}) == len(predictions)


def test_a_regression_answers_values_without_labels(tmp_path: Path) -> None:
    built = support.build_regression(tmp_path)
    with serving(built.path) as running:
        _, answer = running.post("/predict", built.rows[:3])
        expected = built.model.predict(built.matrix[:3])
        assert all(set(p) == {"score", "eventId"} for p in answer["predictions"])
        np.testing.assert_allclose([p["score"] for p in answer["predictions"]], expected)
        _, answer = running.post("/v1/models/line:predict", {"instances": built.rows[:3]})
        np.testing.assert_allclose(answer["predictions"], expected)


def test_a_missing_value_that_a_converted_model_cannot_take_is_a_model_error(
    tmp_path: Path,
) -> None:
    """scikit-learn raises there; ONNX Runtime would answer NaN, and that is never given out."""
    built = support.build_regression(tmp_path)
    manifest = support.read_manifest(built.path)
    nullable = tuple(msgspec.structs.replace(i, nullable=True) for i in manifest.inputs)
    files = {f.name: f.read_bytes() for f in built.path.iterdir() if f.name != "sluice.json"}
    support.write_package(built.path, msgspec.structs.replace(manifest, inputs=nullable), files)
    with serving(built.path) as running:
        status, answer = running.post("/predict", {"a": None, "b": 1})
        assert (status, answer["error"]["code"]) == (500, "ModelError")
        status, answer = running.post("/predict", [{"a": 1, "b": 1}, {"a": None, "b": 1}])
        assert status == 500
        assert running.post("/predict", {"a": 1, "b": 1})[0] == 200
        counters = running.counters()
        assert counters["modelErrorsByClass"] == {"NonFiniteScore": 2}
        assert counters["features"]["a"]["missing"] == 0


def test_a_number_on_which_the_model_fails_because_it_is_huge_is_the_senders_mistake(
    tmp_path: Path,
) -> None:
    built = support.build_regression(tmp_path)
    with serving(built.path) as running:
        status, answer = running.post("/predict", [{"a": 1, "b": 1}, {"a": 1e308, "b": 1}])
        assert (status, answer["error"]["code"], answer["error"]["field"]) == (
            400,
            "OutOfRange",
            "a",
        )
        assert "row 1: 'a'" in answer["error"]["message"]
        assert "the number 1e+308" in answer["error"]["message"]
        counters = running.counters()
        assert (counters["clientErrors"], counters["modelErrors"]) == (1, 0)


def test_v1_and_v2_have_the_shapes_their_clients_expect(server: Server, iris: Built) -> None:
    rows = iris.matrix[:2].tolist()
    assert server.request("GET", "/")[2] == {"status": "alive"}
    assert server.request("GET", "/v1/models")[2] == {"models": ["flowers"]}
    assert server.request("GET", "/v1/models/flowers")[2] == {"name": "flowers", "ready": True}
    status, answer = server.post("/v1/models/flowers:predict", {"instances": rows})
    assert (status, answer) == (200, {"predictions": ["setosa", "setosa"]})
    assert server.request("GET", "/v2")[2]["extensions"] == ["binary_tensor_data"]
    assert server.request("GET", "/v2/health/live")[2] == {"live": True}
    assert server.request("GET", "/v2/health/ready")[2] == {"ready": True, "live": True}
    metadata = server.request("GET", "/v2/models/flowers")[2]
    assert server.request("GET", "/v2/models/flowers/versions/rev1")[2] == metadata
    assert server.request("GET", "/v2/models/flowers/versions/rev1/ready")[2]["ready"] is True
    assert server.request("GET", "/v2/models/flowers/versions/9/ready")[0] == 404
    assert metadata["versions"] == ["rev1"]
    assert metadata["inputs"][0] == {
        "name": "sepal length (cm)",
        "datatype": "FP64",
        "shape": [-1],
    }
    infer = {
        "id": "7",
        "inputs": [{"name": "x", "shape": [2, 4], "datatype": "FP64", "data": rows}],
    }
    for path in ("/v2/models/flowers/infer", "/v2/models/flowers/versions/rev1/infer"):
        status, answer = server.post(path, infer)
        assert status == 200
        assert (answer["model_name"], answer["model_version"], answer["id"]) == (
            "flowers",
            "rev1",
            "7",
        )
        assert answer["outputs"][0]["data"] == ["setosa", "setosa"]
    for path in ("/v2/models/other/infer", "/v2/models/flowers/versions/9/infer"):
        status, answer = server.post(path, infer)
        assert status == 404
        assert list(answer) == ["error"]
        assert isinstance(answer["error"], str)
    assert server.post("/v1/models/other:predict", {"instances": rows})[0] == 404


def test_docs_are_self_contained_and_name_the_models_fields(server: Server, iris: Built) -> None:
    status, headers, page = server.request("GET", "/docs")
    assert status == 200
    assert headers["content-type"].startswith("text/html")
    for name in iris.rows[0]:
        assert f'data-name="{name}"' in page
    assert "http://" not in page.replace("$URL", "")
    assert "https://" not in page
    assert "src=" not in page
    document = server.request("GET", "/openapi.json")[2]
    assert document["openapi"].startswith("3.")
    assert list(document["components"]["schemas"]["Row"]["properties"]) == list(iris.rows[0])
    assert "/v1/models/flowers:predict" in document["paths"]
    infer = document["paths"]["/v2/models/flowers/versions/rev1/infer"]["post"]
    assert {"application/json", "application/octet-stream"} == set(infer["requestBody"]["content"])


def test_the_examples_of_the_document_are_answered(server: Server) -> None:
    document = server.request("GET", "/openapi.json")[2]
    asked = 0
    for path, operations in document["paths"].items():
        if "get" in operations:
            assert server.request("GET", path)[0] == 200, path
        content = operations.get("post", {}).get("requestBody", {}).get("content", {})
        for name, example in content.get("application/json", {}).get("examples", {}).items():
            assert server.post(path, example["value"])[0] in (200, 202), (path, name)
            asked += 1
    assert asked == 8


def test_head_unknown_paths_and_methods(server: Server) -> None:
    assert server.request("HEAD", "/readyz")[2] == ""
    assert server.request("GET", "/nothing")[0] == 404
    assert server.request("GET", "/v1/models/other")[0] == 404
    status, headers, answer = server.request("GET", "/predict")
    assert (status, headers["allow"], answer["error"]["code"]) == (405, "POST", "MethodNotAllowed")
    assert server.request("DELETE", "/docs")[0] == 405
    assert server.request("GET", "/metrics")[0] == 404
    assert server.request("GET", "/metrics", admin=True)[0] == 200
    assert server.request("POST", "/counters", admin=True)[0] == 405


@pytest.mark.parametrize(
    ("content_type", "status"),
    [
        ("application/json", 200),
        ("application/json; charset=utf-8", 200),
        ("application/x-www-form-urlencoded", 200),
        ("application/problem+json", 200),
        ("text/csv", 415),
        ("multipart/form-data; boundary=x", 415),
    ],
)
def test_content_types(server: Server, iris: Built, content_type: str, status: int) -> None:
    got, answer = server.post("/predict", iris.rows[0], Content_Type=content_type)
    assert got == status
    if status == 415:
        assert "expected Content-Type application/json, got" in answer["error"]["message"]


def test_compressed_bodies_are_refused_by_name(server: Server, iris: Built) -> None:
    status, answer = server.post("/predict", iris.rows[0], Content_Encoding="gzip")
    assert status == 415
    assert "got gzip" in answer["error"]["message"]


def test_large_bodies_are_answered_too(server: Server, iris: Built) -> None:
    rows = (iris.rows * 70)[:10_000]
    status, answer = server.post("/predict", rows)
    assert status == 200
    expected = iris.model.predict(np.tile(iris.matrix, (70, 1))[:10_000])
    names = ["setosa", "versicolor", "virginica"]
    assert [p["label"] for p in answer["predictions"]] == [names[i] for i in expected]
    status, answer = server.post("/predict", [*rows[:-1], {"sepal length (cm)": "x"}])
    assert status == 400
    assert "of row 9999" in answer["error"]["message"]
    assert server.post("/predict", [*rows, rows[0]])[0] == 413


# Counting.


def test_every_answer_names_its_revision_and_others_are_sent_away(iris: Built) -> None:
    with serving(iris.path, "--revision", "rev1") as running:
        for path in ("/readyz", "/docs", "/nothing"):
            assert running.request("GET", path)[1]["x-sluice-revision"] == "rev1"
        body = json.dumps(iris.rows[0]).encode()
        status, headers, _ = running.request("POST", "/predict", body, {"X-Sluice-Revision": "r2"})
        assert (status, headers["retry-after"], headers["x-sluice-revision"]) == (503, "0", "rev1")
        assert headers["connection"] == "close"
        assert running.post("/predict", body, X_Sluice_Revision="rev1")[0] == 200
        counters = running.counters()
        assert counters["misdirected"] == 1
        assert counters["requests"] == counters["ok"] == 1


def test_counters_tell_what_happened(odd: Built) -> None:
    with serving(odd.path, "--allow-code", "--revision", "r") as running:
        sent = [
            (1, 200, "7"), (-1, 200, "7"), (13, 500, "7"), (7, 500, "8"), ("x", 400, "499"),
            (14, 500, "x"), (None, 200, "500"), (2, 200, "nonsense"), (3, 200, "1234567890123"),
        ]  # fmt: skip
        for value, status, bucket in sent:
            got, answer = running.post("/predict", {"x": value}, X_Sluice_Bucket=bucket)
            assert got == status, answer
        counters = running.counters()
        assert counters["requests"] == 9
        assert (counters["ok"], counters["clientErrors"], counters["modelErrors"]) == (5, 1, 3)
        assert counters["modelErrorsByClass"] == {
            "ArithmeticError": 1,
            "NonFiniteScore": 1,
            "SystemExit": 1,
        }
        assert counters["nonFinite"] == 1
        assert counters["rows"] == 5
        assert counters["inFlight"] == 0
        assert counters["buckets"] == {"7": [3, 0, 1], "8": [1, 0, 1], "499": [1, 1, 0]}
        assert sum(counters["latency"]["bins"].values()) == 5
        assert counters["features"]["x"]["missing"] == 1
        assert counters["deployment"] == "odd"
        assert counters["packageDigest"] == odd.digest
        assert running.request("GET", "/metrics", admin=True)[2].count("sluice_") > 50
        assert running.stop()[2].count("model error ArithmeticError") == 1


def test_a_bad_row_fails_alone_in_its_batch(slow_server: Server) -> None:
    # One slow request holds the worker, so that the others are waiting together.
    blocker = connect(slow_server)
    blocker.sendall(post_bytes({"x": 400}, close=True))
    until(lambda: slow_server.counters()["inFlight"] == 1, "the first request is in flight")
    values = [1, 13, 2, 7, 3]
    sockets = [connect(slow_server) for _ in values]
    for sock, value in zip(sockets, values, strict=True):
        sock.sendall(post_bytes({"x": value}, close=True))
    assert [statuses(read_all(s)) for s in sockets] == [[200], [500], [200], [500], [200]]
    assert statuses(read_all(blocker)) == [200]


# The protocol on the wire.


def test_pipelined_answers_keep_their_order(slow_server: Server) -> None:
    with connect(slow_server) as sock:
        sock.sendall(
            post_bytes({"x": 150})
            + b"GET /livez HTTP/1.1\r\n\r\n"
            + post_bytes({"x": "text"})
            + post_bytes({"x": -1}, close=True)
        )
        data = read_all(sock)
        assert statuses(data) == [200, 200, 400, 200]
        assert data.index(b'"yes"') < data.index(b"ok\n") < data.index(b"WrongType")


def test_more_pipelined_requests_than_are_read_at_once(server: Server, iris: Built) -> None:
    with connect(server) as sock:
        many = post_bytes(iris.rows[0]) * 500 + post_bytes(iris.rows[0], close=True)
        threading.Thread(target=sock.sendall, args=(many,), daemon=True).start()
        assert statuses(read_all(sock)) == [200] * 501


def test_chunked_byte_by_byte(server: Server, iris: Built) -> None:
    body = json.dumps(iris.rows[0]).encode()
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(p), p) for p in (body[:5], body[5:])) + b"0\r\n\r\n"
    head = b"POST /predict HTTP/1.1\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    with connect(server) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in head + chunks:
            sock.sendall(bytes([byte]))
        assert statuses(read_all(sock)) == [200]


def test_expect_100_continue(server: Server, iris: Built) -> None:
    request = post_bytes(iris.rows[0], "Expect: 100-continue", close=True)
    head, _, body = request.partition(b"\r\n\r\n")
    with connect(server) as sock:
        sock.sendall(head + b"\r\n\r\n")
        assert sock.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        sock.sendall(body)
        assert statuses(read_all(sock)) == [200]
    with connect(server) as sock:
        sock.sendall(b"POST /predict HTTP/1.1\r\nContent-Length: 99999999\r\n"
                     b"Expect: 100-continue\r\n\r\n")  # fmt: skip
        sock.shutdown(socket.SHUT_WR)
        assert statuses(read_all(sock)) == [413]


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"\x16\x03\x01\x02\x00", 400),
        (b"GET / HTTP/1.1\r\nbad header\r\n\r\n", 400),
        (b"GET /" + b"x" * 10_000 + b" HTTP/1.1\r\n\r\n", 414),
        (b"GET / HTTP/1.1\r\nA: " + b"x" * 40_000 + b"\r\n\r\n", 431),
        (b"POST /predict HTTP/1.1\r\nContent-Length: 17000000\r\n\r\n" + b"x" * 1_000_000, 413),
    ],
)
def test_what_is_no_request_gets_one_answer_and_is_closed(
    server: Server, data: bytes, status: int
) -> None:
    with connect(server) as sock:
        sock.sendall(data)
        answer = read_all(sock)
        assert statuses(answer) == [status]
        assert b"connection: close" in answer
        assert b"x-sluice-revision: rev1" in answer
    assert server.request("GET", "/livez")[0] == 200


def test_too_large_bodies_count_as_client_errors(server: Server) -> None:
    before = server.counters()
    with connect(server) as sock:
        sock.sendall(b"POST /predict HTTP/1.1\r\nContent-Length: 17000000\r\n\r\n")
        assert statuses(read_all(sock)) == [413]
    after = server.counters()
    assert after["clientErrors"] == before["clientErrors"] + 1
    assert after["requests"] == before["requests"] + 1


def test_a_half_closed_client_still_gets_its_answer(slow_server: Server) -> None:
    with connect(slow_server) as sock:
        sock.sendall(post_bytes({"x": 150}))
        sock.shutdown(socket.SHUT_WR)
        assert statuses(read_all(sock)) == [200]


def test_a_client_that_goes_away_is_counted_with_its_waiting_time(slow: Built) -> None:
    with serving(slow.path, "--allow-code", "--timeout", "20s") as running:
        sock = connect(running)
        sock.sendall(post_bytes({"x": 3000}))
        until(lambda: running.counters()["inFlight"] == 1, "in flight")
        sock.close()
        counters = until(
            lambda: (c := running.counters())["inFlight"] == 0 and c, "the model has answered"
        )
        assert counters["disconnects"] == 1
        assert counters["requests"] == counters["ok"] == 1
        assert sum(counters["latency"]["bins"].values()) == 1


def test_slow_senders_are_told_and_closed(iris: Built) -> None:
    with serving(iris.path, "--read-timeout", "1s") as running, connect(running) as sock:
        sock.sendall(b"POST /predict HTTP/1.1\r\nContent-Length: 10\r\n\r\n{")
        began = time.monotonic()
        assert statuses(read_all(sock)) == [408]
        assert time.monotonic() - began < 5


# Overload and deadlines.


def test_a_full_queue_sheds_with_retry_after_while_health_stays_live(slow: Built) -> None:
    with serving(slow.path, "--allow-code", "--max-in-flight", "2", "--timeout", "20s") as running:
        held = [connect(running) for _ in range(2)]
        for sock in held:
            sock.sendall(post_bytes({"x": 3000}, close=True))
        until(lambda: running.counters()["inFlight"] == 2, "two in flight")
        status, headers, answer = running.request("POST", "/predict", b'{"x": 1}')
        assert (status, headers["retry-after"]) == (503, "1")
        assert answer["error"]["code"] == "Overloaded"
        assert running.request("GET", "/livez")[0] == 200
        assert running.counters()["inFlight"] > 0, "neither waited for the model"
        assert [statuses(read_all(sock)) for sock in held] == [[200], [200]]
        counters = running.counters()
        assert (counters["shed"], counters["ok"], counters["requests"]) == (1, 2, 3)


def test_a_deadline_gives_504_and_the_queue_goes_on(slow: Built) -> None:
    with serving(slow.path, "--allow-code", "--timeout", "200ms") as running:
        began = time.monotonic()
        status, answer = running.post("/predict", {"x": 3000})
        assert (status, answer["error"]["code"]) == (504, "Timeout")
        assert time.monotonic() - began < 2.5
        until(lambda: running.post("/predict", {"x": 1})[0] == 200, "the model answers again")
        counters = running.counters()
        assert counters["timeouts"] >= 1
        assert counters["requests"] == counters["ok"] + counters["timeouts"]


# Readiness and the end.


def test_the_verdict_file_holds_readiness(iris: Built, tmp_path: Path) -> None:
    verdict = tmp_path / "verdict"
    arguments = ("--verdict-file", str(verdict))
    with serving(iris.path, *arguments, ready=False) as running:
        running.wait_status("/startupz", 200)
        status, _, text = running.request("GET", "/readyz")
        assert status == 503
        assert "no verdict yet" in text
        # As kubelet does it: a new file moved into place.
        for content, expected in (("Pending", 503), ("Passed\n", 200), ("Failed", 503),
                                  ("Validated", 200)):  # fmt: skip
            new = tmp_path / "new"
            new.write_text(content)
            new.replace(verdict)
            running.wait_status("/readyz", expected)
        assert running.post("/predict", iris.rows[0])[0] == 200


def test_a_drain_under_load_fails_no_request(iris: Built) -> None:
    """Senders do as a router does: they stop when /readyz is no longer 200."""
    with serving(iris.path) as running:
        ready = threading.Event()
        ready.set()
        failures: list[object] = []
        answered = [0, 0, 0, 0]

        def send(index: int) -> None:
            connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=DEADLINE)
            body = json.dumps(iris.rows[index]).encode()
            while ready.is_set():
                try:
                    connection.request("POST", "/predict", body)
                    response = connection.getresponse()
                    response.read()
                    if response.status != 200:
                        failures.append(response.status)
                except OSError as error:
                    failures.append(error)
                    connection.close()
                answered[index] += 1
            connection.close()

        senders = [threading.Thread(target=send, args=(i,)) for i in range(4)]
        for sender in senders:
            sender.start()
        until(lambda: min(answered) > 50, "load")
        running.process.send_signal(signal.SIGTERM)
        running.wait_status("/readyz", 503)
        seen = sum(answered)
        until(lambda: sum(answered) > seen + 100, "requests are answered while draining")
        ready.clear()
        for sender in senders:
            sender.join(DEADLINE)
        assert running.process.wait(DEADLINE) == 0
        assert failures == []


def test_what_is_in_flight_at_sigterm_is_finished_and_connections_close(slow: Built) -> None:
    with serving(slow.path, "--allow-code", "--timeout", "20s") as running:
        idle = connect(running)
        busy = connect(running)
        busy.sendall(post_bytes({"x": 3000}))
        until(lambda: running.counters()["inFlight"] == 1, "in flight")
        running.process.send_signal(signal.SIGTERM)
        data = read_all(busy)
        assert statuses(data) == [200]
        assert b"connection: close" in data
        assert idle.recv(1) == b""
        assert running.process.wait(DEADLINE) == 0


def test_sigint_ends_at_once_with_exit_code_0(iris: Built) -> None:
    """A drain would wait 20 s for the reader of the second record."""
    with serving(iris.path) as running:
        for unit in ("end:1", "end:2"):
            assert running.post("/predict", iris.rows[0], X_Sluice_Unit=unit)[0] == 200
            if unit == "end:1":
                page = running.request("GET", "/journal?experiment=end&since=0", admin=True)
                assert page[0] == 200
        began = time.monotonic()
        code, out, err = running.stop(signal.SIGINT)
        assert (code, err) == (0, "")
        assert time.monotonic() - began < 10
        assert f"http://127.0.0.1:{running.port}/docs" in out


def test_the_printed_curl_line_works(iris: Built) -> None:
    with serving(iris.path) as running:
        assert running.process.stdout is not None
        lines = [running.process.stdout.readline() for _ in range(4)]
        line = next(line for line in lines if line.startswith("curl"))
        done = subprocess.run(line, shell=True, capture_output=True, text=True, timeout=DEADLINE)
        assert "predictions" in json.loads(done.stdout)


def test_a_model_that_hangs_gives_504_and_does_not_hold_the_process(slow: Built) -> None:
    with serving(slow.path, "--allow-code", "--timeout", "200ms") as running:
        assert running.post("/predict", {"x": 60_000})[0] == 504
        assert [running.post("/predict", {"x": 1})[0] for _ in range(3)] == [504] * 3
        assert running.request("GET", "/livez")[0] == 200
        assert running.counters()["inFlight"] == 0
        began = time.monotonic()
        assert running.stop(signal.SIGTERM)[0] == 0
        assert time.monotonic() - began < 10


def test_without_uvloop_asyncio_serves(slow: Built) -> None:
    program = "import sys; sys.modules['uvloop'] = None; from sluice.cli import main; main()"
    running = Server(slow.path, "--allow-code", python=("-c", program))
    try:
        running.wait_status("/readyz", 200)
        with connect(running) as sock:
            sock.sendall(post_bytes({"x": 2}) + post_bytes({"x": "a"}) + post_bytes({"x": -2}))
            sock.shutdown(socket.SHUT_WR)
            assert statuses(read_all(sock)) == [200, 400, 200]
        assert running.stop(signal.SIGTERM)[0] == 0
    finally:
        running.process.kill()
        running.process.communicate()


def test_nothing_is_written_and_no_cluster_or_model_library_is_imported(iris: Built) -> None:
    """ONNX needs no scikit-learn, and ONNX Runtime's usage events stay off."""
    with serving(iris.path) as running:
        assert running.post("/predict", iris.rows[0])[0] == 200
        until(lambda: not open_files(running.process.pid), "what is read in passing is closed")
        maps = Path(f"/proc/{running.process.pid}/maps").read_text()
        for library in ("sklearn", "pandas", "scipy", "kubernetes"):
            assert f"site-packages/{library}" not in maps


def open_files(process: int) -> list[Path]:
    """Files that a process holds open now."""
    found = []
    for descriptor in Path(f"/proc/{process}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # Closed meanwhile.
            found.append(descriptor.readlink())
    return [target for target in found if target.is_file()]


def start_failure(tmp_path: Path, package: Path, *arguments: str) -> str:
    log = tmp_path / "termination-log"
    running = Server(package, *arguments, env={"SLUICE_TERMINATION_LOG": str(log)})
    _, err = running.process.communicate(timeout=DEADLINE)
    assert running.process.returncode == 3
    assert err.count("\n") == 1, err
    assert log.read_text() == err.strip()
    return err


def test_a_termination_log_that_cannot_be_written_hides_no_reason(tmp_path: Path) -> None:
    running = Server(tmp_path / "absent", env={"SLUICE_TERMINATION_LOG": "/dev/full"})
    _, err = running.process.communicate(timeout=DEADLINE)
    assert running.process.returncode == 3
    assert "cannot write /dev/full" in err and "Missing: " in err


def test_a_start_that_fails_says_why_in_one_line(iris: Built, odd: Built, tmp_path: Path) -> None:
    assert start_failure(tmp_path, tmp_path / "absent").startswith("Missing: ")
    wrong = "sha256:" + "0" * 64
    assert start_failure(tmp_path, iris.path, "--digest", wrong).startswith("DigestMismatch: ")
    assert start_failure(tmp_path, odd.path).startswith("Untrusted: model.pkl is pickle")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert start_failure(tmp_path, iris.path, "--port", port).startswith("AddressInUse: ")


def test_a_model_that_answers_differently_does_not_start(tmp_path: Path) -> None:
    built = support.build_iris(tmp_path / "p")
    golden = json.loads((built.path / "golden.json").read_text())
    golden[1]["score"] += 0.001
    files = {f.name: f.read_bytes() for f in built.path.iterdir() if f.name != "sluice.json"}
    files["golden.json"] = json.dumps(golden).encode()
    manifest = support.read_manifest(built.path)
    support.write_package(built.path, manifest, files)
    assert "golden example 1" in start_failure(tmp_path, built.path)


def test_a_package_that_breaks_in_an_unforeseen_way_says_so_in_one_line(tmp_path: Path) -> None:
    built = support.build_iris(tmp_path / "p")
    files = {f.name: f.read_bytes() for f in built.path.iterdir() if f.name != "sluice.json"}
    files["profile.json"] = b'{"features": {"sepal length (cm)": {"edges": ["low", "high"]}}}'
    support.write_package(built.path, support.read_manifest(built.path), files)
    assert start_failure(tmp_path, built.path).startswith("LoadFailed: The package cannot be")


def test_a_changed_byte_does_not_start(tmp_path: Path) -> None:
    built = support.build_iris(tmp_path / "p")
    data = bytearray((built.path / "model.onnx").read_bytes())
    data[len(data) // 2] ^= 1
    (built.path / "model.onnx").write_bytes(bytes(data))
    assert start_failure(tmp_path, built.path).startswith("Corrupt: ")


def test_environment_mismatch_is_named(tmp_path: Path) -> None:
    built = support.build_odd(tmp_path / "p")
    files = {f.name: f.read_bytes() for f in built.path.iterdir() if f.name != "sluice.json"}
    manifest = support.with_requirement(support.read_manifest(built.path), "scikit-learn", "0.1.0")
    support.write_package(built.path, manifest, files)
    message = start_failure(tmp_path, built.path, "--allow-code")
    assert message.startswith("EnvironmentMismatch: ")
    assert "scikit-learn" in message


# Fuzz against the running process.


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(["/predict", "/v1/models/flowers:predict", "/v2/models/flowers/infer"]),
    st.binary(max_size=200)
    | st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(
                st.sampled_from(["instances", "inputs", "sepal length (cm)", "name", "shape"]),
                inner,
                max_size=4,
            )
        ),
        max_leaves=10,
    ).map(lambda document: json.dumps(document).encode()),
)
def test_no_body_makes_a_5xx_or_a_crash(server: Server, path: str, body: bytes) -> None:
    status, headers, _ = server.request("POST", path, body)
    assert status < 500
    assert headers["x-sluice-revision"] == "rev1"
    assert server.process.poll() is None
