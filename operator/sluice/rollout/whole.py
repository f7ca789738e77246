"""Roles and progress that do not belong together are brought together before anything is decided.

The evidence ConfigMap may be lost; the router's ConfigMap still says who serves.  What nobody
judges any more must not keep its traffic.
"""

from __future__ import annotations

from sluice.rollout.draft import Draft
from sluice.rollout.model import ExperimentProgress
from sluice.rollout.plan import Plan, analysis_plan
from sluice.rollout.watch import begin


def made_whole(draft: Draft) -> None:
    """A candidate without a rollout loses its weight; a holdback without a watch is watched."""
    _readable(draft)
    roles = draft.roles
    if draft.rollout is None and (roles.candidate is not None or roles.weight):
        draft.set_roles(candidate=None, weight=0)
    if draft.watch is None and roles.previous is not None and roles.stable is not None:
        begin(
            draft,
            roles.stable,
            roles.previous,
            analysis_plan(draft.i.spec),
            event="a holdback without a watch",
        )


def _unplanned(running: ExperimentProgress | None) -> ExperimentProgress | None:
    said = "The experiment begins again: another version of the operator planned it."
    return running and running.model_copy(update={"damaged": said})


def _readable(draft: Draft) -> None:
    """A plan that another version wrote is made anew from the spec, with no evidence.

    A decision that failed on it would leave a candidate its traffic, unjudged.
    """
    rollout, watching = draft.rollout, draft.watch
    plan = analysis_plan(draft.i.spec)
    if rollout is not None and rollout.plan and Plan.read(rollout.plan) is None:
        step = min(rollout.step, len(plan.steps) - 1)
        if rollout.phase == "Stepping":
            step = max(step, plan.first_weight)
        draft.set_rollout(plan=plan.to_json(), step=step)
        experiment = _unplanned(draft.progress.experiment)
        draft.set_progress(judge={}, snapshot={}, metrics={}, pod_minutes={}, experiment=experiment)
    if watching is not None and Plan.read(watching.plan) is None:
        begin(draft, watching.revision, watching.previous, plan)
