"""Small models of XGBoost, LightGBM and CatBoost on one table, for the tests of their files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import catboost
import lightgbm
import numpy as np
import pandas as pd
import xgboost

ROWS = 400
PLANS = ["basic", "plus", "pro"]
Predict = Callable[[pd.DataFrame], Any]


@dataclass(frozen=True)
class Fitted:
    """A fitted model, its rows, and how its own library answers: a matrix, or a vector."""

    name: str
    model: Any
    rows: pd.DataFrame
    truth: Any
    native: Predict


def table(*, text: bool = False) -> pd.DataFrame:
    """Numbers with missing values, whole numbers, and a plan as a category (or as text)."""
    random = np.random.default_rng(5)
    frame = pd.DataFrame(random.normal(size=(ROWS, 4)), columns=["age", "income", "b", "c"])
    frame = frame.mask(random.random(frame.shape) < 0.1)
    frame["visits"] = random.integers(0, 9, ROWS)
    plan = random.choice(PLANS, ROWS)
    frame["plan"] = plan.astype(object) if text else pd.Categorical(plan, categories=PLANS)
    return frame


def two(frame: pd.DataFrame) -> Any:
    """Two labels that the table decides, nearly."""
    noise = np.random.default_rng(6).normal(size=ROWS) * 0.3
    lift = frame.plan.astype(str).map({"basic": -0.5, "plus": 0.0, "pro": 0.5})
    return ((frame.age.fillna(0) + lift + noise) > 0).astype(int).to_numpy()


def three(frame: pd.DataFrame) -> Any:
    """Three labels."""
    return (two(frame) + (frame.visits > 5)).to_numpy()


def _both(positive: Predict) -> Predict:
    return lambda rows: np.column_stack([1 - positive(rows), positive(rows)])


@cache
def models() -> dict[str, Fitted]:
    """Every kind that is served, by name."""
    made = [*_xgboost(), *_lightgbm(), *_catboost()]
    return {one.name: one for one in made}


def _xgboost() -> list[Fitted]:
    frame = table()
    numbers = frame.drop(columns="plan")
    small = {"n_estimators": 8, "n_jobs": 1, "max_depth": 4}
    binary = xgboost.XGBClassifier(enable_categorical=True, **small).fit(frame, two(frame))
    several = xgboost.XGBClassifier(**small).fit(numbers, three(frame))
    value = xgboost.XGBRegressor(**small).fit(numbers, frame.visits)
    dart = xgboost.XGBClassifier(booster="dart", rate_drop=0.2, **small).fit(numbers, two(frame))
    forest = xgboost.XGBRFClassifier(**small).fit(numbers, two(frame))
    stopped = xgboost.XGBClassifier(early_stopping_rounds=1, **small | {"n_estimators": 60})
    stopped.fit(numbers[:200], two(frame)[:200], verbose=False,
                eval_set=[(numbers[200:], two(frame)[200:])])  # fmt: skip
    assert stopped.best_iteration < 50
    pruned = xgboost.XGBClassifier(tree_method="exact", gamma=1.0, **small)
    pruned.fit(numbers, two(frame))
    ranker = xgboost.XGBRanker(**small).fit(numbers, two(frame), qid=np.arange(ROWS) // 10)
    data = xgboost.DMatrix(numbers, three(frame))
    booster = xgboost.train(
        {"objective": "binary:logistic"}, xgboost.DMatrix(numbers, two(frame)), 8
    )
    maximum = xgboost.train({"objective": "multi:softmax", "num_class": 3}, data, 8)

    def votes(rows: pd.DataFrame) -> Any:
        return np.eye(3)[maximum.inplace_predict(rows).astype(int)]

    def probability(rows: pd.DataFrame) -> Any:
        return booster.inplace_predict(rows)

    return [
        Fitted("XGBClassifier", binary, frame, two(frame), binary.predict_proba),
        Fitted("XGBClassifier of three", several, numbers, three(frame), several.predict_proba),
        Fitted("XGBRegressor", value, numbers, frame.visits, value.predict),
        Fitted("XGBClassifier by dart", dart, numbers, two(frame), dart.predict_proba),
        Fitted("XGBRFClassifier", forest, numbers, two(frame), forest.predict_proba),
        Fitted("XGBClassifier stopped early", stopped, numbers, None, stopped.predict_proba),
        Fitted("XGBClassifier pruned", pruned, numbers, two(frame), pruned.predict_proba),
        Fitted("XGBRanker", ranker, numbers, None, ranker.predict),
        Fitted("xgboost.Booster", booster, numbers, two(frame), _both(probability)),
        Fitted("xgboost.Booster of softmax", maximum, numbers, three(frame), votes),
    ]


def _lightgbm() -> list[Fitted]:
    frame = table()
    numbers = frame.drop(columns="plan")
    small = {"n_estimators": 8, "n_jobs": 1, "verbose": -1}
    names = np.array(["stay", "leave"])[two(frame)]
    binary = lightgbm.LGBMClassifier(**small).fit(frame, names)
    several = lightgbm.LGBMClassifier(**small).fit(numbers, three(frame))
    value = lightgbm.LGBMRegressor(**small).fit(frame, frame.visits)
    forest = lightgbm.LGBMClassifier(
        boosting_type="rf", bagging_freq=1, bagging_fraction=0.6, **small
    ).fit(numbers, two(frame))
    coded = lightgbm.LGBMClassifier(min_data_per_group=5, **small)
    coded.fit(numbers, two(frame), categorical_feature=["visits"])
    ranker = lightgbm.LGBMRanker(**small).fit(numbers, two(frame), group=[10] * (ROWS // 10))
    data = lightgbm.Dataset(numbers.rename(columns={"b": "a b"}), two(frame))
    booster = lightgbm.train({"objective": "binary", "verbose": -1}, data, 8)
    return [
        Fitted("LGBMClassifier", binary, frame, names, binary.predict_proba),
        Fitted("LGBMClassifier of three", several, numbers, three(frame), several.predict_proba),
        Fitted("LGBMRegressor", value, frame, frame.visits, value.predict),
        Fitted("LGBMClassifier by rf", forest, numbers, two(frame), forest.predict_proba),
        Fitted("LGBMClassifier of codes", coded, numbers, two(frame), coded.predict_proba),
        Fitted("LGBMRanker", ranker, numbers, None, ranker.predict),
        Fitted("lightgbm.Booster", booster, numbers.rename(columns={"b": "a b"}), two(frame),
               _both(booster.predict)),
    ]  # fmt: skip


def _catboost() -> list[Fitted]:
    frame = table(text=True)
    numbers = frame.drop(columns="plan")
    small: dict[str, Any] = {
        "iterations": 8, "verbose": 0, "thread_count": 1, "allow_writing_files": False,
    }  # fmt: skip
    names = np.array(["stay", "leave"])[two(frame)]
    binary = catboost.CatBoostClassifier(**small)
    binary.fit(frame, names, cat_features=["plan", "visits"])
    several = catboost.CatBoostClassifier(**small).fit(numbers, three(frame))
    value = catboost.CatBoostRegressor(**small).fit(numbers, frame.visits)
    count = catboost.CatBoostRegressor(loss_function="Poisson", **small).fit(numbers, frame.visits)
    uneven = catboost.CatBoostClassifier(grow_policy="Lossguide", **small).fit(numbers, two(frame))
    ranker = catboost.CatBoostRanker(**small)
    ranker.fit(numbers, two(frame), group_id=np.arange(ROWS) // 10)
    return [
        Fitted("CatBoostClassifier", binary, frame, names, binary.predict_proba),
        Fitted("CatBoostClassifier of three", several, numbers, three(frame),
               several.predict_proba),
        Fitted("CatBoostRegressor", value, numbers, frame.visits, value.predict),
        Fitted("CatBoostRegressor of counts", count, numbers, frame.visits, count.predict),
        Fitted("CatBoostClassifier uneven", uneven, numbers, two(frame), uneven.predict_proba),
        Fitted("CatBoostRanker", ranker, numbers, None, ranker.predict),
    ]  # fmt: skip


def file_of(fitted: Fitted) -> bytes:
    """The model's own file, as the packager makes it."""
    from sluice.package.native.fitted import native_source

    source = native_source(fitted.model)
    assert source is not None
    return source.data
