"""Package a model file: look, ask, and only then load.

Called by ``sluice package``; calls the sniffers, ``build`` and, after consent, joblib or pickle.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from sluice.errors import InvalidInputError, PackageError
from sluice.package.build import build
from sluice.package.code import run_sources
from sluice.package.examples import read_examples
from sluice.package.globals_check import check_globals
from sluice.package.inspect_pickle import PickleReport, inspect_pickle
from sluice.package.manifest import (
    GOLDEN_NAME,
    LOCK_NAME,
    MANIFEST_NAME,
    PROFILE_NAME,
    digest_of,
)
from sluice.package.native.fitted import NativeSource
from sluice.package.native.reader import is_native, read_native
from sluice.package.request import Request
from sluice.package.save import Saved, read_code, write
from sluice.package.skops_file import load_skops
from sluice.package.sniff import look, sniff

MAX_MODEL_BYTES = 4 * 1024**3
_SHOWN = 40
_TAKEN = {MANIFEST_NAME, GOLDEN_NAME, PROFILE_NAME, LOCK_NAME, "model.onnx"}

Say = Callable[[str], None]
Ask = Callable[[str], bool]


@dataclass(frozen=True, slots=True)
class Options:
    """What ``sluice package`` was asked."""

    model: Path
    examples: Path
    out: Path
    label: str | None = None
    holdout: Path | None = None
    name: str = "model"
    threshold: float | None = None
    positive: str | None = None
    nullable: Mapping[str, bool] | None = None
    trust_file: str | None = None
    keep_original: bool = False
    convert: bool = True
    code: tuple[Path, ...] = ()
    preprocess: str | None = None
    golden: int = 50
    wheels: Path | None = None
    any_minor: bool = False


def package_file(options: Options, *, say: Say, ask: Ask | None) -> Saved:
    """Make a package of a file.  ``ask`` is None where nobody can answer."""
    data = _read(options.model)
    outside = _outside(options.model, data)
    found = sniff(data, external_files=outside)
    say(f"{options.model}: {found.format}, class {found.trust_class} ({found.detail})")
    sources = read_code(options.code)
    request = _request(options, sources)
    if found.format == "onnx":
        request.onnx, request.external = data, outside
    elif is_native(found.format):
        request.native = _native(options, data, found.format)
    elif found.format in ("joblib", "pickle"):
        _consent(options, data, sources, say, ask)
        _load(request, data, "joblib" if found.format == "joblib" else "pickle", options)
    elif found.format == "skops":
        _no_code(options, "skops")
        request.model = load_skops(data, str(options.model))
        request.original, request.original_format = data, "skops"
    else:
        raise PackageError(
            f"{options.model} is a {found.format} model, which this version does not serve.",
            hint="Export it to ONNX, or save the fitted estimator with joblib.dump.",
            reason="UnknownFormat",
        )
    saved = write(build(request), options.out)
    for note in saved.notes:
        say(note)
    return saved


def _native(options: Options, data: bytes, format_: str) -> NativeSource:
    _no_code(options, format_)
    return NativeSource(data, read_native(format_, data))


def _no_code(options: Options, format_: str) -> None:
    if options.code or options.preprocess is not None:
        raise InvalidInputError(
            f"--code and --preprocess do not go with a {format_} file, which runs no code.",
            hint="Package the fitted pipeline as a joblib file, or preprocess before the model.",
        )


def _read(path: Path) -> bytes:
    try:
        if path.stat().st_size > MAX_MODEL_BYTES:
            raise PackageError(f"{path} is larger than {MAX_MODEL_BYTES} bytes.", reason="TooLarge")
        return path.read_bytes()
    except FileNotFoundError:
        raise PackageError(
            f"There is no file {path}.", hint="Check the path.", reason="Missing"
        ) from None
    except OSError as error:
        raise PackageError(f"{path} cannot be read: {error.strerror}.", reason="Missing") from None


def _outside(model: Path, data: bytes) -> dict[str, bytes]:
    """Files in the model's own folder that an ONNX file keeps tensors in."""
    found = look(data)
    names = sorted(found.onnx.external_files) if found.onnx is not None else []
    files: dict[str, bytes] = {}
    for name in names:
        file = model.parent / name
        if Path(name).name == name and name not in _TAKEN and not file.is_symlink():
            files[name] = _read(file)
    return files


def _request(options: Options, sources: dict[str, bytes]) -> Request:
    rows, truth = _split(read_examples(options.examples), options.label, options.examples)
    holdout = None
    if options.holdout is not None:
        held, outcomes = _split(read_examples(options.holdout), options.label, options.holdout)
        holdout = (held, outcomes)
    return Request(
        examples=rows,
        truth=truth,
        name=options.name,
        threshold=options.threshold,
        positive=options.positive,
        holdout=holdout,
        nullable=dict(options.nullable or {}),
        keep_original=options.keep_original,
        convert=options.convert,
        code=sources,
        preprocess=options.preprocess,
        golden=options.golden,
        wheels=options.wheels,
        any_minor=options.any_minor,
    )


def _split(frame: pd.DataFrame, label: str | None, path: Path) -> tuple[pd.DataFrame, Any]:
    if label is None:
        return frame, None
    if label not in frame.columns:
        raise InvalidInputError(
            f"{path} has no column {label!r} for the label.",
            hint=f"It has {', '.join(map(str, frame.columns[:10]))}.",
        )
    known = frame[frame[label].notna()]
    return known.drop(columns=[label]), known[label].to_numpy()


def _consent(
    options: Options, data: bytes, sources: dict[str, bytes], say: Say, ask: Ask | None
) -> None:
    """List what loading would import; go on only when somebody answers for these bytes."""
    report = inspect_pickle(data)
    _show(report, say)
    check_globals(report.imports, sources)
    digest = digest_of(data)
    if options.trust_file is not None:
        if options.trust_file != digest:
            raise PackageError(
                f"{options.model} has digest {digest}, not the {options.trust_file} of "
                "--trust-file.",
                hint="Somebody changed the file: look at it again before trusting it.",
                reason="DigestMismatch",
            )
        return
    if ask is not None and ask(f"Load {options.model}? It can run any code on this machine"):
        return
    raise PackageError(
        f"{options.model} was not loaded: loading it runs code and nobody agreed to that.",
        hint=f"If you made it or trust who did: --trust-file {digest}. From a notebook, "
        "sluice.save(model, X, y, out) needs no consent.",
        reason="NotTrusted",
    )


def _show(report: PickleReport, say: Say) -> None:
    say(f"Loading it would import {len(report.imports)} name(s):")
    for name in report.imports[:_SHOWN]:
        say(f"  {name}")
    if len(report.imports) > _SHOWN:
        say(f"  … and {len(report.imports) - _SHOWN} more")
    if report.problem:
        say(f"  The list is incomplete: {report.problem}.")


def _load(request: Request, data: bytes, kind: str, options: Options) -> None:
    """Load the very bytes that were looked at."""
    import pickle

    import joblib

    request.preprocess_function = run_sources(request.code, request.preprocess)
    try:
        if kind == "joblib":
            request.model = joblib.load(io.BytesIO(data))
        else:
            request.model = pickle.loads(data)  # noqa: S301 - after consent for these bytes
    except Exception as error:
        raise PackageError(
            f"{options.model} cannot be loaded: {type(error).__name__}: {str(error)[:200]}.",
            hint="It may be truncated, or saved with other versions than are installed here.",
            reason="Corrupt",
        ) from None
    request.original = data
