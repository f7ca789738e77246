"""A single model file published without ``sluice.json``: what can be inferred from it.

Called by ``load.wrap_bare``; calls the sniffer.  An ONNX file says its inputs and outputs, so it
can serve; a file that is code is listed and refused with the ways out.
"""

from __future__ import annotations

import hashlib
import re

from sluice.errors import PackageError
from sluice.package.inspect_pickle import inspect_pickle
from sluice.package.manifest import (
    Conversion,
    FileEntry,
    Input,
    InputType,
    Manifest,
    ModelFile,
    decode,
    encode,
)
from sluice.package.manifest import Output as OutputSpec
from sluice.package.native.description import NativeModel
from sluice.package.native.fitted import NativeSource
from sluice.package.native.reader import is_native, read_native
from sluice.package.native.schema import bare_inputs
from sluice.package.onnx_file import OnnxFile, Value
from sluice.package.sniff import sniff
from sluice.package.trust import ways_out

_TYPES: dict[str, InputType] = {
    "tensor(float)": "float",
    "tensor(double)": "float",
    "tensor(float16)": "float",
    "tensor(int32)": "int",
    "tensor(int64)": "int",
    "tensor(bool)": "bool",
    "tensor(string)": "string",
}
_SCORES = ("tensor(float)", "tensor(double)")
MAX_MATRIX = 10_000


def describe_bare(name: str, data: bytes) -> Manifest:
    """The manifest that a bare file would have had; PackageError for anything that cannot serve."""
    found = sniff(data)
    if found.pickled:
        raise _refuse_code(name, data, found.format)
    if is_native(found.format):
        return decode(encode(native_manifest(name, data, read_native(found.format, data))))
    if found.format == "skops":
        raise PackageError(
            f"{name} is a bare skops file, which does not say what it takes.",
            hint="Package it: `sluice package model.skops --examples X.parquet`.",
            reason="BareCodeFile",
        )
    if found.onnx is None:
        raise PackageError(
            f"{name} is a {found.format} model, which this version does not serve.",
            hint="Export it to ONNX.",
            reason="UnknownFormat",
        )
    try:
        # What a graph says of itself is checked like any manifest that came from outside.
        return decode(encode(onnx_manifest(name, data, found.onnx)))
    except (ValueError, UnicodeError) as error:
        raise _undescribed(str(error)[:200]) from None
    except PackageError as error:
        if error.reason != "Corrupt":
            raise
        raise _undescribed(error.message[:200]) from None


def native_manifest(name: str, data: bytes, model: NativeModel) -> Manifest:
    """Features, categories, task and labels from a file of XGBoost, LightGBM or CatBoost."""
    from sluice.package.outcome import native_outcome

    source = NativeSource(data, model)
    task, output = native_outcome(model, None, None)
    entry = FileEntry(path=source.file, sha256=hashlib.sha256(data).hexdigest(), size=len(data))
    return Manifest(
        name=_name(name),
        task=task,
        model=ModelFile(file=source.file, format=model.format, trust_class="Data"),
        inputs=bare_inputs(model),
        output=output,
        files=(entry,),
        conversion=Conversion(detail="bare model file; the schema is inferred from it"),
    )


def _name(file: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", file.rsplit(".", 1)[0]).strip("-")[:60] or "model"


def onnx_manifest(name: str, data: bytes, model: OnnxFile) -> Manifest:
    """Inputs, layout, task and labels from an ONNX graph's own description."""
    layout, inputs = infer_inputs(model)
    labels = infer_labels(model)
    positive = labels[-1] if labels is not None and len(labels) == 2 else None
    entry = FileEntry(path="model.onnx", sha256=hashlib.sha256(data).hexdigest(), size=len(data))
    return Manifest(
        name=_name(name),
        task="classification" if labels is not None else "regression",
        model=ModelFile(file="model.onnx", format="onnx", trust_class="Data"),
        layout="Matrix" if layout == "Matrix" else "Columns",
        inputs=inputs,
        output=OutputSpec(
            labels=labels,
            positive=positive,
            score_name="value" if labels is None else "probability",
        ),
        files=(entry,),
        conversion=Conversion(detail="bare ONNX file; the schema is inferred from its graph"),
    )


def infer_inputs(model: OnnxFile) -> tuple[str, tuple[Input, ...]]:
    """``("Matrix", x0..xN)`` for one wide input, else one column per graph input."""
    if len(model.inputs) == 1 and _width(model.inputs[0]) != 1:
        only = model.inputs[0]
        width = _width(only)
        if width is None or width > MAX_MATRIX or len(only.shape) != 2:
            raise _undescribed(f"input {only.name!r} has the shape {list(only.shape)}")
        kind = _type(only)
        return "Matrix", tuple(Input(name=f"x{i}", type=kind) for i in range(width))
    inputs = []
    for value in model.inputs:
        if _width(value) != 1:
            raise _undescribed(f"input {value.name!r} has the shape {list(value.shape)}")
        inputs.append(Input(name=value.name, type=_type(value)))
    if not inputs:
        raise _undescribed("it has no inputs")
    return "Columns", tuple(inputs)


def infer_labels(model: OnnxFile) -> tuple[str | int, ...] | None:
    """The classes the graph names, or 0..k-1 for k scores; None when it answers one number."""
    if model.class_labels:
        return tuple(model.class_labels)
    if any(v.type in ("sequence", "map") for v in model.outputs):
        raise _undescribed("its scores are a map whose labels are not in the file")
    width = next((_width(v) for v in model.outputs if v.type in _SCORES), None)
    return tuple(range(width)) if width is not None and width > 1 else None


def _width(value: Value) -> int | None:
    if len(value.shape) < 2:
        return 1
    return value.shape[-1]


def _type(value: Value) -> InputType:
    try:
        return _TYPES[value.type]
    except KeyError:
        raise _undescribed(f"input {value.name!r} is a {value.type}") from None


def _undescribed(what: str) -> PackageError:
    return PackageError(
        f"The ONNX file does not say enough to serve it: {what}.",
        hint="Package it: `sluice package model.onnx --examples X.parquet`.",
        reason="UnknownFormat",
    )


def _refuse_code(name: str, data: bytes, kind: str) -> PackageError:
    report = inspect_pickle(data)
    shown = ", ".join(report.imports[:10]) or "nothing that could be listed"
    return PackageError(
        f"{name} is a bare {kind} file: loading it runs code ({shown[:300]}).",
        hint=ways_out(),
        reason="BareCodeFile",
    )
