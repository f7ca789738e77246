"""Why a step waits: what is missing, how long at the present traffic, the command to go on.

Called by sluice.rollout.steps and promote.
"""

from __future__ import annotations

from sluice.api.duration import human
from sluice.rollout.draft import Draft
from sluice.rollout.judge import Judgement
from sluice.rollout.judge_words import requests_per_second
from sluice.rollout.messages import LIMIT, annotate, with_way_out
from sluice.rollout.plan import StepPlan


def paused(draft: Draft) -> bool:
    """Whether the rollout is paused, by a person or by a check; says how to go on."""
    rollout = draft.rollout
    assert rollout is not None
    if not rollout.paused:
        return False
    way_out = f"Go on: {annotate(draft.i.name, 'resume')}"
    if rollout.paused_by_check:
        way_out += " or take it back: sluice.dev/abort=now"
    reason = "GuardrailFailed" if rollout.paused_by_check else "Paused"
    draft.wait(with_way_out(f"Paused {rollout.paused.removesuffix('.')}.", way_out), reason=reason)
    return True


def explain(
    *,
    name: str,
    digest: str,
    step: StepPlan,
    index: int,
    count: int,
    observed: float,
    judgement: Judgement | None,
) -> tuple[str, float | None]:
    """One message for a person, and the seconds an equal candidate still needs (None: unknown).

    ``digest`` is the 12 hex digits that the command names; ``observed`` the step's seconds by the
    caller's count, which also holds looks that were dropped.
    """
    where = f"Step {index + 1} of {count} {step.where}"
    go_on = f"Go on now: kubectl annotate mdep/{name} sluice.dev/promote={digest}"
    if judgement is None:
        left = max(0.0, step.min_duration - observed)
        return f"{where} waits for its first evidence. {go_on}", left or None
    missing = list(judgement.missing)
    if not missing:
        left = max(0.0, step.min_duration - observed)
        missing = [f"{human(observed)} of {human(step.min_duration)} observed"] if left else []
        reason = "; ".join(missing) or "nothing; it goes on at the next decision"
        return f"{where} has passed its checks. Missing: {reason}. {go_on}", left
    pace = _pace(judgement)
    return _fitted(where, missing, pace, go_on), judgement.eta_seconds


def _pace(judgement: Judgement) -> str:
    eta = judgement.eta_seconds
    silent = [s.check for s in judgement.silent if s.holds]
    if silent:
        return f"It goes on when {silent[0]} is read again."
    if eta is None and judgement.candidate_n:
        return "How long that takes cannot be told yet."
    if eta is None:
        return "At the present traffic it cannot be told how long: send requests."
    traffic = f" ({requests_per_second(judgement.per_second)})" if judgement.per_second else ""
    needs = f"an equal candidate needs about {human(max(1.0, eta))} more"
    return f"At the present traffic{traffic} {needs}."


def _fitted(where: str, missing: list[str], pace: str, go_on: str) -> str:
    """The message within a status field; the command is never cut off."""
    for kept in range(len(missing), 0, -1):
        rest = len(missing) - kept
        parts = "; ".join(missing[:kept]) + (f"; and {rest} more" if rest else "")
        text = f"{where} waits. Missing: {parts}. {pace} {go_on}"
        if len(text) <= LIMIT:
            return text
    return f"{where} waits. {pace} {go_on}"
