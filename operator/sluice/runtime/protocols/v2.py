"""V2, the Open Inference Protocol, REST with JSON tensors: ``POST /v2/models/NAME/infer``.

Called by the endpoints.  A request names one tensor a feature (shape ``[n]`` or ``[n, 1]``), or
gives one numeric tensor ``[n, features]`` in schema order under any name.  Outputs are ``label``
(classification) and ``score``, and ``scores`` ``[n, labels]`` where the model has them.
Where the published texts disagree, both ways are served (``ready`` and ``live``).
"""

from __future__ import annotations

import math
import uuid
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta

from sluice.package.features import Columns
from sluice.package.manifest import Input, Manifest
from sluice.package.scoring import Answer
from sluice.runtime.inputs import RowReader, Rows, check_count, decode_any
from sluice.runtime.problems import Problem, bad, describe

Array = np.ndarray[Any, Any]

_DATATYPES = {"float": "FP64", "int": "INT64", "bool": "BOOL", "string": "BYTES"}
_INTEGERS = {f"{sign}INT{bits}" for sign in ("", "U") for bits in (8, 16, 32, 64)}
_FLOATS = {"FP16", "FP32", "FP64"}
_KNOWN = {"BOOL", "BYTES"} | _INTEGERS | _FLOATS
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
    data: list[Any]
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
        return msgspec.json.encode({"name": "sluice", "version": program, "extensions": []})

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
                    {"name": spec.name, "datatype": _DATATYPES[spec.type], "shape": [-1]}
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

    def parse(self, body: bytes) -> tuple[InferRequest, Rows]:
        """The request and its rows; raises Problem."""
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
        return request, self._rows(request.inputs)

    def _rows(self, tensors: list[Tensor]) -> Rows:
        for tensor in tensors:
            _check_tensor(tensor)
        if len(tensors) == 1 and (
            tensors[0].name not in self._by_name
            or (len(tensors[0].shape) == 2 and tensors[0].shape[1] != 1)
        ):
            return self._matrix(tensors[0])
        columns: dict[str, list[Any]] = {}
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

    def _column(self, tensor: Tensor) -> list[Any]:
        if len(tensor.shape) > 2 or (len(tensor.shape) == 2 and tensor.shape[1] != 1):
            raise _shape(tensor, "[n] or [n,1]")
        _check_datatype(tensor, self._by_name[tensor.name])
        return _flat(tensor)

    def _from_columns(self, columns: dict[str, list[Any]], unknown: int) -> Rows:
        counts = {len(values) for values in columns.values()}
        if len(counts) != 1:
            raise bad("WrongShape", f"inputs: expected tensors of one length, got {sorted(counts)}")
        count = counts.pop()
        check_count(count)
        fast = self._plain_numbers(columns)
        if fast is not None:
            return Rows(count, columns=fast, unknown_fields=unknown)
        rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        return self._reader.from_named(rows, unknown=unknown)

    def _plain_numbers(self, columns: dict[str, list[Any]]) -> Columns | None:
        """All features there, all of them plain numbers: no need to look at every value."""
        built: Columns = {}
        for spec in self._reader.inputs:
            values = columns.get(spec.name)
            if values is None or spec.type != "float":
                return None
            array = np.array(values)
            if array.dtype.kind not in "iuf" or any(type(v) is bool for v in values):
                return None
            built[spec.name] = array.astype(np.float64)
        return built

    def _matrix(self, tensor: Tensor) -> Rows:
        width = len(self._reader.names)
        expected = f"[n,{width}]"
        if len(tensor.shape) != 2 or tensor.shape[1] != width:
            raise _shape(tensor, expected)
        if tensor.datatype in ("BYTES", "BOOL"):
            wanted = next((s for s in self._reader.inputs if s.type != "float"), None)
            if wanted is None:
                raise bad(
                    "WrongType", f"{tensor.name[:60]!r}: expected FP64, got {tensor.datatype}"
                )
        flat = _flat(tensor)
        columns = {name: flat[i::width] for i, name in enumerate(self._reader.names)}
        return self._from_columns(columns, 0)

    def render(self, request: InferRequest, answer: Answer) -> bytes:
        """The body of a 200."""
        count = len(answer.scores)
        outputs: list[dict[str, Any]] = []
        for name, kind, _ in self._wanted(request):
            if name == "label" and answer.labels is not None:
                outputs.append(_output(name, kind, [count], self._labels(answer.labels)))
            elif name == "score":
                outputs.append(_output(name, kind, [count], answer.scores.tolist()))
            elif name == "scores" and answer.matrix is not None:
                matrix = answer.matrix
                outputs.append(_output(name, kind, list(matrix.shape), matrix.ravel().tolist()))
        return msgspec.json.encode(
            {
                "model_name": self.name,
                "model_version": self.version,
                "id": request.id or uuid.uuid4().hex,
                "outputs": outputs,
            }
        )

    def _wanted(self, request: InferRequest) -> list[tuple[str, str, list[int]]]:
        outputs = self._outputs()
        if not request.outputs:
            return outputs
        names = [wanted.name for wanted in request.outputs]
        return [output for output in outputs if output[0] in names]

    def _labels(self, labels: list[Any]) -> list[Any]:
        return [str(label) for label in labels] if self._label_type == "BYTES" else labels

    @staticmethod
    def error(problem: Problem) -> bytes:
        """The body of an error."""
        return msgspec.json.encode({"error": problem.message})


def _label_datatype(manifest: Manifest) -> str:
    labels = manifest.output.labels or ()
    if all(type(label) is bool for label in labels):
        return "BOOL"
    if all(type(label) is int for label in labels):
        return "INT64"
    return "BYTES"


def _check_tensor(tensor: Tensor) -> None:
    if tensor.datatype not in _KNOWN:
        raise bad(
            "WrongType",
            f"{tensor.name[:60]!r}: expected a datatype such as FP64, INT64, BOOL or BYTES, "
            f"got {tensor.datatype[:20]!r}",
            field=tensor.name[:60],
        )
    if not tensor.shape or len(tensor.shape) > 3:
        raise _shape(tensor, "[n] or [n,features]")


def _check_datatype(tensor: Tensor, spec: Input) -> None:
    if tensor.datatype not in _NUMPY[spec.type]:
        raise bad(
            "WrongType",
            f"{tensor.name!r}: expected {_DATATYPES[spec.type]}, got {tensor.datatype}",
            field=tensor.name,
        )


def _shape(tensor: Tensor, expected: str) -> Problem:
    got = "[" + ",".join(str(d)[:12] for d in tensor.shape[:6]) + "]"
    name = tensor.name[:60]
    return bad("WrongShape", f"{name!r}: expected shape {expected}, got {got}", field=name)


def _flat(tensor: Tensor) -> list[Any]:
    """The data as one list; nested data must have the shape it declares."""
    data: list[Any] = tensor.data
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


def _output(name: str, kind: str, shape: list[int], data: list[Any]) -> dict[str, Any]:
    return {"name": name, "datatype": kind, "shape": shape, "data": data}
