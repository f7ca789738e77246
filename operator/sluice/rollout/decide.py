"""The decision.  ``decide`` reads like the description of the product.

It is total (every input has an answer), level-based (nothing is remembered outside its inputs) and
a fixpoint: applied to a world that already matches, it changes nothing.

The order is the order of precedence: deletion, commands (abort first), a failed guardrail, the spec
going back, a new revision, and only then normal progress.
"""

from __future__ import annotations

from sluice.rollout import judge as judging
from sluice.rollout.admission import admit
from sluice.rollout.checks import shown_checks, shown_evidence
from sluice.rollout.commands import obey
from sluice.rollout.desired import Desired, desired
from sluice.rollout.draft import Draft, draft_of
from sluice.rollout.experiment import experiment, tidy
from sluice.rollout.gates import validate
from sluice.rollout.interrupts import back_to_previous, back_to_stable, guardrail, new_revision
from sluice.rollout.keep import pods_wanted, retirable, slots_kept
from sluice.rollout.lone_pod import to_replace
from sluice.rollout.mirroring import mirror, order
from sluice.rollout.model import JUDGED, Decision, Inputs, Progress
from sluice.rollout.plan import Plan
from sluice.rollout.promote import promote
from sluice.rollout.provision import provision
from sluice.rollout.rollback import roll_back
from sluice.rollout.status import project
from sluice.rollout.steps import step
from sluice.rollout.times import rfc3339_milli
from sluice.rollout.watch import watch
from sluice.rollout.whole import made_whole

PHASES = {
    "Validating": validate,
    "Provisioning": provision,
    "Mirroring": mirror,
    "Stepping": step,
    "Experimenting": experiment,
    "Promoting": promote,
    "RollingBack": roll_back,
}


def decide(i: Inputs) -> Decision:
    """What should be true next, given everything that is known now."""
    draft = draft_of(i)
    want = desired(i)
    if i.deleting:
        return _conclude(draft, want)
    made_whole(draft)
    draft.judgement = _judgement(draft)
    judged, judgement = draft.progress, draft.judgement
    _age(draft)
    obey(draft)
    guardrail(draft)
    if i.conflicts:
        _safe_only(draft)
    else:
        _go_on(draft, want)
    _remember(draft, judged, judgement)
    _confirm_rollback(draft)
    return _conclude(draft, want)


def _go_on(draft: Draft, want: Desired) -> None:
    back_to_previous(draft, want)
    back_to_stable(draft, want)
    new_revision(draft, want)
    admit(draft, want)
    _proceed(draft)
    tidy(draft)


def _remember(draft: Draft, judged: Progress, judgement: judging.Judgement | None) -> None:
    """What is taken back in this decision keeps its checks and looks in status."""
    failure = draft.rollout.failure if draft.rollout is not None else None
    fails = failure is not None and (judged.rollout is None or judged.rollout.failure is None)
    undone = judged.watch is not None and draft.progress.last_rollback != judged.last_rollback
    if judgement is not None and (fails or undone):
        draft.set_progress(
            last_checks=shown_checks(judgement), last_evidence=shown_evidence(judged, judgement)
        )


def _safe_only(draft: Draft) -> None:
    """Somebody else owns one of our names: nothing new begins, but bad models still go."""
    if draft.rollout is not None and draft.rollout.phase == "RollingBack":
        _proceed(draft)


def _judgement(draft: Draft) -> judging.Judgement | None:
    """The present state of the statistics; None when nothing is being compared."""
    rollout, watching = draft.rollout, draft.watch
    if not draft.progress.judge:
        return None
    if rollout is not None and rollout.phase in JUDGED:
        plan = Plan.from_json(rollout.plan)
        if draft.progress.judge.get("v") != judging.VERSION:
            # Written by another version, so not read: the step's evidence starts again.
            state = judging.new_state(plan, "canary")
            draft.set_progress(judge=judging.begin_step(plan, state, rollout.step))
    elif watching is not None:
        plan = Plan.from_json(watching.plan)
        if draft.progress.judge.get("v") != judging.VERSION:
            draft.set_progress(judge=judging.new_state(plan, "watch"))
    else:
        return None
    return judging.judge(plan, draft.progress.judge)


def _age(draft: Draft) -> None:
    """Counts observed seconds: those in which somebody looked."""
    rollout = draft.rollout
    if rollout is None:
        return
    fetched = draft.elapsed if rollout.revision is not None else 0.0
    draft.set_rollout(observed=rollout.observed + draft.elapsed, fetched=rollout.fetched + fetched)


def _proceed(draft: Draft) -> None:
    rollout = draft.rollout
    if rollout is not None and rollout.phase in PHASES:
        if rollout.revision in draft.i.revisions:
            PHASES[rollout.phase](draft)
        else:
            draft.come_back(0.5)
    if draft.watch is not None and draft.i.progress.watch is not None:
        watch(draft)


def _confirm_rollback(draft: Draft) -> None:
    """Notes when routers showed that the revision taken back gets nothing."""
    last = draft.progress.last_rollback
    if last is None or last.traffic_zero_at:
        return
    router = draft.i.router
    if router.pods == 0 or (router.complete and last.from_ not in router.carrying):
        draft.set_progress(
            last_rollback=last.model_copy(update={"traffic_zero_at": rfc3339_milli(draft.i.now)})
        )
    else:
        draft.come_back(0.2)


def _conclude(draft: Draft, want: Desired) -> Decision:
    """Closes the draft: what is kept, what goes, what people see, when to look again."""
    i = draft.i
    in_flight = draft.rollout is not None or draft.watch is not None
    slots_kept(draft)
    _commit_time(draft, in_flight)
    if in_flight:
        draft.come_back(draft.interval)
    return Decision(
        roles=draft.roles,
        progress=draft.progress,
        status=project(draft, want),
        replicas=pods_wanted(draft),
        retire=retirable(draft),
        replace=to_replace(draft.progress),
        new_revision=draft.new_revision,
        verdicts=draft.verdicts,
        resolve=draft.resolve,
        drop_resolve=draft.drop_resolve,
        gates=draft.gates,
        drop_gates=draft.drop_gates and not i.deleting,
        mirror=order(draft),
        executed=tuple(draft.executed),
        notes=tuple(draft.notes),
        moves=tuple(draft.moves),
        requeue=draft.requeue,
    )


def _commit_time(draft: Draft, in_flight: bool) -> None:
    """Moves the tick when there is something to write anyway or an interval has passed.

    Between looks nothing is written for the sake of the clock alone.
    """
    before, after = draft.i.progress, draft.progress
    if not in_flight:
        if after.tick:
            draft.set_progress(tick=0.0)
        return
    quiet = (
        _timeless(before) == _timeless(after)
        and before.tick
        and draft.i.now - before.tick < draft.interval
        and draft.roles == draft.i.roles
    )
    if quiet:
        draft.progress = before
    else:
        draft.set_progress(tick=draft.i.now)


def _timeless(progress: Progress) -> Progress:
    rollout, watching = progress.rollout, progress.watch
    if rollout is not None:
        rollout = rollout.model_copy(update={"observed": 0.0, "fetched": 0.0, "step_observed": 0.0})
    if watching is not None:
        watching = watching.model_copy(update={"observed": 0.0})
    return progress.model_copy(update={"rollout": rollout, "watch": watching, "tick": 0.0})
