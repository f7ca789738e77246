"""One pod that fails while its siblings are as stable is: it is replaced, once.

Called by interrupts.
"""

from __future__ import annotations

from sluice.rollout import judge as judging
from sluice.rollout.draft import Draft
from sluice.rollout.judge_alarms import LoneFailure
from sluice.rollout.model import JUDGED, Progress
from sluice.rollout.plan import Plan

REPLACED = "PodReplaced"


def replace_pod(draft: Draft, lone: LoneFailure) -> bool:
    """Orders the pod's replacement and begins the evidence anew; False when another one was before.

    A pod that goes may still answer for a while: what it does then is not held against the model.
    """
    rollout, watching = draft.rollout, draft.watch
    again = lone.pod in to_replace(draft.progress)
    if rollout is not None and rollout.phase in JUDGED:
        if rollout.replaced and not again:
            return False
        plan = Plan.from_json(rollout.plan)
        state = judging.begin_step(plan, judging.new_state(plan, "canary"), rollout.step)
        draft.set_rollout(replaced=lone.pod, step_observed=0.0)
    elif watching is not None and (again or not watching.replaced):
        planned = draft.progress.judge["planned"]
        state = judging.new_state(Plan.from_json(watching.plan), "watch", planned_looks=planned)
        draft.set_watch(replaced=lone.pod)
    else:
        return False
    # What the pod did says nothing of the one in its place.
    draft.set_progress(judge=state, snapshot={}, metrics={}, pod_minutes={})
    draft.judgement = None
    if not again:
        draft.note(REPLACED, f"Pod {lone.pod} is replaced: {lone.check.message}", warning=True)
    draft.come_back(1.0)
    return True


def to_replace(progress: Progress) -> frozenset[str]:
    """Names of pods that are to go, for as long as their rollout or watch lasts."""
    parts = (progress.rollout, progress.watch)
    return frozenset(part.replaced for part in parts if part is not None and part.replaced)
