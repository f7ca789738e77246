"""Right often enough, on rows with known labels, and not much worse than stable on the same rows.

Every row counts, those with missing values too: what the schema or the model cannot take here it
could not take from a user either.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sluice.jobs import metrics
from sluice.jobs.dataset import Dataset
from sluice.jobs.gates.bench import Bench, CannotJudgeError, GateFailedError, Row, first_line
from sluice.package.features import RowError
from sluice.package.load import Package
from sluice.package.manifest import Label, Manifest
from sluice.package.scoring import Answer
from sluice.runtime.predictor import Predictor


@dataclass
class _Scored:
    """A model's answers to some rows; those it could not answer are named by cause."""

    scores: np.ndarray[Any, Any]
    labels: list[Label | None]
    by_label: np.ndarray[Any, Any] | None
    answered: np.ndarray[Any, Any]
    causes: Counter[str] = field(default_factory=Counter)


def run(bench: Bench) -> str:
    gate = bench.gates["quality"]
    label = str(gate.get("dataset", {}).get("label", "label"))
    compared = bench.stable if any("maxDropVsStable" in c for c in gate["checks"]) else None
    data = _open(bench, compared, label)
    truth: list[Any] = []
    ours: list[_Scored] = []
    theirs: list[_Scored] = []
    for batch in data:  # one piece at a time: the memory does not grow with the file
        truth += batch.truth
        ours += _score(bench.predictor, batch.rows)
        theirs += _score(bench.stable_predictor, batch.rows) if compared else []
    if not truth:
        raise CannotJudgeError(
            "The dataset has no row with a label.",
            hint=f"Check column {label!r}.",
            reason="DatasetUnreadable",
        )
    candidate, stable = _joined(ours), _joined(theirs) if compared else None
    keep = _common(candidate, stable)
    results = [_check(bench, check, truth, candidate, stable, keep) for check in gate["checks"]]
    results.sort(key=lambda result: result[0])  # what failed comes first
    numbers = "; ".join(text for _, text in results) + f" on {_counted(data, keep)}"
    if not all(passed for passed, _ in results):
        raise GateFailedError(numbers)
    return numbers


def _open(bench: Bench, compared: Package | None, label: str) -> Dataset:
    if bench.dataset is None:
        raise CannotJudgeError(
            "The quality gate needs its dataset.",
            hint="Fetch it with `sluice fetch URI --data --to FILE` and give --dataset FILE.",
            reason="DatasetUnreadable",
        )
    # Stable may take columns that the candidate does not; each model picks what it knows.
    inputs = [*bench.manifest.inputs, *(compared.manifest.inputs if compared else ())]
    return Dataset(bench.dataset, inputs, label, bench.max_rows)


def _score(predictor: Predictor, rows: list[Row]) -> list[_Scored]:
    if not rows:
        return []
    try:
        return [_from_prediction(predictor.predict_rows(rows))]
    except MemoryError:
        raise
    except Exception:
        # Some row of them is the cause: ask one by one, so that it is named and counted.
        return [_single(predictor, row) for row in rows]


def _joined(parts: list[_Scored]) -> _Scored:
    causes: Counter[str] = Counter()
    for part in parts:
        causes += part.causes
    return _Scored(
        np.concatenate([p.scores for p in parts]),
        [label for p in parts for label in p.labels],
        _stack([p.by_label for p in parts if p.answered.any()], parts),
        np.concatenate([p.answered for p in parts]),
        causes,
    )


def _from_prediction(prediction: Answer) -> _Scored:
    size = len(prediction.scores)
    labels: list[Label | None] = [None] * size
    if prediction.labels is not None:
        labels = [*prediction.labels]
    finite = prediction.finite
    causes = Counter({"the score is not a finite number": int((~finite).sum())})
    return _Scored(prediction.scores, labels, prediction.matrix, finite, +causes)


def _single(predictor: Predictor, row: Row) -> _Scored:
    try:
        return _from_prediction(predictor.predict_rows([row]))
    except RowError as error:
        cause = f"field {error.field!r}: expected {error.expected}, got {error.got}"
    except MemoryError:
        raise
    except Exception as error:
        cause = f"it raises {first_line(error)}"
    return _Scored(np.full(1, np.nan), [None], None, np.zeros(1, dtype=bool), Counter([cause]))


def _stack(tables: list[Any], parts: list[_Scored]) -> np.ndarray[Any, Any] | None:
    if not tables or any(table is None for table in tables):
        return None
    width = tables[0].shape[1]
    return np.concatenate(
        [
            p.by_label if p.by_label is not None else np.full((len(p.scores), width), np.nan)
            for p in parts
        ]
    )


def _common(candidate: _Scored, stable: _Scored | None) -> np.ndarray[Any, Any]:
    """The rows to judge on; fails when the candidate cannot answer rows that count."""
    refused = ~candidate.answered
    if stable is not None:
        # What stable cannot answer either is no difference between the two.
        refused &= stable.answered
    if refused.any():
        cause, _ = candidate.causes.most_common(1)[0]
        beside = " that stable answers" if stable is not None else ""
        raise GateFailedError(
            f"{int(refused.sum()):,} of {len(refused):,} rows{beside} are not answered; "
            f"most often: {cause}"
        )
    keep = candidate.answered if stable is None else candidate.answered & stable.answered
    if not keep.any():
        raise CannotJudgeError(
            "No row of the dataset is answered by both models.",
            hint="Check the dataset's columns.",
            reason="DatasetUnreadable",
        )
    return keep


def _check(
    bench: Bench,
    check: dict[str, Any],
    truth: list[Any],
    candidate: _Scored,
    stable: _Scored | None,
    keep: np.ndarray[Any, Any],
) -> tuple[bool, str]:
    metric = str(check["metric"])
    value = _value(bench.manifest, metric, truth, candidate, keep)
    passed, parts = True, []
    if check.get("min") is not None:
        passed &= value >= check["min"]
        parts.append(f"{'at least' if value >= check['min'] else 'below'} {check['min']:g}")
    if check.get("max") is not None:
        passed &= value <= check["max"]
        parts.append(f"{'at most' if value <= check['max'] else 'above'} {check['max']:g}")
    allowed = check.get("maxDropVsStable")
    if allowed is not None and stable is not None:
        assert bench.stable is not None
        before = _value(bench.stable.manifest, metric, truth, stable, keep)
        drop = value - before if metric in metrics.LOWER_IS_BETTER else before - value
        passed &= drop <= allowed
        parts.append(_drop(before, drop, allowed))
    elif allowed is not None:
        parts.append("no stable to compare with")
    return passed, f"{metric} {value:.4g}" + (f" ({', '.join(parts)})" if parts else "")


def _drop(before: float, drop: float, allowed: float) -> str:
    how = "worse" if drop > 0 else "better"
    size = f"{abs(drop):.3g} {how}" if drop else "equal"
    limit = f"{'more than' if drop > allowed else 'allowed'} {allowed:g}"
    return f"stable {before:.4g}: {size}, {limit}"


def _value(
    manifest: Manifest, metric: str, truth: list[Any], scored: _Scored, keep: np.ndarray[Any, Any]
) -> float:
    fits = metrics.REGRESSION if manifest.task == "regression" else metrics.CLASSIFICATION
    if metric not in fits:
        raise CannotJudgeError(
            f"{metric} is not a metric of a {manifest.task}.",
            hint=f"Use one of {', '.join(sorted(fits))}.",
            reason="InvalidGates",
        )
    kept = [value for value, use in zip(truth, keep.tolist(), strict=True) if use]
    try:
        if manifest.task == "regression":
            numbers = np.array([float(value) for value in kept])
            return metrics.compute_regression(metric, numbers, scored.scores[keep])
        return metrics.compute(metric, _answers(manifest, kept, scored, keep))
    except (ValueError, TypeError) as error:
        raise CannotJudgeError(
            f"{metric} cannot be computed: {error}.",
            hint="Check the label column and the metric.",
            reason="DatasetUnreadable",
        ) from error


def _answers(
    manifest: Manifest, truth: list[Any], scored: _Scored, keep: np.ndarray[Any, Any]
) -> metrics.Answers:
    labels = manifest.output.labels or ()
    places = {_canonical(label): index for index, label in enumerate(labels)}
    unknown = Counter(str(v)[:40] for v in truth if _canonical(v) not in places)
    if unknown:
        value, count = unknown.most_common(1)[0]
        known = ", ".join(map(str, labels[:8]))
        raise ValueError(f"{count:,} rows have the label {value!r}, the model knows {known}")
    predicted = [label for label, use in zip(scored.labels, keep.tolist(), strict=True) if use]
    positive = places[_canonical(manifest.output.positive)] if manifest.binary else None
    return metrics.Answers(
        np.array([places[_canonical(v)] for v in truth], dtype=np.int64),
        np.array([places[_canonical(v)] for v in predicted], dtype=np.int64),
        scored.scores[keep],
        None if scored.by_label is None else scored.by_label[keep],
        len(labels),
        positive,
    )


def _canonical(value: Any) -> str:
    """Labels as files hold them: 1, 1.0, true and "1" may all mean the same one."""
    if isinstance(value, bool | np.bool_):
        return str(int(value))
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    text = str(value)
    return {"true": "1", "false": "0"}.get(text.lower(), text)


def _counted(data: Dataset, keep: np.ndarray[Any, Any]) -> str:
    judged = int(keep.sum())
    text = f"{judged:,} rows"
    if data.more:
        text = f"the first {text}"
    if judged < len(keep):
        text += f" ({len(keep) - judged:,} that neither model answers left out)"
    if data.unlabelled:
        text += f" ({data.unlabelled:,} without a label left out)"
    return text
