"""Counters add up, have fixed bins and bounded size."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.evidence.counters import ServingPod, parse_counters
from sluice.package.manifest import FileEntry, Input, Manifest, ModelFile, Output
from sluice.runtime.counters import (
    LATENCY_BASE,
    LATENCY_BINS,
    LATENCY_RATIO,
    MAX_ERROR_CLASSES,
    Counters,
    Outcome,
    latency_bin,
)
from sluice.runtime.metrics import exposition
from sluice.runtime.mirror import Mirror

MANIFEST = Manifest(
    name="m",
    task="regression",
    model=ModelFile(file="m", format="onnx", trust_class="Data"),
    inputs=(
        Input(name="x", type="float", min=0.0, max=1.0, nullable=True),
        Input(name="c", type="string", categories=("a", "b"), nullable=True),
    ),
    output=Output(),
    files=(FileEntry(path="m", sha256="0" * 64, size=0),),
)
PROFILE = {
    "features": {"x": {"edges": [0.25, 0.5, 0.75]}},
    "scores": {"edges": [0.0, 1.0], "counts": [1, 2, 3]},
}


def text_column(*values: str | None) -> np.ndarray:
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


@given(st.floats(0, 1000))
def test_a_latency_is_inside_its_bin(seconds: float) -> None:
    index = latency_bin(seconds)
    assert 0 <= index < LATENCY_BINS
    slack = 1 + 1e-9
    if index < LATENCY_BINS - 1:
        assert seconds <= LATENCY_BASE * LATENCY_RATIO ** (index + 1) * slack
    if index > 0:
        assert seconds * slack >= LATENCY_BASE * LATENCY_RATIO**index


@given(st.lists(st.tuples(st.sampled_from(list(Outcome)), st.integers(-1, 499), st.booleans())))
def test_requests_are_the_sum_of_their_outcomes(
    events: list[tuple[Outcome, int, bool]],
) -> None:
    counters = Counters()
    for outcome, bucket, timed in events:
        counters.finished(outcome, bucket, 0.01 if timed else None)
    document = counters.as_json()
    parts = sum(document[outcome.value] for outcome in Outcome)
    assert document["requests"] == parts == len(events)
    assert sum(document["latency"]["bins"].values()) == sum(timed for *_, timed in events)
    bucketed = [e for e in events if e[1] >= 0]
    sums = np.array(list(document["buckets"].values())).reshape(-1, 3).sum(axis=0)
    assert sums.tolist() == [
        len(bucketed),
        sum(e[0] is Outcome.CLIENT_ERROR for e in bucketed),
        sum(e[0] is Outcome.MODEL_ERROR for e in bucketed),
    ]


@given(
    st.lists(
        st.lists(st.floats(-2, 2) | st.just(float("nan")), min_size=1, max_size=100), max_size=20
    )
)
def test_drift_bins_count_every_row_once(batches: list[list[float]]) -> None:
    counters = Counters()
    counters.use_profile(MANIFEST, PROFILE)
    for batch in batches:
        values = np.array(batch)
        counters.observe_rows({"x": values, "c": text_column(*["a"] * len(batch))}, values)
    document = counters.as_json()
    every = np.array([v for batch in batches for v in batch])
    finite = every[~np.isnan(every)]
    feature = document["features"]["x"]
    assert sum(feature["counts"]) + feature["missing"] == len(every)
    assert feature["counts"] == [
        int(((finite >= low) & (finite < high)).sum())
        for low, high in ((-9, 0.25), (0.25, 0.5), (0.5, 0.75), (0.75, 9))
    ]
    assert feature["outOfRange"] == int(((finite < 0) | (finite > 1)).sum())
    assert sum(document["scores"]["counts"]) == len(finite)
    assert document["scores"]["reference"] == [1, 2, 3]


def test_strings_are_counted_by_category_other_missing_and_unseen() -> None:
    column = text_column("a", "b", "b", None, "new")
    for profile, counts in (
        (None, [1, 2, 0]),
        ({"features": {"c": {"categories": ["b"]}}}, [2, 1]),
    ):
        counters = Counters()
        counters.use_profile(MANIFEST, profile)
        counters.observe_rows({"x": np.zeros(5), "c": column}, np.zeros(5))
        assert counters.as_json()["features"]["c"] == {
            "counts": counts,
            "missing": 1,
            "outOfRange": 0,
            "unseen": 1,
        }


def test_error_classes_are_bounded() -> None:
    counters = Counters()
    for index in range(100):
        counters.model_error(f"Error{index}")
    by_class = counters.as_json()["modelErrorsByClass"]
    assert len(by_class) == MAX_ERROR_CLASSES + 1
    assert by_class["Other"] == 100 - MAX_ERROR_CLASSES


def test_the_document_is_json_and_names_its_process() -> None:
    first, second = Counters(revision="r", deployment="d"), Counters()
    document = json.loads(json.dumps(first.as_json()))
    assert document["schema"] == 1
    assert document["boot"] != second.boot
    assert (document["revision"], document["deployment"]) == ("r", "d")


def test_the_operator_reads_what_the_runtime_writes() -> None:
    counters = Counters(revision="r", deployment="d")
    counters.use_profile(MANIFEST, PROFILE)
    counters.finished(Outcome.OK, 7, 0.01, 2)
    counters.finished(Outcome.MODEL_ERROR, 7, None)
    counters.finished(Outcome.SHED, -1, None)
    counters.observe_rows({"x": np.zeros(2), "c": text_column("a", "b")}, np.array([0.5, 2.0]))
    pod = ServingPod(uid="u", name="p", revision="r", address="127.0.0.1")
    read = parse_counters(json.dumps(counters.as_json()).encode(), pod)
    assert (read.requests, read.model_errors, read.shed) == (3, 1, 1)
    assert read.buckets == {7: (2, 0, 1)}
    assert read.latency == {latency_bin(0.01): 1}
    assert (read.scores, read.score_edges, read.score_reference) == (
        (0, 1, 1),
        (0.0, 1.0),
        (1, 2, 3),
    )


def test_metrics_are_well_formed_and_agree_with_the_counters() -> None:
    counters = Counters(revision='quo"te', deployment="d")
    for seconds in (0.0001, 0.01, 0.5, 500):
        counters.finished(Outcome.OK, -1, seconds, 2)
    counters.model_error("ValueError")
    lines = exposition(counters, Mirror(), ready=True).decode().splitlines()
    values = {}
    for line in lines:
        if not line.startswith("#"):
            name, value = line.rsplit(" ", 1)
            values[name] = float(value)
    labels = 'deployment="d",revision="quo\\"te",package_digest=""'
    assert values[f'sluice_requests_total{{{labels},outcome="ok"}}'] == 4
    assert values[f"sluice_rows_total{{{labels}}}"] == 8
    assert values[f"sluice_ready{{{labels}}}"] == 1
    buckets = [v for n, v in values.items() if n.startswith("sluice_request_duration_seconds_b")]
    assert buckets == sorted(buckets)
    assert buckets[-1] == 4
    assert buckets[-2] == 3
    assert values[f"sluice_request_duration_seconds_sum{{{labels}}}"] == pytest.approx(500.5101)
