"""V2, the Open Inference Protocol, REST: ``POST /v2/models/NAME/infer``.

Called by the endpoints; ``binary.py`` reads and writes tensors that are not JSON.  A request
names one tensor a feature (shape ``[n]`` or ``[n, 1]``), or gives one numeric tensor
``[n, features]`` in schema order under any name.  Outputs are ``label`` (classification) and
``score``, and ``scores`` ``[n, labels]`` where the model has them.
Where the published texts disagree, both ways are served (``ready`` and ``live``).
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta

from sluice.package.features import Columns
from sluice.package.manifest import Input, Manifest
from sluice.package.scoring import Answer
from sluice.runtime.http import JSON, Response
from sluice.runtime.inputs import RowReader, Rows, check_count, decode_any
from sluice.runtime.problems import Problem, bad, describe
from sluice.runtime.protocols import binary

Values = list[Any] | np.ndarray[Any, Any]

DATATYPES = {"float": "FP64", "int": "INT64", "bool": "BOOL", "string": "BYTES"}
_INTEGERS = {f"{sign}INT{bits}" for sign in ("", "U") for bits in (8, 16, 32, 64)}
_FLOATS = {"FP16", "FP32", "FP64"}
KNOWN = {"BOOL", "BYTES"} | _INTEGERS | _FLOATS
_NUMPY = {
    "float": (_FLOATS | _INTEGERS),
    "int": (_INTEGERS | _FLOATS),
    "bool": {"BOOL"},
    "string": {"BYTES"},
}


class Tensor(msgspec.Struct):
    """One input tensor as it came."""

    name: str
    shape: list[Annotated[int, Meta(ge=0, le=1_000_000_000)]]
    datatype: str
    data: list[Any] | None = None
    parameters: dict[str, Any] = {}


class WantedOutput(msgspec.Struct):
    """An output that the client asks for."""

    name: str
    parameters: dict[str, Any] = {}


class InferRequest(msgspec.Struct):
    """The body of ``infer``."""

    inputs: list[Tensor]
    id: str | None = None
    parameters: dict[str, Any] = {}
    outputs: list[WantedOutput] | None = None


@dataclass(frozen=True, slots=True)
class _Sent:
    """A tensor, and its bytes when they are not in the JSON."""

    tensor: Tensor
    raw: memoryview | None

    @property
    def name(self) -> str:
        return self.tensor.name

    @property
    def shape(self) -> list[int]:
        return self.tensor.shape

    def values(self) -> Values:
        """All the values, one after the other."""
        if self.raw is None:
            return _flat(self.tensor)
        count = math.prod(self.shape)
        return binary.decode(self.name, self.tensor.datatype, count, self.raw)


class V2Protocol:
    """The decoder and encoder of one model."""

    def __init__(self, name: str, version: str, manifest: Manifest, reader: RowReader) -> None:
        self.name = name
        self.version = version
        self._manifest = manifest
        self._reader = reader
        self._by_name = {spec.name: spec for spec in manifest.inputs}
        self._decoder = msgspec.json.Decoder(InferRequest)
        self._label_type = _label_datatype(manifest)

    # What the server is.

    @staticmethod
    def server(program: str) -> bytes:
        """``GET /v2``."""
        extensions = ["binary_tensor_data"]
        return msgspec.json.encode({"name": "sluice", "version": program, "extensions": extensions})

    @staticmethod
    def health(field: str, value: bool) -> bytes:
        """``/v2/health/live`` and ``/v2/health/ready``."""
        answer = {"live": True} if field == "live" else {"ready": value, "live": True}
        return msgspec.json.encode(answer)

    def ready(self, *, ready: bool) -> bytes:
        """``GET /v2/models/NAME/ready``."""
        return msgspec.json.encode({"name": self.name, "ready": ready})

    def metadata(self) -> bytes:
        """``GET /v2/models/NAME``."""
        return msgspec.json.encode(
            {
                "name": self.name,
                "versions": [self.version],
                "platform": f"sluice_{self._manifest.model.format}",
                "inputs": [
                    {"name": spec.name, "datatype": DATATYPES[spec.type], "shape": [-1]}
                    for spec in self._manifest.inputs
                ],
                "outputs": [
                    {"name": name, "datatype": kind, "shape": shape}
                    for name, kind, shape in self._outputs()
                ],
            }
        )

    def _outputs(self) -> list[tuple[str, str, list[int]]]:
        labels = self._manifest.output.labels
        outputs = [("score", "FP64", [-1])]
        if labels is not None:
            outputs.insert(0, ("label", self._label_type, [-1]))
            outputs.append(("scores", "FP64", [-1, len(labels)]))
        return outputs

    # One request.

    def parse(self, body: bytes, json_length: bytes | None = None) -> tuple[InferRequest, Rows]:
        """The request and its rows; raises Problem.

        ``json_length`` is the ``Inference-Header-Content-Length``: where binary tensors begin.
        """
        if json_length is None:
            request = self._request(body)
            return request, self._rows([_Sent(tensor, None) for tensor in request.inputs])
        document, raw = binary.split(body, json_length)
        request = self._request(document)
        tail = binary.Tail(raw)
        sent = [_Sent(t, tail.take(t.name, t.parameters)) for t in request.inputs]
        tail.check_empty([tensor.name for tensor in request.inputs])
        return request, self._rows(sent)

    def _request(self, body: bytes) -> InferRequest:
        try:
            request = self._decoder.decode(body)
        except msgspec.ValidationError as error:
            decode_any(body)  # says more about bytes that no JSON number or text can be
            raise bad("WrongShape", f"not an inference request: {error}") from None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            decode_any(body)
            raise bad("InvalidJson", "expected a JSON inference request") from None
        if not request.inputs:
            raise bad("Empty", "inputs: expected at least one tensor, got none")
        known = {name for name, _, _ in self._outputs()}
        for wanted in request.outputs or ():
            if wanted.name not in known:
                raise bad(
                    "UnknownOutput",
                    f"outputs: expected {', '.join(sorted(known))}, got {wanted.name[:60]!r}",
                )
            _flag(f"output {wanted.name!r}", wanted.parameters, "binary_data")
        _flag("the request", request.parameters, "binary_data_output")
        return request

    def _rows(self, tensors: list[_Sent]) -> Rows:
        for sent in tensors:
            _check_tensor(sent)
        if len(tensors) == 1 and (
            tensors[0].name not in self._by_name
            or (len(tensors[0].shape) == 2 and tensors[0].shape[1] != 1)
        ):
            return self._matrix(tensors[0])
        columns: dict[str, Values] = {}
        unknown = 0
        for tensor in tensors:
            if tensor.name not in self._by_name:
                unknown += 1
            else:
                columns[tensor.name] = self._column(tensor)
        if not columns:
            raise bad(
                "UnknownFields",
                f"inputs: expected tensors named after the features "
                f"({', '.join(self._reader.names[:8])}), got {tensors[0].name[:60]!r}",
            )
        return self._from_columns(columns, unknown)

    def _column(self, sent: _Sent) -> Values:
        if len(sent.shape) > 2 or (len(sent.shape) == 2 and sent.shape[1] != 1):
            raise _shape(sent, "[n] or [n,1]")
        _check_datatype(sent.tensor, self._by_name[sent.name])
        return sent.values()

    def _from_columns(self, columns: dict[str, Values], unknown: int) -> Rows:
        counts = {len(values) for values in columns.values()}
        if len(counts) != 1:
            raise bad("WrongShape", f"inputs: expected tensors of one length, got {sorted(counts)}")
        count = counts.pop()
        check_count(count)
        fast = self._plain_numbers(columns)
        if fast is not None:
            return Rows(count, columns=fast, unknown_fields=unknown)
        plain = [_plain(values) for values in columns.values()]
        rows = [dict(zip(columns, row, strict=True)) for row in zip(*plain, strict=True)]
        return self._reader.from_named(rows, unknown=unknown)

    def _plain_numbers(self, columns: dict[str, Values]) -> Columns | None:
        """All features there, all of them plain numbers: no need to look at every value."""
        built: Columns = {}
        for spec in self._reader.inputs:
            values = columns.get(spec.name)
            if values is None or spec.type != "float":
                return None
            numbers = _numbers(values)
            if numbers is None or (not spec.nullable and np.isnan(numbers).any()):
                return None
            built[spec.name] = numbers
        return built

    def _matrix(self, sent: _Sent) -> Rows:
        tensor = sent.tensor
        width = len(self._reader.names)
        expected = f"[n,{width}]"
        if len(tensor.shape) != 2 or tensor.shape[1] != width:
            raise _shape(sent, expected)
        if tensor.datatype in ("BYTES", "BOOL"):
            wanted = next((s for s in self._reader.inputs if s.type != "float"), None)
            if wanted is None:
                raise bad(
                    "WrongType", f"{tensor.name[:60]!r}: expected FP64, got {tensor.datatype}"
                )
        flat = sent.values()
        columns: dict[str, Values] = {
            name: flat[i::width] for i, name in enumerate(self._reader.names)
        }
        return self._from_columns(columns, 0)

    def render(self, request: InferRequest, answer: Answer) -> Response:
        """The 200: JSON, and behind it the outputs that were asked for in bytes."""
        all_binary = bool(request.parameters.get("binary_data_output", False))
        own = {
            wanted.name: bool(wanted.parameters["binary_data"])
            for wanted in request.outputs or ()
            if "binary_data" in wanted.parameters
        }
        outputs: list[dict[str, Any]] = []
        tail: list[bytes] = []
        for name, kind, _ in self._wanted(request):
            values = self._values(name, answer)
            if values is None:
                continue
            shape = list(values.shape) if isinstance(values, np.ndarray) else [len(values)]
            output: dict[str, Any] = {"name": name, "datatype": kind, "shape": shape}
            if own.get(name, all_binary):
                raw = binary.encode(kind, values)
                output["parameters"] = {binary.SIZE: len(raw)}
                tail.append(raw)
            else:
                output["data"] = _plain(values)
            outputs.append(output)
        document = msgspec.json.encode(
            {
                "model_name": self.name,
                "model_version": self.version,
                "id": request.id or uuid.uuid4().hex,
                "outputs": outputs,
            }
        )
        length = ((binary.HEADER_LENGTH, str(len(document)).encode()),) if tail else ()
        kind_of_body = binary.CONTENT_TYPE if tail else JSON
        return Response(200, b"".join((document, *tail)), kind_of_body, length)

    def _values(self, name: str, answer: Answer) -> Values | None:
        if name == "score":
            return answer.scores
        if name == "scores":
            return answer.matrix
        if answer.labels is None or self._label_type != "BYTES":
            return answer.labels
        return [str(label) for label in answer.labels]

    def _wanted(self, request: InferRequest) -> list[tuple[str, str, list[int]]]:
        outputs = self._outputs()
        if not request.outputs:
            return outputs
        names = [wanted.name for wanted in request.outputs]
        return [output for output in outputs if output[0] in names]

    @staticmethod
    def error(problem: Problem) -> bytes:
        """The body of an error."""
        return msgspec.json.encode({"error": problem.message})


def _label_datatype(manifest: Manifest) -> str:
    labels = manifest.output.labels or ()
    if all(type(label) is bool for label in labels):
        return "BOOL"
    if all(type(label) is int and -(2**63) <= label < 2**63 for label in labels):
        return "INT64"
    return "BYTES"


def _check_tensor(sent: _Sent) -> None:
    tensor = sent.tensor
    if tensor.datatype not in KNOWN:
        raise bad(
            "WrongType",
            f"{tensor.name[:60]!r}: expected a datatype such as FP64, INT64, BOOL or BYTES, "
            f"got {tensor.datatype[:20]!r}",
            field=tensor.name[:60],
        )
    if not tensor.shape or len(tensor.shape) > 3:
        raise _shape(sent, "[n] or [n,features]")
    if sent.raw is None and binary.SIZE in tensor.parameters:
        raise bad(
            "BadRequest",
            f"{tensor.name[:60]!r}: binary_data_size needs the header "
            "Inference-Header-Content-Length, the number of bytes of the JSON part",
            field=tensor.name[:60],
        )
    if (sent.raw is None) == (tensor.data is None):
        raise bad(
            "WrongShape",
            f"{tensor.name[:60]!r}: expected either data, or binary_data_size and the bytes behind "
            f"the JSON, got {'neither' if sent.raw is None else 'both'}",
            field=tensor.name[:60],
        )


def _check_datatype(tensor: Tensor, spec: Input) -> None:
    if tensor.datatype not in _NUMPY[spec.type]:
        raise bad(
            "WrongType",
            f"{tensor.name!r}: expected {DATATYPES[spec.type]}, got {tensor.datatype}",
            field=tensor.name,
        )


def _flag(place: str, parameters: Mapping[str, Any], name: str) -> None:
    value = parameters.get(name, False)
    if type(value) is not bool:
        raise bad("WrongType", f"{place}: expected {name} true or false, got {describe(value)}")


def _numbers(values: Values) -> np.ndarray[Any, Any] | None:
    """As float64; None unless every value is a number."""
    array = np.asarray(values)
    if array.dtype.kind not in "iuf":
        return None
    if isinstance(values, list) and any(type(value) is bool for value in values):
        return None
    return array.astype(np.float64)


def _plain(values: Values) -> list[Any]:
    return values if isinstance(values, list) else values.ravel().tolist()


def _shape(tensor: _Sent, expected: str) -> Problem:
    got = "[" + ",".join(str(d)[:12] for d in tensor.shape[:6]) + "]"
    name = tensor.name[:60]
    return bad("WrongShape", f"{name!r}: expected shape {expected}, got {got}", field=name)


def _flat(tensor: Tensor) -> list[Any]:
    """The data as one list; nested data must have the shape it declares."""
    data: list[Any] = tensor.data or []
    for depth in range(len(tensor.shape) - 1):
        if not data or not isinstance(data[0], list):
            break
        expected = tensor.shape[depth + 1]
        if any(not isinstance(part, list) or len(part) != expected for part in data):
            raise bad(
                "WrongShape",
                f"{tensor.name[:60]!r}: the nested data does not have the declared shape",
                field=tensor.name[:60],
            )
        data = [value for part in data for value in part]
    expected_size = math.prod(tensor.shape)
    if len(data) != expected_size:
        raise bad(
            "WrongShape",
            f"{tensor.name[:60]!r}: the shape says {expected_size} values, "
            f"the data has {len(data)}",
            field=tensor.name[:60],
        )
    nested = next((value for value in data if isinstance(value, list | dict)), None)
    if nested is not None:
        raise bad(
            "WrongShape",
            f"{tensor.name[:60]!r}: expected plain values, got {describe(nested)}",
            field=tensor.name[:60],
        )
    return data
