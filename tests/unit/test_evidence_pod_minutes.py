"""Minutes of pods: every end and every lost readiness counts once, and only when it is the model's.

Times are minutes since an arbitrary one; readings are committed as JSON in between.
"""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sluice.evidence.pod_minutes import MOST_MINUTES, count

START = 1_800_000_000.0
Obj = dict[str, Any]


def at(minute: float) -> float:
    return START + 60.0 * minute


def written(minute: float) -> str:
    return datetime.fromtimestamp(at(minute), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def pod(
    *,
    ready: bool = True,
    since: float = -60,
    restarts: Any = 0,
    ended: Obj | None = None,
    state: Obj | None = None,
    created: float = -60,
    **meta: Any,
) -> Obj:
    """A pod as the API server shows it; ``ended`` is how its container ended last."""
    model = {
        "name": "model",
        "ready": ready,
        "restartCount": restarts,
        "state": state or {"running": {}},
        "lastState": {"terminated": ended} if ended else {},
    }
    readiness = {
        "type": "ContainersReady",
        "status": "True" if ready else "False",
        "lastTransitionTime": written(since),
    }
    meta = {"uid": "u1", "name": "iris-1", "creationTimestamp": written(created), **meta}
    return {
        "metadata": meta,
        "status": {
            "phase": "Running",
            "conditions": [readiness],
            "containerStatuses": [{"name": "log", "restartCount": 9}, model],
        },
    }


def crash(minute: float, code: int = 1, reason: str = "Error") -> Obj:
    return {"exitCode": code, "reason": reason, "finishedAt": written(minute)}


class Watched:
    """One pod, read again and again."""

    def __init__(self) -> None:
        self.state: Obj = {}

    def read(self, minute: float, *pods: Obj) -> tuple[int, int]:
        counted = count(self.state, {"r": pods}, at(minute))
        self.state = json.loads(json.dumps(counted.state))
        rows = counted.minutes["r"]
        return sum(row.observed for row in rows), sum(row.failed for row in rows)


def test_a_healthy_pod_gives_a_minute_when_it_is_over() -> None:
    pods = Watched()
    assert pods.read(0.1, pod()) == (0, 0)
    assert pods.read(0.9, pod()) == (0, 0)
    assert pods.read(1.0, pod()) == (1, 0)
    assert pods.read(1.5, pod()) == (0, 0)
    assert pods.read(3.2, pod()) == (2, 0)


@pytest.mark.parametrize("end", [crash(1.4), crash(1.4, 137, "OOMKilled"), crash(1.4, 255)])
def test_a_crash_counts_in_its_minute_once(end: Obj) -> None:
    pods = Watched()
    pods.read(0.5, pod())
    after = pod(restarts=1, ended=end)
    assert pods.read(1.5, after) == (1, 0)
    assert pods.read(2.5, after) == (1, 1)
    assert pods.read(3.5, after) == (1, 0)


def test_a_crash_that_is_told_late_counts_in_the_next_minute() -> None:
    pods = Watched()
    pods.read(0.5, pod())
    pods.read(2.5, pod())
    assert pods.read(3.5, pod(restarts=1, ended=crash(1.2))) == (1, 1)


def test_a_pod_that_waits_to_restart_fails_every_minute() -> None:
    pods = Watched()
    pods.read(0.5, pod())
    down = pod(
        ready=False,
        since=1.2,
        restarts=4,
        ended=crash(1.2),
        state={"waiting": {"reason": "CrashLoopBackOff"}},
    )
    assert [pods.read(m + 0.5, down) for m in (1, 2, 3, 4)] == [(1, 0), (1, 1), (1, 1), (1, 1)]


def test_readiness_counts_once_it_was_there() -> None:
    pods = Watched()
    starting = pod(ready=False, since=0)
    assert [pods.read(m, starting) for m in (0.5, 1.5, 2.5)] == [(0, 0), (0, 0), (0, 0)]
    pods.read(3.5, pod(since=3.2))
    assert pods.read(4.5, pod(since=3.2)) == (1, 0)
    lost = pod(ready=False, since=5.1)
    assert [pods.read(m, lost) for m in (5.5, 6.5, 7.5)] == [(1, 0), (1, 1), (1, 1)]
    assert pods.read(8.5, pod(since=8.1)) == (1, 1)
    assert pods.read(9.5, pod(since=8.1)) == (1, 1), "it came back in that minute"
    assert pods.read(10.5, pod(since=8.1)) == (1, 0)


def test_readiness_that_came_back_between_two_readings_is_seen() -> None:
    pods = Watched()
    pods.read(0.1, pod())
    assert pods.read(0.9, pod(since=0.5)) == (0, 0)
    assert pods.read(1.1, pod(since=0.5)) == (1, 1)


@pytest.mark.parametrize(
    "taken",
    [
        {"deletionTimestamp": written(1)},
        {"phase": "Failed"},
        {"conditions": [{"type": "DisruptionTarget", "status": "True"}]},
    ],
    ids=["deleted", "evicted", "about to be"],
)
def test_a_pod_that_somebody_takes_away_is_not_counted(taken: Obj) -> None:
    pods = Watched()
    pods.read(0.5, pod())
    gone = pod(ready=False, since=1, restarts=1, ended=crash(1, 143))
    (gone["metadata"] if "deletionTimestamp" in taken else gone["status"]).update(taken)
    assert [pods.read(m, gone) for m in (1.5, 2.5)] == [(0, 0), (0, 0)]


def test_a_node_that_is_away_or_restarts_is_no_failure() -> None:
    pods = Watched()
    pods.read(0.5, pod())
    lost = pod()
    lost["status"]["conditions"].append({"type": "Ready", "status": "False"})
    assert pods.read(1.5, lost) == (1, 0)
    back = pod(restarts=1, ended=crash(2, 255, "Unknown"))
    assert [pods.read(m, back) for m in (2.5, 3.5)] == [(1, 0), (1, 0)]


def test_what_was_not_watched_is_not_judged() -> None:
    pods = Watched()
    pods.read(0.5, pod())
    assert pods.read(500.5, pod()) == (MOST_MINUTES, 0)


def test_only_a_young_pod_has_crashed_since_the_last_reading() -> None:
    crashed: Obj = {"restarts": 1, "ended": crash(1.2)}
    for created, failed in ((1.0, 1), (-600, 0)):
        pods = Watched()
        pods.read(0.5)
        pods.read(1.5, pod(created=created, **crashed))
        assert pods.read(2.5, pod(created=created, **crashed)) == (1, failed)


def test_a_clock_that_goes_back_counts_nothing_and_goes_on() -> None:
    pods = Watched()
    pods.read(100.5, pod())
    assert pods.read(0.5, pod()) == (0, 0)
    assert pods.read(1.5, pod()) == (1, 0)


@pytest.mark.parametrize("now", [math.nan, math.inf, -1.0])
def test_no_time_is_refused(now: float) -> None:
    with pytest.raises(ValueError, match="is not a time"):
        count({}, {}, now)


HOSTILE = st.one_of(
    st.none(),
    st.booleans(),
    st.just(math.nan),
    st.just(10**40),
    st.integers(-5, 5),
    st.text(max_size=5),
    st.sampled_from(["9999-12-31T23:59:59Z", "0001-01-01T00:00:00Z", "True", "False"]),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.sampled_from(["running", "terminated", "waiting"]), st.none(), max_size=2),
)


@given(st.lists(st.tuples(st.floats(0, 30), HOSTILE, HOSTILE, HOSTILE, HOSTILE), max_size=8))
@settings(max_examples=150)
def test_hostile_status_never_breaks_the_count(
    readings: list[tuple[float, Any, Any, Any, Any]],
) -> None:
    pods, totals = Watched(), (0, 0)
    for minute, restarts, time, status, state in readings:
        seen = pod(restarts=restarts, ended={"exitCode": status, "finishedAt": time})
        seen["status"]["conditions"][0] |= {"status": status, "lastTransitionTime": time}
        seen["status"]["containerStatuses"][1]["state"] = state
        observed, failed = pods.read(minute, seen, {"metadata": state, "status": time})
        assert 0 <= failed <= observed <= MOST_MINUTES
        entry = pods.state["pods"]["u1"]
        assert (entry["n"], entry["bad"]) >= totals
        totals = (entry["n"], entry["bad"])


@pytest.mark.parametrize(
    "damage",
    [
        {"v": 99},
        {"pods": None},
        {"pods": {"u1": None}},
        {"pods": {"u1": {"n": -1, "bad": 5, "next": 0}}},
        {"pods": {"u1": {"n": math.nan, "bad": 0, "next": 0}}},
    ],
)
def test_a_damaged_state_begins_anew(damage: Obj) -> None:
    pods = Watched()
    pods.read(0.5, pod())
    pods.state = {**pods.state, **damage}
    assert pods.read(5.5, pod()) == (0, 0)
    assert pods.read(6.5, pod()) == (1, 0)
