"""What a model answers: its task, labels, positive label, threshold, and the kind of its scores.

Called by the packager; calls the ONNX reader, and the model itself.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from sluice.errors import InvalidInputError
from sluice.package.bare import infer_labels
from sluice.package.manifest import Label, Output, ScoreName, Task
from sluice.package.native.description import NativeModel
from sluice.package.onnx_file import read_onnx
from sluice.package.scoring import answer, ask_python


def python_outcome(
    model: Any, threshold: float | None, positive: Label | None
) -> tuple[Task, Output]:
    """What a fitted model answers, from what scikit-learn's conventions say of it."""
    if not hasattr(model, "predict"):
        raise InvalidInputError(
            f"A {type(model).__name__} has no predict method.",
            hint="Give a fitted scikit-learn estimator or pipeline.",
        )
    classes = getattr(model, "classes_", None)
    if classes is None:
        return "regression", Output(score_name="value")
    if isinstance(classes, list) and classes and not np.isscalar(classes[0]):
        raise InvalidInputError(
            f"The model has {len(classes)} outputs; one can be served.",
            hint="Train one model for each output.",
        )
    labels = tuple(_label(v) for v in np.asarray(classes).reshape(-1).tolist())
    if threshold is None:
        threshold, positive = _chosen_threshold(model, positive)
    if hasattr(model, "predict_proba"):
        return "classification", _classes(labels, threshold, positive, "probability")
    if hasattr(model, "decision_function"):
        return "classification", _classes(labels, threshold, positive, "decision")
    return "classification", _classes(labels, threshold, positive, "vote")


def contradictions(model: Any, rows: Any, output: Output) -> int:
    """In how many rows ``predict`` says another label than the scores lead to."""
    said = [_label(v) for v in np.asarray(model.predict(rows)).reshape(-1).tolist()]
    labels = answer(ask_python(model, rows, output), output).labels or said
    return sum(a != b for a, b in zip(said, labels, strict=True))


def _chosen_threshold(model: Any, positive: Label | None) -> tuple[float | None, Label | None]:
    """The threshold that scikit-learn's threshold classifiers hold, and the label it is of."""
    while type(model).__name__ == "Pipeline":
        model = model.steps[-1][1]
    if type(model).__name__ == "TunedThresholdClassifierCV":
        chosen, label = model.best_threshold_, model._curve_scorer._get_pos_label()
    elif type(model).__name__ == "FixedThresholdClassifier" and model.threshold != "auto":
        chosen, label = model.threshold, model.pos_label
    else:
        return None, positive
    if model.response_method == "decision_function" and hasattr(model, "predict_proba"):
        raise InvalidInputError(
            f"The threshold of the {type(model).__name__} is of decision values, but the model is "
            "served with its probabilities.",
            hint="Use response_method='predict_proba', or give threshold= yourself.",
        )
    if label is not None and positive is not None and str(label) != str(positive):
        raise InvalidInputError(
            f"The threshold of the {type(model).__name__} is for the label {label!r}, not for "
            f"positive={positive!r}.",
            hint="Leave positive out, or give threshold= too.",
        )
    return float(chosen), positive if label is None else _label(label)


def onnx_outcome(
    graph: bytes, threshold: float | None, positive: Label | None
) -> tuple[Task, Output]:
    """What an ONNX graph answers, from its outputs and the labels it names."""
    labels = infer_labels(read_onnx(graph))
    if labels is None:
        return "regression", Output(score_name="value")
    return "classification", _classes(labels, threshold, positive, "probability")


def native_outcome(
    model: NativeModel, threshold: float | None, positive: Label | None
) -> tuple[Task, Output]:
    """What a native model file answers; its own threshold stands where it keeps one."""
    if model.labels is None:
        return "regression", Output(score_name="value")
    limit = model.threshold if threshold is None else threshold
    return "classification", _classes(model.labels, limit, positive, model.score)


def _classes(
    labels: tuple[Label, ...],
    threshold: float | None,
    positive: Label | None,
    score: ScoreName,
) -> Output:
    usual = 0.0 if score == "decision" else 0.5
    limit = usual if threshold is None else float(threshold)
    if not np.isfinite(limit) or (score != "decision" and not 0 <= limit <= 1):
        raise InvalidInputError(
            f"The threshold {limit} is not between 0 and 1.", hint="Scores are probabilities."
        )
    if len(labels) != 2:
        if positive is not None:
            raise InvalidInputError(
                f"positive is for two labels; the model has {len(labels)}.",
                hint="Leave it out.",
            )
        return Output(labels=labels, threshold=limit, score_name=score)
    wanted = labels[1] if positive is None else _label(positive)
    matching = [v for v in labels if str(v) == str(wanted)]
    if not matching:
        raise InvalidInputError(
            f"positive={wanted!r} is not one of the model's labels {list(labels)}."
        )
    return Output(labels=labels, positive=matching[0], threshold=limit, score_name=score)


def _label(value: Any) -> Label:
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    if isinstance(value, (int, np.integer)):
        return int(value)
    if isinstance(value, (float, np.floating)) and float(value).is_integer():
        return int(value)
    return str(value)
