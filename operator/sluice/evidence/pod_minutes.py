"""Minutes of pods, and those in which a pod crashed, ran out of memory or lost its readiness.

Pure on pod objects and on a JSON object that the caller commits together with the statistics, so a
minute is counted once, also when the operator restarts.  A minute is one of the clock and counts
when it is over.  What is not the model's doing is left out: a pod that is deleted (scale-down,
drain), evicted, or on a node that nobody hears of.

Called by sluice.controller.looks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from sluice.stats.look import PodMinutes

Obj = Mapping[str, Any]

VERSION = 1
MINUTE = 60.0
MOST_MINUTES = 3
"""Minutes of a pod that one look may count: what was not watched is not judged."""

MOST_RESTARTS = 1 << 31
MOST_PODS = 1000
CONTAINER = "model"
ENDED = ("Failed", "Succeeded")
"""Phases of a pod that somebody else ended: the model's own end restarts its container."""

NODES_DOING = ("ContainerStatusUnknown", "Unknown")
"""Reasons that a node gives after it was away itself."""


class Counted(NamedTuple):
    """The state to commit, and each pod's minutes since the one before, by revision."""

    state: dict[str, Any]
    minutes: dict[str, tuple[PodMinutes, ...]]


def count(before: Mapping[str, Any], pods: Mapping[str, Sequence[Obj]], now: float) -> Counted:
    """Minutes of ``pods`` (by revision) that ended since ``before``, at ``now`` (seconds).

    A state of another version, or one that cannot be true, begins anew: a pod's first minute is
    the next one.  ValueError when ``now`` is no time.
    """
    if not math.isfinite(now) or now < 0:
        raise ValueError(f"{now} is not a time in seconds since 1970")
    known = _opened(before)
    entries: dict[str, dict[str, Any]] = {}
    minutes: dict[str, tuple[PodMinutes, ...]] = {}
    for revision, members in pods.items():
        rows = []
        for pod in members[:MOST_PODS]:
            uid, name = _identity(pod)
            if not uid or _leaves(pod):
                continue
            old = known.get(uid) if known is not None else None
            fresh = _begun(pod, now, new=known is not None) if old is None else old
            entries[uid] = _after(fresh, pod, now)
            rows.append(_grown(name, fresh, entries[uid]))
        minutes[revision] = tuple(row for row in rows if row.observed)
    return Counted({"v": VERSION, "pods": entries}, minutes)


def _begun(pod: Obj, now: float, *, new: bool) -> dict[str, Any]:
    """The entry of a pod that is seen for the first time.

    A ``new`` one that is young began without restarts; what an old one did is nobody's look.
    """
    created = _seconds(_dict(pod.get("metadata")).get("creationTimestamp"))
    young = new and created is not None and now - created <= MOST_MINUTES * MINUTE
    return {
        "n": 0,
        "bad": 0,
        "next": int(now // MINUTE),
        "marks": [],
        "restarts": 0 if young else _restarts(_container(pod)),
        "was_ready": False,
        "turned": "",
    }


def _after(old: Mapping[str, Any], pod: Obj, now: float) -> dict[str, Any]:
    """The entry with this reading in it.  ``n`` and ``bad`` never shrink."""
    container, minute = _container(pod), int(now // MINUTE)
    status, turned = _readiness(pod)
    restarts = _restarts(container)
    if minute < old["next"]:
        # The clock went back: nothing is counted twice, and the next minute is not waited for.
        old = {**old, "next": minute, "marks": []}
    first = max(old["next"], minute - MOST_MINUTES)
    marks = {m for m in old["marks"] if first <= m <= minute}
    marks |= _crashed(old, container, restarts, first, now)
    unready = status == "False" and _runs_unready(container)
    if old["was_ready"] and (unready or (status == "True" and turned not in ("", old["turned"]))):
        begun = _minute(turned, first, now)
        marks |= set(range(begun, minute + 1)) if unready else {begun}
    watched = old["was_ready"] or bool(marks) or old["n"] > 0
    closed = minute - first if watched else 0
    return {
        "n": old["n"] + closed,
        "bad": old["bad"] + sum(1 for m in marks if m < minute),
        "next": minute,
        "marks": sorted(m for m in marks if m >= minute),
        "restarts": old["restarts"] if restarts is None else restarts,
        "was_ready": old["was_ready"] or status == "True",
        "turned": turned if status == "True" else old["turned"],
    }


def _grown(name: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> PodMinutes:
    return PodMinutes(name, new["n"] - old["n"], new["bad"] - old["bad"])


def _crashed(
    old: Mapping[str, Any], container: Obj, restarts: int | None, first: int, now: float
) -> set[int]:
    """Minutes of the model's own ends since the last reading, and those it has been down for."""
    state, last = _ended(container, "state"), _ended(container, "lastState")
    minute = int(now // MINUTE)
    if _fault(state):
        return set(range(_minute(state.get("finishedAt"), first, now), minute + 1))
    if not _fault(last):
        return set()
    ended = _minute(last.get("finishedAt"), first, now)
    if _waits_to_restart(container):
        return set(range(ended, minute + 1))
    more = restarts is not None and old["restarts"] is not None and restarts > old["restarts"]
    return {ended} if more else set()


def _fault(ended: Obj) -> bool:
    reason = ended.get("reason")
    if reason in NODES_DOING:
        return False
    code = ended.get("exitCode")
    failed = isinstance(code, int) and not isinstance(code, bool) and code != 0
    return failed or reason == "OOMKilled"


def _leaves(pod: Obj) -> bool:
    """Whether somebody takes this pod away: whatever its container does now is no failure."""
    status = _dict(pod.get("status"))
    taken = _condition(status, "DisruptionTarget").get("status") == "True"
    going = bool(_dict(pod.get("metadata")).get("deletionTimestamp"))
    return taken or going or status.get("phase") in ENDED


def _readiness(pod: Obj) -> tuple[str, str]:
    """The containers' own readiness and since when.

    Not the pod's: that one waits for gates too, and a lost node takes it away.
    """
    found = _condition(_dict(pod.get("status")), "ContainersReady")
    return _text(found.get("status")), _text(found.get("lastTransitionTime"))


def _runs_unready(container: Obj) -> bool:
    runs = "running" in _dict(container.get("state"))
    return runs and container.get("ready") is False


def _waits_to_restart(container: Obj) -> bool:
    waiting = _dict(_dict(container.get("state")).get("waiting"))
    return waiting.get("reason") == "CrashLoopBackOff"


def _ended(container: Obj, key: str) -> Obj:
    return _dict(_dict(container.get(key)).get("terminated"))


def _restarts(container: Obj) -> int | None:
    """The number of restarts; None when it is missing or cannot be one."""
    value = container.get("restartCount")
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MOST_RESTARTS:
        return None
    return value


def _minute(written: Any, first: int, now: float) -> int:
    """The minute of a written time, moved into those that are not counted yet.

    What was told late counts in the first of them; what is in the future, or no time, in the last.
    """
    latest, seconds = int(now // MINUTE), _seconds(written)
    return latest if seconds is None else min(latest, max(first, int(seconds // MINUTE)))


def _seconds(written: Any) -> float | None:
    """A time as the API server writes it, in seconds since 1970; None when it is none."""
    try:
        return datetime.strptime(_text(written), "%Y-%m-%dT%H:%M:%S%z").timestamp()
    except (ValueError, OverflowError):
        return None


def _container(pod: Obj) -> Obj:
    statuses = _dict(pod.get("status")).get("containerStatuses")
    rows = statuses if isinstance(statuses, list) else []
    return next((_dict(r) for r in rows if _dict(r).get("name") == CONTAINER), {})


def _condition(status: Obj, kind: str) -> Obj:
    conditions = status.get("conditions")
    rows = conditions if isinstance(conditions, list) else []
    return next((_dict(r) for r in rows if _dict(r).get("type") == kind), {})


def _identity(pod: Obj) -> tuple[str, str]:
    meta = _dict(pod.get("metadata"))
    return _text(meta.get("uid"))[:253], _text(meta.get("name"))[:253]


def _dict(value: Any) -> Obj:
    return value if isinstance(value, Mapping) else {}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _opened(state: Mapping[str, Any]) -> dict[str, dict[str, Any]] | None:
    """The entries by pod; None for no state, another version's, or a damaged one."""
    pods = state.get("pods")
    if state.get("v") != VERSION or not isinstance(pods, Mapping):
        return None
    return dict(pods) if all(_sound(entry) for entry in pods.values()) else None


def _sound(entry: Any) -> bool:
    """Whether an entry was written by us."""
    whole = ("n", "bad", "next")
    if not isinstance(entry, Mapping) or not all(type(entry.get(k)) is int for k in whole):
        return False
    marks = entry.get("marks")
    return (
        0 <= entry["bad"] <= entry["n"]
        and isinstance(marks, list)
        and all(type(m) is int for m in marks)
        and (entry.get("restarts") is None or type(entry.get("restarts")) is int)
        and isinstance(entry.get("was_ready"), bool)
        and isinstance(entry.get("turned"), str)
    )
