"""V2 over gRPC, on a port of its own in the same process.

Called by ``server.py`` when a gRPC port is asked for (extra ``grpc``); calls the predictions.  A
call of ``ModelInfer`` becomes the request with tensors in bytes that V2 over HTTP takes, and its
answer becomes the reply.  So both have the same checks, batches, counters, copies and time limits,
and a mistake is refused in the same words.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import quote

import grpc
import msgspec
import numpy as np
from google.protobuf.message import DecodeError

from sluice.runtime.counters import Outcome
from sluice.runtime.http import Limits, Request, Response
from sluice.runtime.predictions import INLINE_BODY, Predictions
from sluice.runtime.problems import Problem, bad
from sluice.runtime.protocols import binary
from sluice.runtime.protocols.grpc_messages import MESSAGES, SERVICE
from sluice.runtime.served import Status
from sluice.version import __version__

_CODES = {
    404: grpc.StatusCode.NOT_FOUND,
    500: grpc.StatusCode.INTERNAL,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}
_CONTENTS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
_NARROW = {f"{sign}INT{bits}": np.dtype(f"{sign}int{bits}".lower()) for sign in ("", "U")
           for bits in (8, 16)}  # fmt: skip
_OF_HTTP = {b"content-type", b"content-encoding", binary.HEADER_LENGTH}


class _Exchange:
    """A call waiting for its answer."""

    def __init__(self) -> None:
        self.started = time.monotonic()
        self.on_gone: Callable[[], None] | None = None
        self.response: asyncio.Future[Response] = asyncio.get_running_loop().create_future()

    def answer(self, response: Response) -> None:
        self.on_gone = None
        if not self.response.done():
            self.response.set_result(response)


class GrpcPort:
    """The service and its server."""

    def __init__(self, predictions: Predictions, status: Status) -> None:
        self._predictions = predictions
        self._status = status
        self._server = grpc.aio.server(
            options=(
                ("grpc.max_receive_message_length", Limits().body),
                ("grpc.max_metadata_size", Limits().headers),
                ("grpc.so_reuseport", 0),
            )
        )
        methods = {
            "ServerLive": self._live,
            "ServerReady": self._ready,
            "ModelReady": self._model_ready,
            "ServerMetadata": self._server_metadata,
            "ModelMetadata": self._model_metadata,
            "ModelInfer": self._infer,
        }
        handlers = {name: self._handler(name, method) for name, method in methods.items()}
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(SERVICE, handlers),)
        )

    async def start(self, host: str, port: int) -> int:
        """Listen; the port, or 0 when it cannot be had."""
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            bound = int(self._server.add_insecure_port(address))
        except RuntimeError:
            return 0
        await self._server.start()
        return bound

    async def stop(self, grace: float) -> None:
        """Take no more calls; end those in flight after ``grace`` seconds."""
        await self._server.stop(grace)

    def _handler(self, name: str, method: Callable[..., Awaitable[Any]]) -> Any:
        """``method``, which raises Problem, as gRPC wants it."""
        kind = MESSAGES[f"{name}Request"]

        async def called(raw: bytes, context: Any) -> bytes:
            try:
                message = _parsed(kind, raw)
                reply: bytes = (await method(message, context)).SerializeToString()
            except Problem as problem:
                context.set_trailing_metadata(self._trailer(problem))
                code = _CODES.get(problem.status, grpc.StatusCode.INVALID_ARGUMENT)
                await context.abort(code, problem.message)
                raise
            context.set_trailing_metadata(self._trailer())
            return reply

        return grpc.unary_unary_rpc_method_handler(called)

    def _trailer(self, problem: Problem | None = None) -> tuple[tuple[str, str], ...]:
        revision = (("x-sluice-revision", self._predictions.settings.revision),)
        said = problem.headers if problem is not None else ()
        return revision + tuple((name.decode(), value.decode()) for name, value in said)

    async def _live(self, _request: Any, _context: Any) -> Any:
        return MESSAGES["ServerLiveResponse"](live=self._predictions.stuck() is None)

    async def _ready(self, _request: Any, _context: Any) -> Any:
        return MESSAGES["ServerReadyResponse"](ready=self._status.not_ready() is None)

    async def _model_ready(self, request: Any, _context: Any) -> Any:
        self._predictions.rest_of_v2(_path(request.name, request.version))
        return MESSAGES["ModelReadyResponse"](ready=self._status.not_ready() is None)

    async def _server_metadata(self, _request: Any, _context: Any) -> Any:
        return MESSAGES["ServerMetadataResponse"](name="sluice", version=__version__)

    async def _model_metadata(self, request: Any, _context: Any) -> Any:
        self._predictions.rest_of_v2(_path(request.name, request.version))
        model = self._predictions.model
        assert model is not None, "rest_of_v2 raises while there is none"
        return MESSAGES["ModelMetadataResponse"](**msgspec.json.decode(model.v2.metadata()))

    async def _infer(self, message: Any, context: Any) -> Any:
        metadata = context.invocation_metadata()
        try:
            if message.ByteSize() <= INLINE_BODY:
                request = to_http(message, metadata)
            else:
                loop = asyncio.get_running_loop()
                request = await loop.run_in_executor(None, to_http, message, metadata)
        except Problem:
            self._predictions.counters.finished(Outcome.CLIENT_ERROR, -1, None)
            raise
        exchange = _Exchange()
        self._predictions.start("v2", request, exchange)
        try:
            response = await exchange.response
        except asyncio.CancelledError:
            if exchange.on_gone is not None:
                exchange.on_gone()
            raise
        if response.status != 200:
            said = msgspec.json.decode(response.body)["error"]
            raise Problem(response.status, "Refused", said, headers=response.headers)
        return from_http(response, raw=bool(message.raw_input_contents))


def to_http(message: Any, metadata: Any) -> Request:
    """A ``ModelInferRequest`` as the request that V2 over HTTP takes; raises Problem."""
    parts = _parts(message)
    inputs = [
        {
            "name": tensor.name,
            "datatype": tensor.datatype,
            "shape": list(tensor.shape),
            "parameters": {binary.SIZE: len(part)},
        }
        for tensor, part in zip(message.inputs, parts, strict=True)
    ]
    document = msgspec.json.encode(
        {
            "id": message.id,
            "inputs": inputs,
            "outputs": [{"name": output.name} for output in message.outputs],
            "parameters": {"binary_data_output": True},
        }
    )
    headers = {
        key.lower().encode(): value if isinstance(value, bytes) else value.encode()
        for key, value in metadata or ()
    }
    headers = {key: value for key, value in headers.items() if key not in _OF_HTTP}
    headers[binary.HEADER_LENGTH] = str(len(document)).encode()
    path = _path(message.model_name, message.model_version) + "/infer"
    return Request("POST", path, headers, b"".join((document, *parts)))


def from_http(response: Response, *, raw: bool) -> Any:
    """The ``ModelInferResponse`` of a 200; raw bytes are answered to who sent them."""
    length = int(dict(response.headers)[binary.HEADER_LENGTH])
    document = msgspec.json.decode(response.body[:length])
    tail = binary.Tail(memoryview(response.body)[length:])
    reply = MESSAGES["ModelInferResponse"](
        model_name=document["model_name"],
        model_version=document["model_version"],
        id=document["id"],
    )
    for said in document["outputs"]:
        name, kind, shape = said["name"], said["datatype"], said["shape"]
        output = reply.outputs.add(name=name, datatype=kind, shape=shape)
        part = tail.take(name, said["parameters"])
        assert part is not None, "every output was asked for in bytes"
        if raw:
            reply.raw_output_contents.append(bytes(part))
            continue
        values = binary.decode(name, kind, int(np.prod(shape)), part)
        plain = [v.encode() for v in values] if kind == "BYTES" else np.asarray(values).tolist()
        getattr(output.contents, _CONTENTS[kind]).extend(plain)
    return reply


def _parsed(kind: Any, raw: bytes) -> Any:
    try:
        return kind.FromString(raw)
    except DecodeError:
        raise bad("BadRequest", f"expected a message {kind.DESCRIPTOR.full_name}") from None


def _path(name: str, version: str) -> str:
    """Quoted as in a URL, so a strange name stays one name, and is nobody's."""
    path = "/v2/models/" + quote(name, safe=":")
    return f"{path}/versions/{quote(version, safe=':')}" if version else path


def _parts(message: Any) -> list[bytes]:
    """The bytes of each input."""
    raw = list(message.raw_input_contents)
    if not raw:
        return [_encoded(tensor) for tensor in message.inputs]
    if len(raw) != len(message.inputs):
        raise bad(
            "WrongShape",
            f"raw_input_contents: expected one element for each of {len(message.inputs)} inputs, "
            f"got {len(raw)}",
        )
    both = next((tensor for tensor in message.inputs if tensor.HasField("contents")), None)
    if both is not None:
        raise _wrong(both, "expected either contents or raw_input_contents, got both")
    return raw


def _encoded(tensor: Any) -> bytes:
    field = _CONTENTS.get(tensor.datatype)
    if field is None:
        known = ", ".join(_CONTENTS)
        raise _wrong(tensor, f"expected contents of {known}; send others in raw_input_contents")
    values = getattr(tensor.contents, field)
    other = next((f.name for f, _ in tensor.contents.ListFields() if f.name != field), None)
    if other is not None:
        raise _wrong(tensor, f"expected values of {tensor.datatype} in {field}, got {other}")
    if tensor.datatype == "BYTES":
        return binary.frame(values)
    narrow = _NARROW.get(tensor.datatype)
    if narrow is not None and len(values):
        limits = np.iinfo(narrow)
        if min(values) < limits.min or max(values) > limits.max:
            raise _wrong(tensor, f"expected values of {tensor.datatype}, got a larger one")
    return binary.encode(tensor.datatype, np.array(values))


def _wrong(tensor: Any, message: str) -> Problem:
    name = tensor.name[:60]
    return bad("WrongType", f"{name!r}: {message}", field=name)
