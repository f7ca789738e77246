"""A small builder of ONNX graphs in float64.

Called by the exporters; calls ``onnx.helper``.  Names are numbered in the order of creation, so
that the same model gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from sluice.package.onnx_refusals import Refusals

OPSET = 21
ML_OPSET = 5
IR_VERSION = 10

Kind = Literal["double", "string"]
Array = np.ndarray[Any, Any]


class NotConvertibleError(Exception):
    """There is no exact exporter for a part of the model; the message names it."""


@dataclass(frozen=True, slots=True)
class Part:
    """A tensor of ``width`` columns."""

    tensor: str
    kind: Kind
    width: int


Table = tuple[Part, ...]
"""Columns side by side; numbers and strings cannot share a tensor."""


class Graph:
    """Nodes and constants on their way to a model."""

    def __init__(self) -> None:
        self._nodes: list[Any] = []
        self._constants: list[Any] = []
        self._known: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._refusals = Refusals()

    def constant(self, value: Any, dtype: Any = np.float64) -> str:
        """A constant tensor; equal ones are shared."""
        array = np.asarray(value, dtype=dtype)
        raw = repr(array.tolist()).encode() if array.dtype == object else array.tobytes()
        key = (str(array.dtype), array.shape, raw)
        if key not in self._known:
            name = f"c{len(self._constants)}"
            self._constants.append(numpy_helper.from_array(array, name))
            self._known[key] = name
        return self._known[key]

    def op(self, kind: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        """Add a node with one output."""
        output = f"t{len(self._nodes)}"
        self._nodes.append(
            helper.make_node(kind, list(inputs), [output], domain=domain, **attributes)
        )
        return output

    def text(self, value: Sequence[str]) -> str:
        """A row of constant strings."""
        return self.constant(np.array([list(value)], dtype=object), dtype=object)

    def numbers(self, table: Table) -> Part:
        """The whole table as one numeric tensor."""
        if any(part.kind != "double" for part in table):
            raise NotConvertibleError("a step takes numbers but gets text")
        if len(table) == 1:
            return table[0]
        tensors = [part.tensor for part in table]
        joined = self.op("Concat", *tensors, axis=1)
        self._refusals.pass_on(tensors, joined)
        return Part(joined, "double", width(table))

    def refuse(self, table: Table, *, missing: bool) -> None:
        """The next step refuses infinities, and with ``missing`` NaN; so does the graph."""
        for part in table:
            if part.kind == "double":
                self._refusals.ask(part.tensor, part.width, missing=missing)

    def same_places(self, before: Part, value: str, *, missing: bool = True) -> Part:
        """``value`` is infinite where ``before`` is; with ``missing`` also NaN where it is."""
        self._refusals.pass_on([before.tensor], value, missing=missing)
        return Part(value, "double", before.width)

    def select(self, table: Table, columns: Sequence[int]) -> Table:
        """Some columns in the given order."""
        origin = [(p, i) for p in table for i in range(p.width)]
        parts: list[Part] = []
        start = 0
        while start < len(columns):
            part = origin[columns[start]][0]
            end = start
            while end < len(columns) and origin[columns[end]][0] is part:
                end += 1
            parts.append(self._gather(part, [origin[c][1] for c in columns[start:end]]))
            start = end
        return tuple(parts)

    def _gather(self, part: Part, offsets: list[int]) -> Part:
        if offsets == list(range(part.width)):
            return part
        indices = self.constant(offsets, np.int64)
        return Part(self.op("Gather", part.tensor, indices, axis=1), part.kind, len(offsets))

    def _refusing(self, score: Part) -> str:
        """The score, NaN in the rows that a step refuses: 0 times a refused value is NaN."""
        value = score.tensor
        for refusal in self._refusals.needed():
            looked_at = refusal.tensor
            if not refusal.missing:
                infinite = self.op("IsInf", looked_at)
                looked_at = self.op("Where", infinite, self.constant(np.nan), self.constant(0.0))
            zeros = self.constant(np.zeros((refusal.width, 1)))
            value = self.op("Add", value, self.op("MatMul", looked_at, zeros))
        return value

    def finish(self, score: Part, inputs: list[tuple[str, Kind, int]]) -> bytes:
        """Serialise; ``score`` becomes the output ``scores``."""
        last = helper.make_node("Identity", [self._refusing(score)], ["scores"])
        declared = [
            helper.make_tensor_value_info(
                name,
                TensorProto.STRING if kind == "string" else TensorProto.DOUBLE,
                [None, columns],
            )
            for name, kind, columns in inputs
        ]
        outputs = [helper.make_tensor_value_info("scores", TensorProto.DOUBLE, [None, score.width])]
        graph = helper.make_graph(
            [*self._nodes, last], "model", declared, outputs, initializer=self._constants
        )
        model = helper.make_model(
            graph,
            producer_name="sluice",
            opset_imports=[
                helper.make_opsetid("", OPSET),
                helper.make_opsetid("ai.onnx.ml", ML_OPSET),
            ],
            ir_version=IR_VERSION,
        )
        onnx.checker.check_model(model)
        serialized: bytes = model.SerializeToString(deterministic=True)
        return serialized


def width(table: Table) -> int:
    """How many columns."""
    return sum(part.width for part in table)
