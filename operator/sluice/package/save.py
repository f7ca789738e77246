"""``sluice.save``: from a notebook to a model package.  Nothing is unpickled.

Called by people (``import sluice; sluice.save(...)``) and by the CLI; calls ``build``.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sluice.errors import InvalidInputError, PackageError
from sluice.package.build import build
from sluice.package.code import module_name
from sluice.package.manifest import (
    MANIFEST_NAME,
    PREPROCESS,
    Label,
    Manifest,
    decode,
    digest_of,
    encode,
)
from sluice.package.native.fitted import NativeSource, is_booster, native_source
from sluice.package.request import Built, Request
from sluice.package.trust import requires_trust, what_loading_does


@dataclass(frozen=True, slots=True, repr=False)
class Saved:
    """Where the package is, its digest, and what is worth knowing about it."""

    path: Path
    digest: str
    manifest: Manifest
    notes: tuple[str, ...] = field(default=())

    def __repr__(self) -> str:
        model = self.manifest.model
        lines = [
            f"{self.path}  {self.digest}",
            f"  {model.file}: {model.format}, {model.trust_class}",
        ]
        lines += [f"  {self.manifest.conversion.parity}: {self.manifest.conversion.detail}"]
        lines += [f"  {note}" for note in self.notes]
        return "\n".join(lines)


def save(
    model: Any,
    X: Any,  # noqa: N803 - scikit-learn's own names
    y: Any = None,
    out: str | Path = "package",
    *,
    name: str = "model",
    threshold: float | None = None,
    positive: Label | None = None,
    holdout: tuple[Any, Any] | None = None,
    nullable: Mapping[str, bool] | Iterable[str] = (),
    keep_original: bool = False,
    convert: bool = True,
    code: Iterable[str | Path] = (),
    preprocess: str | None = None,
    golden: int = 50,
    wheels: str | Path | None = None,
    any_minor: bool = False,
) -> Saved:
    """Write ``model`` with its schema, golden examples and reference profile to the folder ``out``.

    ``X`` are rows as the model takes them (some of the training data), ``y`` their labels.  The
    model is an object, or ONNX (bytes, a path or a ModelProto).  ``threshold`` defaults to 0.5 for
    probabilities and 0 for decision values.  ``holdout=(X, y)`` gives the reference scores and the
    calibration.  ``nullable`` overrides, by column, whether a value may be missing; by default it
    may when the model answers without it.  ``golden=0`` keeps example rows out of the package.
    ``wheels`` is a folder with the model's libraries, which become part of a package that is code;
    ``any_minor`` lets other minor versions load it when they pass the golden examples.
    """
    sources = read_code(code)
    request = Request(
        examples=X,
        truth=y,
        name=name,
        threshold=threshold,
        positive=positive,
        holdout=holdout,
        nullable=as_mapping(nullable),
        keep_original=keep_original,
        convert=convert,
        code=sources,
        preprocess=preprocess,
        preprocess_function=_imported(preprocess, sources),
        golden=golden,
        wheels=None if wheels is None else Path(wheels),
        any_minor=any_minor,
    )
    onnx = _onnx_bytes(model)
    if onnx is not None:
        request.onnx = onnx
    else:
        request.model = model
        request.native = _native(model, request)
    return write(build(request), Path(out))


def _native(model: Any, request: Request) -> NativeSource | None:
    """The library's own file, which is data; None where only the object itself can serve."""
    if request.code or request.preprocess is not None:
        return None
    try:
        return native_source(model)
    except PackageError as error:
        if error.reason != "UnknownFormat" or is_booster(model):
            raise
        return None


def write(built: Built, out: Path) -> Saved:
    """Write the files beside each other, then put the folder in place in one step."""
    raw = encode(built.manifest)
    decode(raw)
    _may_replace(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        for path, data in {**built.files, MANIFEST_NAME: raw}.items():
            target = scratch / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
        scratch.chmod(0o777 & ~_umask())
        if out.exists():
            shutil.rmtree(out)
        scratch.rename(out)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise
    notes = list(built.notes)
    if requires_trust(built.manifest):
        notes.append(
            f"{what_loading_does(built.manifest).capitalize()}, so a cluster needs a TrustPolicy: "
            f"`sluice trust request {out} --namespace NS` prints it."
        )
    return Saved(out, digest_of(raw), built.manifest, tuple(notes))


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def _may_replace(out: Path) -> None:
    if not out.exists() or (out.is_dir() and (out / MANIFEST_NAME).is_file()):
        return
    if out.is_dir() and not any(out.iterdir()):
        return
    raise InvalidInputError(
        f"{out} exists and is not a model package.", hint="Give another --out, or remove it."
    )


def as_mapping(nullable: Mapping[str, bool] | Iterable[str]) -> dict[str, bool]:
    """``{"a": True}`` or ``["a"]``, both meaning that ``a`` may be missing."""
    if isinstance(nullable, Mapping):
        return {str(k): bool(v) for k, v in nullable.items()}
    if isinstance(nullable, str):
        return {nullable: True}
    return {str(k): True for k in nullable}


def read_code(paths: Iterable[str | Path]) -> dict[str, bytes]:
    """Source files as they will lie in the package."""
    sources: dict[str, bytes] = {}
    for path in map(Path, paths):
        if path.suffix != ".py" or not path.stem.isidentifier():
            raise InvalidInputError(f"{path} is not a Python module file.", hint="Give NAME.py.")
        try:
            sources[f"code/{path.name}"] = path.read_bytes()
        except OSError as error:
            raise InvalidInputError(f"{path} cannot be read: {error.strerror}.") from None
    return sources


def _imported(preprocess: str | None, sources: dict[str, bytes]) -> Any:
    """The preprocessing function as the notebook already has it."""
    import importlib
    import re

    if preprocess is None:
        return None
    if not re.match(PREPROCESS, preprocess):
        raise InvalidInputError(
            f"preprocess={preprocess!r} is not MODULE:FUNCTION.", hint="For example features:pre."
        )
    module, _, function = preprocess.partition(":")
    if module not in {module_name(p) for p in sources}:
        raise InvalidInputError(
            f"preprocess names the module {module!r}, whose source is not in code.",
            hint=f"Pass code=['{module}.py'] too.",
        )
    try:
        return getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise InvalidInputError(f"{preprocess} cannot be imported: {error}.") from None


def _onnx_bytes(model: Any) -> bytes | None:
    """ONNX as bytes, a path or a ModelProto; None for a fitted object."""
    from sluice.package.sniff import sniff

    if isinstance(model, (str, Path)):
        model = Path(model).read_bytes()
    elif hasattr(model, "SerializeToString") and hasattr(model, "graph"):
        model = model.SerializeToString()
    if not isinstance(model, (bytes, bytearray)):
        return None
    data = bytes(model)
    if sniff(data).format != "onnx":
        raise PackageError(
            "sluice.save unpickles nothing: it takes a fitted model object or ONNX.",
            hint="For a pickle or joblib file use `sluice package FILE --examples X.parquet`.",
            reason="UnknownFormat",
        )
    return data
