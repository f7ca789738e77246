"""When a look may be taken, and what it compares.  Pure; called by sluice.controller.looks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sluice.rollout import judge as judging
from sluice.rollout.model import JUDGED, Progress, Quiet, Roles, RouterView
from sluice.rollout.plan import Plan
from sluice.stats.look import Look

EARLY = 0.9
"""A look may come this part of an interval after the last one: clocks and wake-ups jitter."""


@dataclass(frozen=True)
class Arms:
    """Two revisions under one weight that every router confirms."""

    stable: str
    candidate: str
    weight: int
    plan: Plan


def arms(progress: Progress, roles: Roles, view: RouterView) -> Arms | None:
    """What can be compared now; None while weights are on their way or nothing is."""
    if not view.complete or not _readable(progress):
        return None
    rollout, watch = progress.rollout, progress.watch
    if rollout is not None and rollout.phase in JUDGED:
        settled = view.weight_low == view.weight_high == roles.weight > 0
        if settled and roles.stable and roles.candidate == rollout.revision and rollout.revision:
            return _arms(roles.stable, rollout.revision, roles.weight, rollout.plan)
        return None
    if watch is not None and roles.previous is not None and roles.holdback > 0:
        settled = view.holdback_low == view.holdback_high == roles.holdback
        if settled and view.stable == roles.stable == watch.revision:
            return _arms(roles.previous, watch.revision, 100 - roles.holdback, watch.plan)
    return None


@dataclass(frozen=True)
class Copies:
    """Stable's requests and the candidate's copies of them, in one rollout."""

    stable: str
    candidate: str
    rollout: str
    plan: Plan


def copies(progress: Progress, roles: Roles) -> Copies | None:
    """What is mirrored now, or may still be; None in every phase but Mirroring."""
    rollout = progress.rollout
    if rollout is None or rollout.phase != "Mirroring" or not rollout.revision:
        return None
    plan = Plan.read(rollout.plan)
    if plan is None or roles.stable is None or not _readable(progress):
        return None
    return Copies(roles.stable, rollout.revision, rollout.id, plan)


def _readable(progress: Progress) -> bool:
    """Whether there are statistics of this version; the next decision begins others anew."""
    return progress.judge.get("v") == judging.VERSION


def _arms(stable: str, candidate: str, weight: int, written: dict[str, Any]) -> Arms | None:
    plan = Plan.read(written)
    return None if plan is None else Arms(stable, candidate, weight, plan)


def due(progress: Progress, interval: float, now: float) -> bool:
    """Whether an interval has passed since the last look."""
    return now - progress.look_at >= EARLY * interval or now < progress.look_at


def absorbed(progress: Progress, plan: Plan, look: Look) -> Progress:
    """The progress with ``look`` in its statistics."""
    return progress.model_copy(
        update={
            "judge": judging.absorb(plan, progress.judge, look),
            "looks": look.id + 1,
            "quiet": _quiet(progress, look),
        }
    )


def _quiet(progress: Progress, look: Look) -> Quiet:
    if look.candidate.n > 0 or progress.partial:
        return Quiet()
    before = progress.quiet
    return Quiet(
        looks=before.looks + 1,
        seconds=round(before.seconds + look.seconds, 3),
        stable=before.stable + look.stable.n,
    )
