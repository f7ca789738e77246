"""One kind of model: train it, package it, and ask the package and scikit-learn the same rows.

Called by ``make parity`` and its quick test; calls ``sluice.save`` and what the runtime loads.
The comparison is not the packager's own gate: here scikit-learn is asked directly, its ``predict``
is what a label must be, and every row has its own verdict.
"""

from __future__ import annotations

import io
import time
import warnings
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
from tests.parity.kinds import Kind

import sluice
from sluice.errors import SluiceError
from sluice.package.examples import count, describe, take
from sluice.package.features import Columns, to_model_input
from sluice.package.load import open_package
from sluice.package.manifest import Manifest
from sluice.package.parity_probes import Array, blocks
from sluice.package.scoring import ModelSchema, OnnxScorer, PythonScorer, answer

TOLERANCE = 1e-9
TIE = 1e-12
OVERFLOW = 1e300
REFUSED_ALONE = 200
SEED = 20261124
FALLBACK_SHARE = 20
"""What falls back is scikit-learn itself, so it is asked a twentieth of the rows."""


@dataclass
class Result:
    """What one kind showed."""

    kind: Kind
    engine: str
    reason: str = ""
    rows: int = 0
    refused: int = 0
    seconds: float = 0.0
    largest: float = 0.0
    wrong: Counter[str] = field(default_factory=Counter)
    """Rows by what is wrong with them: label, score, refusal."""
    where: list[str] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        return not self.wrong

    def found(self, what: str, rows: int, block: str) -> None:
        if rows:
            self.wrong[what] += rows
            self.where.append(f"{what} differs in {rows} {block}")


def compare(kind: Kind, rows: int, folder: Path, alone: int = REFUSED_ALONE) -> Result:
    """Asks at least ``rows`` rows; a twentieth of them when the package serves the original.

    Of the rows without a number in a block, ``alone`` are asked one by one.
    """
    begun = time.monotonic()
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        given, outcome = kind.data()
        model = kind.make().fit(given, outcome)
        try:
            saved = sluice.save(model, given, None, folder, name="m", golden=20)
        except SluiceError as error:
            return Result(kind, "refused", str(error), seconds=time.monotonic() - begun)
        result = _asked(kind, model, given, saved.path, rows, alone)
    result.seconds = time.monotonic() - begun
    return result


def _asked(kind: Kind, model: Any, given: Any, path: Path, rows: int, alone: int) -> Result:
    opened = open_package(path)
    manifest = opened.manifest
    if manifest.model.format == "onnx":
        result = Result(kind, "ONNX")
        served: Any = OnnxScorer(opened.model_bytes, manifest, manifest.output)
    else:
        result = Result(kind, "scikit-learn", manifest.conversion.detail)
        loaded = joblib.load(io.BytesIO(opened.model_bytes))
        served = PythonScorer(loaded, manifest, manifest.output)
        rows //= FALLBACK_SHARE
    pair = _Pair(model, isinstance(given, pd.DataFrame), served, manifest, result, alone)
    columns = _columns(given)
    random = np.random.default_rng(SEED)
    base = take(columns, random.integers(0, count(columns), rows // 4 + 1))
    nullable = {s.name for s in manifest.inputs if s.nullable}
    for name, block in blocks(base, manifest.inputs, nullable, pair.served_raw, SEED):
        pair.compare(name, block)
    return result


def _columns(given: Any) -> Columns:
    if isinstance(given, pd.DataFrame):
        return describe(given)[1]
    return {f"x{i}": given[:, i] for i in range(given.shape[1])}


@dataclass
class _Pair:
    """scikit-learn's model and the package that is served in its place."""

    model: Any
    named: bool
    served: Any
    manifest: Manifest
    result: Result
    alone: int

    def compare(self, name: str, block: Columns) -> None:
        """Every row of the block has the same label and score, or a number from neither."""
        got = self._served_numbers(block)
        numbers = np.isfinite(got).all(axis=1)
        want = self._wanted(block)
        if want is None:
            self._compare_silent(name, take(block, np.flatnonzero(~numbers)))
            block, got = take(block, np.flatnonzero(numbers)), got[numbers]
            want, kept = self._wanted_of_each(block)
            self.result.found("refusal", int((~kept).sum()), name)
            block, got = take(block, np.flatnonzero(kept)), got[kept]
        self._compare_numbers(name, want, got)

    def _compare_silent(self, name: str, block: Columns) -> None:
        """Rows without a number from the package: scikit-learn refuses them, each alone."""
        rows = count(block)
        chosen = np.unique(np.linspace(0, rows - 1, min(rows, self.alone)).astype(int))
        asked = [self._wanted(take(block, np.array([row]))) for row in chosen if rows]
        answered = sum(w is not None and bool(np.isfinite(w[0]).all()) for w in asked)
        self.result.refused += rows
        self.result.rows += rows
        self.result.found("refusal", answered, name)

    def _compare_numbers(self, name: str, want: tuple[Array, Array | None], got: Array) -> None:
        scores, labels = want
        self.result.rows += len(got)
        size = np.abs(scores).max(axis=1)
        keep, kept = np.isfinite(scores).all(axis=1), np.isfinite(got).all(axis=1)
        relative = self.manifest.output.score_name != "probability"
        if relative:
            keep, kept = keep & (size <= OVERFLOW), kept & (np.abs(got).max(axis=1) <= OVERFLOW)
        self.result.found("refusal", int((keep != kept).sum()), name)
        both = keep & kept
        self.result.refused += int((~keep).sum())
        difference = np.abs(scores - got)[both].max(axis=1, initial=0.0)
        if relative:
            difference = difference / np.maximum(1.0, size[both])
        self.result.largest = max(self.result.largest, float(difference.max(initial=0.0)))
        self.result.found("score", int((difference > TOLERANCE).sum()), name)
        if labels is not None:
            self._compare_labels(name, scores[both], labels[both], got[both])

    def _compare_labels(self, name: str, scores: Array, labels: Array, got: Array) -> None:
        output = self.manifest.output
        ours, theirs = answer(got, output).labels, answer(scores, output).labels
        assert ours is not None and theirs is not None
        wrong = sum(a != b for a, b in zip(ours, theirs, strict=True))
        self.result.found("label", wrong, name)
        if self.result.kind.contradicts_itself:
            return
        said = [str(v) for v in labels.tolist()]
        clear = ~self._tied(scores)
        other = sum(str(a) != b and c for a, b, c in zip(ours, said, clear.tolist(), strict=True))
        self.result.found("predict()", other, name)

    def _tied(self, scores: Array) -> Array:
        """Rows where scikit-learn's own scores leave the label open."""
        if len(self.manifest.output.labels or ()) == 2:
            return np.asarray(np.abs(scores[:, 1] - self.manifest.output.threshold) < TIE)
        best = np.sort(scores, axis=1)
        return np.asarray(best[:, -1] - best[:, -2] < TIE * np.maximum(1, np.abs(best[:, -1])))

    def served_raw(self, block: Columns) -> Array | None:
        try:
            return np.asarray(self.served.raw(block))
        except Exception:
            return None

    def _served_numbers(self, block: Columns) -> Array:
        """Scores; NaN in a row for which the package raises."""
        raw = self.served_raw(block)
        if raw is not None:
            return np.asarray(raw).reshape(count(block), -1)
        if count(block) == 1:
            return np.full((1, len(self.manifest.output.labels or (0,))), np.nan)
        halves = np.array_split(np.arange(count(block)), 2)
        return np.vstack([self._served_numbers(take(block, half)) for half in halves])

    def _wanted(self, block: Columns) -> tuple[Array, Array | None] | None:
        """Scores and labels of scikit-learn; None when it raises."""
        layout: Any = "Columns" if self.named else "Matrix"
        schema = ModelSchema(self.manifest.inputs, layout, self.manifest.task, self.manifest.output)
        rows = to_model_input(block, schema)
        try:
            said = np.asarray(self.model.predict(rows)).reshape(count(block))
            return self._scores(rows, said), said if self.manifest.output.labels else None
        except ValueError:
            return None

    def _scores(self, rows: Any, said: Array) -> Array:
        kind = self.manifest.output.score_name
        if kind == "probability":
            return np.asarray(self.model.predict_proba(rows))
        if kind == "decision":
            decision = np.asarray(self.model.decision_function(rows))
            return np.column_stack([-decision, decision]) if decision.ndim == 1 else decision
        if kind == "vote":
            labels = self.manifest.output.labels or ()
            return np.array([[float(str(v) == str(label)) for label in labels] for v in said])
        return said.astype(float).reshape(-1, 1)

    def _wanted_of_each(self, block: Columns) -> tuple[tuple[Array, Array | None], Array]:
        """Scores and labels of the rows that scikit-learn answers, and which rows those are."""
        want = self._wanted(block) if count(block) else None
        if want is not None:
            return want, np.ones(count(block), dtype=bool)
        labels = self.manifest.output.labels
        if count(block) <= 1:
            nothing = np.empty((0, len(labels or (0,)))), np.empty(0) if labels else None
            return nothing, np.zeros(count(block), dtype=bool)
        parts = [
            self._wanted_of_each(take(block, half))
            for half in np.array_split(np.arange(count(block)), 2)
        ]
        scores = np.vstack([want[0] for want, _ in parts])
        said = [want[1] for want, _ in parts if want[1] is not None]
        return (scores, np.concatenate(said) if labels else None), np.concatenate(
            [kept for _, kept in parts]
        )
