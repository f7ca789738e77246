"""The gate between a converted model and scikit-learn, at the values where the two could part."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pandas as pd
import pytest
from sklearn.ensemble import BaggingClassifier, RandomForestClassifier
from sklearn.feature_selection import SelectKBest
from sklearn.linear_model import LogisticRegression, Ridge, SGDClassifier
from sklearn.model_selection import FixedThresholdClassifier, TunedThresholdClassifierCV
from sklearn.neighbors import NearestCentroid
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, MinMaxScaler, StandardScaler
from sklearn.tree import DecisionTreeClassifier
from tests.parity import compare as parity
from tests.parity.kinds import KINDS

import sluice
from sluice.errors import InvalidInputError
from sluice.package.features import MISSING_TEXT, to_model_input, to_onnx_feeds
from sluice.package.load import open_package
from sluice.package.manifest import Input, Output
from sluice.package.onnx_refusals import Refusals
from sluice.package.parity import _DifferenceError, _same
from sluice.package.parity_probes import FLOATS, blocks
from sluice.package.scoring import ModelSchema, OnnxScorer, answer

ROWS = 240
OUTPUT = Output(labels=(0, 1), positive=1, threshold=0.5, score_name="probability")


def numbers() -> pd.DataFrame:
    return pd.DataFrame(np.random.default_rng(5).uniform(1, 2, (ROWS, 3)), columns=list("abc"))


def two() -> np.ndarray:
    return (numbers().a + numbers().b > 3).astype(int).to_numpy()


def packaged(model: Any, folder: Path, frame: pd.DataFrame | None = None) -> Any:
    frame = numbers() if frame is None else frame
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return sluice.save(model, frame, None, folder / "p")


def scorer(saved: Any) -> OnnxScorer:
    opened = open_package(saved.path)
    return OnnxScorer(opened.model_bytes, opened.manifest, opened.manifest.output)


def logarithms() -> Any:
    return make_pipeline(FunctionTransformer(np.log), StandardScaler(), LogisticRegression())


def clipped() -> Any:
    return make_pipeline(MinMaxScaler(clip=True), LogisticRegression())


def chosen() -> Any:
    return make_pipeline(SelectKBest(k=1), LogisticRegression())


def forest() -> Any:
    return RandomForestClassifier(5, random_state=0)


@pytest.mark.parametrize(
    ("make", "refused"),
    [
        (logarithms, [0.0, -0.0, -1.0, np.inf, -np.inf, np.nan]),
        (clipped, [np.inf, -np.inf, np.nan]),
        (chosen, [np.inf, -np.inf, np.nan]),
        (forest, [3.5e38, -1e300, np.inf]),
        (lambda: make_pipeline(StandardScaler(), LogisticRegression()), [np.inf, 1e308, np.nan]),
        (lambda: make_pipeline(StandardScaler(), Ridge()), [np.inf, -1e308]),
    ],
)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy says it too, before the refusal
def test_what_scikit_learn_refuses_gets_no_number(
    make: Any, refused: list[float], tmp_path: Path
) -> None:
    """The trap: an infinite decision is a sure label, and a tree finds a leaf for everything."""
    model = make().fit(numbers(), two())
    saved = packaged(model, tmp_path)
    assert saved.manifest.conversion.parity == "Passed", saved.manifest.conversion.detail
    served = scorer(saved)
    for column in "abc":
        rows = pd.DataFrame(np.full((len(refused), 3), 1.5), columns=list("abc"))
        rows[column] = refused
        for i in range(len(rows)):
            with pytest.raises(ValueError, match=r"contains|too large"):
                model.predict(rows.iloc[i : i + 1])
        given = {name: rows[name].to_numpy() for name in rows}
        assert not np.isfinite(served.raw(given)).any()
        assert np.isfinite(served.raw({name: np.array([1.5]) for name in "abc"})).all()


@pytest.mark.parametrize("make", [logarithms, clipped, chosen, forest])
def test_the_gate_refuses_a_graph_that_answers_too_much(
    make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Refusals, "needed", lambda self: [])
    saved = packaged(make().fit(numbers(), two()), tmp_path)
    assert saved.manifest.model.format == "joblib"
    assert "which the original refuses" in saved.manifest.conversion.detail


def test_a_step_that_passes_refused_values_on_costs_nothing(tmp_path: Path) -> None:
    model = make_pipeline(StandardScaler(), MinMaxScaler(), LogisticRegression())
    saved = packaged(model.fit(numbers(), two()), tmp_path)
    graph = onnx.load_from_string(open_package(saved.path).model_bytes).graph
    kinds = [node.op_type for node in graph.node]
    assert (kinds.count("MatMul"), kinds.count("IsInf")) == (2, 0)


def test_refusals_imply_each_other_only_along_values_that_stay() -> None:
    asked = Refusals()
    asked.ask("a", 1, missing=False)
    asked.ask("a", 1, missing=True)
    assert [(r.tensor, r.missing) for r in asked.needed()] == [("a", True)]
    asked.pass_on(["a"], "filled", missing=False)
    asked.ask("filled", 1, missing=True)
    assert [r.tensor for r in asked.needed()] == ["a", "filled"]
    asked.ask("b", 1, missing=False)
    asked.pass_on(["b"], "filled", missing=False)
    assert [r.tensor for r in asked.needed()] == ["a", "filled"]


def test_a_column_between_steps_is_bent_the_same_way_at_its_ends(tmp_path: Path) -> None:
    """Far from every label all shares are tiny, and only their ratio is left."""
    frame = numbers()
    label = np.digitize(frame.a, [1.3, 1.6])
    model = SGDClassifier(loss="log_loss", random_state=0).fit(1000 * frame, label)
    saved = packaged(model, tmp_path, 1000 * frame)
    far = {name: np.array([1e3, 3e3, 1e5]) for name in "abc"}
    want = model.predict_proba(pd.DataFrame(far))
    assert np.abs(scorer(saved).raw(far) - want).max() < 1e-9


@pytest.mark.parametrize("bagged", [False, True])
def test_ties_between_labels_stay_ties(bagged: bool, tmp_path: Path) -> None:
    """A last bit would decide them otherwise than scikit-learn."""
    label = np.digitize(numbers().a, [1.3, 1.6])
    model = RandomForestClassifier(20, max_depth=3, random_state=0)
    if bagged:
        model = BaggingClassifier(DecisionTreeClassifier(max_depth=3), 10, random_state=0)
    model.fit(numbers(), label)
    saved = packaged(model, tmp_path)
    given = {name: numbers()[name].to_numpy() for name in "abc"}
    assert np.array_equal(scorer(saved).raw(given), model.predict_proba(numbers()))


# the probes


def test_jumps_are_found_on_both_sides_to_the_last_bit() -> None:
    frame = numbers()
    tree = DecisionTreeClassifier(max_depth=1).fit(frame.to_numpy(), two())
    inputs = tuple(Input(name=n, type="float", min=1.0, max=2.0) for n in "abc")
    base = {name: frame[name].to_numpy() for name in frame}

    def ask(given: Any) -> Any:
        return tree.predict_proba(np.column_stack([given[name] for name in "abc"]))

    found = dict(blocks(base, inputs, set(), ask))["rows on both sides of a jump"]
    split = tree.tree_.feature[0]
    values = np.unique(found["abc"[split]])
    neighbours = np.diff(values) == np.spacing(values[:-1])
    left = values.astype(np.float32) <= tree.tree_.threshold[0]
    assert (left[:-1] & ~left[1:] & neighbours).sum() == 1


def test_extreme_values_hold_every_kind_of_number() -> None:
    assert np.isnan(FLOATS).any() and np.isinf(FLOATS).sum() == 2
    assert {np.finfo(float).max, np.nextafter(0.0, 1.0), float(np.finfo(np.float32).max)} <= {
        *FLOATS.tolist()
    }
    zeros = FLOATS[FLOATS == 0]
    assert np.signbit(zeros).tolist() == [False, True]


def test_a_huge_value_does_not_hide_a_difference_in_another_row() -> None:
    output = Output(score_name="value")
    schema = ModelSchema((), "Matrix", "regression", output)
    want, got = np.array([1e200, 5.0]), np.array([1e200, 5.0 + 1e-6])
    with pytest.raises(_DifferenceError, match="scores differ"):
        _same("rows", answer(want, output), answer(got, output), schema)
    _same("rows", answer(want, output), answer(want * (1 + 1e-12), output), schema)
    over = np.array([np.inf, 5.0])
    _same("rows", answer(over, output), answer(np.array([1.7e308, 5.0]), output), schema)


# what reaches the models


def test_the_text_that_stands_for_missing_can_still_be_sent() -> None:
    schema = ModelSchema((Input(name="t", type="string"),), "Columns", "regression", OUTPUT)
    given = {"t": np.array([None, MISSING_TEXT, "a", ""], dtype=object)}
    fed = to_onnx_feeds(given, schema, [("t", "tensor(string)")])["t"]
    assert fed.ravel().tolist() == [MISSING_TEXT, MISSING_TEXT * 2, "a", ""]


@pytest.mark.parametrize("value", [2.0**63, -(2.0**63), 1e300])
def test_a_whole_number_beyond_int64_stays_what_it_is(value: float) -> None:
    schema = ModelSchema((Input(name="n", type="int"),), "Columns", "regression", OUTPUT)
    assert to_model_input({"n": np.array([1.0, value])}, schema).n.tolist() == [1.0, value]
    assert to_model_input({"n": np.array([1.0])}, schema).n.dtype == np.int64


# the label


def threshold_of(model: Any, tmp_path: Path, **settings: Any) -> Output:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return sluice.save(model, numbers(), None, tmp_path / "p", **settings).manifest.output


def test_the_threshold_that_a_model_holds_is_served(tmp_path: Path) -> None:
    inner = LogisticRegression()
    tuned = TunedThresholdClassifierCV(inner, cv=3).fit(numbers(), two())
    assert threshold_of(tuned, tmp_path).threshold == tuned.best_threshold_
    fixed = FixedThresholdClassifier(inner, threshold=0.2, pos_label=0).fit(numbers(), two())
    kept = threshold_of(fixed, tmp_path / "fixed")
    assert (kept.threshold, kept.positive) == (0.2, 0)
    own = threshold_of(fixed, tmp_path / "own", threshold=0.7)
    assert (own.threshold, own.positive) == (0.7, 1)
    auto = FixedThresholdClassifier(inner).fit(numbers(), two())
    assert threshold_of(auto, tmp_path / "auto").threshold == 0.5
    inside = make_pipeline(StandardScaler(), FixedThresholdClassifier(inner, threshold=0.3))
    assert threshold_of(inside.fit(numbers(), two()), tmp_path / "in").threshold == 0.3


def test_a_threshold_that_cannot_be_kept_is_refused(tmp_path: Path) -> None:
    decided = FixedThresholdClassifier(
        LogisticRegression(), threshold=1.0, response_method="decision_function"
    ).fit(numbers(), two())
    with pytest.raises(InvalidInputError, match="decision values"):
        threshold_of(decided, tmp_path)
    other = FixedThresholdClassifier(LogisticRegression(), threshold=0.2, pos_label=0)
    with pytest.raises(InvalidInputError, match="for the label 0"):
        threshold_of(other.fit(numbers(), two()), tmp_path, positive=1)


def test_a_model_that_contradicts_itself_is_pointed_out(tmp_path: Path) -> None:
    frame = numbers()
    model = NearestCentroid().fit(frame * [1, 10, 100], two())
    saved = packaged(model, tmp_path, frame * [1, 10, 100])
    assert any("predict gives another label" in note for note in saved.notes)


# `make parity` itself


@pytest.mark.parametrize("flaw", ["label", "score", "refusal", "silence"])
def test_make_parity_finds_every_kind_of_difference(
    flaw: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = OnnxScorer.raw

    def flawed(self: OnnxScorer, given: Any) -> Any:
        scores = exact(self, given)
        if flaw == "label":
            return np.where(np.abs(scores - 0.5) < 0.1, 1 - scores, scores)
        if flaw == "score":
            return scores + 1e-8
        if flaw == "refusal":
            return np.nan_to_num(scores)
        return np.where(np.abs(next(iter(given.values()))) > 1e100, np.nan, scores.T).T

    kind = next(k for k in KINDS if k.name == "LogisticRegression, two labels")
    assert parity.compare(kind, 400, tmp_path / "exact", alone=4).holds
    monkeypatch.setattr(parity.OnnxScorer, "raw", flawed)
    monkeypatch.setattr("sluice.package.build.judge", _passed)
    result = parity.compare(kind, 400, tmp_path / "flawed", alone=400)
    assert not result.holds and ("refusal" if flaw == "silence" else flaw) in result.wrong


def _passed(*_: Any, **__: Any) -> Any:
    from sluice.package.manifest import Conversion

    return Conversion(parity="Passed", detail="not asked")
