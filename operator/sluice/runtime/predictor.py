"""A verified package becomes a :class:`Predictor`: columns in -> scores and labels out.

Called by the server and by the jobs, so that a gate judges with the very code that serves; calls
the loader of the package's format.  How a label follows from a score is ``package.scoring``'s.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, assert_never

import numpy as np

from sluice.errors import PackageError
from sluice.package.features import Columns, columns_from_rows
from sluice.package.load import Package
from sluice.package.manifest import Manifest
from sluice.package.scoring import Answer, answer
from sluice.package.trust import refusal, requires_trust

if TYPE_CHECKING:
    from sluice.package.wheels import Unpacked


class Scorer(Protocol):
    """What a loader returns."""

    def raw(self, columns: Columns) -> np.ndarray[Any, Any]:
        """Scores: a matrix (rows x labels), or a vector of values for a regression."""


Loaded = tuple[Scorer, str]
"""A scorer and the name of the engine behind it."""


class WrongShapeError(Exception):
    """The model's answer does not have one row for each row it was given."""


class Predictor:
    """A loaded model.  ``predict`` may be called from one thread at a time."""

    def __init__(self, manifest: Manifest, scorer: Scorer, engine: str) -> None:
        self.manifest = manifest
        self.engine = engine
        self._scorer = scorer

    def predict(self, columns: Columns) -> Answer:
        """Scores and labels of some rows.  Whatever the model raises comes through."""
        rows = len(next(iter(columns.values())))
        raw = self._scorer.raw(columns)
        labels = self.manifest.output.labels
        expected = (rows,) if labels is None else (rows, len(labels))
        if raw.shape != expected:
            raise WrongShapeError(f"the model answered shape {raw.shape}, expected {expected}")
        return answer(raw, self.manifest.output)

    def predict_rows(self, rows: Sequence[Mapping[str, Any]]) -> Answer:
        """The same for rows as a client sends them; raises RowError for one that does not fit."""
        return self.predict(columns_from_rows(self.manifest.inputs, rows))


def load_predictor(
    package: Package,
    *,
    allow_code: bool,
    namespace: str | None = None,
    unpacked: Iterable[Unpacked] = (),
) -> Predictor:
    """Load the model of a verified package, with its own wheels when ``unpacked`` has them.

    Class Code (pickle, joblib, own source) executes what the file says, so it is refused unless
    ``allow_code``: in a cluster a TrustPolicy decides that, on a laptop (no ``namespace``) the
    person does.
    """
    if requires_trust(package.manifest) and not allow_code:
        refused = refusal(package.manifest, namespace=namespace or "NAMESPACE")
        if namespace is None:
            refused.hint += " On your own machine, --allow-code runs it."
        raise refused
    if package.manifest.wheels:
        from sluice.package.wheels import install

        install(package, unpacked)
    load: Callable[[Package], Loaded]
    kind = package.manifest.model.format
    if kind == "onnx":
        from sluice.runtime.loaders.onnx import load
    elif kind == "joblib" or kind == "pickle":
        from sluice.runtime.loaders.sklearn import load
    elif kind == "xgboost" or kind == "lightgbm" or kind == "catboost":
        from sluice.runtime.loaders.native import load
    elif kind == "skops":
        from sluice.runtime.loaders.skops import load
    else:  # nothing is unpickled because no other loader fits
        assert_never(kind)
    try:
        scorer, engine = load(package)
    except PackageError:
        raise
    except Exception as error:  # whatever unpickling or a graph's initialisation raises
        raise PackageError(
            f"{package.manifest.model.file} cannot be loaded: {_one_line(error)}.",
            hint="Package the model again in the environment that it will be served in.",
            reason="LoadFailed",
        ) from error
    return Predictor(package.manifest, scorer, engine)


def check_golden(predictor: Predictor, package: Package, *, tolerance: float = 1e-6) -> str | None:
    """Answer the package's golden examples; None, or the first that comes out differently."""
    examples = package.golden()
    if not examples:
        return None
    try:
        answers = predictor.predict_rows([example.row for example in examples])
    except Exception as error:
        return f"the golden examples are not answered: {_one_line(error)}"
    for index, (example, score) in enumerate(zip(examples, answers.scores.tolist(), strict=True)):
        # Written so that NaN fails.
        if not abs(score - example.score) <= tolerance * max(1.0, abs(example.score)):
            return f"golden example {index} scores {score!r}, the package says {example.score!r}"
        if answers.labels is not None and answers.labels[index] != example.label:
            return (
                f"golden example {index} is labelled {answers.labels[index]!r}, "
                f"the package says {example.label!r}"
            )
    return None


@dataclass(frozen=True, slots=True)
class WarmUp:
    """Seconds that the warmed-up model takes for one row, and for ``rows`` rows."""

    one_row: float
    batch: float
    rows: int


def warm_up(predictor: Predictor, rows: Sequence[Mapping[str, Any]]) -> WarmUp:
    """Time the model on rows that it can answer."""
    single = columns_from_rows(predictor.manifest.inputs, rows[:1])
    batch = columns_from_rows(predictor.manifest.inputs, rows)
    return WarmUp(_seconds(predictor, single, 5), _seconds(predictor, batch, 2), len(rows))


def _seconds(predictor: Predictor, columns: Columns, calls: int) -> float:
    """The best of some calls: other processes on the machine only ever add."""
    predictor.predict(columns)
    best = float("inf")
    for _ in range(calls):
        started = time.perf_counter()
        predictor.predict(columns)
        best = min(best, time.perf_counter() - started)
    return best


def _one_line(error: Exception) -> str:
    text = (str(error).strip().splitlines() or [""])[0][:300].rstrip(".")
    return f"{type(error).__name__}: {text}"
