"""Units of an experiment: counted once, compared when their window has closed, never lost."""

from __future__ import annotations

import pytest

from sluice.evidence.units_store import (
    CANDIDATE,
    STABLE,
    Exposure,
    Outcome,
    UnitsError,
    UnitStore,
)

BEGAN = 1_000_000.0


def store(kind: str = "Conversion", **options: float) -> UnitStore:
    return UnitStore(kind, since=BEGAN, window=10.0, **options)  # type: ignore[arg-type]


def seen(unit: int, arm: int, after: float) -> Exposure:
    return Exposure(unit, arm, BEGAN + after)


def came(unit: int, after: float, value: float = 1.0, size: float = 0.0, event: int = 0) -> Outcome:
    return Outcome(unit, BEGAN + after, value, size, event)


def test_a_window_is_compared_when_it_has_closed_and_not_before() -> None:
    units = store()
    units.add([seen(1, STABLE, 0), seen(2, CANDIDATE, 1)], [came(1, 3), came(2, 10.5)])
    assert units.due(0, BEGAN + 9.9) == 0
    first = units.close(0, BEGAN + 10)
    assert (first.stable.n, first.stable.y, first.candidate.n) == (1, 1.0, 0)
    second = units.close(BEGAN + 10, BEGAN + 11)
    assert (second.stable.n, second.candidate.n, second.candidate.y) == (0, 1, 1.0)


def test_a_unit_without_an_outcome_is_a_zero() -> None:
    units = store("Mean")
    units.add([seen(n, STABLE, 0) for n in range(4)], [came(0, 1, 8.0)])
    arm = units.close(0, BEGAN + 10).stable
    assert (arm.n, arm.y, arm.yy) == (4, 8.0, 64.0)


def test_outcomes_outside_the_window_are_counted_apart() -> None:
    units = store()
    outcomes = [came(1, 1), came(1, 12), came(7, 3)]
    units.add([seen(1, STABLE, 2)], outcomes)
    assert (units.seen.early, units.seen.late, units.seen.unexposed) == (1, 1, 1)
    assert units.close(0, BEGAN + 12).stable.y == 0


def test_a_unit_counts_once_at_its_earliest_exposure() -> None:
    units = store()
    log = units.add([seen(1, STABLE, 5), seen(1, STABLE, 3)], [])
    log += units.add([seen(1, STABLE, 8), seen(1, STABLE, 2)], [])
    assert len(units) == 1
    assert units.seen.exposed == [1, 0]
    assert units.due(0, BEGAN + 12) == 1
    again = store()
    again.load(log)
    assert again.due(0, BEGAN + 12) == 1


def test_a_unit_seen_in_both_arms_is_left_out() -> None:
    units = store()
    log = units.add([seen(1, STABLE, 0), seen(2, STABLE, 0)], [])
    log += units.add([seen(1, CANDIDATE, 1), seen(1, CANDIDATE, 2)], [])
    assert units.seen.crossed == 1
    assert units.close(0, BEGAN + 10).stable.n == 1
    again = store()
    again.load(log)
    assert again.seen.crossed == 1
    assert again.close(0, BEGAN + 10) == units.close(0, BEGAN + 10)


def test_a_conversion_is_counted_once_and_only_when_positive() -> None:
    units = store()
    log = units.add([seen(1, STABLE, 0)], [came(1, 1, 0.0), came(1, 2), came(1, 3)])
    assert units.close(0, BEGAN + 10).stable.y == 1
    assert units.add([], [came(1, 4)]) == b""
    again = store()
    again.load(log)
    assert again.close(0, BEGAN + 10).stable.y == 1


def test_an_event_that_is_sent_again_counts_once() -> None:
    units = store("Mean")
    log = units.add([seen(1, STABLE, 0)], [came(1, 1, 5.0, event=9), came(1, 2, 5.0, event=9)])
    units.add([], [came(1, 3, 5.0, event=9), came(1, 3, 7.0)])
    assert units.close(0, BEGAN + 10).stable.y == 12.0
    assert units.seen.repeated == 2
    again = store("Mean")
    again.load(log)
    assert again.add([], [came(1, 3, 5.0, event=9)]) == b""


def test_the_log_gives_the_same_store_again() -> None:
    units = store("Ratio")
    log = b""
    for n in range(3000):
        log += units.add([seen(n, n % 2, n * 0.01)], [came(n, n * 0.01 + 1, n % 7, 1 + n % 3)])
    again = store("Ratio")
    again.load(log)
    assert again.close(0, BEGAN + 30) == units.close(0, BEGAN + 30)
    assert again.seen.exposed == units.seen.exposed == [1500, 1500]
    assert again.add([seen(5, 1, 0.05)], []) == b""


def test_more_units_than_wanted_are_refused_and_counted() -> None:
    units = store(most=2)
    units.add([seen(n, STABLE, n) for n in range(5)], [])
    assert (len(units), units.seen.refused) == (2, 3)


def test_what_came_before_the_experiment_is_not_of_it() -> None:
    units = store()
    assert units.add([Exposure(1, STABLE, BEGAN - 1)], []) == b""
    assert len(units) == 0


@pytest.mark.parametrize("log", [b"\x09" * 13, b"\x02" + b"\0" * 12, b"\0" * 5, b"\0" * 14])
def test_a_damaged_log_is_named(log: bytes) -> None:
    with pytest.raises(UnitsError, match="damaged at byte"):
        store().load(log)
