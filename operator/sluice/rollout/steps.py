"""Stepping: scale, ready, route, observe the real share, judge, and on to the next weight."""

from __future__ import annotations

from sluice.rollout import estimate, no_traffic
from sluice.rollout import judge as judging
from sluice.rollout.draft import Draft
from sluice.rollout.messages import LIMIT, annotate, short, with_way_out
from sluice.rollout.model import Failure, Quiet
from sluice.rollout.plan import Plan
from sluice.rollout.provision import SCALED_TO_ZERO, candidate_pods
from sluice.rollout.waiting import explain, paused


def step(draft: Draft) -> None:
    """One look at the step the candidate is in."""
    rollout = draft.rollout
    assert rollout is not None
    plan = Plan.from_json(rollout.plan)
    current = plan.steps[rollout.step]
    if not candidate_pods(draft, current.weight):
        return
    if draft.i.spec.replicas == 0:
        draft.wait(SCALED_TO_ZERO, reason="ScaledToZero")
        return
    if draft.roles.weight != current.weight or not draft.progress.judge:
        if not paused(draft):
            _enter(draft, plan, current.weight)
        return
    if not routed(draft, current.weight):
        return
    draft.set_rollout(step_observed=rollout.step_observed + draft.elapsed, fetched=0.0)
    judge_step(draft, plan)


def _enter(draft: Draft, plan: Plan, weight: int) -> None:
    rollout = draft.rollout
    assert rollout is not None
    state = draft.progress.judge
    if rollout.step == 0 or not state:
        state = judging.new_state(plan, "canary")
    draft.set_progress(judge=judging.begin_step(plan, state, rollout.step), quiet=Quiet())
    draft.set_roles(weight=weight)
    draft.set_rollout(step_observed=0.0, fetched=0.0, since=draft.i.now)
    draft.note("StepStarted", f"Step {rollout.step + 1} of {len(plan.steps)}: {weight} %.")
    draft.wait(f"Setting the weight to {weight} %.", reason="Stepping")
    draft.come_back(1.0)


def routed(draft: Draft, weight: int) -> bool:
    """Whether every router confirms the weight; says who does not."""
    router = draft.i.router
    if router.complete and router.weight_low == router.weight_high == weight:
        return True
    draft.wait(
        router.message or f"{router.reachable} of {router.pods} router pods confirm the weight.",
        reason="WaitingForRouter",
    )
    draft.come_back(1.0)
    return False


def judge_step(draft: Draft, plan: Plan) -> None:
    """Passes the step, holds it, or says what it waits for."""
    rollout = draft.rollout
    assert rollout is not None
    verdict = draft.judgement
    current = plan.steps[rollout.step]
    record = draft.revision(rollout.revision)
    digest = short(record.package.digest) if record else ""
    if rollout.pass_step:
        _next(draft, plan)
        return
    _estimate(draft, plan)
    if paused(draft):
        return
    if verdict is not None and verdict.hold is not None:
        _wait_for_a_person(draft, f"{verdict.hold.message} Held for a person.", "Held", digest)
        return
    if verdict is not None and verdict.doubt is not None:
        draft.wait(f"Held: {verdict.doubt.message}", reason="WaitingForEvidence")
        return
    enough_time = rollout.step_observed >= current.min_duration
    passes = verdict is not None and verdict.promotion == "Pass" and enough_time
    by_gates = not passes and no_traffic.passes_by_gates(draft, current)
    if (passes or by_gates) and not draft.progress.partial:
        if current.pause_manual:
            _wait_for_a_person(draft, "The step has passed.", "Paused", digest)
            return
        if by_gates:
            no_traffic.passed(draft, current)
        _next(draft, plan)
        return
    if current.max_duration and rollout.step_observed >= current.max_duration:
        _inconclusive(draft, plan, digest)
        return
    if draft.progress.partial:
        draft.wait(f"Held: {draft.progress.analysis_error}", reason="WaitingForEvidence")
        return
    if no_traffic.seen(draft):
        said = f"Step {rollout.step + 1} waits. {no_traffic.said(draft, current)}"
        _wait_for_a_person(draft, said, "NoData", digest)
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
    draft.wait(_with_estimate(draft, explanation), reason="Stepping", eta=eta)


def _estimate(draft: Draft, plan: Plan) -> None:
    """Says once, when the traffic is known, what it is enough for."""
    rollout = draft.rollout
    assert rollout is not None
    if rollout.estimate or rollout.step > 0 or not draft.progress.judge:
        return
    step = plan.steps[rollout.step]
    traffic = estimate.traffic_of(step, draft.progress.judge)
    if traffic is not None:
        said = estimate.said(plan, step, traffic)
        draft.set_rollout(estimate=said)
        draft.note("Estimated", said)


def _with_estimate(draft: Draft, said: str) -> str:
    """The message with the estimate after it, where both fit."""
    rollout = draft.rollout
    assert rollout is not None
    longer = f"{said} ({rollout.estimate.removesuffix('.')})"
    return longer if rollout.estimate and len(longer) <= LIMIT else said


def _next(draft: Draft, plan: Plan) -> None:
    rollout = draft.rollout
    assert rollout is not None
    last = rollout.step + 1 >= len(plan.steps) or rollout.skip_steps
    copied = plan.steps[rollout.step].mirror > 0
    if copied and (last or not plan.steps[rollout.step + 1].mirror):
        draft.set_rollout(mirror_ended=draft.i.now, pass_step=False)
    elif last:
        ahead = plan.experiment is not None and not rollout.skip_steps
        draft.set_rollout(
            event="the last step passes",
            phase="Experimenting" if ahead else "Promoting",
            since=draft.i.now,
            step_observed=0.0,
            pass_step=False,
        )
    else:
        draft.set_rollout(step=rollout.step + 1, step_observed=0.0, pass_step=False)
    draft.come_back(0.0)


def _inconclusive(draft: Draft, plan: Plan, digest: str) -> None:
    """Time is up without a verdict.  Without the step's sample nothing is decided either."""
    rollout, verdict = draft.rollout, draft.judgement
    assert rollout is not None
    policy = draft.i.spec.rollout.on_inconclusive
    sample = plan.steps[rollout.step].min_requests
    seen = verdict.candidate_n if verdict is not None else 0
    silent = [s for s in verdict.silent if s.holds] if verdict is not None else []
    if silent:
        said = f"The step reached maxDuration without data of {silent[0].check}; it holds."
        _wait_for_a_person(draft, f"{said} {silent[0].said}", "Inconclusive", digest)
    elif seen < sample or draft.progress.empty_looks > 0:
        said = f"The step reached maxDuration with {seen:,} of {sample:,} requests; it holds."
        _wait_for_a_person(draft, said, "Inconclusive", digest)
    elif policy == "Promote":
        _next(draft, plan)
    elif policy == "Rollback":
        draft.fail(
            Failure(
                check="inconclusive",
                reason="Inconclusive",
                message="The step reached maxDuration without a verdict.",
                scope="Revision",
                detected=draft.i.now,
            ),
            "undecided at maxDuration",
        )
    else:
        said = "The step reached maxDuration without a verdict; it holds."
        _wait_for_a_person(draft, said, "Inconclusive", digest)


def _wait_for_a_person(draft: Draft, said: str, reason: str, digest: str) -> None:
    promote = annotate(draft.i.name, "promote", digest)
    way_out = f"Go on: {promote} or take it back: sluice.dev/abort=now"
    draft.wait(with_way_out(said, way_out), reason=reason)
