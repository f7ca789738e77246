"""The judge: evidence in, verdicts out.

``absorb`` adds a look to a state, ``judge`` reads verdicts off it.  Both are pure; the state is
plain JSON that the caller commits together with the counter snapshot the look was made from.
Rollback: Engine C over all guardrails, one alpha for the canary and one for the watch, combined by
the mean of e-values (judge_guardrails, judge_alarms).  Promotion: a process per metric, anew at
each step (judge_promotion).  What people read of it: judge_results.  Formulas: sluice.stats and
docs/statistics.md.

Called by sluice.rollout (decide) and sluice.controller (absorb); calls sluice.stats only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

from sluice.rollout import judge_alarms as alarms
from sluice.rollout import judge_guardrails as guardrails
from sluice.rollout import judge_metrics as metrics
from sluice.rollout import judge_mirror as mirror
from sluice.rollout import judge_pods as by_pod
from sluice.rollout import judge_promotion as promotion
from sluice.rollout import judge_trail as trail
from sluice.rollout import judge_trust as trust
from sluice.rollout.judge_alarms import LoneFailure
from sluice.rollout.judge_guardrails import Finding
from sluice.rollout.judge_metrics import Silence
from sluice.rollout.judge_pods import EVENT
from sluice.rollout.judge_results import CheckResult, claimed, no_cpu, result_of, shown_sample
from sluice.rollout.judge_trust import Doubt
from sluice.rollout.plan import Plan
from sluice.stats import combine, dispersion, outage, watch
from sluice.stats.look import ArmLook, Look

State = dict[str, Any]
Phase = Literal["canary", "watch"]

VERSION = 4
ENOUGH_NOW = 10
"""Requests of stable in one look that say how it is doing now."""

LIMITED = (*EVENT, "Disagreement")
"""Types whose limit spends of alpha."""

RECENT = 0.8
"""Decay per look of the recent counts: about the last five looks."""


@dataclass(frozen=True)
class Judgement:
    """What the evidence says now.

    ``alarm`` takes the candidate back, ``lone`` would but for one pod, ``hold`` asks for a person,
    ``doubt`` says why none of it can be trusted.  ``promotion`` is Pass only without them and with
    all of the step's evidence; otherwise ``missing`` says what is not there yet and ``eta_seconds``
    how long that takes an equal candidate at the present traffic, ``per_second`` requests of both
    arms (None: nobody can tell, without traffic or failures).
    ``excess_bound``: the candidate is not worse by more than this many errors per request.
    ``detectable``: the odds ratio of errors that would have been found.
    ``silent`` are checks whose source gave nothing at the last look; ``log10_need`` is the evidence
    with which one check alone decides.
    """

    checks: list[CheckResult] = field(default_factory=list)
    alarm: CheckResult | None = None
    lone: LoneFailure | None = None
    hold: CheckResult | None = None
    doubt: Doubt | None = None
    promotion: Literal["Pass", "Wait"] = "Wait"
    missing: list[str] = field(default_factory=list)
    eta_seconds: float | None = None
    per_second: float = 0.0
    evidence_percent: float = 0.0
    worst: str = ""
    candidate_n: int = 0
    excess_bound: float | None = None
    detectable: float | None = None
    silent: list[Silence] = field(default_factory=list)
    log10_need: float = 0.0


def new_state(plan: Plan, phase: Phase, planned_looks: int | None = None) -> State:
    """A state without evidence.

    The canary plans one start per step, and one for an experiment; the watch one per look of
    ``planned_looks`` (default: its duration over the interval).
    """
    looks = planned_looks or plan.planned_watch_looks
    starts = watch.planned_starts(looks)
    if phase == "canary":
        starts = len(plan.steps) + (plan.experiment is not None)
    return {
        "v": VERSION,
        "phase": phase,
        "planned": looks,
        "last": -1,
        "looks": 0,
        "step": -1,
        "total": _no_sample(),
        "in_step": _no_sample(),
        "recent": [[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]],
        "now": [0, 0, 0, 0],
        "checks": {c.name: guardrails.new(c, starts) for c in plan.checks},
        "pods": {kind: dispersion.new_pods() for kind in guardrails.COUNTED},
        "by_pod": _no_pods(),
        "trust": trust.new(),
        "cpu": no_cpu(),
        "buckets": dispersion.new_buckets() if plan.sticky else None,
        "net": outage.new() if phase == "watch" else None,
        "mirror": {},
        "promotion": {},
        "trail": [],
    }


def begin_step(plan: Plan, state: State, index: int) -> State:
    """The state at the beginning of step ``index``; unchanged when it is in that step already.

    Promotion starts from no evidence, with bets tuned to stable's rate so far and the last step's
    margin chosen by the traffic so far; rollback begins one more of its starts.  Where users meet
    the candidate for the first time, only evidence against it is kept: copies are no traffic.
    """
    if state["step"] == index:
        return state
    step = plan.steps[index]
    if state["mirror"] and not step.mirror:
        state = {
            **new_state(plan, "canary"),
            **{k: state[k] for k in ("checks", "last", "looks", "trail")},
        }
    begun = {c.name: guardrails.start(c, state["checks"][c.name]) for c in plan.checks}
    return {
        **state,
        "step": index,
        "in_step": _no_sample(),
        "by_pod": _no_pods(),
        "trust": trust.begin(_trust(state)),
        "cpu": no_cpu(),
        "checks": begun,
        "mirror": mirror.no_copies() if step.mirror else {},
        "promotion": promotion.new(plan, state, step),
    }


def begin_experiment(plan: Plan, state: State) -> State:
    """The state when the steps have passed and an experiment begins: one more start."""
    begun = {c.name: guardrails.start(c, state["checks"][c.name]) for c in plan.checks}
    return {
        **state,
        "in_step": _no_sample(),
        "by_pod": _no_pods(),
        "trust": trust.begin(_trust(state)),
        "checks": begun,
    }


def absorb(plan: Plan, state: State, look: Look) -> State:
    """The state with one more look in it.

    A look that is replayed or out of order (its id is not above the last one's) changes nothing:
    after a crash the same look is read again.
    """
    if look.id <= state["last"]:
        return state
    begins = state["phase"] == "watch" and watch.begins(state["looks"], state["planned"])
    processes = state["checks"]
    if begins:
        processes = {c.name: guardrails.start(c, processes[c.name]) for c in plan.checks}
    times = guardrails.measured(plan.checks, processes, look)
    slow = promotion.timed(plan, state, look, times)
    also = slow.counts if slow is not None else []
    checks, gained = guardrails.absorb(plan.checks, processes, look, times, also)
    buckets = state["buckets"]
    if buckets is not None:
        buckets = dispersion.absorb_buckets(buckets, look.stable.buckets, look.candidate.buckets)
    return {
        **state,
        "last": look.id,
        "looks": state["looks"] + 1,
        "total": _sampled(state["total"], look),
        "in_step": _sampled(state["in_step"], look),
        "recent": _recent(state["recent"], look),
        "now": _row(look.stable),
        "checks": checks,
        "pods": _pods(state["pods"], look),
        "by_pod": {kind: _by_pod(state, kind, look) for kind in by_pod.KINDS},
        "trust": _trusted(plan, state, look),
        "cpu": _cpu(state, look),
        "buckets": buckets,
        "net": state["net"] and _net(state["net"], look),
        "mirror": state["mirror"] and mirror.sampled(state["mirror"], look.mirror),
        "promotion": promotion.absorb(plan, state, look, slow, gained),
        "trail": _trail(plan, state, processes, look),
    }


def judge(plan: Plan, state: State) -> Judgement:
    """Verdicts on everything absorbed so far."""
    alpha, limits = _alpha(plan, state)
    findings = guardrails.find_each(plan.checks, state, alpha, limits)
    guards = [alarms.of_model(f) for f in findings if f.check.action == "Rollback" and f.e_valued]
    combined = combine.log_mean([f.log_e for f in guards])
    culprit = alarms.culprit_of(guards, alpha)
    needs = None
    if state["phase"] == "canary" and state["step"] >= 0:
        needs = promotion.needs(plan, state)
    log_need = math.log(max(1, len(guards)) / alpha)
    results = [result_of(state, f, needs, log_need) for f in findings]
    by_name = {r.name: r for r in results}
    alarm = alarms.failed(culprit, by_name) or alarms.other_alarm(findings, state, by_name, alpha)
    hold = next((r for f in findings if (r := alarms.held(f, log_need, by_name)) is not None), None)
    lone = None if alarm is not None else alarms.lone_of(findings, state, by_name, alpha)
    found = (alarm, None if lone is None else lone.check, hold)
    failed = {r.name: r for r in found if r is not None}
    worst = max((f for f in findings if f.e_valued), key=lambda f: f.log_e, default=None)
    doubt = trust.doubt(_trust(state))
    quiet = alarm is None and hold is None and lone is None and doubt is None
    return Judgement(
        checks=[failed.get(r.name) or claimed(r, needs) for r in results],
        alarm=alarm,
        lone=lone,
        hold=hold,
        doubt=doubt,
        promotion="Pass" if quiet and needs is not None and not needs.missing else "Wait",
        missing=needs.missing if needs is not None else [],
        eta_seconds=needs.eta if needs is not None else None,
        per_second=_pace(shown_sample(state)),
        evidence_percent=max(0.0, 100.0 * combined / math.log(1.0 / alpha)),
        worst=next(iter(failed), worst.check.name if worst is not None else ""),
        candidate_n=_seen(state),
        excess_bound=needs.bounds.get("ErrorRate") if needs is not None else None,
        detectable=_detectable(state, findings, log_need),
        silent=_silent(plan, state),
        log10_need=log_need / math.log(10.0),
    )


def _trail(plan: Plan, state: State, processes: dict[str, State], look: Look) -> trail.Trail:
    counted = [processes[name] for name in replayable(plan)]
    # All of them begin their starts together.
    return trail.added(state["trail"], look, counted[0]["started"]) if counted else []


def replayable(plan: Plan) -> dict[str, int]:
    """Checks whose evidence ``sluice judge`` can compute again, and the event that they count."""
    return {c.name: EVENT[c.type] for c in plan.checks if c.type in EVENT}


def _silent(plan: Plan, state: State) -> list[Silence]:
    rows = [(c, state["checks"][c.name]) for c in plan.checks if metrics.judges(c)]
    return [quiet for c, process in rows if (quiet := metrics.silence(c, process)) is not None]


def failing_now(state: State) -> float:
    """Stable's share of model errors in the last look, or of late when that was a small one."""
    n, _, errors, _ = state.get("now") or (0, 0, 0, 0)
    if n < ENOUGH_NOW:
        n, _, errors = state["recent"][0]
    return float(errors / n) if n else 0.0


def _alpha(plan: Plan, state: State) -> tuple[float, int]:
    """What the e-values may spend of this phase's alpha, and how many limits share the rest."""
    alpha = plan.alpha_canary if state["phase"] == "canary" else plan.alpha_watch
    limited = (c for c in plan.checks if c.limit is not None and c.action != "Show")
    limits = sum(1 for c in limited if c.type in LIMITED or metrics.judges(c))
    return (alpha * (1.0 - guardrails.LIMIT_LEVEL) if limits else alpha), limits


def _detectable(state: State, findings: list[Finding], log_need: float) -> float | None:
    finding = next((f for f in findings if f.check.type == "ErrorRate"), None)
    if finding is None:
        return None
    process = state["checks"][finding.check.name]
    return watch.detectable_ratio(
        process["n"][0],
        process["x"][0],
        process["n"][1],
        margin=finding.check.margin,
        log_need=log_need + math.log(process["planned"]),
        phi=finding.phi,
    )


def _pace(sample: State) -> float:
    """Requests of both arms a second."""
    requests = sample["stable"][0] + sample["candidate"][0]
    return float(requests / sample["seconds"]) if sample["seconds"] > 0 else 0.0


def _seen(state: State) -> int:
    """What a step's minimum of requests counts: the candidate's, or compared copies."""
    n: int = state["mirror"]["compared"] if state["mirror"] else shown_sample(state)["candidate"][0]
    return n


def _no_sample() -> State:
    """Observed seconds; requests, client errors, model errors, non-finite scores of each arm."""
    return {"seconds": 0.0, "stable": [0, 0, 0, 0], "candidate": [0, 0, 0, 0]}


def _row(arm: ArmLook) -> list[int]:
    return [arm.n, arm.client_errors, arm.model_errors, arm.non_finite]


def _sampled(sample: State, look: Look) -> State:
    def added(past: list[int], arm: ArmLook) -> list[int]:
        return [a + b for a, b in zip(past, _row(arm), strict=True)]

    return {
        "seconds": round(sample["seconds"] + look.seconds, 3),
        "stable": added(sample["stable"], look.stable),
        "candidate": added(sample["candidate"], look.candidate),
    }


def _recent(recent: list[list[float]], look: Look) -> list[list[float]]:
    return [
        [round(RECENT * a + b, 6) for a, b in zip(past, _row(arm)[:3], strict=True)]
        for past, arm in zip(recent, (look.stable, look.candidate), strict=True)
    ]


def _net(state: State, look: Look) -> State:
    return outage.absorb(state, guardrails.counts_of("ErrorRate", look), look.seconds)


def _trust(state: State) -> State:
    # A state of the version before knows no doubts.
    doubts: State = state.get("trust") or trust.new()
    return doubts


def _trusted(plan: Plan, state: State, look: Look) -> State:
    """Copies are split one for one, and a watch has no weight that goes up."""
    before = _trust(state)
    if state["phase"] != "canary" or look.mirror is not None:
        return before
    return trust.absorb(before, look, sticky=plan.sticky)


def _cpu(state: State, look: Look) -> State:
    spent = state.get("cpu") or no_cpu()
    arms = (("stable", look.stable), ("candidate", look.candidate))
    return {
        name: [spent[name][0] + arm.cpu[0], round(spent[name][1] + arm.cpu[1], 6)]
        for name, arm in arms
    }


def _no_pods() -> State:
    return {kind: by_pod.new() for kind in by_pod.KINDS}


def _by_pod(state: State, kind: str, look: Look) -> State:
    # A state of the version before knows no pods by name.
    had = state.get("by_pod", {}).get(kind) or by_pod.new()
    return by_pod.absorb(had, *(by_pod.rows(kind, arm) for arm in (look.stable, look.candidate)))


def _pods(states: State, look: Look) -> State:
    cells = [
        [[(n, x) for _, n, x in by_pod.rows(kind, arm)] for arm in (look.stable, look.candidate)]
        for kind in guardrails.COUNTED
    ]
    had = [states.get(kind) or dispersion.new_pods() for kind in guardrails.COUNTED]
    after = dispersion.absorb_pods_each(had, cells)
    return dict(zip(guardrails.COUNTED, after, strict=True))
