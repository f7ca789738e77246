"""Small packages for tests: a linear model as ONNX, made without training anything.

linear_package(directory, weights={"age": 0.1, "plan": -2.0}, bias=0.3)
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from sluice.package.manifest import (
    FileEntry,
    Input,
    Manifest,
    ModelFile,
    Output,
    canonical_json,
    digest_of,
    encode,
)

Row = dict[str, Any]


def linear_onnx(weights: Mapping[str, float], bias: float, *, impute: bool = True) -> bytes:
    """Logistic regression over named columns; NaN counts as 0 when ``impute``."""
    nodes, values = [], []
    for name in weights:
        columns = helper.make_tensor_value_info(name, TensorProto.DOUBLE, [None, 1])
        values.append(columns)
    nodes.append(helper.make_node("Concat", list(weights), ["_raw"], axis=1))
    if impute:
        nodes.append(helper.make_node("IsNaN", ["_raw"], ["_missing"]))
        nodes.append(helper.make_node("Where", ["_missing", "_zero", "_raw"], ["_x"]))
    else:
        nodes.append(helper.make_node("Identity", ["_raw"], ["_x"]))
    nodes += [
        helper.make_node("MatMul", ["_x", "_w"], ["_dot"]),
        helper.make_node("Add", ["_dot", "_b"], ["_logit"]),
        helper.make_node("Sigmoid", ["_logit"], ["_yes"]),
        helper.make_node("Sub", ["_one", "_yes"], ["_no"]),
        helper.make_node("Concat", ["_no", "_yes"], ["probabilities"], axis=1),
    ]
    constants = {
        "_w": np.array([[w] for w in weights.values()]),
        "_b": np.array([bias]),
        "_one": np.array([1.0]),
    }
    if impute:
        constants["_zero"] = np.array([0.0])
    graph = helper.make_graph(
        nodes,
        "linear",
        values,
        [helper.make_tensor_value_info("probabilities", TensorProto.DOUBLE, [None, 2])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    data: bytes = model.SerializeToString()
    return data


def linear_score(weights: Mapping[str, float], bias: float) -> Callable[[Row], float]:
    """What the model answers."""

    def score(row: Row) -> float:
        logit = bias + sum(w * float(row.get(name) or 0.0) for name, w in weights.items())
        return 1.0 / (1.0 + float(np.exp(-logit)))

    return score


def linear_package(
    directory: Path,
    *,
    weights: Mapping[str, float] | None = None,
    bias: float = 0.0,
    inputs: Sequence[Input] | None = None,
    labels: tuple[Any, ...] = (0, 1),
    threshold: float = 0.5,
    impute: bool = True,
    golden: Sequence[Row] | None = None,
    golden_scores: Sequence[float] | None = None,
    name: str = "linear",
    extra: Mapping[str, bytes] | None = None,
) -> str:
    """Write a package of class Data; returns its digest."""
    weights = weights or {"a": 1.0, "b": -2.0}
    if inputs is None:
        inputs = [Input(name=n, type="float", nullable=True, min=-1.0, max=1.0) for n in weights]
    score = linear_score(weights, bias)
    if golden is None:
        golden = [{n: (i + k) / 10 for k, n in enumerate(weights)} for i in range(8)]
    scores = list(golden_scores) if golden_scores is not None else [score(row) for row in golden]
    answers = [
        {"row": row, "score": s, "label": labels[int(s >= threshold)]}
        for row, s in zip(golden, scores, strict=True)
    ]
    files = {"model.onnx": linear_onnx(weights, bias, impute=impute), **(extra or {})}
    if answers:
        files["golden.json"] = canonical_json(answers)
    return write_package(
        directory,
        files,
        name=name,
        task="classification",
        model=ModelFile(file="model.onnx", format="onnx", trust_class="Data"),
        inputs=tuple(inputs),
        output=Output(labels=labels, positive=labels[1], threshold=threshold),
    )


def code_package(directory: Path, source: str, *, golden: Sequence[Row] | None = None) -> str:
    """A package of class Code: a logistic regression behind ``features.prepare``, whose source is
    given, so that a test can make a model misbehave in any way."""
    import io

    import joblib
    import pandas as pd
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(7)
    x = rng.normal(size=(200, 2))
    frame = pd.DataFrame(x, columns=["a", "b"])
    model = LogisticRegression().fit(frame, (x[:, 0] - 2 * x[:, 1] > 0).astype(int))
    buffer = io.BytesIO()
    joblib.dump(model, buffer)
    rows = golden or [{"a": i / 10, "b": -i / 20} for i in range(4)]
    scores = model.predict_proba(pd.DataFrame(rows, columns=["a", "b"]))[:, 1]
    answers = [
        {"row": row, "score": float(s), "label": int(s >= 0.5)}
        for row, s in zip(rows, scores, strict=True)
    ]
    return write_package(
        directory,
        {
            "model.joblib": buffer.getvalue(),
            "code/features.py": source.encode(),
            "golden.json": canonical_json(answers),
        },
        name="code",
        task="classification",
        model=ModelFile(file="model.joblib", format="joblib", trust_class="Code"),
        code=("code/features.py",),
        preprocess="features:prepare",
        inputs=tuple(
            Input(name=n, type="float", nullable=True, min=-3.0, max=3.0) for n in ("a", "b")
        ),
        output=Output(labels=(0, 1), positive=1),
    )


def write_package(directory: Path, files: Mapping[str, bytes], **fields: Any) -> str:
    """Write files and the ``sluice.json`` that lists them; returns the digest."""
    directory.mkdir(parents=True, exist_ok=True)
    entries = []
    for path, data in sorted(files.items()):
        target = directory / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
        sha256 = hashlib.sha256(data).hexdigest()
        entries.append(FileEntry(path=path, sha256=sha256, size=len(data)))
    manifest = encode(Manifest(files=tuple(entries), **fields))
    (directory / "sluice.json").write_bytes(manifest)
    return digest_of(manifest)
