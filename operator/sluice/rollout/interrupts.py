"""What may cut in at any moment, in this order: guardrail, spec back to stable, new revision.

Delete and abort come before (decide.py, commands.py); a pause lets all of these through.
"""

from __future__ import annotations

from sluice.rollout.desired import Desired
from sluice.rollout.draft import Draft
from sluice.rollout.judge import CheckResult
from sluice.rollout.model import Failure
from sluice.rollout.watch import end, take_back

BOTH_FAIL = 0.2
"""Stable's own share of failures from which the environment is suspected, not the candidate."""


def guardrail(draft: Draft) -> None:
    """An alarm takes the candidate, or the promoted revision under watch, back."""
    _condemned(draft)
    if draft.judgement is None or draft.judgement.alarm is None:
        return
    alarm = draft.judgement.alarm
    failure = Failure(
        check=alarm.name,
        reason="GuardrailFailed",
        message=alarm.message[:512],
        scope="Revision" if alarm.type == "Latency" else "Package",
        detected=draft.i.now,
    )
    if draft.rollout is None and draft.watch is not None:
        take_back(draft, failure)
        return
    rollout = draft.rollout
    if rollout is None or rollout.phase not in ("Stepping", "Promoting"):
        return
    if _environment_suspected(alarm):
        draft.set_rollout(withdrawn=True)
        failure = failure.model_copy(update={"message": f"Both arms fail: {failure.message}"[:512]})
    elif draft.i.spec.rollout.on_fail == "Pause":
        draft.set_roles(weight=0)
        if not rollout.paused:
            draft.set_rollout(paused=f"because {failure.message}"[:300])
            draft.note("GuardrailFailed", failure.message, warning=True)
        return
    draft.fail(failure)


def _condemned(draft: Draft) -> None:
    """A verdict that was written just before we were killed still takes effect."""
    rollout = draft.rollout
    if rollout is not None and rollout.revision and rollout.failure is None:
        verdict = draft.verdict(rollout.revision)
        if verdict.phase == "Failed":
            draft.fail(_recorded(draft, rollout.revision))
    if draft.watch is not None and draft.verdict(draft.watch.revision).phase == "Failed":
        take_back(draft, _recorded(draft, draft.watch.revision))


def _recorded(draft: Draft, revision: str) -> Failure:
    verdict = draft.verdict(revision)
    return Failure(
        check=verdict.check,
        reason=verdict.reason,
        message=verdict.message,
        scope=verdict.scope or "Package",
        detected=draft.i.now,
    )


def _environment_suspected(alarm: CheckResult) -> bool:
    return (
        alarm.type == "ErrorRate"
        and alarm.stable_value is not None
        and alarm.stable_value >= BOTH_FAIL
    )


def back_to_stable(draft: Draft, want: Desired) -> None:
    """The spec names what serves already: whatever was on its way goes, without a verdict."""
    if want.revision is None or want.revision != draft.roles.stable:
        return
    _supersede(draft, want, "The spec is back at the revision that serves.")


def new_revision(draft: Draft, want: Desired) -> None:
    """The spec moved on: the candidate in flight is superseded."""
    rollout = draft.rollout
    if rollout is None or rollout.failure is not None:
        return
    if want.revision is None:
        if rollout.revision is not None and rollout.source != want.source:
            _supersede(draft, want, "The spec names another model.")
        elif rollout.source != want.source:
            draft.set_progress(rollout=None)
        return
    if rollout.revision is not None and rollout.revision != want.revision:
        _supersede(draft, want, f"The spec now asks for {want.revision}.")


def back_to_previous(draft: Draft, want: Desired) -> None:
    """During a watch the spec names the revision that is still warm: it serves at once."""
    watching = draft.watch
    if watching is None or want.revision != watching.previous:
        return
    revision = watching.revision
    end(draft)
    draft.set_roles(stable=want.revision, previous=None, holdback=0)
    draft.set_progress(outcome=None, rollout=None)
    draft.note("WentBack", f"The spec asks for {want.revision} again; {revision} steps down.")


def _supersede(draft: Draft, want: Desired, why: str) -> None:
    rollout = draft.rollout
    if rollout is None or rollout.failure is not None:
        return
    if rollout.revision is not None:
        draft.note("Superseded", f"Candidate {rollout.revision} has no verdict: {why}")
    draft.end_rollout(None)
    draft.come_back(0.0)
