"""What may cut in at any moment, in this order: guardrail, spec back to stable, new revision.

Delete and abort come before (decide.py, commands.py); a pause lets all of these through.
"""

from __future__ import annotations

from sluice.rollout.desired import Desired
from sluice.rollout.draft import Draft
from sluice.rollout.judge import failing_now
from sluice.rollout.judge_results import CheckResult
from sluice.rollout.lone_pod import replace_pod
from sluice.rollout.model import JUDGED, Failure
from sluice.rollout.watch import end, take_back

FAILS = "a guardrail fails"
UNTRUSTED = "the environment is suspected"
ON_RECORD = "a Fail is on record"
BACK = "the spec is back at stable"
MOVED_ON = "the spec moved on"

BOTH_FAIL = 0.2
"""Stable's own share of failures from which the environment is suspected, not the candidate."""


def guardrail(draft: Draft) -> None:
    """An alarm takes the candidate, or the promoted revision under watch, back."""
    _condemned(draft)
    if _withdraw(draft):
        return
    alarm = _alarm(draft)
    if alarm is None:
        return
    failure = Failure(
        check=alarm.name,
        reason="GuardrailFailed",
        message=alarm.message[:512],
        scope=alarm.scope,
        detected=draft.i.now,
    )
    suspected = _environment_suspected(draft, alarm)
    if suspected:
        failure = failure.model_copy(update={"message": f"Both arms fail: {failure.message}"[:512]})
    rollout = draft.rollout
    if rollout is None or rollout.phase not in JUDGED:
        # The evidence is the watch's, also while the next candidate waits for its end.
        if draft.watch is not None:
            take_back(draft, failure, event=FAILS, withdrawn=suspected)
        return
    if draft.i.spec.rollout.on_fail == "Pause" and not suspected:
        _pause(draft, failure)
        return
    draft.set_rollout(withdrawn=suspected)
    draft.fail(failure, FAILS)


def _alarm(draft: Draft) -> CheckResult | None:
    """What fails by the model's fault.  One bad pod is replaced once; the next one is no chance."""
    verdict = draft.judgement
    if verdict is None or verdict.alarm is not None or verdict.lone is None:
        return None if verdict is None else verdict.alarm
    return None if replace_pod(draft, verdict.lone) else verdict.lone.check


def _withdraw(draft: Draft) -> bool:
    """Ends a rollout whose evidence stays untrusted: no verdict, tried again by itself."""
    rollout, verdict = draft.rollout, draft.judgement
    if rollout is None or rollout.phase not in JUDGED or rollout.failure is not None:
        return False
    if verdict is None or verdict.doubt is None or not verdict.doubt.lasting:
        return False
    draft.set_rollout(withdrawn=True)
    failure = Failure(
        check=verdict.doubt.kind,
        reason="Untrusted",
        message=verdict.doubt.message[:512],
        scope="Revision",
        detected=draft.i.now,
    )
    draft.fail(failure, UNTRUSTED)
    return True


def _pause(draft: Draft, failure: Failure) -> None:
    rollout = draft.rollout
    assert rollout is not None
    draft.set_roles(weight=0)
    if not rollout.paused_by_check:
        draft.set_rollout(paused=f"because {failure.message}", paused_by_check=True)
        draft.note("GuardrailFailed", failure.message, warning=True)


def _condemned(draft: Draft) -> None:
    """A verdict that was written just before we were killed still takes effect."""
    rollout = draft.rollout
    if rollout is not None and rollout.revision and rollout.failure is None:
        verdict = draft.verdict(rollout.revision)
        if verdict.phase == "Failed":
            draft.fail(_recorded(draft, rollout.revision), ON_RECORD)
    if draft.watch is not None and draft.verdict(draft.watch.revision).phase == "Failed":
        take_back(draft, _recorded(draft, draft.watch.revision), event=ON_RECORD)


def _recorded(draft: Draft, revision: str) -> Failure:
    verdict = draft.verdict(revision)
    return Failure(
        check=verdict.check,
        reason=verdict.reason,
        message=verdict.message,
        scope=verdict.scope or "Package",
        detected=draft.i.now,
    )


def _environment_suspected(draft: Draft, alarm: CheckResult) -> bool:
    doubt = draft.judgement.doubt if draft.judgement is not None else None
    if doubt is not None and doubt.kind == "Environment":
        return True
    return alarm.type == "ErrorRate" and failing_now(draft.progress.judge) >= BOTH_FAIL


def back_to_stable(draft: Draft, want: Desired) -> None:
    """The spec names what serves already: whatever was on its way goes, without a verdict."""
    if want.revision is None or want.revision != draft.roles.stable:
        return
    _supersede(draft, BACK, "The spec is back at the revision that serves.")


def new_revision(draft: Draft, want: Desired) -> None:
    """The spec moved on: the candidate in flight is superseded."""
    rollout = draft.rollout
    if rollout is None or rollout.failure is not None:
        return
    if want.revision is None:
        if rollout.revision is not None and rollout.source != want.source:
            _supersede(draft, MOVED_ON, "The spec names another model.")
        elif rollout.source != want.source:
            draft.set_progress(event=MOVED_ON, rollout=None)
        return
    if rollout.revision is not None and rollout.revision != want.revision:
        _supersede(draft, MOVED_ON, f"The spec now asks for {want.revision}.")


def back_to_previous(draft: Draft, want: Desired) -> None:
    """During a watch the spec names the revision that is still warm: it serves at once."""
    watching = draft.watch
    if watching is None or want.revision != watching.previous:
        return
    revision = watching.revision
    event = "the spec is back at previous"
    draft.drop_rollout(event)
    draft.set_progress(outcome=None)
    end(draft, event=event)
    draft.set_roles(stable=want.revision, since_anchor=watching.since_anchor)
    draft.note("WentBack", f"The spec asks for {want.revision} again; {revision} steps down.")


def _supersede(draft: Draft, event: str, why: str) -> None:
    rollout = draft.rollout
    if rollout is None or rollout.failure is not None:
        return
    if rollout.revision is not None:
        draft.note("Superseded", f"Candidate {rollout.revision} has no verdict: {why}")
    draft.end_rollout(None, event)
    draft.come_back(0.0)
