"""From the counters of stable's pods to a look at mirrored requests.

Pure; called by the controller.  Counts are a pod's own since it began to mirror in this rollout, so
a look is their difference against the last committed snapshot, by pod uid and boot id; what a pod
counted for another candidate is not in them.  Both arms of the look are the same requests.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from sluice.evidence.counters import EvidenceError, MirrorCounters, PodReading
from sluice.stats.look import ArmLook, Cell, Look, MirrorLook

VERSION = "mirror-1"

_COUNTS = (
    "dropped",
    "failed",
    "pairs",
    "compared",
    "disagreed",
    "stable_client_errors",
    "stable_errors",
    "candidate_client_errors",
    "candidate_errors",
)
_NOTHING = dict.fromkeys(_COUNTS, 0)


@dataclass(frozen=True)
class Followed:
    """How many of stable's ready pods answered, mirror to the candidate, and mirror to nobody.

    A pod is quiet when it has no target and no copy is on its way any more.
    """

    pods: int
    answered: int
    mirroring: int
    quiet: int
    problem: str


class MirrorReading(NamedTuple):
    """The look, when there is one; the snapshot to commit; who follows; what is missing."""

    look: Look | None
    snapshot: dict[str, Any]
    followed: Followed
    message: str


def build_mirror_look(
    previous: Mapping[str, Any] | None,
    readings: Sequence[PodReading],
    *,
    candidate: str,
    rollout: str,
    look_id: int,
    now: float,
) -> MirrorReading:
    """One look since ``previous`` at what stable's ready pods copied to ``candidate``.

    The first reading of a rollout has nothing to compare with and gives no look, nor does a time in
    which nobody mirrored.  A look with a
    message is partial: some pod did not answer and is counted later.  EvidenceError, with
    ``previous`` still right, when a counter went backwards.
    """
    key = [rollout, candidate]
    before = previous if previous and previous.get("version") == VERSION else None
    if before is not None and before["key"] != key:
        before = None
    pods = dict(before["pods"]) if before is not None else {}
    rows: list[tuple[Mapping[str, int], MirrorCounters]] = []
    for reading in readings:
        if reading.counters is None:
            continue
        mirror = reading.counters.mirror
        ours = (mirror.rollout, mirror.candidate) == (rollout, candidate)
        counts = {n: getattr(mirror, n) for n in _COUNTS} if ours else _NOTHING
        entry = pods.get(reading.pod.uid)
        base = entry["counts"] if entry and entry["boot"] == reading.counters.boot else _NOTHING
        rows.append((_difference(reading.pod.name, counts, base), mirror))
        pods[reading.pod.uid] = {"boot": reading.counters.boot, "counts": counts}
    present = {reading.pod.uid for reading in readings}
    after = {
        "version": VERSION,
        "at": now,
        "key": key,
        "pods": {uid: entry for uid, entry in pods.items() if uid in present},
    }
    followed = _followed(readings, candidate, rollout)
    began = followed.mirroring or any(value for counts, _ in rows for value in counts.values())
    if before is None or not began:
        return MirrorReading(None, after, followed, "")
    elapsed = max(0.0, now - float(before["at"]))
    return MirrorReading(_look(rows, look_id, elapsed), after, followed, _missing(readings))


def _difference(pod: str, counts: Mapping[str, int], base: Mapping[str, int]) -> Mapping[str, int]:
    for name, value in counts.items():
        if value < base[name]:
            raise EvidenceError(
                f"The mirror's {name.replace('_', ' ')} counter of pod {pod} went from "
                f"{base[name]} to {value} without a restart.",
                hint="This look is not taken. If it stays, delete the pod; its Deployment "
                "replaces it.",
                reason="CountersWentBackwards",
            )
    return {name: value - base[name] for name, value in counts.items()}


def _look(
    rows: Sequence[tuple[Mapping[str, int], MirrorCounters]], look_id: int, elapsed: float
) -> Look:
    totals = {name: sum(row[name] for row, _ in rows) for name in _COUNTS}
    apart = (
        max((m.absolute for _, m in rows), default=0.0),
        max((m.relative for _, m in rows), default=0.0),
    )
    return Look(
        look_id,
        elapsed,
        0,
        _arm("stable", totals, rows),
        _arm("candidate", totals, rows),
        mirror=MirrorLook(
            compared=totals["compared"],
            disagreed=totals["disagreed"],
            failed=totals["failed"],
            dropped=totals["dropped"],
            apart=apart,
        ),
    )


def _arm(
    name: str,
    totals: Mapping[str, int],
    rows: Sequence[tuple[Mapping[str, int], MirrorCounters]],
) -> ArmLook:
    """An arm's events among pairs; its pods are stable's, which sent the copies."""

    def cell(counts: Mapping[str, int]) -> Cell:
        return counts["pairs"], counts[f"{name}_client_errors"], counts[f"{name}_errors"]

    n, client, model = cell(totals)
    return ArmLook(n, client, model, pods=tuple(cell(row) for row, _ in rows))


def _followed(readings: Sequence[PodReading], candidate: str, rollout: str) -> Followed:
    said = [r.counters.mirror for r in readings if r.counters is not None]
    return Followed(
        pods=len(readings),
        answered=len(said),
        mirroring=sum(m.to == candidate and m.rollout == rollout for m in said),
        quiet=sum(not m.to and not m.waiting for m in said),
        problem=next((m.problem for m in said if m.problem), ""),
    )


def _missing(readings: Sequence[PodReading]) -> str:
    errors = [r.error.message for r in readings if r.error is not None]
    more = f" ({len(errors)} do not answer)" if len(errors) > 1 else ""
    return f"{errors[0]}{more}" if errors else ""
