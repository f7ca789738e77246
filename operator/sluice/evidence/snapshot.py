"""From cumulative counters to a look: the difference against the last committed snapshot.

Pure; called by the controller with what it has read.  The snapshot is a JSON object that the caller
commits together with the statistics; a crash in between takes the same difference again.  Routers
and pods may be read in either order, moments apart: ``evidence.arms`` waits for what is late.
"""

from __future__ import annotations

import base64
import binascii
import json
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from sluice.evidence.arms import ArmDelta, ArmTotals
from sluice.evidence.counters import EvidenceError, PodCounters, PodReading
from sluice.evidence.routers import RouterReading, RouterReadings
from sluice.objects.router_plan import Weights
from sluice.stats.look import ArmLook, Cell, Look

VERSION = 1
CLOCK_SLACK = 0.5
"""Seconds that a pod's age may be off: reading everybody takes a moment."""

_COUNTS = ("request", "client error", "model error", "non-finite score")

_WRAP = 1 << 32
"""HAProxy's stick-table counters are 32 bits wide."""


@dataclass(frozen=True)
class Arm:
    """A revision and the slot that routers have it in."""

    slot: str
    revision: str


class Reading(NamedTuple):
    """The look, when there is one; the snapshot to commit; why there is none."""

    look: Look | None
    snapshot: dict[str, Any]
    message: str


@dataclass
class _ArmSums:
    """What an arm's pods and routers counted since the snapshot."""

    delta: ArmDelta = field(default_factory=ArmDelta)
    latency: Counter[int] = field(default_factory=Counter)
    scores: list[int] = field(default_factory=list)
    reference: tuple[int, ...] = ()
    non_finite: int = 0
    pods: list[Cell] = field(default_factory=list)
    pod_names: list[str] = field(default_factory=list)
    buckets: dict[int, Cell] = field(default_factory=dict)
    cpu: tuple[int, float] = (0, 0.0)
    warm_requests: int = 0
    warm_pods: int = 0


def build_look(
    previous: Mapping[str, Any] | None,
    routers: RouterReadings,
    readings: Sequence[PodReading],
    *,
    stable: Arm,
    candidate: Arm,
    weights: Weights,
    look_id: int,
    now: float,
    warmup: float = 30.0,
) -> Reading:
    """One look since ``previous``, and the snapshot that takes its place.

    ``readings`` are all pods of both revisions that exist; ``weights`` the split that should have
    been in force.  There is no look when it was not, or not for the whole time: the counts since
    then are skipped, because late answers belong to the old weight.  A look *with* a message is
    partial: somebody did not answer and is counted later; it is good for alarms, not for promotion.
    EvidenceError, with ``previous`` still right, when a counter went backwards or no router can be
    read.
    """
    if not routers.pods:
        first = next(iter(routers.errors.values()), None)
        raise EvidenceError(
            f"No router can be read: {first.message if first else 'there is none'}",
            hint="Weights stay as they are until one answers.",
        )
    before = _opened(previous)
    elapsed = max(0.0, now - before["at"]) if before else 0.0
    settled = all(pod.weights == weights for pod in routers.pods)
    key = [*_names(stable), *_names(candidate), weights.encode()] if settled else []
    after = _snapshot(before, routers, readings, key, now, warmup)
    skipped = _why_not(before, key, routers)
    if before is None or skipped:
        return Reading(None, _closed(after), skipped)
    arms = []
    for name, arm in (("stable", stable), ("candidate", candidate)):
        sums = _sums(before, after, routers, readings, arm, elapsed)
        arm_look, after["totals"][name] = _arm_look(sums, before["totals"][name])
        arms.append(arm_look)
    look = Look(look_id, elapsed, round(weights.share(candidate.slot)), arms[0], arms[1])
    return Reading(look, _closed(after), _missing(routers, readings))


def _names(arm: Arm) -> tuple[str, str]:
    return arm.slot, arm.revision


def _why_not(before: Mapping[str, Any] | None, key: list[str], routers: RouterReadings) -> str:
    if before is None:
        return "This is the first reading; the next one has something to compare with."
    if not key:
        return "The routers do not all have the weights they should have yet."
    if before["key"] != key:
        return "The weights were changed; requests under way then are not counted."
    for seen in routers.pods:
        entry = before["routers"].get(seen.pod.uid)
        if entry is None or entry["boot"] != seen.boot:
            # It served stable only until it was told the weights.
            return f"Router {seen.pod.name} started since the last reading."
    return ""


def _missing(routers: RouterReadings, readings: Sequence[PodReading]) -> str:
    errors = [*routers.errors.values(), *(r.error for r in readings if r.error is not None)]
    if not errors:
        return ""
    more = f" ({len(errors)} do not answer)" if len(errors) > 1 else ""
    return f"{errors[0].message}{more}"


def _snapshot(
    before: Mapping[str, Any] | None,
    routers: RouterReadings,
    readings: Sequence[PodReading],
    key: list[str],
    now: float,
    warmup: float,
) -> dict[str, Any]:
    """Everything the next look is a difference against.  Who did not answer keeps the old entry."""
    old = before or {"pods": {}, "routers": {}, "totals": None, "key": None}
    pods = {}
    for reading in readings:
        entry = old["pods"].get(reading.pod.uid)
        if reading.counters is not None:
            warm = bool(entry and entry["warm"]) or reading.counters.age >= warmup
            entry = _pod_entry(reading.counters, warm=warm)
        if entry is not None:
            pods[reading.pod.uid] = entry
    known = {uid: e for uid, e in old["routers"].items() if uid in routers.errors}
    seen = {o.pod.uid: _router_entry(o) for o in routers.pods}
    fresh = {"stable": ArmTotals(), "candidate": ArmTotals()}
    totals = dict(old["totals"]) if old["totals"] and old["key"] == key else fresh
    return {"at": now, "key": key, "pods": pods, "routers": known | seen, "totals": totals}


def _pod_entry(c: PodCounters, *, warm: bool) -> dict[str, Any]:
    return {
        "boot": c.boot,
        "warm": warm,
        "cpu": c.cpu_seconds,
        "counts": [c.requests, c.client_errors, c.model_errors + c.timeouts, c.non_finite],
        "latency": dict(c.latency),
        "scores": list(c.scores),
        "buckets": dict(c.buckets),
    }


def _router_entry(seen: RouterReading) -> dict[str, Any]:
    return {
        "boot": seen.boot,
        "slots": {s: [c.predictions, c.failed, c.retried] for s, c in seen.counters.items()},
    }


def _sums(
    before: Mapping[str, Any],
    after: Mapping[str, Any],
    routers: RouterReadings,
    readings: Sequence[PodReading],
    arm: Arm,
    elapsed: float,
) -> _ArmSums:
    sums = _ArmSums()
    client = errors = 0
    for reading in readings:
        if reading.counters is None or reading.pod.revision != arm.revision:
            continue
        entry = before["pods"].get(reading.pod.uid)
        base = _base(entry, reading.counters, elapsed)
        now = after["pods"][reading.pod.uid]
        cell = _add_pod(sums, reading, base, now)
        if entry is not None and entry["warm"]:
            # Warm when the interval began.  A restarted container is not new again.
            _add_latency(sums, f"pod {reading.pod.name}", base, now, cell[0])
            _add_cpu(sums, base, now, cell[0])
        client, errors = client + cell[1], errors + cell[2]
    assigned = final = retried = 0
    for seen in routers.pods:
        row = _router_difference(before["routers"][seen.pod.uid], seen, arm.slot)
        assigned, final, retried = assigned + row[0], final + row[1], retried + row[2]
    sums.delta = ArmDelta(assigned, final, retried, errors, client)
    return sums


def _base(
    entry: Mapping[str, Any] | None, counters: PodCounters, elapsed: float
) -> Mapping[str, Any] | None:
    """What to subtract; None for a process that started since the snapshot: all of it is new."""
    if entry is not None and entry["boot"] == counters.boot:
        return entry
    if entry is not None or counters.age <= elapsed + CLOCK_SLACK:
        return None
    # An older process seen for the first time: what it did before is nobody's look.
    return _pod_entry(counters, warm=True)


def _add_pod(
    sums: _ArmSums, reading: PodReading, base: Mapping[str, Any] | None, now: Mapping[str, Any]
) -> Cell:
    name = f"pod {reading.pod.name}"
    old = base or {"counts": [0] * 4, "scores": [], "buckets": {}}
    requests, client, errors, non_finite = (
        _minus(new, was, name, what)
        for new, was, what in zip(now["counts"], old["counts"], _COUNTS, strict=True)
    )
    sums.non_finite += non_finite
    sums.pods.append(_cell(requests, client, errors))
    sums.pod_names.append(reading.pod.name)
    for bucket, counts in now["buckets"].items():
        was = old["buckets"].get(bucket, (0, 0, 0))
        if counts == was:
            continue
        new = [_minus(a, b, name, f"bucket {bucket}") for a, b in zip(counts, was, strict=True)]
        _add_cell(sums.buckets, bucket, new)
    _add_scores(sums, reading, old["scores"], now["scores"], name)
    return requests, client, errors


def _add_latency(
    sums: _ArmSums,
    name: str,
    base: Mapping[str, Any] | None,
    now: Mapping[str, Any],
    requests: int,
) -> None:
    old = base["latency"] if base else {}
    sums.warm_pods += 1
    sums.warm_requests += requests
    for index, count in now["latency"].items():
        grown = _minus(count, old.get(index, 0), name, f"latency bin {index}")
        sums.latency[index] += grown


def _add_cpu(
    sums: _ArmSums, base: Mapping[str, Any] | None, now: Mapping[str, Any], requests: int
) -> None:
    """CPU seconds beside the requests that took them; a process that loads its model has none."""
    if base is None or base["cpu"] is None:
        return
    total, seconds = sums.cpu
    sums.cpu = (total + requests, seconds + max(0.0, now["cpu"] - base["cpu"]))


def _add_scores(
    sums: _ArmSums, reading: PodReading, old: Sequence[int], new: Sequence[int], name: str
) -> None:
    assert reading.counters is not None
    was = list(old) or [0] * len(new)
    if len(was) != len(new) or (sums.scores and len(sums.scores) != len(new)):
        raise _backwards(name, "number of score bins", len(new), len(was))
    grown = [_minus(a, b, name, "scores") for a, b in zip(new, was, strict=True)]
    sums.scores = [a + b for a, b in zip(sums.scores or [0] * len(new), grown, strict=True)]
    sums.reference = reading.counters.score_reference or sums.reference


def _router_difference(entry: Mapping[str, Any], seen: RouterReading, slot: str) -> list[int]:
    now, was = _router_entry(seen)["slots"][slot], entry["slots"][slot]
    if now[0] < was[0] and was[0] > _WRAP // 2:
        now = [now[0] + _WRAP, *now[1:]]
    name = f"router {seen.pod.name}"
    # ``retried`` is a bound made of two columns; a rounding step down is not a broken counter.
    return [
        _minus(now[0], was[0], name, f"predictions of slot {slot}"),
        _minus(now[1], was[1], name, f"failures of slot {slot}"),
        max(0, now[2] - was[2]),
    ]


def _arm_look(sums: _ArmSums, totals: ArmTotals) -> tuple[ArmLook, ArmTotals]:
    totals = totals.add(sums.delta)
    n = sums.delta.assigned
    totals, client, model = totals.tell(n)
    look = ArmLook(
        n=n,
        client_errors=client,
        model_errors=model,
        latency={i: c for i, c in sorted(sums.latency.items()) if c},
        scores=tuple(sums.scores),
        score_reference=sums.reference,
        non_finite=sums.non_finite,
        pods=tuple(sums.pods),
        pod_names=tuple(sums.pod_names),
        buckets={b: c for b, c in sorted(sums.buckets.items()) if c[0]},
        cpu=sums.cpu,
        load_per_pod=sums.warm_requests / sums.warm_pods if sums.warm_pods else 0.0,
    )
    return look, totals


def _cell(requests: int, client: int, errors: int) -> Cell:
    return requests, min(client, requests), min(errors, requests - min(client, requests))


def _add_cell(buckets: dict[int, Cell], bucket: int, counts: Sequence[int]) -> None:
    old = buckets.get(bucket, (0, 0, 0))
    buckets[bucket] = _cell(old[0] + counts[0], old[1] + counts[1], old[2] + counts[2])


def _minus(new: int, old: int, source: str, what: str) -> int:
    if new < old:
        raise _backwards(source, what, new, old)
    return new - old


def _backwards(source: str, what: str, new: int, old: int) -> EvidenceError:
    return EvidenceError(
        f"The {what} counter of {source} went from {old} to {new} without a restart.",
        hint="This look is not taken. If it stays, delete the pod; its Deployment replaces it.",
        reason="CountersWentBackwards",
    )


# As JSON.  Histograms are packed: 500 buckets and 700 bins of 20 pods would fill a ConfigMap.


def _closed(after: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "version": VERSION,
        "at": after["at"],
        "key": after["key"],
        "totals": {name: asdict(totals) for name, totals in after["totals"].items()},
        "routers": after["routers"],
        "pods": {
            uid: {
                "boot": pod["boot"],
                "warm": pod["warm"],
                "cpu": pod["cpu"],
                "counts": pod["counts"],
                "packed": _pack([pod["latency"], pod["scores"], pod["buckets"]]),
            }
            for uid, pod in after["pods"].items()
        },
    }


def _opened(snapshot: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The snapshot's contents; None for none, and for one of another version."""
    if not snapshot or snapshot.get("version") != VERSION:
        return None
    try:
        pods = {}
        for uid, pod in snapshot["pods"].items():
            latency, scores, buckets = _unpack(pod["packed"])
            pods[uid] = {
                "boot": pod["boot"],
                "warm": pod["warm"],
                # A snapshot of the version before has none.
                "cpu": None if pod.get("cpu") is None else float(pod["cpu"]),
                "counts": pod["counts"],
                "latency": {int(i): n for i, n in latency.items()},
                "scores": scores,
                "buckets": {int(b): tuple(cell) for b, cell in buckets.items()},
            }
        totals = {name: ArmTotals(**values) for name, values in snapshot["totals"].items()}
        return {
            "at": float(snapshot["at"]),
            "key": snapshot["key"],
            "totals": totals,
            "routers": snapshot["routers"],
            "pods": pods,
        }
    except (KeyError, TypeError, ValueError, zlib.error, binascii.Error) as error:
        raise EvidenceError(
            f"The stored counter snapshot is damaged: {error!r}.",
            hint="Remove it from the evidence ConfigMap; the next look starts a new one.",
            reason="SnapshotDamaged",
        ) from error


def _pack(value: Any) -> str:
    text = json.dumps(value, separators=(",", ":")).encode()
    return base64.b85encode(zlib.compress(text, 6)).decode()


def _unpack(text: str) -> Any:
    return json.loads(zlib.decompress(base64.b85decode(text)))
