"""From a fitted model and example rows to the files of a package.

Called by ``save`` and ``sluice package``; calls the schema, conversion, parity, profile and golden
parts.  Deterministic: the same inputs give the same bytes, whatever the machine, time or process.
Nothing is unpickled here; a model comes as an object, or as ONNX bytes.
"""

from __future__ import annotations

import hashlib
import io
import re
import warnings
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import pandas as pd

from sluice.errors import InvalidInputError, PackageError
from sluice.package.examples import (
    as_frame,
    count,
    describe,
    missing_rows,
    spread,
    take,
    without_value,
)
from sluice.package.features import Columns
from sluice.package.golden import make_golden
from sluice.package.manifest import (
    GOLDEN_NAME,
    NAME,
    PROFILE_NAME,
    Conversion,
    FileEntry,
    Format,
    Input,
    Manifest,
    ModelFile,
    Output,
    Task,
    canonical_json,
)
from sluice.package.native.engines import native_scorer
from sluice.package.native.fitted import NativeSource
from sluice.package.native.schema import arrange, fitted_inputs, plain_categories
from sluice.package.needs import Needs
from sluice.package.outcome import (
    contradictions,
    native_outcome,
    onnx_outcome,
    python_outcome,
)
from sluice.package.parity import Scorer, judge
from sluice.package.profile import make_profile
from sluice.package.request import Built, Request
from sluice.package.scoring import ModelSchema, OnnxScorer, PythonScorer, answer

SCORED_ROWS = 20_000
MANY_COLUMNS = 300
_NAME_WARNING = "X has feature names, but"


def build(request: Request) -> Built:
    """Make the package in memory."""
    return _Build(request).run()


class _Build:
    """One packaging: each step reads what the steps before it found."""

    def __init__(self, request: Request) -> None:
        _check_name(request.name)
        self.request = request
        self.notes: list[str] = []
        self.files: dict[str, bytes] = {}
        self.accepted: set[str] = set()
        """Columns that the original answers without."""
        self.frame = _ordered(
            as_frame(request.examples, _column_names(request)), request, self.notes
        )
        self.inputs, self.columns = describe(self.frame)
        if request.native is not None:
            self.inputs = fitted_inputs(self.inputs, request.native.model)
        _known_columns(request.nullable, self.frame)
        self.task, self.output = self._outcome()
        self.layout = self._layout()
        self.scorer = self._scorer()

    def run(self) -> Built:
        usable = self._usable_rows()
        self._set_nullable(usable)
        model, original, conversion = self._model_files(usable)
        self._add_profile()
        self._add_golden()
        imports, wanted = Needs(self.request, self.files, self.notes, self.layout).of(model)
        manifest = Manifest(
            name=self.request.name,
            task=self.task,
            model=model,
            original=original,
            code=tuple(sorted(self.request.code)) if model.trust_class == "Code" else (),
            preprocess=self.request.preprocess,
            layout=self.layout,
            inputs=self.inputs,
            output=self.output,
            environment=wanted,
            files=_entries(self.files),
            imports=tuple(imports[:5000]),
            conversion=conversion,
        )
        return Built(manifest, self.files, self.notes)

    @property
    def schema(self) -> ModelSchema:
        return ModelSchema(self.inputs, self.layout, self.task, self.output)

    # what the model is

    def _outcome(self) -> tuple[Task, Output]:
        asked = self.request
        if asked.onnx is not None:
            return onnx_outcome(asked.onnx, asked.threshold, asked.positive)
        if asked.native is not None:
            return native_outcome(asked.native.model, asked.threshold, asked.positive)
        task, output = python_outcome(asked.model, asked.threshold, asked.positive)
        if task == "classification" and asked.threshold is None:
            self._compare_with_predict(output)
        return task, output

    def _compare_with_predict(self, output: Output) -> None:
        rows = self.frame.iloc[spread(len(self.frame), 1000)]
        prepare = self.request.preprocess_function
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                prepared = prepare(rows) if prepare else rows
                wrong = contradictions(self.request.model, prepared, output)
        except Exception:
            return  # what the model refuses is said later, with the rows it refuses
        if wrong:
            self.notes.append(
                f"The model's predict gives another label than its scores in {wrong} of "
                f"{len(rows)} example rows; the label that the scores lead to is served."
            )

    def _layout(self) -> Literal["Columns", "Matrix"]:
        request = self.request
        if request.onnx is not None:
            from sluice.package.onnx_file import read_onnx

            return "Matrix" if len(read_onnx(request.onnx).inputs) == 1 else "Columns"
        if request.native is not None:
            return "Columns"
        if not isinstance(request.examples, pd.DataFrame):
            return "Matrix"
        if request.preprocess_function is not None:
            return "Columns"
        named = _names(request.model) is not None
        text = any(s.type == "string" for s in self.inputs)
        return "Columns" if named or text or not self._trained_without_names() else "Matrix"

    def _trained_without_names(self) -> bool:
        """scikit-learn itself says when a frame meets a model that was fitted on an array."""
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            try:
                self.request.model.predict(self.frame.head(2))
            except Exception:
                return False
        return any(_NAME_WARNING in str(w.message) for w in seen)

    def _scorer(self) -> Scorer:
        request = self.request
        if request.onnx is not None:
            try:
                return OnnxScorer(request.onnx, self.schema, self.output, external=request.external)
            except Exception as error:
                raise _unusable("ONNX Runtime cannot load the model", error) from None
        if request.native is not None:
            return self._native_scorer(request.native)
        return PythonScorer(request.model, self.schema, self.output, request.preprocess_function)

    def _native_scorer(self, native: NativeSource) -> Scorer:
        try:
            kind = native.model.format
            return native_scorer(native.data, kind, self.schema, self.output, native.model)
        except PackageError:
            raise
        except Exception as error:
            raise _unusable("The model cannot be loaded by its own library", error) from None

    # what it accepts

    def _usable_rows(self) -> Columns:
        """Example rows that the model answers: all, else those without missing values."""
        error = self._refusal(take(self.columns, spread(count(self.columns), 200)))
        holes = missing_rows(self.columns)
        if error is None:
            return self.columns
        if holes.all() or not holes.any():
            raise _unusable("The model does not answer its own examples", error)
        whole = take(self.columns, np.flatnonzero(~holes))
        error = self._refusal(take(whole, spread(count(whole), 200)))
        if error is not None:
            raise _unusable("The model does not answer its own examples", error)
        self.notes.append(
            f"{int(holes.sum())} of {len(holes)} example rows have missing values, which the "
            "model refuses: they are left out of the checks."
        )
        return whole

    def _refusal(self, columns: Columns) -> Exception | None:
        """Why the model gives no finite score for some of these rows; None when it does."""
        try:
            result = answer(self.scorer.raw(columns), self.output)
        except Exception as error:
            return error
        return None if result.finite.all() else ValueError("a score is not finite")

    def _set_nullable(self, usable: Columns) -> None:
        """Nullable: what the user says, else whether the original answers without the value."""
        self.accepted = accepted = self._accepted(usable)
        said = self.request.nullable
        self.inputs = tuple(
            _replace(spec, nullable=said.get(spec.name, spec.name in accepted))
            for spec in self.inputs
        )
        forced = [n for n, yes in sorted(said.items()) if yes and n not in accepted]
        if forced:
            self.notes.append(
                f"nullable by your word though the model refuses it missing: {', '.join(forced)}. "
                "Such a row will be a model error, not a client error."
            )
        self.scorer = self._scorer()

    def _accepted(self, usable: Columns) -> set[str]:
        few = take(usable, spread(count(usable), 3))
        if len(self.inputs) > MANY_COLUMNS:
            blank = few
            for spec in self.inputs:
                blank = without_value(blank, spec.name)
            accepted = {s.name for s in self.inputs} if self._refusal(blank) is None else set()
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                accepted = {
                    s.name for s in self.inputs if self._refusal(without_value(few, s.name)) is None
                }
        if self.request.onnx is not None:
            # A graph may answer a missing value by accident, so the examples must show it too.
            accepted &= {n for n in accepted if missing_rows({n: self.columns[n]}).any()}
        return accepted

    # what is loaded

    def _model_files(self, usable: Columns) -> tuple[ModelFile, ModelFile | None, Conversion]:
        request = self.request
        if request.onnx is not None:
            self.files |= {**request.external, "model.onnx": request.onnx}
            given = Conversion(parity="NotTried", detail="given as ONNX")
            return ModelFile(file="model.onnx", format="onnx", trust_class="Data"), None, given
        if request.native is not None:
            return self._native_file(request.native), None, Conversion(detail="given as data")
        conversion = self._convert(usable)
        passed = conversion.parity == "Passed"
        original = None if passed and not request.keep_original else self._original()
        if passed:
            model = ModelFile(file="model.onnx", format="onnx", trust_class="Data")
            return model, original, conversion
        assert original is not None
        self.notes.append(f"Not converted to ONNX: {conversion.detail}. The original is served.")
        return original, None, conversion

    def _native_file(self, native: NativeSource) -> ModelFile:
        self.files[native.file] = native.data
        return ModelFile(file=native.file, format=native.model.format, trust_class="Data")

    def _convert(self, usable: Columns) -> Conversion:
        """Try ONNX; on success the scorer and the layout become those of the graph."""
        from sluice.package.convert import NotConvertibleError, to_onnx

        request = self.request
        if not request.convert:
            return Conversion(detail="conversion was switched off")
        if request.code or request.preprocess_function is not None:
            return Conversion(detail="the package carries Python code")
        if self.output.score_name == "vote":
            return Conversion(detail="the model gives labels without scores")
        try:
            graph, layout = to_onnx(request.model, self.schema)
            schema = ModelSchema(self.inputs, layout, self.task, self.output)
            converted = OnnxScorer(graph, schema, self.output)
        except NotConvertibleError as error:
            return Conversion(detail=str(error)[:1000])
        except Exception as error:
            detail = f"the conversion failed ({type(error).__name__}: {str(error)[:200]})"
            return Conversion(parity="Failed", detail=detail)
        nullable = {s.name for s in self.inputs if s.nullable}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            verdict = judge(self.scorer, converted, usable, schema, nullable=nullable)
        if verdict.parity == "Passed":
            self.files["model.onnx"] = graph
            self.layout, self.scorer = layout, converted
        return verdict

    def _original(self) -> ModelFile:
        request = self.request
        if request.original is not None and request.original_format is not None:
            self.files["model.skops"] = request.original
            return ModelFile(file="model.skops", format="skops", trust_class="Restricted")
        data = request.original if request.original is not None else _dump(request.model)
        kind: Format = "joblib" if _is_joblib(data) else "pickle"
        file = "model.joblib" if kind == "joblib" else "model.pkl"
        self.files[file] = data
        for path, source in request.code.items():
            self.files[path] = source
        return ModelFile(file=file, format=kind, trust_class="Code")

    # what it is judged by

    def _add_profile(self) -> None:
        columns, truth, source = self.columns, self.request.truth, "examples"
        scored, outcomes = self._answerable(columns, truth)
        if self.request.holdout is not None:
            scored, outcomes = self._answerable(self._held_out(), self.request.holdout[1])
            source = "holdout"
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                result = answer(self.scorer.raw(scored), self.output)
        except Exception as error:
            raise _unusable(f"The model does not answer the {source}", error) from None
        profile = make_profile(self.inputs, columns, result, outcomes, self.output, source=source)
        self.files[PROFILE_NAME] = canonical_json(profile)

    def _held_out(self) -> Columns:
        """The holdout's columns, which must be those of the examples."""
        assert self.request.holdout is not None
        names = [s.name for s in self.inputs]
        frame = as_frame(self.request.holdout[0], names)
        absent = [n for n in names if n not in frame.columns]
        if absent:
            raise InvalidInputError(
                f"The holdout lacks the column(s) {', '.join(map(repr, absent[:5]))}.",
                hint="It needs the columns of the examples.",
            )
        if self.request.native is not None:
            frame = plain_categories(frame)
        kinds, columns = describe(frame[names])
        for mine, theirs in zip(self.inputs, kinds, strict=True):
            if (mine.type == "string") != (theirs.type == "string"):
                raise InvalidInputError(
                    f"Column {mine.name!r} is {mine.type} in the examples and {theirs.type} in the "
                    "holdout.",
                    hint="Make them the same type.",
                )
        return columns

    def _answerable(
        self, columns: Columns, truth: Any
    ) -> tuple[Columns, np.ndarray[Any, Any] | None]:
        """Rows without a value that the model refuses to miss, at most 20,000, with their truth."""
        strict = {s.name: columns[s.name] for s in self.inputs if s.name not in self.accepted}
        ok = ~missing_rows(strict) if strict else np.ones(count(columns), dtype=bool)
        rows = np.flatnonzero(ok)
        rows = rows[spread(len(rows), SCORED_ROWS)]
        if truth is None:
            return take(columns, rows), None
        outcomes = np.asarray(truth).reshape(-1)
        if len(outcomes) != count(columns):
            raise InvalidInputError(
                f"There are {count(columns)} example rows but {len(outcomes)} labels.",
                hint="X and y must belong together, row by row.",
            )
        return take(columns, rows), outcomes[rows]

    def _add_golden(self) -> None:
        if not self.request.golden:
            return
        strict = tuple(
            _replace(s, nullable=s.nullable and s.name in self.accepted) for s in self.inputs
        )
        schema = ModelSchema(strict, self.layout, self.task, self.output)
        examples = make_golden(self.scorer, self.columns, schema, self.request.golden)
        if examples:
            self.files[GOLDEN_NAME] = canonical_json(examples)


def _check_name(name: str) -> None:
    if not re.match(NAME, name):
        raise InvalidInputError(
            f"The name {name!r} is not made of at most 64 letters, digits, '-', '.' and '_'.",
            hint="For example name='flights'.",
        )


def _names(model: Any) -> list[str] | None:
    names = getattr(model, "feature_names_in_", None)
    return [str(n) for n in names] if names is not None else None


def _column_names(request: Request) -> list[str] | None:
    """The names of an array's columns, where the model has some."""
    native = request.native
    return [f.name for f in native.model.features] if native else _names(request.model)


def _ordered(frame: pd.DataFrame, request: Request, notes: list[str]) -> pd.DataFrame:
    """The model's own columns in its own order; others are left out and said so."""
    if request.native is not None:
        return arrange(frame, request.native.model, notes)
    wanted = _names(request.model)
    if wanted is None or request.preprocess_function is not None:
        return frame
    absent = [n for n in wanted if n not in frame.columns]
    if absent:
        raise InvalidInputError(
            f"The examples lack {len(absent)} column(s) that the model was trained on: "
            f"{', '.join(map(repr, absent[:5]))}.",
            hint="Give the columns that model.fit saw.",
        )
    extra = [n for n in frame.columns if n not in wanted]
    if extra:
        notes.append(f"Columns that the model does not use are left out: {', '.join(extra[:10])}.")
    return frame[wanted]


def _known_columns(nullable: Mapping[str, bool], frame: pd.DataFrame) -> None:
    for name in nullable:
        if name not in frame.columns:
            raise InvalidInputError(
                f"nullable names {name!r}, which is not a column of the examples.",
                hint=f"The columns are {', '.join(map(str, frame.columns[:10]))}.",
            )


def _replace(spec: Input, *, nullable: bool) -> Input:
    import msgspec

    return msgspec.structs.replace(spec, nullable=nullable)


def _dump(model: Any) -> bytes:
    import joblib

    buffer = io.BytesIO()
    try:
        joblib.dump(model, buffer, protocol=5)
    except Exception as error:
        raise PackageError(
            f"The model cannot be saved: {str(error)[:200]}.",
            hint="Functions and classes of a notebook and lambdas cannot be packaged: move them "
            "to a file features.py, import it, and pass code=['features.py'].",
            reason="NotPicklable",
        ) from None
    return buffer.getvalue()


def _is_joblib(data: bytes) -> bool:
    """By content, as it will be looked at: joblib writes a model without arrays as a pickle."""
    from sluice.package.sniff import look

    return look(data).format == "joblib"


def _entries(files: dict[str, bytes]) -> tuple[FileEntry, ...]:
    return tuple(
        FileEntry(path=path, sha256=hashlib.sha256(data).hexdigest(), size=len(data))
        for path, data in sorted(files.items())
    )


def _unusable(what: str, error: Exception) -> InvalidInputError:
    return InvalidInputError(
        f"{what}: {type(error).__name__}: {str(error).strip().partition(chr(10))[0][:300]}.",
        hint="Give examples with the columns, types and order that model.fit saw.",
    )
