"""What an ONNX file contains, read from its protobuf structure without any model library.

Called by ``sniff``, ``bare`` and ``inspect``; calls nothing.  Only what matters for safety and for
inferring a schema is decoded: operators and their domains, data outside the file, inputs and
outputs.  Input is hostile until shown otherwise, so nesting and counts are bounded and every length
is checked.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

MAX_DEPTH = 32
MAX_NODES = 1_000_000

STANDARD_DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml"})
_CONTRIB_NAMES = (
    "Attention BiasGelu BiasSplitGelu DequantizeLinear DynamicQuantizeMatMul "
    "EmbedLayerNormalization FastGelu FusedConv FusedGemm FusedMatMul Gelu GroupQueryAttention "
    "MatMulInteger16 MatMulIntegerToFloat MatMulNBits MultiHeadAttention QAttention QGemm "
    "QLinearAdd QLinearAveragePool QLinearConcat QLinearGlobalAveragePool QLinearLeakyRelu "
    "QLinearMul QLinearSigmoid QuickGelu QuantizeLinear RotaryEmbedding "
    "SimplifiedLayerNormalization SkipLayerNormalization SkipSimplifiedLayerNormalization"
)
SAFE_CONTRIB = frozenset(_CONTRIB_NAMES.split())
"""Operators of ``com.microsoft`` that only compute; others there read files or run Python."""

ELEMENT_TYPES = {
    1: "tensor(float)",
    6: "tensor(int32)",
    7: "tensor(int64)",
    8: "tensor(string)",
    9: "tensor(bool)",
    10: "tensor(float16)",
    11: "tensor(double)",
}


class NotOnnxError(ValueError):
    """The bytes are not an ONNX model."""


@dataclass(frozen=True, slots=True)
class Value:
    """An input or output; a dimension that is not a number is None."""

    name: str
    type: str
    shape: tuple[int | None, ...]


@dataclass(slots=True)
class OnnxFile:
    """What was found."""

    inputs: list[Value] = field(default_factory=list)
    outputs: list[Value] = field(default_factory=list)
    opsets: dict[str, int] = field(default_factory=dict)
    operators: set[tuple[str, str]] = field(default_factory=set)
    functions: set[tuple[str, str]] = field(default_factory=set)
    initializers: set[str] = field(default_factory=set)
    external_files: set[str] = field(default_factory=set)
    class_labels: list[str | int] = field(default_factory=list)
    producer: str = ""
    nodes: int = 0

    def unsafe_operators(self) -> list[str]:
        """Operators that no plain runtime provides, or that do more than compute."""
        return sorted(
            f"{domain}::{name}" for domain, name in self.operators if not self._safe(domain, name)
        )

    def _safe(self, domain: str, name: str) -> bool:
        if domain == "com.microsoft":  # a function of that name may not be what the runtime takes
            return name in SAFE_CONTRIB
        return domain in STANDARD_DOMAINS or (domain, name) in self.functions


def read_onnx(data: bytes) -> OnnxFile:
    """Decode ``data`` or raise :class:`NotOnnxError`."""
    model = OnnxFile()
    seen: set[int] = set()
    for number, wire, value in _fields(memoryview(data)):
        seen.add(number)
        if wire == 2 and isinstance(value, memoryview):
            if number == 7:
                _graph(model, value, top=True, depth=0)
            elif number == 8:
                domain, version = _opset(value)
                model.opsets[domain] = version
            elif number == 25:
                _function(model, value)
            elif number == 2:
                model.producer = _text(value)[:80]
    if not {1, 7, 8} <= seen or not model.opsets:
        raise NotOnnxError("it has no graph, version or operator set")
    model.inputs = [v for v in model.inputs if v.name not in model.initializers]
    return model


def _graph(model: OnnxFile, data: memoryview, *, top: bool, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise NotOnnxError("its graphs are nested too deep")
    for number, wire, value in _fields(data):
        if wire != 2 or not isinstance(value, memoryview):
            continue
        if number == 1:
            _node(model, value, depth)
        elif number == 5:
            _tensor(model, value, top=top)
        elif number == 15:
            _sparse(model, value)
        elif top and number in (11, 12):
            (model.inputs if number == 11 else model.outputs).append(_value_info(value))


def _node(model: OnnxFile, data: memoryview, depth: int) -> None:
    model.nodes += 1
    if model.nodes > MAX_NODES:
        raise NotOnnxError(f"it has more than {MAX_NODES} nodes")
    operator = domain = ""
    for number, wire, value in _fields(data):
        if wire != 2 or not isinstance(value, memoryview):
            continue
        if number == 4:
            operator = _text(value)
        elif number == 7:
            domain = _text(value)
        elif number == 5:
            _attribute(model, value, depth)
    model.operators.add((domain, operator))


_LABELS = ("classlabels_ints", "classlabels_int64s", "classlabels_strings")
MAX_LABELS = 10_000


def _attribute(model: OnnxFile, data: memoryview, depth: int) -> None:
    for number, wire, value in _fields(data, attribute=True):
        if wire != 2 or not isinstance(value, memoryview):
            continue
        if number == 1 and _text(value) in _LABELS:
            _labels(model, data)
        elif number in (5, 10):
            _tensor(model, value, top=False)
        elif number in (6, 11):
            _graph(model, value, top=False, depth=depth + 1)
        elif number in (22, 23):
            _sparse(model, value)


def _labels(model: OnnxFile, data: memoryview) -> None:
    """Class labels; the last node that names them wins, as it is the nearest to the output."""
    labels: list[str | int] = []
    for number, wire, value in _fields(data):
        if number == 8 and isinstance(value, int):
            labels.append(value - (1 << 64) if value >= 1 << 63 else value)
        elif number == 8 and isinstance(value, memoryview):
            position = 0
            while position < len(value) and len(labels) <= MAX_LABELS:
                number_, position = _varint(value, position)
                labels.append(number_ - (1 << 64) if number_ >= 1 << 63 else number_)
        elif number == 9 and wire == 2 and isinstance(value, memoryview):
            labels.append(_text(value))
    if labels and len(labels) <= MAX_LABELS:
        model.class_labels = labels


def _tensor(model: OnnxFile, data: memoryview, *, top: bool) -> None:
    location = ""
    external = False
    for number, wire, value in _fields(data):
        if number == 8 and isinstance(value, memoryview) and top:
            model.initializers.add(_text(value))
        elif number == 13 and isinstance(value, memoryview):
            external = True
            key, text = _entry(value)
            location = text if key == "location" else location
        elif number == 14 and wire == 0 and value == 1:
            external = True
    if external:
        model.external_files.add(location or "(no location)")


def _sparse(model: OnnxFile, data: memoryview) -> None:
    for number, _, value in _fields(data):
        if number in (1, 2) and isinstance(value, memoryview):
            _tensor(model, value, top=False)


def _function(model: OnnxFile, data: memoryview) -> None:
    name = domain = ""
    for number, _, value in _fields(data):
        if not isinstance(value, memoryview):
            continue
        if number == 1:
            name = _text(value)
        elif number == 10:
            domain = _text(value)
        elif number == 7:
            _node(model, value, 0)
        elif number == 11:
            _attribute(model, value, 0)
    model.functions.add((domain, name))


def _opset(data: memoryview) -> tuple[str, int]:
    domain, version = "", 0
    for number, _, value in _fields(data):
        if number == 1 and isinstance(value, memoryview):
            domain = _text(value)
        elif number == 2 and isinstance(value, int):
            version = value
    return domain, version


def _entry(data: memoryview) -> tuple[str, str]:
    key = text = ""
    for number, _, value in _fields(data):
        if number == 1 and isinstance(value, memoryview):
            key = _text(value)
        elif number == 2 and isinstance(value, memoryview):
            text = _text(value)
    return key, text


def _value_info(data: memoryview) -> Value:
    name, kind = "", "unknown"
    shape: list[int | None] = []
    for number, _, value in _fields(data):
        if not isinstance(value, memoryview):
            continue
        if number == 1:
            name = _text(value)
        elif number == 2:
            for type_number, _, inner in _fields(value):
                if type_number == 1 and isinstance(inner, memoryview):
                    kind, shape = _tensor_type(inner)
                elif type_number in (4, 5):
                    kind = "sequence" if type_number == 4 else "map"
    return Value(name, kind, tuple(shape))


def _tensor_type(data: memoryview) -> tuple[str, list[int | None]]:
    kind = "unknown"
    shape: list[int | None] = []
    for number, _, value in _fields(data):
        if number == 1 and isinstance(value, int):
            kind = ELEMENT_TYPES.get(value, f"type {value}")
        elif number == 2 and isinstance(value, memoryview):
            for _, _, dimension in _fields(value):
                size: int | None = None
                if isinstance(dimension, memoryview):
                    for number_, _, part in _fields(dimension):
                        if number_ == 1 and isinstance(part, int):
                            size = part
                shape.append(size)
    return kind, shape


# A tree ensemble repeats floats, ints and short strings by the million, each with its own tag.
# These runs hold nothing that matters here; skipping them at C speed turns seconds into
# milliseconds.  Possessive quantifiers keep the scan linear and without a backtracking stack.
_RUNS = re.compile(
    rb"(?:\x3d[\x00-\xff]{4})++"
    rb"|(?:\x40[\x80-\xff]{0,9}+[\x00-\x7f])++"
    rb"|(?:\x4a(?:\x04[\x00-\xff]{4}|\x09[\x00-\xff]{9}|\x0a[\x00-\xff]{10}))++"
)


def _fields(
    data: memoryview, *, attribute: bool = False
) -> Iterator[tuple[int, int, int | memoryview]]:
    """Fields of one message: ``(number, wire type, value)``; lengths are checked."""
    position, end = 0, len(data)
    while position < end:
        if attribute and (run := _RUNS.match(data, position)):
            position = run.end()
            continue
        tag, position = _varint(data, position)
        number, wire = tag >> 3, tag & 7
        if number == 0:
            raise NotOnnxError("it has a field number 0")
        if wire == 0:
            value, position = _varint(data, position)
            yield number, wire, value
        elif wire == 2:
            length, position = _varint(data, position)
            if length > end - position:
                raise NotOnnxError("a field is longer than the file: it may be truncated")
            yield number, wire, data[position : position + length]
            position += length
        elif wire in (1, 5):
            position += 8 if wire == 1 else 4
            if position > end:
                raise NotOnnxError("it ends inside a number: it may be truncated")
        else:
            raise NotOnnxError("it is not a protobuf message")


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    result = shift = 0
    end = len(data)
    while position < end and shift < 70:
        byte = data[position]
        position += 1
        result |= (byte & 0x7F) << shift
        if byte < 0x80:
            return result, position
        shift += 7
    raise NotOnnxError("it ends inside a number: it may be truncated")


def _text(data: memoryview) -> str:
    return bytes(data[:4096]).decode("utf-8", "replace")
