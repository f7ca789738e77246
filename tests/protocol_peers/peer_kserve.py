"""What the KServe client asks, REST and gRPC: run by tests.protocol_peers in its environment."""

import asyncio

import grpc
import httpx
import numpy as np
from checks import check, main, near
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest, RESTConfig


def ask(given, protocol, function):
    """Run ``function(client, url)`` with a client of its own."""

    async def asked():
        async with InferenceRESTClient(RESTConfig(protocol=protocol)) as client:
            return await function(client, f"http://{given['address']}")

    return asyncio.run(asked())


def ask_grpc(given, function):
    async def asked():
        async with InferenceGRPCClient(given["grpc"]) as client:
            return await function(client)

    return asyncio.run(asked())


def infer(given, request):
    return ask(given, "v2", lambda c, url: c.infer(url, request, model_name=given["model"]))


def request(given, *, binary_in, binary_out):
    rows = np.array(given["rows"])
    tensor = InferInput("x", list(rows.shape), "FP64")
    tensor.set_data_from_numpy(rows, binary_data=binary_in)
    parameters = {"binary_data_output": binary_out}
    return InferRequest(given["model"], [tensor], request_id="42", parameters=parameters)


def verify(given, response):
    # This client does not read model_version.
    assert (response.id, response.model_name) == ("42", given["model"])
    outputs = {output.name: output.as_numpy() for output in response.outputs}
    labels = [v.decode() if isinstance(v, bytes) else v for v in outputs["label"].tolist()]
    assert labels == given["labels"], "labels differ"
    near(outputs["scores"].ravel(), np.array(given["scores"]).ravel())
    near(outputs["score"], np.array(given["scores"]).max(axis=1))


def refused(function, status, words):
    try:
        function()
    except httpx.HTTPStatusError as error:
        assert error.response.status_code == status, error.response.status_code
        assert words in str(error), str(error)
    else:
        raise AssertionError("was answered")


@check("V1 server live, model ready")
def _(given):
    assert ask(given, "v1", lambda c, url: c.is_server_live(url))
    assert ask(given, "v1", lambda c, url: c.is_model_ready(url, given["model"]))


@check("V1 predict, rows as lists")
def _(given):
    body = {"instances": given["rows"]}
    found = ask(given, "v1", lambda c, url: c.infer(url, body, model_name=given["model"]))
    assert found["predictions"] == given["labels"]


@check("V1 predict, rows as objects")
def _(given):
    rows = [dict(zip(given["features"], row, strict=True)) for row in given["rows"]]
    body = {"instances": rows}
    found = ask(given, "v1", lambda c, url: c.infer(url, body, model_name=given["model"]))
    assert found["predictions"] == given["labels"]


@check("V2 server live, server ready, model ready")
def _(given):
    assert ask(given, "v2", lambda c, url: c.is_server_live(url))
    assert ask(given, "v2", lambda c, url: c.is_server_ready(url))
    assert ask(given, "v2", lambda c, url: c.is_model_ready(url, given["model"]))
    assert not ask(given, "v2", lambda c, url: c.is_model_ready(url, "other"))


@check("V2 infer JSON in, JSON out")
def _(given):
    verify(given, infer(given, request(given, binary_in=False, binary_out=False)))


@check("V2 infer bytes in, bytes out")
def _(given):
    verify(given, infer(given, request(given, binary_in=True, binary_out=True)))


@check("V2 infer bytes in, JSON out")
def _(given):
    verify(given, infer(given, request(given, binary_in=True, binary_out=False)))


@check("V2 infer JSON in, bytes out")
def _(given):
    verify(given, infer(given, request(given, binary_in=False, binary_out=True)))


@check("mistakes are refused with a reason")
def _(given):
    tensor = InferInput("x", [1, 3], "FP64")
    tensor.set_data_from_numpy(np.zeros((1, 3)), binary_data=True)
    wrong = InferRequest(given["model"], [tensor])
    refused(lambda: infer(given, wrong), 400, "expected shape [n,4]")
    other = {**given, "model": "other"}
    good = request(given, binary_in=True, binary_out=True)
    refused(lambda: infer(other, good), 404, "expected the model")


@check("gRPC server live, server ready, model ready")
def _(given):
    assert ask_grpc(given, lambda c: c.is_server_live())
    assert ask_grpc(given, lambda c: c.is_server_ready())
    assert ask_grpc(given, lambda c: c.is_model_ready(given["model"]))


@check("gRPC infer, raw contents")
def _(given):
    sent = request(given, binary_in=True, binary_out=True)
    verify(given, ask_grpc(given, lambda c: c.infer(sent)))


@check("gRPC infer, typed contents")
def _(given):
    rows = np.array(given["rows"])
    tensor = InferInput("x", list(rows.shape), "FP64", data=rows.ravel().tolist())
    sent = InferRequest(given["model"], [tensor], request_id="42")
    assert not sent.to_grpc().raw_input_contents
    verify(given, ask_grpc(given, lambda c: c.infer(sent)))


@check("gRPC mistakes are refused with a reason")
def _(given):
    sent = InferRequest("other", request(given, binary_in=True, binary_out=True).inputs)
    try:
        ask_grpc(given, lambda c: c.infer(sent))
    except grpc.RpcError as error:
        assert error.code() is grpc.StatusCode.NOT_FOUND, error.code()
        assert "expected the model" in error.details(), error.details()
    else:
        raise AssertionError("was answered")


if __name__ == "__main__":
    main()
