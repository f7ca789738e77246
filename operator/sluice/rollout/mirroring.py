"""Mirroring: stable's pods copy requests to the candidate, which no user has met yet.

The weight is 0 all the time.  A step is judged as any other; what is counted are compared copies.
Before the first weight every ready pod of stable has to say that it copies to nobody any more.
"""

from __future__ import annotations

from sluice.rollout import judge as judging
from sluice.rollout.draft import Draft
from sluice.rollout.gates import overdue
from sluice.rollout.model import MirrorOrder, Quiet
from sluice.rollout.plan import Plan, StepPlan
from sluice.rollout.provision import SCALED_TO_ZERO, candidate_pods
from sluice.rollout.steps import judge_step
from sluice.rollout.waiting import paused

PASSES = "the last mirrored step passes"


def order(draft: Draft) -> MirrorOrder | None:
    """Where stable's pods are to copy to now; None: to nobody."""
    rollout = draft.rollout
    if rollout is None or rollout.phase != "Mirroring" or not rollout.revision:
        return None
    if rollout.mirror_ended or rollout.paused_by_check or draft.roles.stable is None:
        return None
    plan = Plan.from_json(rollout.plan)
    percent = plan.steps[rollout.step].mirror
    if not percent or not draft.progress.judge:
        return None
    return MirrorOrder(draft.roles.stable, rollout.revision, rollout.id, percent, plan.tolerance)


def mirror(draft: Draft) -> None:
    """One look at the mirrored step."""
    rollout = draft.rollout
    assert rollout is not None
    plan = Plan.from_json(rollout.plan)
    current = plan.steps[rollout.step]
    if rollout.mirror_ended or not current.mirror:
        _end(draft, plan)
        return
    if not candidate_pods(draft, current.load):
        return
    if draft.i.spec.replicas == 0:
        draft.wait(SCALED_TO_ZERO, reason="ScaledToZero")
        return
    if draft.progress.judge.get("step") != rollout.step:
        if not paused(draft):
            _enter(draft, plan, current)
        return
    draft.set_rollout(step_observed=rollout.step_observed + draft.elapsed, fetched=0.0)
    _say_who_follows(draft)
    judge_step(draft, plan)


def _enter(draft: Draft, plan: Plan, step: StepPlan) -> None:
    rollout = draft.rollout
    assert rollout is not None
    state = draft.progress.judge or judging.new_state(plan, "canary")
    draft.set_progress(
        judge=judging.begin_step(plan, state, rollout.step), mirror_seen=None, quiet=Quiet()
    )
    draft.set_rollout(step_observed=0.0, fetched=0.0, since=draft.i.now)
    what = f"{step.mirror} % of requests are copied, no user gets an answer of the candidate"
    draft.note("StepStarted", f"Step {rollout.step + 1} of {len(plan.steps)}: {what}.")
    draft.wait(f"Telling stable's pods to mirror {step.mirror} %.", reason="Mirroring")
    draft.come_back(1.0)


def _say_who_follows(draft: Draft) -> None:
    """Before the first copy, what is waited for is that pods hear of it."""
    seen, rollout = draft.progress.mirror_seen, draft.rollout
    assert rollout is not None
    if rollout.paused or rollout.pass_step or (seen is not None and seen.mirroring > 0):
        return
    if seen is not None and seen.problem:
        draft.wait(f"Stable's pods cannot mirror: {seen.problem}.", reason="WaitingForMirror")
    elif not (draft.judgement and draft.judgement.candidate_n):
        pods = f"0 of {seen.pods} do" if seen is not None else "they have not been asked yet"
        draft.wait(
            f"Waiting for stable's pods to mirror: {pods}. A mounted file takes up to a minute or "
            "two to arrive; pods of a revision made before mirroring was known never do.",
            reason="WaitingForMirror",
        )


def _end(draft: Draft, plan: Plan) -> None:
    """Goes on once nobody mirrors any more: copies must not meet users at the candidate."""
    rollout, seen = draft.rollout, draft.progress.mirror_seen
    assert rollout is not None
    if not rollout.mirror_ended:
        draft.set_rollout(mirror_ended=draft.i.now)
        draft.come_back(1.0)
        return
    asked = seen is not None and seen.at > rollout.mirror_ended
    if seen is None or not asked or seen.quiet < seen.pods:
        quiet = f"{seen.quiet} of {seen.pods} pods" if seen is not None and asked else "no pod"
        said = (
            f"Mirroring has ended; {quiet} of stable confirmed it so far. Users meet the candidate "
            "when all have."
        )
        draft.wait(said, reason="WaitingForMirror")
        overdue(draft, said)
        return
    index = max(rollout.step, plan.first_weight)
    state = draft.progress.judge or judging.new_state(plan, "canary")
    draft.set_progress(
        judge=judging.begin_step(plan, state, index),
        snapshot={},
        metrics={},
        pod_minutes={},
        mirror_seen=None,
        quiet=Quiet(),
    )
    draft.set_rollout(
        event=PASSES,
        phase="Promoting" if rollout.skip_steps else "Stepping",
        step=index,
        step_observed=0.0,
        mirror_ended=0.0,
        pass_step=False,
        fetched=0.0,
        since=draft.i.now,
    )
    draft.come_back(0.0)
