"""``sluice.json``: what a package contains, as typed data.

Called by everything that reads or writes a package; calls nothing of ours but ``sluice.errors``
and the signature's name.  Decoding is strict (unknown fields, wrong types, NaN and anything out of
bounds are refused) because the bytes come from outside.  The package's digest is the SHA-256 of
these bytes, and they list the SHA-256 of every other file, so the digest covers the whole package.

How an answer follows from a score, the same everywhere:

* binary classification: ``score`` is the model's score of ``output.positive``;
  the label is ``positive`` when ``score >= threshold``, else the other label;
* more classes: the label with the highest score (the first of equals), ``score`` is its score;
* regression: ``score`` is the value and there is no label.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from sluice.errors import PackageError
from sluice.signature import SIGNATURE_NAME

MANIFEST_NAME = "sluice.json"
GOLDEN_NAME = "golden.json"
PROFILE_NAME = "profile.json"
LOCK_NAME = "requirements.lock"
WHEELS = "wheels/"
"""Where a package carries libraries of its own."""

MAX_MANIFEST_BYTES = 4 * 1024 * 1024
MAX_CATEGORIES = 256
MAX_GOLDEN = 100
MAX_INPUTS = 10_000

NAME = r"^[A-Za-z0-9]([-._A-Za-z0-9]{0,62}[A-Za-z0-9])?\Z"
PREPROCESS = r"^[A-Za-z_][A-Za-z0-9_]*:[A-Za-z_][A-Za-z0-9_]*$"

Task = Literal["classification", "regression"]
Format = Literal["onnx", "joblib", "pickle", "xgboost", "lightgbm", "catboost", "skops"]
TrustClass = Literal["Data", "Restricted", "Code"]
InputType = Literal["float", "int", "bool", "string"]
ScoreName = Literal["probability", "decision", "value", "vote"]
Label = str | int | bool

Text = Annotated[str, Meta(min_length=1, max_length=256)]
LongText = Annotated[str, Meta(max_length=1024)]
FilePath = Annotated[str, Meta(min_length=1, max_length=240)]
Sha256 = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
Category = Annotated[str, Meta(max_length=256)]


class _Part(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    """A part of the manifest: immutable, camelCase on disk, nothing unknown."""


class ModelFile(_Part, frozen=True, kw_only=True):
    """A model file, its format and what loading it could do."""

    file: FilePath
    format: Format
    trust_class: TrustClass = msgspec.field(name="class")


class Input(_Part, frozen=True, kw_only=True):
    """One feature a client sends.  ``min``/``max`` are the reference range, never a limit."""

    name: Text
    type: InputType
    nullable: bool = False
    required: bool = True
    min: float | None = None
    max: float | None = None
    categories: Annotated[tuple[Category, ...], Meta(max_length=MAX_CATEGORIES)] | None = None
    categorical: bool = False
    """The model was trained on pandas' category dtype with these ``categories``."""


class Output(_Part, frozen=True, kw_only=True):
    """What comes back.  ``score_name`` also says how a Python model is asked for it:
    probability by ``predict_proba``, decision by ``decision_function``, value by ``predict``,
    vote (1 for the predicted label, else 0) by ``predict`` too."""

    labels: Annotated[tuple[Label, ...], Meta(min_length=1, max_length=10_000)] | None = None
    positive: Label | None = None
    threshold: float = 0.5
    score_name: ScoreName = "probability"


class Environment(_Part, frozen=True, kw_only=True):
    """What must be installed before the model may be loaded; empty for ONNX."""

    python: Annotated[str, Meta(pattern=r"^(3\.\d{1,2})?$")] = ""
    requires: Annotated[dict[Text, Text], Meta(max_length=200)] = {}
    minor: Literal["Any"] | None = None
    """Any: other minor versions may load it, because the golden examples then say whether they
    answer the same.  Absent: they are refused."""


class FileEntry(_Part, frozen=True, kw_only=True):
    """A file of the package beside ``sluice.json``."""

    path: FilePath
    sha256: Sha256
    size: Annotated[int, Meta(ge=0)]


class Conversion(_Part, frozen=True, kw_only=True):
    """Whether the original became ONNX, and if not, why."""

    parity: Literal["Passed", "Failed", "NotTried"] = "NotTried"
    detail: LongText = ""


class Manifest(_Part, frozen=True, kw_only=True):
    """The whole of ``sluice.json``."""

    schema_version: Literal[1] = 1
    name: Annotated[str, Meta(pattern=NAME)]
    task: Task
    model: ModelFile
    original: ModelFile | None = None
    code: Annotated[tuple[FilePath, ...], Meta(max_length=100)] = ()
    """Python source that the model needs, importable by its file name (see ``code``)."""
    preprocess: Annotated[str, Meta(pattern=PREPROCESS, max_length=200)] | None = None
    """``module:function`` of ``code``: maps a data frame to the frame that the model takes."""
    layout: Literal["Columns", "Matrix"] = "Columns"
    """Columns: the model takes named columns (a data frame; one ONNX input a column).
    Matrix: it takes one numeric matrix whose columns are ``inputs`` in order."""
    inputs: Annotated[tuple[Input, ...], Meta(min_length=1, max_length=MAX_INPUTS)]
    output: Output
    environment: Environment = Environment()
    files: Annotated[tuple[FileEntry, ...], Meta(min_length=1, max_length=1_000)]
    imports: Annotated[tuple[Text, ...], Meta(max_length=5_000)] = ()
    conversion: Conversion = Conversion()

    @property
    def binary(self) -> bool:
        """Whether the threshold decides between two labels."""
        return self.output.labels is not None and len(self.output.labels) == 2

    @property
    def wheels(self) -> tuple[str, ...]:
        """Wheels to install before the model is loaded; never for a model that is data."""
        if self.model.trust_class != "Code":
            return ()
        return tuple(
            f.path for f in self.files if f.path.startswith(WHEELS) and f.path.endswith(".whl")
        )

    def entry(self, path: str) -> FileEntry | None:
        """The listed file of that path."""
        return next((f for f in self.files if f.path == path), None)


def encode(manifest: Manifest) -> bytes:
    """Canonical bytes: sorted keys, compact, UTF-8, one trailing newline; absent is absent."""
    return canonical_json(to_dict(manifest))


def to_dict(manifest: Manifest) -> dict[str, Any]:
    """The content of ``sluice.json`` as plain data."""
    plain: dict[str, Any] = _without_nulls(msgspec.to_builtins(manifest))
    return plain


def canonical_json(value: Any) -> bytes:
    """The one way JSON is written into a package, so that equal content has equal bytes."""
    text = json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return text.encode() + b"\n"


def digest_of(data: bytes) -> str:
    """``sha256:…`` of some bytes."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def decode(data: bytes) -> Manifest:
    """Read and check ``sluice.json``; every refusal names the field."""
    if len(data) > MAX_MANIFEST_BYTES:
        raise PackageError(
            f"{MANIFEST_NAME} has {len(data)} bytes, more than {MAX_MANIFEST_BYTES}.",
            hint="Package the model again.",
            reason="TooLarge",
        )
    try:
        manifest = msgspec.json.decode(data, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _refusal(data, error) from None
    _check(manifest)
    return manifest


def _refusal(data: bytes, error: Exception) -> PackageError:
    newer = re.search(rb'"schemaVersion":\s*([2-9]|[1-9][0-9]+)\b', data)
    if newer:
        return PackageError(
            f"{MANIFEST_NAME} has schemaVersion {newer[1].decode()}, this Sluice reads 1.",
            hint="Use a newer Sluice, or package the model with this one.",
            reason="UnknownFormat",
        )
    return PackageError(
        f"{MANIFEST_NAME} cannot be read: {str(error)[:300]}.",
        hint="Package the model again with `sluice package`.",
        reason="Corrupt",
    )


def _check(manifest: Manifest) -> None:
    """What types cannot say: paths stay inside, names are unique, roles point at listed files."""
    paths = [f.path for f in manifest.files]
    for path in paths:
        check_path(path)
    _unique("files", paths)
    _unique("inputs", [i.name for i in manifest.inputs])
    used = [manifest.model.file]
    used += [manifest.original.file] if manifest.original else []
    used += list(manifest.code)
    for path in used:
        if path not in paths:
            raise _corrupt(f"names {path!r}, which is not in files")
    if (manifest.code or manifest.preprocess) and manifest.model.trust_class != "Code":
        raise _corrupt("has Python source to run but its model is not of class Code")
    labels = manifest.output.labels
    if manifest.task == "classification" and labels is None:
        raise _corrupt("is a classification without output.labels")
    if manifest.binary and manifest.output.positive not in (labels or ()):
        raise _corrupt("has two labels and output.positive is neither of them")


def check_path(path: str) -> None:
    """Refuse a path that could leave the package directory or hide in it."""
    pure = PurePosixPath(path)
    plain = path == str(pure) and "\\" not in path and "\0" not in path
    outside = pure.is_absolute() or any(p in ("..", ".") for p in pure.parts) or not pure.parts
    if not plain or outside:
        raise _corrupt(f"has the file path {path!r}, which is not a plain path inside the package")
    if path == MANIFEST_NAME:
        raise _corrupt("lists itself")
    if path == SIGNATURE_NAME:
        raise _corrupt(f"lists {SIGNATURE_NAME}, which is signed last and outside the digest")


def _unique(field: str, values: list[str]) -> None:
    seen: set[str] = set()
    for value in values:
        if value in seen:
            raise _corrupt(f"has {value!r} twice in {field}")
        seen.add(value)


def _corrupt(what: str) -> PackageError:
    return PackageError(
        f"{MANIFEST_NAME} {what}.",
        hint="Package the model again with `sluice package`.",
        reason="Corrupt",
    )


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_nulls(v) for k, v in value.items() if v is not None}
    if isinstance(value, (list, tuple)):
        return [_without_nulls(v) for v in value]
    return value
