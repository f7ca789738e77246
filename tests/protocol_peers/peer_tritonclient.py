"""What tritonclient asks over HTTP and gRPC: run by tests.protocol_peers in its own environment."""

import numpy as np
import tritonclient.grpc as over_grpc
from checks import check, main, near
from tritonclient.http import (
    InferenceServerClient,
    InferenceServerException,
    InferInput,
    InferRequestedOutput,
)


def client(given):
    return InferenceServerClient(given["address"], concurrency=4)


def matrix(given, datatype="FP64", dtype=np.float64, *, binary=True):
    rows = np.array(given["rows"], dtype)
    tensor = InferInput("x", list(rows.shape), datatype)
    tensor.set_data_from_numpy(rows, binary_data=binary)
    return [tensor]


def grpc_matrix(given):
    rows = np.array(given["rows"])
    tensor = over_grpc.InferInput("x", list(rows.shape), "FP64")
    tensor.set_data_from_numpy(rows)
    return [tensor]


def columns(given, *, binary=True):
    rows = np.array(given["rows"])
    tensors = []
    for k, name in enumerate(given["features"]):
        tensor = InferInput(name, [len(rows)], "FP64")
        tensor.set_data_from_numpy(np.ascontiguousarray(rows[:, k]), binary_data=binary)
        tensors.append(tensor)
    return tensors


def verify(given, result, tolerance=1e-9):
    labels = [v.decode() if isinstance(v, bytes) else v for v in result.as_numpy("label")]
    assert labels == given["labels"], "labels differ"
    near(result.as_numpy("scores").ravel(), np.array(given["scores"]).ravel(), tolerance)
    near(result.as_numpy("score"), np.array(given["scores"]).max(axis=1), tolerance)


def refused(function, words):
    try:
        function()
    except InferenceServerException as error:
        assert error.status() == "400" or error.status() == "404", error.status()
        assert words in error.message(), error.message()
    else:
        raise AssertionError("was answered")


@check("server live, server ready, model ready")
def _(given):
    c = client(given)
    assert c.is_server_live() and c.is_server_ready()
    assert c.is_model_ready(given["model"])
    assert c.is_model_ready(given["model"], given["version"])
    assert not c.is_model_ready("other")


@check("server metadata names the binary extension")
def _(given):
    assert "binary_tensor_data" in client(given).get_server_metadata()["extensions"]


@check("model metadata, with and without a version")
def _(given):
    c = client(given)
    found = c.get_model_metadata(given["model"])
    assert found == c.get_model_metadata(given["model"], given["version"])
    assert [tensor["name"] for tensor in found["inputs"]] == given["features"]
    assert found["versions"] == [given["version"]]


@check("infer as the client does by itself: bytes in, bytes out")
def _(given):
    result = client(given).infer(given["model"], matrix(given), request_id="42")
    verify(given, result)
    found = result.get_response()
    assert (found["id"], found["model_version"]) == ("42", given["version"])


@check("infer one tensor a feature, bytes in and out")
def _(given):
    verify(given, client(given).infer(given["model"], columns(given)))


@check("infer FP32, bytes in and out")
def _(given):
    result = client(given).infer(given["model"], matrix(given, "FP32", np.float32))
    verify(given, result, 1e-5)


@check("infer on the versions path")
def _(given):
    result = client(given).infer(given["model"], matrix(given), model_version=given["version"])
    verify(given, result)


@check("infer JSON in, JSON out")
def _(given):
    outputs = [InferRequestedOutput(n, binary_data=False) for n in ("label", "score", "scores")]
    result = client(given).infer(given["model"], matrix(given, binary=False), outputs=outputs)
    verify(given, result)


@check("infer JSON in, bytes out")
def _(given):
    verify(given, client(given).infer(given["model"], columns(given, binary=False)))


@check("infer bytes in, each output as it was asked for")
def _(given):
    outputs = [
        InferRequestedOutput("score", binary_data=True),
        InferRequestedOutput("label", binary_data=False),
        InferRequestedOutput("scores", binary_data=True),
    ]
    verify(given, client(given).infer(given["model"], matrix(given), outputs=outputs))


@check("infer some of the outputs")
def _(given):
    outputs = [InferRequestedOutput("score")]
    result = client(given).infer(given["model"], matrix(given), outputs=outputs)
    assert result.as_numpy("label") is None
    near(result.as_numpy("score"), np.array(given["scores"]).max(axis=1))


@check("forty requests on four connections at once")
def _(given):
    c = client(given)
    waiting = [c.async_infer(given["model"], matrix(given)) for _ in range(40)]
    for handle in waiting:
        verify(given, handle.get_result())


@check("mistakes are refused with a reason")
def _(given):
    c = client(given)
    refused(lambda: c.infer("other", matrix(given)), "expected the model")
    refused(lambda: c.infer(given["model"], matrix(given), model_version="9"), "the version")
    unknown = [InferRequestedOutput("proba")]
    refused(lambda: c.infer(given["model"], matrix(given), outputs=unknown), "expected label")
    refused(lambda: c.infer(given["model"], columns(given)[:1]), "field")
    texts = InferInput("x", [1, 4], "BYTES")
    texts.set_data_from_numpy(np.array([[b"a", b"b", b"c", b"d"]], dtype=object))
    refused(lambda: c.infer(given["model"], [texts]), "expected FP64, got BYTES")


@check("gRPC server live, server ready, model ready")
def _(given):
    c = over_grpc.InferenceServerClient(given["grpc"])
    assert c.is_server_live() and c.is_server_ready()
    assert c.is_model_ready(given["model"])
    assert c.is_model_ready(given["model"], given["version"])


@check("gRPC server and model metadata")
def _(given):
    c = over_grpc.InferenceServerClient(given["grpc"])
    assert c.get_server_metadata().name == "sluice"
    found = c.get_model_metadata(given["model"], given["version"])
    http = client(given).get_model_metadata(given["model"])
    for here, there in ((found.inputs, http["inputs"]), (found.outputs, http["outputs"])):
        assert [(t.name, t.datatype, list(t.shape)) for t in here] == [
            (t["name"], t["datatype"], t["shape"]) for t in there
        ]
    assert list(found.versions) == [given["version"]]


@check("gRPC infer, raw contents")
def _(given):
    c = over_grpc.InferenceServerClient(given["grpc"])
    result = c.infer(given["model"], grpc_matrix(given), request_id="42")
    verify(given, result)
    assert result.get_response().id == "42"


@check("gRPC infer some of the outputs, on a version")
def _(given):
    c = over_grpc.InferenceServerClient(given["grpc"])
    outputs = [over_grpc.InferRequestedOutput("score")]
    result = c.infer(
        given["model"], grpc_matrix(given), model_version=given["version"], outputs=outputs
    )
    assert result.as_numpy("label") is None
    near(result.as_numpy("score"), np.array(given["scores"]).max(axis=1))


@check("gRPC mistakes are refused with a reason")
def _(given):
    c = over_grpc.InferenceServerClient(given["grpc"])
    tensors = grpc_matrix(given)
    unknown = [over_grpc.InferRequestedOutput("proba")]
    for function, status, words in (
        (lambda: c.infer("other", tensors), "NOT_FOUND", "expected the model"),
        (lambda: c.infer(given["model"], tensors, outputs=unknown), "INVALID", "expected label"),
    ):
        try:
            function()
        except InferenceServerException as error:
            assert status in error.status(), error.status()
            assert words in error.message(), error.message()
        else:
            raise AssertionError("was answered")


if __name__ == "__main__":
    main()
