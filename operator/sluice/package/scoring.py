"""From a model to scores and labels, the same way when packaging and when serving.

Called by the packager, the parity gate and the runtime's predictors; calls numpy, and ONNX Runtime
when given ONNX.  ``raw`` is a matrix (rows x labels) for a classification and a vector of values
for a regression; :func:`answer` turns it into what a client sees.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from sluice.package.features import Columns, Schema, to_model_input, to_onnx_feeds
from sluice.package.manifest import Input, Label, Output, Task

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class ModelSchema:
    """What both a manifest and an unfinished package know about a model."""

    inputs: tuple[Input, ...]
    layout: Literal["Columns", "Matrix"]
    task: Task
    output: Output


@dataclass(frozen=True, slots=True)
class Answer:
    """Scores, labels (None for a regression) and the whole score matrix where there is one."""

    scores: Array
    labels: list[Label] | None
    matrix: Array | None

    @property
    def finite(self) -> Array:
        """Per row: whether the score may be given out.  A row that is not is a model error."""
        whole = self.scores if self.matrix is None else self.matrix
        by_row = np.isfinite(whole).reshape(len(self.scores), -1)
        return np.asarray(by_row.all(axis=1))


def answer(raw: Array, output: Output) -> Answer:
    """Apply the threshold (two labels) or take the highest score (more)."""
    if output.labels is None:
        return Answer(raw.reshape(-1).astype(np.float64), None, None)
    matrix = raw.astype(np.float64, copy=False)
    labels = output.labels
    if len(labels) != 2:
        best = matrix.argmax(axis=1)
        return Answer(matrix[np.arange(len(matrix)), best], [labels[i] for i in best], matrix)
    positive = positive_index(output)
    scores = matrix[:, positive]
    names = (labels[1 - positive], labels[positive])
    chosen = (scores >= output.threshold).tolist()
    return Answer(scores, [names[c] for c in chosen], matrix)


def positive_index(output: Output) -> int:
    """Position of the positive label of two."""
    assert output.labels is not None and output.positive is not None
    return next(
        i for i, v in enumerate(output.labels) if v == output.positive and _same(v, output.positive)
    )


def _same(a: Label, b: Label) -> bool:
    return isinstance(a, str) == isinstance(b, str)


class PythonScorer:
    """Asks a fitted Python model, after the package's preprocessing if it has one."""

    def __init__(
        self,
        model: Any,
        schema: Schema,
        output: Output,
        preprocess: Callable[[Any], Any] | None = None,
    ) -> None:
        self._model, self._schema, self._output = model, schema, output
        self._preprocess = preprocess

    def raw(self, columns: Columns) -> Array:
        """Scores; whatever the model raises comes through."""
        frame = to_model_input(columns, self._schema)
        if self._preprocess is not None:
            frame = self._preprocess(frame)
        return ask_python(self._model, frame, self._output)


def ask_python(model: Any, frame: Any, output: Output) -> Array:
    """Call the method that ``output.score_name`` means."""
    kind, labels = output.score_name, output.labels
    if kind == "probability":
        return np.asarray(model.predict_proba(frame), dtype=np.float64)
    if kind == "decision":
        decision = np.asarray(model.decision_function(frame), dtype=np.float64)
        return np.column_stack([-decision, decision]) if decision.ndim == 1 else decision
    if kind == "vote":
        assert labels is not None
        predicted = np.asarray(model.predict(frame)).reshape(-1).tolist()
        return np.array([[float(p == v) for v in labels] for p in predicted]).reshape(
            len(predicted), len(labels)
        )
    values = np.asarray(model.predict(frame), dtype=np.float64)
    if values.ndim > 1 and values.shape[1] != 1:
        raise ValueError(f"the model answers {values.shape[1]} values a row; one can be served")
    return values.reshape(-1)


class OnnxScorer:
    """Asks ONNX Runtime; the session is made from bytes, so nothing beside them is read."""

    def __init__(
        self,
        model: bytes,
        schema: Schema,
        output: Output,
        *,
        external: dict[str, bytes] | None = None,
        threads: int = 1,
    ) -> None:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        if external:
            names = sorted(external)
            options.add_external_initializers_from_files_in_memory(
                names, [external[n] for n in names], [len(external[n]) for n in names]
            )
        self._external = external
        self.session = ort.InferenceSession(
            model, sess_options=options, providers=["CPUExecutionProvider"]
        )
        self._schema, self._output = schema, output
        self._inputs = [(i.name, i.type) for i in self.session.get_inputs()]
        self._score = _score_output(self.session.get_outputs(), output)

    def raw(self, columns: Columns) -> Array:
        """Scores as float64."""
        feeds = to_onnx_feeds(columns, self._schema, self._inputs)
        (value,) = self.session.run([self._score], feeds)
        return _onnx_scores(value, self._output)


def _score_output(outputs: Sequence[Any], output: Output) -> str:
    """Which graph output holds the scores: maps, else the widest floats, else the first."""
    for value in outputs:
        if value.type.startswith(("seq(map", "map(")):
            return str(value.name)
    floats = [v for v in outputs if v.type in ("tensor(double)", "tensor(float)")]
    if not floats:
        raise ValueError("the ONNX graph has no output of numbers to take scores from")
    wanted = len(output.labels) if output.labels is not None else 1
    exact = [v for v in floats if len(v.shape) == 2 and v.shape[1] == wanted]
    return str((exact or floats)[0].name)


def _onnx_scores(value: Any, output: Output) -> Array:
    labels = output.labels
    if isinstance(value, list):
        if labels is None:
            raise ValueError("the ONNX graph answers maps, but the task is a regression")
        return np.array([[row[v] for v in labels] for row in value], dtype=np.float64)
    array = np.asarray(value, dtype=np.float64)
    if labels is None:
        return array.reshape(-1)
    if array.ndim == 1:
        array = array.reshape(-1, 1)
    if array.shape[1] == 1 and len(labels) == 2:
        rest = -array if output.score_name == "decision" else 1.0 - array
        array = np.column_stack([rest, array])
    if array.shape[1] != len(labels):
        raise ValueError(f"the ONNX graph answers {array.shape[1]} scores, not {len(labels)}")
    return array
