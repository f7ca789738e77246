"""What tritonclient asks over HTTP: run by tests.protocol_peers in its own environment."""

import numpy as np
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


if __name__ == "__main__":
    main()
