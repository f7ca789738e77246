"""A candidate that nobody sends requests to: what it says, and when it passes by its gates alone.

Called by sluice.rollout.steps and status.  Only looks that everybody answered count: a source that
cannot be read is no proof that there was nothing to read.
"""

from __future__ import annotations

import math

from sluice.api.duration import human
from sluice.rollout.draft import Draft
from sluice.rollout.plan import StepPlan

LOOKS = 5
UNLIKELY = 0.001
"""Chance of no request for the candidate, given stable's, below which routing is suspected."""

WAYS_OUT = (
    "Ways out: mirror requests before the first weight (steps[].mirror), a larger weight, or "
    "rollout.onNoTraffic: PromoteByGates."
)


def seen(draft: Draft) -> bool:
    """Whether the candidate's step has had no request for long enough to say so."""
    rollout = draft.rollout
    stepping = rollout is not None and rollout.phase in ("Mirroring", "Stepping")
    return stepping and draft.progress.quiet.looks >= LOOKS


def said(draft: Draft, step: StepPlan) -> str:
    """What is the matter, and the ways out."""
    quiet = draft.progress.quiet
    nothing = f"No request has reached the candidate in {quiet.looks} looks"
    if not _plausible(draft, step):
        return (
            f"{nothing} {step.where}, while stable got {quiet.stable:,}: the candidate does not "
            "get its share. Look at the routers."
        )
    return f"{nothing} {step.where} (stable: {quiet.stable:,}). {WAYS_OUT}"


def passes_by_gates(draft: Draft, step: StepPlan) -> bool:
    """Whether the user's PromoteByGates applies: gates passed, and surely nothing to be judged.

    Positive evidence of no traffic: for the step's least duration every look was complete and had
    no request of the candidate, and stable had so few that this is no surprise.
    """
    rollout = draft.rollout
    assert rollout is not None
    return (
        draft.i.spec.rollout.on_no_traffic == "PromoteByGates"
        and seen(draft)
        and draft.progress.quiet.seconds >= step.min_duration
        and draft.verdict(rollout.revision or "").phase in ("Validated", "Passed")
        and _plausible(draft, step)
    )


def passed(draft: Draft, step: StepPlan) -> None:
    """Says that the step passes by gates alone, and remembers it until promotion."""
    rollout, quiet = draft.rollout, draft.progress.quiet
    assert rollout is not None
    draft.set_rollout(by_gates=rollout.by_gates + 1)
    draft.note(
        "PassedByGates",
        f"Step {rollout.step + 1} {step.where} passes by its gates alone: no request reached the "
        f"candidate in {human(quiet.seconds)} (onNoTraffic: PromoteByGates).",
    )


def _plausible(draft: Draft, step: StepPlan) -> bool:
    """Whether so few requests may all have gone past the candidate by chance.

    Of copies nobody knows how many there should be; every pod has to say that it makes them.
    """
    if step.mirror:
        pods = draft.progress.mirror_seen
        return pods is not None and pods.mirroring == pods.pods > 0
    return draft.progress.quiet.stable * -math.log1p(-step.share) <= -math.log(UNLIKELY)
