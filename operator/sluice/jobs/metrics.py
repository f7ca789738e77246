"""The quality metrics.  Pure: arrays in, one number out, or ValueError with a reason for people.

Called by the quality gate.  Two labels: the positive one decides.  More labels: unweighted mean
over labels (macro), so that a rare label counts as much as a common one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

Floats = np.ndarray[Any, np.dtype[np.float64]]
Ints = np.ndarray[Any, np.dtype[np.int64]]

LOWER_IS_BETTER = frozenset({"logLoss", "rmse", "mae"})
CLASSIFICATION = frozenset({"rocAuc", "accuracy", "logLoss", "f1"})
REGRESSION = frozenset({"rmse", "mae", "r2"})

_TINY = 1e-15


@dataclass(frozen=True)
class Answers:
    """Truth and answers of the same rows.  Labels are positions in ``output.labels``."""

    truth: Ints
    predicted: Ints
    scores: Floats
    """Of the positive label (two labels) or of the predicted one."""
    by_label: Floats | None
    labels: int
    positive: int | None


def compute(metric: str, answers: Answers) -> float:
    """A classification metric."""
    return _CLASSIFICATION[metric](answers)


def compute_regression(metric: str, truth: Floats, predicted: Floats) -> float:
    """A regression metric."""
    error = predicted - truth
    if metric == "mae":
        return float(np.mean(np.abs(error)))
    if metric == "rmse":
        return float(np.sqrt(np.mean(error**2)))
    spread = float(np.sum((truth - truth.mean()) ** 2))
    if spread == 0:
        raise ValueError("r2 is undefined: every row has the same label")
    return 1.0 - float(np.sum(error**2)) / spread


def _accuracy(answers: Answers) -> float:
    return float(np.mean(answers.truth == answers.predicted))


def _roc_auc(answers: Answers) -> float:
    if answers.positive is not None:
        return auc(answers.truth == answers.positive, answers.scores)
    table = _table(answers, "rocAuc")
    present = np.unique(answers.truth)
    if len(present) < 2:
        raise ValueError("rocAuc is undefined: every row has the same label")
    return float(np.mean([auc(answers.truth == label, table[:, label]) for label in present]))


def auc(positive: np.ndarray[Any, np.dtype[np.bool_]], scores: Floats) -> float:
    """The chance that a positive row scores above a negative one; a tie counts half."""
    n_positive = int(positive.sum())
    n_negative = len(positive) - n_positive
    if n_positive == 0 or n_negative == 0:
        raise ValueError("rocAuc is undefined: every row has the same label")
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    last = np.cumsum(counts).astype(np.float64)
    ranks = (last - (counts - 1) / 2.0)[inverse]
    wins = float(ranks[positive].sum()) - n_positive * (n_positive + 1) / 2.0
    return wins / (float(n_positive) * float(n_negative))


def _log_loss(answers: Answers) -> float:
    if answers.positive is not None:
        chance = answers.scores
        right = np.where(answers.truth == answers.positive, chance, 1.0 - chance)
    else:
        table = _table(answers, "logLoss")
        chance = table
        right = table[np.arange(len(table)), answers.truth]
    if chance.size and (chance.min() < 0.0 or chance.max() > 1.0):
        raise ValueError("logLoss needs probabilities, and the scores leave 0 to 1")
    return float(-np.mean(np.log(np.clip(right, _TINY, 1.0))))


def _f1(answers: Answers) -> float:
    if answers.positive is not None:
        return _f1_of(answers, answers.positive)
    labels = np.union1d(answers.truth, answers.predicted)
    return float(np.mean([_f1_of(answers, int(label)) for label in labels]))


def _f1_of(answers: Answers, label: int) -> float:
    truth, predicted = answers.truth == label, answers.predicted == label
    both = float(np.sum(truth & predicted))
    either = float(np.sum(truth) + np.sum(predicted))
    return 2.0 * both / either if either else 0.0


def _table(answers: Answers, metric: str) -> Floats:
    if answers.by_label is None:
        raise ValueError(f"{metric} needs a score for every label, and the model gives one")
    return answers.by_label


_CLASSIFICATION: dict[str, Callable[[Answers], float]] = {
    "rocAuc": _roc_auc,
    "accuracy": _accuracy,
    "logLoss": _log_loss,
    "f1": _f1,
}
