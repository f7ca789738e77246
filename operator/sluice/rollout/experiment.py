"""Experimenting: both arms at one weight until a business metric tells them apart, or time is up.

The steps have shown that the candidate does not fail; guardrails stay on.  Who is in which arm is
said by routers while ``roles.experiment`` names the experiment.  Called by decide.
"""

from __future__ import annotations

from sluice.api.duration import human
from sluice.api.meta import router_name
from sluice.api.status import ArmValue, ExperimentStatus, Share
from sluice.objects.haproxy_config import SHORTEST_TOKEN
from sluice.objects.units import parts
from sluice.rollout import judge as judging
from sluice.rollout import judge_experiment as judge
from sluice.rollout.draft import Draft
from sluice.rollout.judge_experiment import Finding
from sluice.rollout.messages import annotate, short, with_way_out
from sluice.rollout.model import ExperimentProgress, Failure
from sluice.rollout.plan import ExperimentPlan, Plan
from sluice.rollout.provision import SCALED_TO_ZERO, candidate_pods
from sluice.rollout.steps import routed
from sluice.rollout.times import rfc3339
from sluice.rollout.waiting import paused

END = "undecided at its end"


def experiment(draft: Draft) -> None:
    """One look at the experiment: begins it, waits for units, acts on the verdict."""
    rollout = draft.rollout
    assert rollout is not None
    plan = Plan.from_json(rollout.plan)
    asked = plan.experiment
    if asked is None:
        # The plan was made anew by another version, from a spec without one.
        _promote(draft, "a person has seen enough")
        return
    if rollout.pass_step:
        _promote(draft, "a person has seen enough")
        return
    if not candidate_pods(draft, asked.weight):
        return
    if draft.i.spec.replicas == 0:
        draft.wait(SCALED_TO_ZERO, reason="ScaledToZero")
        return
    if not _under_way(draft, asked):
        if draft.i.router.feedback_shut:
            draft.wait(f"The experiment has not begun: {_no_token(draft)}", reason="Held")
        elif not paused(draft):
            _begin(draft, plan, asked)
        return
    if not routed(draft, asked.weight):
        return
    draft.set_rollout(step_observed=rollout.step_observed + draft.elapsed, fetched=0.0)
    if not paused(draft):
        _act(draft, asked)


def tidy(draft: Draft) -> None:
    """An experiment that is over leaves its result, and its log is removed."""
    if draft.i.progress.stale_units:
        # Committed by an earlier decision; removed before this one is committed.
        draft.set_progress(stale_units=0)
    if draft.rollout is not None and draft.rollout.phase == "Experimenting":
        return
    if draft.roles.experiment:
        draft.set_roles(experiment="")
    running = draft.progress.experiment
    if running is not None:
        draft.set_progress(
            last_experiment=shown(draft), experiment=None, stale_units=parts(running.log_bytes)
        )
        draft.come_back(0.0)


def shown(draft: Draft) -> ExperimentStatus | None:
    """The experiment as people read it: the one that runs, else the last one."""
    rollout, running = draft.rollout or draft.i.progress.rollout, draft.progress.experiment
    plan = Plan.read(rollout.plan) if rollout is not None and rollout.plan else None
    if running is None or plan is None or plan.experiment is None:
        return draft.progress.last_experiment
    found = judge.judge(plan.experiment, running.judge)
    return _status(plan.experiment, running, found)


def _no_token(draft: Draft) -> str:
    """Outcomes that nobody can send would be counted as zeros."""
    asked = draft.i.spec.experiment
    assert asked is not None
    assert asked.feedback is not None
    secret = asked.feedback.secret_ref
    return (
        f"a router has no token for /feedback. Put at least {SHORTEST_TOKEN} characters under "
        f"{secret.key!r} of Secret {secret.name!r}, then: kubectl rollout restart "
        f"deployment/{router_name(draft.i.name)} -n {draft.i.namespace}"
    )


def _under_way(draft: Draft, asked: ExperimentPlan) -> bool:
    running, roles = draft.progress.experiment, draft.roles
    if running is None or running.damaged or not draft.progress.judge:
        return False
    if running.judge.get("v") != judge.VERSION:
        return False
    return roles.experiment == _named(asked, running) and roles.weight == asked.weight


def _named(asked: ExperimentPlan, running: ExperimentProgress) -> str:
    """What routers call the experiment when they name units; nothing when others count them."""
    return running.id if asked.source is None else ""


def _begin(draft: Draft, plan: Plan, asked: ExperimentPlan) -> None:
    """From no units: the routers name them by a new key, so pods write each down again."""
    rollout, before = draft.rollout, draft.progress.experiment
    assert rollout is not None
    if before is not None and before.damaged:
        draft.note("ExperimentRestarted", before.damaged, warning=True)
    state = draft.progress.judge
    if not state:
        state = judging.begin_step(plan, judging.new_state(plan, "canary"), rollout.step)
    draft.set_progress(
        experiment=ExperimentProgress(
            id=f"{rollout.id}-{int(draft.i.now) % 1_000_000}",
            since=draft.i.now,
            known=draft.i.now,
            closed=draft.i.now,
            judge=judge.new_state(asked),
        ),
        judge=state if before is not None else judging.begin_experiment(plan, state),
        stale_units=parts(before.log_bytes) if before is not None else 0,
    )
    running = draft.progress.experiment
    assert running is not None
    draft.set_roles(weight=asked.weight, experiment=_named(asked, running))
    draft.set_rollout(step_observed=0.0, fetched=0.0, since=draft.i.now)
    draft.note("ExperimentStarted", f"{asked.metric} is compared at {asked.weight} %.")
    draft.wait(f"Setting the weight to {asked.weight} %.", reason="Held")
    draft.come_back(1.0)


def _act(draft: Draft, asked: ExperimentPlan) -> None:
    rollout, running = draft.rollout, draft.progress.experiment
    assert rollout is not None
    assert running is not None
    if draft.judgement is not None and draft.judgement.hold is not None:
        _ask(draft, f"{draft.judgement.hold.message} Held for a person.")
        return
    found = judge.judge(asked, running.judge)
    over = rollout.step_observed >= asked.max_seconds or judge.finished(
        asked, running.judge, running.open_units
    )
    if found.verdict == "Untrusted":
        _untrusted(draft, asked, running, found, over=over)
    elif found.verdict in ("Superior", "NonInferior"):
        if asked.on_win == "Promote":
            _promote(draft, "the experiment is won", found.message)
        else:
            _ask(draft, found.message)
    elif found.verdict == "Inferior":
        if asked.on_loss == "Rollback":
            _lose(draft, asked, "ExperimentLost", found.message, "the experiment is lost")
        else:
            _ask(draft, found.message)
    elif over:
        _undecided(draft, asked, found)
    else:
        _wait(draft, running, found)


def _wait(draft: Draft, running: ExperimentProgress, found: Finding) -> None:
    pace = "Nobody can tell how long: no unit has come yet."
    if found.eta_seconds is not None:
        pace = f"At the present traffic it ends in at most {human(max(1.0, found.eta_seconds))}."
    held = f" Held: {running.message}" if running.message else ""
    if draft.i.router.feedback_shut:
        held = f" Outcomes are being lost: {_no_token(draft)}."
    _ask(draft, f"{found.message} {pace}{held}", eta=found.eta_seconds)


def _undecided(draft: Draft, asked: ExperimentPlan, found: Finding) -> None:
    """The end has come without a verdict; without units nothing is decided either."""
    if asked.on_inconclusive == "Hold" or min(found.closed) == 0:
        _ask(draft, f"{found.message} It has ended; it holds.", reason="Inconclusive")
    elif asked.on_inconclusive == "Promote":
        _promote(draft, END, found.message)
    else:
        _lose(draft, asked, "Inconclusive", found.message, END)


def _untrusted(
    draft: Draft, asked: ExperimentPlan, running: ExperimentProgress, found: Finding, *, over: bool
) -> None:
    """Held; withdrawn, without a verdict on the candidate, when it stays so."""
    if not over and judge.distrusted_for(running.judge) < judge.PATIENCE_SECONDS:
        _ask(draft, found.message)
        return
    draft.set_rollout(withdrawn=True)
    draft.fail(_failure(draft, asked, "Untrusted", found.message), "its units stay untrusted")


def _lose(draft: Draft, asked: ExperimentPlan, reason: str, said: str, event: str) -> None:
    draft.fail(_failure(draft, asked, reason, said), event)


def _failure(draft: Draft, asked: ExperimentPlan, reason: str, said: str) -> Failure:
    """A metric lost is in the package; nothing proven is no more than this revision's."""
    return Failure(
        check=asked.metric,
        reason=reason,
        message=said[:512],
        scope="Package" if reason == "ExperimentLost" else "Revision",
        detected=draft.i.now,
    )


def _promote(draft: Draft, event: str, said: str = "") -> None:
    if said:
        draft.note("ExperimentWon" if event != END else "ExperimentEnded", said)
    draft.set_rollout(event=event, phase="Promoting", since=draft.i.now, pass_step=False)
    draft.come_back(0.0)


def _ask(draft: Draft, said: str, *, reason: str = "Held", eta: float | None = None) -> None:
    rollout = draft.rollout
    assert rollout is not None
    record = draft.revision(rollout.revision)
    digest = short(record.package.digest) if record else ""
    way_out = f"Go on: {annotate(draft.i.name, 'promote', digest)} or sluice.dev/abort=now"
    draft.wait(with_way_out(said, way_out), reason=reason, eta=eta)


def _status(asked: ExperimentPlan, running: ExperimentProgress, found: Finding) -> ExperimentStatus:
    observed, expected = found.sample_ratio
    return ExperimentStatus(
        metric=asked.metric,
        kind=asked.kind,
        verdict=found.verdict,
        exposed=sum(found.exposed),
        stable=ArmValue(count=found.closed[0], value=found.stable_value),
        candidate=ArmValue(count=found.closed[1], value=found.candidate_value),
        effect=found.effect,
        low=found.low,
        high=found.high,
        margin=asked.margin or None,
        log10_evidence=found.log10_evidence,
        sample_ratio=Share(
            expected=expected, observed=observed, log10_evidence=found.log10_sample_ratio
        ),
        crossed=found.crossed,
        not_counted=running.not_counted,
        since=rfc3339(running.since),
        estimated_seconds=None if found.eta_seconds is None else int(found.eta_seconds),
        message=found.message,
    )
