"""Running totals become counts, each thing once, whatever Prometheus extrapolates."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.evidence.metric import Counts, MetricError, Pair, Totals, begin, count

AMOUNTS = st.floats(0, 1e9)
LOOKS = st.lists(st.none() | st.builds(Totals, AMOUNTS, AMOUNTS), max_size=20)


def test_the_difference_to_what_was_counted_is_the_looks_count() -> None:
    state = begin(100.0)
    first = count(state, Pair(Totals(90.4, 3.2), Totals(10.9, 1.0)))
    assert first.counts == Pair(Counts(90, 3), Counts(10, 1))
    second = count(first.state, Pair(Totals(200.0, 3.1), Totals(21.2, 1.9)))
    assert second.counts == Pair(Counts(110, 0), Counts(11, 0))
    assert second.state == {"version": 1, "since": 100.0, "stable": [200, 3], "candidate": [21, 1]}
    assert state == begin(100.0)


def test_an_arm_without_data_adds_nothing_and_loses_nothing() -> None:
    first = count(begin(0.0), Pair(Totals(5.0, 1.0), None))
    assert first.counts == Pair(Counts(5, 1), Counts())
    second = count(first.state, Pair(None, Totals(7.0, 0.0)))
    assert second.counts == Pair(Counts(), Counts(7, 0))
    assert count(second.state, Pair(Totals(6.0, 1.0), None)).counts.stable == Counts(1, 0)


def test_a_total_that_fell_waits_until_it_is_passed() -> None:
    state = count(begin(0.0), Pair(Totals(100.0, 10.0), None)).state
    lower = count(state, Pair(Totals(97.0, 9.0), None))
    assert (lower.counts.stable, lower.state) == (Counts(), state)
    assert count(lower.state, Pair(Totals(103.0, 11.0), None)).counts.stable == Counts(3, 1)


def test_events_wait_for_the_things_they_are_events_of() -> None:
    first = count(begin(0.0), Pair(Totals(2.0, 5.0), None))
    assert first.counts.stable == Counts(2, 2)
    assert count(first.state, Pair(Totals(9.0, 5.0), None)).counts.stable == Counts(7, 3)


@given(LOOKS)
def test_the_looks_add_up_to_the_largest_totals_and_no_more(looks: list[Totals | None]) -> None:
    state, n, events = begin(0.0), 0, 0
    for totals in looks:
        counted = count(state, Pair(totals, None))
        new, state = counted.counts.stable, counted.state
        assert 0 <= new.events <= new.n
        n, events = n + new.n, events + new.events
    seen = [totals for totals in looks if totals is not None]
    assert n == max((int(t.total) for t in seen), default=0)
    assert events <= max((int(t.events) for t in seen), default=0)
    assert state["stable"] == [n, events]


@pytest.mark.parametrize(
    "damage",
    [
        {"version": 2},
        {"since": "then"},
        {"stable": [1]},
        {"stable": [1, 2, 3]},
        {"stable": [1, -1]},
        {"stable": ["1", 0]},
        {"candidate": None},
        {"candidate": [0, 1.5]},
    ],
)
def test_a_state_that_is_not_ours_is_an_error(damage: dict[str, Any]) -> None:
    with pytest.raises(MetricError, match="state of a metric cannot be read"):
        count(begin(0.0) | damage, Pair(None, None))
    with pytest.raises(MetricError):
        count({}, Pair(None, None))
