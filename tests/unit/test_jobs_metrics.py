"""The metrics against scikit-learn's, on random answers with ties and rare labels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from sluice.jobs.metrics import Answers, auc, compute, compute_regression


def binary(seed: int, n: int, grain: int) -> Answers:
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 2, n)
    truth[:2] = [0, 1]
    scores = np.round(rng.random(n) * grain) / grain
    return Answers(truth, (scores >= 0.5).astype(np.int64), scores, None, 2, 1)


@settings(max_examples=60)
@given(st.integers(0, 10**6), st.integers(2, 400), st.sampled_from([1, 3, 1000]))
def test_two_labels(seed: int, n: int, grain: int) -> None:
    a = binary(seed, n, grain)
    assert compute("rocAuc", a) == pytest.approx(sk.roc_auc_score(a.truth, a.scores))
    assert compute("accuracy", a) == pytest.approx(sk.accuracy_score(a.truth, a.predicted))
    assert compute("f1", a) == pytest.approx(sk.f1_score(a.truth, a.predicted, zero_division=0))
    clipped = np.clip(a.scores, 1e-9, 1 - 1e-9)
    sure = Answers(a.truth, a.predicted, clipped, None, 2, 1)
    assert compute("logLoss", sure) == pytest.approx(sk.log_loss(a.truth, clipped))


@settings(max_examples=40)
@given(st.integers(0, 10**6), st.integers(12, 300))
def test_more_labels(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    truth = np.concatenate([np.arange(4), rng.integers(0, 4, n)])
    table = rng.dirichlet(np.ones(4), len(truth))
    predicted = table.argmax(axis=1)
    a = Answers(truth, predicted, table.max(axis=1), table, 4, None)
    wanted = sk.roc_auc_score(truth, table, multi_class="ovr", average="macro")
    assert compute("rocAuc", a) == pytest.approx(wanted)
    assert compute("logLoss", a) == pytest.approx(sk.log_loss(truth, table))
    assert compute("f1", a) == pytest.approx(sk.f1_score(truth, predicted, average="macro"))


@settings(max_examples=40)
@given(st.integers(0, 10**6), st.integers(2, 300))
def test_regression(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    truth, predicted = rng.normal(size=n), rng.normal(size=n)
    assert compute_regression("mae", truth, predicted) == pytest.approx(
        sk.mean_absolute_error(truth, predicted)
    )
    assert compute_regression("rmse", truth, predicted) == pytest.approx(
        sk.root_mean_squared_error(truth, predicted)
    )
    assert compute_regression("r2", truth, predicted) == pytest.approx(
        sk.r2_score(truth, predicted)
    )


def test_what_has_no_answer() -> None:
    ones = np.ones(3, dtype=np.int64)
    same = Answers(ones, ones, np.array([0.1, 0.2, 0.3]), None, 2, 1)
    with pytest.raises(ValueError, match="same label"):
        compute("rocAuc", same)
    with pytest.raises(ValueError, match="same label"):
        compute_regression("r2", np.ones(3), np.zeros(3))
    beyond = Answers(ones, ones, np.array([2.0, 0.2, 0.3]), None, 2, 1)
    with pytest.raises(ValueError, match="probabilities"):
        compute("logLoss", beyond)
    lone = Answers(ones, ones, np.array([0.1, 0.2, 0.3]), None, 3, None)
    with pytest.raises(ValueError, match="every label"):
        compute("logLoss", lone)


def test_many_ties_do_not_overflow() -> None:
    n = 200_000
    truth = np.arange(n) % 2 == 0
    assert auc(truth, np.zeros(n)) == 0.5
    assert auc(truth, truth.astype(float)) == 1.0
