"""What the gates work on: the candidate, stable, and rows to ask them.

Called by every gate.  Models are loaded when first asked for, by the code that serves them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sluice.errors import PackageError, SluiceError
from sluice.package.load import Package, open_package
from sluice.package.manifest import Input, Manifest
from sluice.package.scoring import Answer
from sluice.package.trust import requires_trust
from sluice.package.wheels import Unpacked
from sluice.runtime.predictor import Predictor, load_predictor

Row = dict[str, Any]


class GateFailedError(Exception):
    """The candidate does not pass; the message is the gate's one sentence."""


class CannotJudgeError(SluiceError):
    """The gate cannot be run for a reason that is not the candidate's."""

    reason = "CannotJudge"


@dataclass
class Bench:
    """One validation's subjects."""

    candidate_path: Path
    stable_path: Path | None = None
    allow_code: bool = False
    gates: dict[str, dict[str, Any]] = field(default_factory=dict)
    dataset: Path | None = None
    max_rows: int = 100_000
    unpacked: Sequence[Unpacked] = ()
    """The wheels of the candidate and of stable, of those that bring some."""
    admit_code: Callable[[], None] = lambda: None
    """Raises CannotJudgeError where code must not run, whoever allowed it."""
    _candidate: Package | None = None
    _predictor: Predictor | None = None
    _stable: Package | None = None
    _stable_predictor: Predictor | None = None

    @property
    def candidate(self) -> Package:
        """The candidate's package, verified.  Raises PackageError."""
        if self._candidate is None:
            self._candidate = open_package(self.candidate_path)
        return self._candidate

    @property
    def manifest(self) -> Manifest:
        """The candidate's manifest."""
        return self.candidate.manifest

    @property
    def predictor(self) -> Predictor:
        """The candidate's model, loaded."""
        if self._predictor is None:
            self._admit(self.manifest)
            self._predictor = self._load(self.candidate)
        return self._predictor

    @property
    def opened(self) -> bool:
        """Whether the candidate's package has been verified."""
        return self._candidate is not None

    @property
    def loaded(self) -> bool:
        """Whether the candidate's model has been loaded."""
        return self._predictor is not None

    @property
    def stable(self) -> Package | None:
        """Stable's package, verified; None for a first revision.

        Its environment is checked only before it is loaded: comparing schemas needs no library.
        """
        if self._stable is None and self.stable_path is not None:
            try:
                self._stable = open_package(self.stable_path, check_environment=False)
            except PackageError as error:
                raise CannotJudgeError(
                    f"The stable package cannot be read: {error.message}",
                    hint="Fetch it again, or validate without --stable.",
                    reason="StableUnavailable",
                ) from error
        return self._stable

    @property
    def stable_predictor(self) -> Predictor:
        """Stable's model, loaded."""
        if self._stable_predictor is None:
            stable = self.stable
            assert stable is not None, "asked for stable where there is none"
            self._admit(stable.manifest)
            self._stable_predictor = self._load_stable(stable)
        return self._stable_predictor

    def _load(self, package: Package) -> Predictor:
        return load_predictor(package, allow_code=self.allow_code, unpacked=self.unpacked)

    def _load_stable(self, stable: Package) -> Predictor:
        from sluice.package.environment import check_environment

        try:
            check_environment(stable.manifest)
            return self._load(stable)
        except Exception as error:
            raise CannotJudgeError(
                f"The stable model cannot be loaded beside the candidate: {first_line(error)}",
                hint="Use an image that satisfies both, or checks without maxDropVsStable.",
                reason="StableUnavailable",
            ) from error

    def _admit(self, manifest: Manifest) -> None:
        if self.allow_code and requires_trust(manifest):
            self.admit_code()

    def rows(self) -> list[Row]:
        """Golden rows, or one made up from the schema when the package has none."""
        golden = [dict(example.row) for example in self.candidate.golden()]
        return golden or [example_row(self.manifest)]


def example_row(manifest: Manifest) -> Row:
    """A row that the schema calls valid."""
    return {spec.name: _example(spec) for spec in manifest.inputs}


def _example(spec: Input) -> Any:
    if spec.type == "string":
        return spec.categories[0] if spec.categories else ""
    if spec.type == "bool":
        return False
    low, high = spec.min if spec.min is not None else 0.0, spec.max
    middle = low if high is None else (low + high) / 2
    return round(middle) if spec.type == "int" else middle


def answer(predictor: Predictor, rows: list[Row]) -> Answer:
    """Scores of ``rows``, which must be one finite number each."""
    prediction = predictor.predict_rows(rows)
    require_finite(prediction)
    return prediction


def require_finite(prediction: Answer) -> None:
    """A score that is no number is a model error, never a label."""
    bad, rows = np.flatnonzero(~prediction.finite), len(prediction.scores)
    if len(bad):
        share = f" ({len(bad)} of {rows} rows)" if rows > 1 else ""
        score = float(prediction.scores[bad[0]])
        raise GateFailedError(f"the score of row {bad[0]} is {score}, not a finite number{share}")


def first_line(error: BaseException) -> str:
    """An exception as one sentence: its class, unless it is ours, and its first line."""
    text = " ".join((str(error).strip().splitlines() or [""])[0].split())[:300]
    if isinstance(error, SluiceError):
        return error.message
    name = type(error).__name__
    return f"{name}: {text}" if text else name
