"""Rows to columns: what is accepted, and the sentence when it is not."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from sluice.package.features import RowError, columns_from_rows, to_model_input, to_onnx_feeds
from sluice.package.manifest import Input, Output
from sluice.package.scoring import ModelSchema, answer

INPUTS = (
    Input(name="f", type="float", nullable=True),
    Input(name="i", type="int"),
    Input(name="b", type="bool"),
    Input(name="s", type="string", nullable=True),
)
GOOD = {"f": 1.5, "i": 3, "b": True, "s": "x"}


def test_rows_become_typed_columns() -> None:
    columns = columns_from_rows(INPUTS, [GOOD, {"f": None, "i": 4.0, "b": False, "s": None}])
    assert columns["f"].dtype == np.float64 and math.isnan(columns["f"][1])
    assert columns["i"].tolist() == [3.0, 4.0]
    assert columns["b"].tolist() == [1.0, 0.0]
    assert columns["s"].tolist() == ["x", None]


def test_unknown_fields_are_ignored_and_no_rows_are_fine() -> None:
    assert len(columns_from_rows(INPUTS, [{**GOOD, "later": 1}])["f"]) == 1
    assert len(columns_from_rows(INPUTS, [])["s"]) == 0


@pytest.mark.parametrize(
    ("change", "field", "says"),
    [
        ({"i": None}, "i", "a whole number (not nullable), got null"),
        ({"i": float("nan")}, "i", "not nullable"),
        ({"i": 2.5}, "i", "a whole number, got the number 2.5"),
        ({"i": "2"}, "i", "a whole number, got the string '2'"),
        ({"i": True}, "i", "a whole number, got true"),
        ({"i": 10**400}, "i", "a number a double can hold"),
        ({"f": [1]}, "f", "a number, got a list"),
        ({"f": {}}, "f", "a number, got an object"),
        ({"b": 1}, "b", "true or false, got the number 1"),
        ({"s": 1}, "s", "a string, got the number 1"),
    ],
)
def test_a_refusal_names_field_row_expected_and_got(
    change: dict[str, Any], field: str, says: str
) -> None:
    with pytest.raises(RowError) as error:
        columns_from_rows(INPUTS, [GOOD, {**GOOD, **change}])
    assert (error.value.field, error.value.row) == (field, 1)
    assert says in str(error.value)


def test_a_missing_field_is_not_a_null() -> None:
    row = {k: v for k, v in GOOD.items() if k != "f"}
    with pytest.raises(RowError, match="the field is missing"):
        columns_from_rows(INPUTS, [row])
    optional = (Input(name="f", type="float", nullable=True, required=False),)
    assert math.isnan(columns_from_rows(optional, [{}])["f"][0])


def test_a_frame_has_the_types_that_the_examples_had() -> None:
    schema = ModelSchema(INPUTS, "Columns", "regression", Output())
    frame = to_model_input(columns_from_rows(INPUTS, [GOOD]), schema)
    assert [str(t) for t in frame.dtypes[:3]] == ["float64", "int64", "bool"]
    assert frame.s.tolist() == ["x"]


def test_categories_come_back_as_categories() -> None:
    spec = Input(name="s", type="string", nullable=True, categories=("x", "y"), categorical=True)
    schema = ModelSchema((spec,), "Columns", "regression", Output())
    rows = [{"s": "y"}, {"s": None}, {"s": "unseen"}]
    column = to_model_input(columns_from_rows((spec,), rows), schema)["s"]
    assert column.cat.categories.tolist() == ["x", "y"]
    assert column.cat.codes.tolist() == [1, -1, -1]


def test_a_missing_value_is_never_cast_to_a_whole_number() -> None:
    spec = Input(name="f", type="float", nullable=True)
    schema = ModelSchema((spec,), "Columns", "regression", Output())
    columns = columns_from_rows((spec,), [{"f": None}])
    with pytest.raises(ValueError, match="missing value"):
        to_onnx_feeds(columns, schema, [("f", "tensor(int64)")])
    assert math.isnan(to_onnx_feeds(columns, schema, [("f", "tensor(double)")])["f"][0, 0])


def test_the_label_follows_from_the_score() -> None:
    output = Output(labels=("no", "yes"), positive="no", threshold=0.3)
    result = answer(np.array([[0.3, 0.7], [0.29, 0.71]]), output)
    assert result.labels == ["no", "yes"] and result.scores.tolist() == [0.3, 0.29]
    three = answer(np.array([[0.2, 0.4, 0.4]]), Output(labels=(1, 2, 3)))
    assert three.labels == [2] and three.scores.tolist() == [0.4]


def test_a_score_that_is_no_number_is_marked() -> None:
    result = answer(np.array([[np.nan, np.nan], [0.5, 0.5]]), Output(labels=(0, 1), positive=1))
    assert result.finite.tolist() == [False, True]
