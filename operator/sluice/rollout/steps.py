"""Stepping: scale, ready, route, observe the real share, judge, and on to the next weight."""

from __future__ import annotations

from sluice.rollout import judge as judging
from sluice.rollout.draft import Draft
from sluice.rollout.model import Failure
from sluice.rollout.plan import Plan
from sluice.rollout.provision import candidate_pods
from sluice.rollout.waiting import explain


def step(draft: Draft) -> None:
    """One look at the step the candidate is in."""
    rollout = draft.rollout
    assert rollout is not None
    plan = Plan.from_json(rollout.plan)
    current = plan.steps[rollout.step]
    if not candidate_pods(draft, current.weight):
        return
    if draft.roles.weight != current.weight:
        _enter(draft, plan, current.weight)
        return
    if not _routed(draft, current.weight):
        return
    draft.set_rollout(step_observed=rollout.step_observed + draft.elapsed)
    _judge_step(draft, plan)


def _enter(draft: Draft, plan: Plan, weight: int) -> None:
    rollout = draft.rollout
    assert rollout is not None
    state = draft.progress.judge
    if rollout.step == 0:
        state = judging.new_state(plan, "canary")
    draft.set_progress(judge=judging.begin_step(plan, state, rollout.step))
    draft.set_roles(weight=weight)
    draft.set_rollout(step_observed=0.0, pass_step=False, since=draft.i.now)
    draft.note("StepStarted", f"Step {rollout.step + 1} of {len(plan.steps)}: {weight} %.")
    draft.wait(f"Setting the weight to {weight} %.", reason="Stepping")
    draft.come_back(1.0)


def _routed(draft: Draft, weight: int) -> bool:
    router = draft.i.router
    if router.complete and router.weight_low == router.weight_high == weight:
        return True
    draft.wait(
        router.message or f"{router.reachable} of {router.pods} router pods confirm the weight.",
        reason="WaitingForRouter",
    )
    draft.come_back(1.0)
    return False


def _judge_step(draft: Draft, plan: Plan) -> None:
    rollout = draft.rollout
    assert rollout is not None
    verdict = draft.judgement
    current = plan.steps[rollout.step]
    record = draft.revision(rollout.revision)
    digest = record.package.digest.removeprefix("sha256:")[:12] if record else ""
    if rollout.pass_step:
        _next(draft, plan)
        return
    if rollout.paused:
        draft.wait(
            f"Paused {rollout.paused}. Go on: kubectl annotate mdep/{draft.i.name} "
            "sluice.dev/resume=now",
            reason="Paused",
        )
        return
    if verdict is not None and verdict.hold is not None:
        draft.wait(
            f"{verdict.hold.message} Held for a person: kubectl annotate mdep/{draft.i.name} "
            f"sluice.dev/promote={digest} or sluice.dev/abort=now",
            reason="Held",
        )
        return
    enough_time = rollout.step_observed >= current.min_duration
    if verdict is not None and verdict.promotion == "Pass" and enough_time:
        if current.pause_manual:
            draft.wait(
                f"The step has passed. Go on: kubectl annotate mdep/{draft.i.name} "
                f"sluice.dev/promote={digest}",
                reason="Paused",
            )
            return
        _next(draft, plan)
        return
    if current.max_duration and rollout.step_observed >= current.max_duration:
        _inconclusive(draft, plan, digest)
        return
    explanation, eta = explain(
        name=draft.i.name,
        digest=digest,
        step=current,
        index=rollout.step,
        count=len(plan.steps),
        observed=rollout.step_observed,
        judgement=verdict,
    )
    draft.wait(explanation, reason="Stepping", eta=eta)


def _next(draft: Draft, plan: Plan) -> None:
    rollout = draft.rollout
    assert rollout is not None
    last = rollout.step + 1 >= len(plan.steps) or rollout.skip_steps
    if last:
        draft.set_rollout(phase="Promoting", since=draft.i.now, pass_step=False)
    else:
        draft.set_rollout(step=rollout.step + 1, step_observed=0.0, pass_step=False)
    draft.come_back(0.0)


def _inconclusive(draft: Draft, plan: Plan, digest: str) -> None:
    policy = draft.i.spec.rollout.on_inconclusive
    if policy == "Promote":
        _next(draft, plan)
    elif policy == "Rollback":
        draft.fail(
            Failure(
                check="inconclusive",
                reason="Inconclusive",
                message="The step reached maxDuration without a verdict.",
                scope="Revision",
                detected=draft.i.now,
            )
        )
    else:
        draft.wait(
            "The step reached maxDuration without a verdict; it holds. Decide: kubectl annotate "
            f"mdep/{draft.i.name} sluice.dev/promote={digest} or sluice.dev/abort=now",
            reason="Inconclusive",
        )
