"""Which inputs are named as moved: those a person would see, and no others."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sluice.jobs.gates.profiles import moved
from sluice.package.manifest import Input, Output
from sluice.package.profile import make_profile
from sluice.package.scoring import Answer

INPUTS = (
    Input(name="x", type="float", nullable=True),
    Input(name="n", type="int", nullable=True),
    Input(name="s", type="string", nullable=True),
)


def profile(
    seed: int, rows: int = 2000, *, scale: float = 1.0, missing: float = 0.0, city: str = "Oslo",
    constant: float | None = None,
) -> dict[str, Any]:  # fmt: skip
    rng = np.random.default_rng(seed)
    x = rng.normal(10, 2, rows) * scale
    x[rng.random(rows) < missing] = np.nan
    if constant is not None:
        x = np.full(rows, constant)
    s = np.array(rng.choice(["Paris", city, "Rome"], rows), dtype=object)
    columns = {"x": x, "n": rng.integers(0, 5, rows).astype(float), "s": s}
    scores = Answer(rng.random(rows), None, None)
    return make_profile(INPUTS, columns, scores, None, Output(), source="examples")


def test_the_same_data_have_not_moved() -> None:
    for seed in range(20):
        assert moved(profile(seed), profile(seed + 100)) == []
        assert moved(profile(seed, rows=60), profile(seed + 100, rows=60)) == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"scale": 1.8}, "'x' moved (0.8"),
        ({"scale": 1.2}, "'x' moved (0.3"),
        ({"missing": 0.3}, "'x' is missing in"),
        ({"city": "Bergen"}, "'s' moved (0.3"),
        ({"constant": 3.0}, "'x' moved (0.9"),
    ],
)
def test_what_moved_is_named(changes: dict[str, Any], words: str) -> None:
    (phrase,) = moved(profile(1), profile(2, **changes))
    assert words in phrase
    (back,) = moved(profile(2, **changes), profile(1))
    assert phrase.partition("'")[2][:1] == back.partition("'")[2][:1]


def test_constants_and_absence() -> None:
    assert moved(profile(1, constant=3.0), profile(2, constant=3.0)) == []
    assert moved(profile(1, constant=3.0), profile(2, constant=4.0)) != []
    assert moved(None, profile(1)) == [] and moved(profile(1), {}) == []
    empty = profile(1, missing=1.0)
    assert "'x' is missing in 100%, was 0%" in moved(profile(2), empty)[0]


@pytest.mark.parametrize(
    "odd",
    [
        {"features": []},
        {"features": {"x": None}},
        {"features": {"x": {}}},
        {"features": {"x": {"kind": "numeric", "missingShare": "x"}}},
        {"features": {"x": {"kind": "numeric", "missingShare": 0, "counts": [1], "edges": [2]}}},
        {"features": {"x": {"kind": "numeric", "missingShare": 0, "counts": ["a"], "edges": []}}},
    ],
)
def test_an_odd_profile_is_no_failure(odd: dict[str, Any]) -> None:
    assert moved(odd, profile(1)) == ["the reference profiles cannot be compared"]
    assert moved(profile(1), odd) == ["the reference profiles cannot be compared"]
