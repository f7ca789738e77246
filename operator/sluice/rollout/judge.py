"""The judge: evidence in, verdicts out.

``absorb`` adds a look to a state, ``judge`` reads verdicts off it.  Both are pure; the state is
plain JSON that the caller commits together with the counter snapshot the look was made from.
Rollback: Engine C over all guardrails, one alpha for the canary and one for the watch, combined by
the mean of e-values (judge_guardrails).  Promotion: a process per metric, anew at each step
(judge_promotion).  Formulas: sluice.stats and docs/statistics.md.

Called by sluice.rollout (decide) and sluice.controller (absorb); calls sluice.stats only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from sluice.rollout import judge_guardrails as guardrails
from sluice.rollout import judge_metrics as metrics
from sluice.rollout import judge_mirror as mirror
from sluice.rollout import judge_pods as by_pod
from sluice.rollout import judge_promotion as promotion
from sluice.rollout import judge_trail as trail
from sluice.rollout import judge_trust as trust
from sluice.rollout import judge_words as words
from sluice.rollout.judge_guardrails import Finding
from sluice.rollout.judge_metrics import Silence
from sluice.rollout.judge_pods import EVENT
from sluice.rollout.judge_promotion import Needs
from sluice.rollout.judge_trust import Doubt
from sluice.rollout.plan import CheckPlan, Plan
from sluice.stats import combine, counts, dispersion, latency, outage, watch
from sluice.stats.look import ArmLook, Look

State = dict[str, Any]
Phase = Literal["canary", "watch"]
Word = Literal["Pass", "Fail", "Inconclusive", "NoData"]

VERSION = 3
NON_FINITE = 3
"""Non-finite scores of the candidate that are a hard fail while stable has none."""

ENOUGH_NOW = 10
"""Requests of stable in one look that say how it is doing now."""

LIMITED = (*EVENT, "Disagreement")
"""Types whose limit spends of alpha."""

RECENT = 0.8
"""Decay per look of the recent counts: about the last five looks."""


@dataclass(frozen=True)
class CheckResult:
    """One check: both values, the effect with its confidence sequence, and the evidence.

    Rates are shares; latency is in seconds, at the quantile with most evidence; a prediction
    shift is a PSI; a metric is in its own unit.  The effect of a rate is an odds ratio, of latency
    and of a value a look a ratio, of means a difference.  ``scope`` is what a failure condemns.
    """

    name: str
    type: str
    verdict: Word
    stable_n: int = 0
    stable_value: float | None = None
    candidate_n: int = 0
    candidate_value: float | None = None
    effect: float | None = None
    low: float | None = None
    high: float | None = None
    margin: float | None = None
    log10_evidence: float | None = None
    dispersion: float | None = None
    message: str = ""
    scope: Literal["Package", "Revision"] = "Package"


@dataclass(frozen=True)
class LoneFailure:
    """An alarm that one pod carries while its siblings are as good as stable's."""

    check: CheckResult
    pod: str


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
        "cpu": _no_cpu(),
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
        "cpu": _no_cpu(),
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
    guards = [_of_model(f) for f in findings if f.check.action == "Rollback" and f.e_valued]
    combined = combine.log_mean([f.log_e for f in guards])
    culprit = _culprit(guards, alpha)
    needs = None
    if state["phase"] == "canary" and state["step"] >= 0:
        needs = promotion.needs(plan, state)
    log_need = math.log(max(1, len(guards)) / alpha)
    results = [_result(state, f, needs, log_need) for f in findings]
    by_name = {r.name: r for r in results}
    alarm = _failed(culprit, by_name) or _other_alarm(findings, state, by_name, alpha)
    hold = next((r for f in findings if (r := _held(f, log_need, by_name)) is not None), None)
    lone = None if alarm is not None else _lone(findings, state, by_name, alpha)
    found = (alarm, None if lone is None else lone.check, hold)
    failed = {r.name: r for r in found if r is not None}
    worst = max((f for f in findings if f.e_valued), key=lambda f: f.log_e, default=None)
    doubt = trust.doubt(_trust(state))
    quiet = alarm is None and hold is None and lone is None and doubt is None
    return Judgement(
        checks=[failed.get(r.name) or _claimed(r, needs) for r in results],
        alarm=alarm,
        lone=lone,
        hold=hold,
        doubt=doubt,
        promotion="Pass" if quiet and needs is not None and not needs.missing else "Wait",
        missing=needs.missing if needs is not None else [],
        eta_seconds=needs.eta if needs is not None else None,
        per_second=_pace(_shown(state)),
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


def _culprit(guards: list[Finding], alpha: float) -> Finding | None:
    """The guardrail that fails, when all of them together have the evidence.

    It must matter (0.1 points observed) and survive leaving out its largest unit bucket.
    """
    need = math.log(1.0 / alpha)
    if combine.log_mean([f.log_e for f in guards]) < need:
        return None
    culprit = max(guards, key=lambda f: f.log_e)
    without = [f.log_e_without if f is culprit else f.log_e for f in guards]
    return culprit if culprit.matters and combine.log_mean(without) >= need else None


def _other_alarm(
    findings: list[Finding], state: State, results: dict[str, CheckResult], alpha: float
) -> CheckResult | None:
    """Failures beside the e-values: a hard limit, a shift, an outage, non-finite scores."""
    out = _out(state, alpha)
    for finding in findings:
        shifted = finding.shifted is not None and finding.shifted.fires
        down = out and finding.check.type == "ErrorRate" and not _alone(finding, state, alpha)
        over = finding.over_limit and not finding.lone
        if finding.check.action == "Rollback" and (over or shifted or down):
            return _failed(finding, results)
    return _not_finite(state)


def _not_finite(state: State) -> CheckResult | None:
    stable, candidate = state["total"]["stable"], state["total"]["candidate"]
    enough = candidate[3] >= NON_FINITE and candidate[3] >= 0.001 * candidate[0]
    if stable[3] > 0 or stable[0] == 0 or not enough:
        return None
    return CheckResult(
        name="non-finite",
        type="NonFinite",
        verdict="Fail",
        stable_n=stable[0],
        stable_value=0.0,
        candidate_n=candidate[0],
        candidate_value=candidate[3] / candidate[0] if candidate[0] else None,
        message=f"{candidate[3]} of {words.many(candidate[0])} answers of the candidate held a "
        f"score that is not a number; stable had none in {words.many(stable[0])}.",
    )


def _held(finding: Finding, log_need: float, results: dict[str, CheckResult]) -> CheckResult | None:
    """A check that asks for a person instead of rolling back."""
    if finding.check.action != "Hold":
        return None
    if finding.lone:
        return None
    shifted = finding.shifted is not None and finding.shifted.fires
    proven = finding.e_valued and finding.log_e_without >= log_need
    if shifted or finding.over_limit or (proven and finding.matters):
        return _failed(finding, results)
    return None


def _of_model(finding: Finding) -> Finding:
    """The finding with the evidence that is the model's: a lone pod's is not."""
    return replace(finding, log_e=finding.log_e_without) if finding.lone else finding


def _lone(
    findings: list[Finding], state: State, results: dict[str, CheckResult], alpha: float
) -> LoneFailure | None:
    """The guardrail that would fail, by evidence, a limit or an outage, but for one pod."""
    out = _out(state, alpha)
    guards = [f.log_e for f in findings if f.check.action == "Rollback" and f.e_valued]
    proven = combine.log_mean(guards) >= -math.log(alpha)
    for finding in findings:
        pod = finding.pod
        if out and finding.check.type == "ErrorRate":
            pod = guardrails.worst_pod(finding.check, state, alpha)
        elif not (proven or finding.over_limit):
            continue
        if finding.check.action == "Rollback" and pod is not None and pod.alone and finding.matters:
            failed = _failed(finding, results)
            assert failed is not None
            return LoneFailure(failed, pod.name)
    return None


def _alone(finding: Finding, state: State, alpha: float) -> bool:
    pod = guardrails.worst_pod(finding.check, state, alpha)
    return pod is not None and pod.alone


def _out(state: State, alpha: float) -> bool:
    return state["net"] is not None and outage.fires(state["net"], state["planned"], alpha)


def _failed(finding: Finding | None, results: dict[str, CheckResult]) -> CheckResult | None:
    return None if finding is None else replace(results[finding.check.name], verdict="Fail")


def _claimed(result: CheckResult, needs: Needs | None) -> CheckResult:
    """The check with what promotion may claim; what has failed is not praised."""
    claim = needs.claims.get(result.type) if needs is not None else ""
    return replace(result, message=f"{result.message} {claim}") if claim else result


def _result(state: State, finding: Finding, needs: Needs | None, log_need: float) -> CheckResult:
    """The check as status shows it, before anything has failed."""
    check, shown = finding.check, _shown(state)
    stable_n, candidate_n = shown["stable"][0], shown["candidate"][0]
    effect = low = high = None
    verdict: Word | None = None
    if metrics.judges(check):
        process = state["checks"][check.name]
        read = finding.numbers
        stable_n, stable_value = read.stable_n, read.stable
        candidate_n, candidate_value = read.candidate_n, read.candidate
        effect, low, high = read.effect, read.low, read.high
        verdict = "NoData" if process["silent"] else None
    elif finding.shifted is not None:
        stable_n, candidate_n = finding.shifted.stable.n, finding.shifted.candidate.n
        stable_value, candidate_value = finding.shifted.stable.psi, finding.shifted.candidate.psi
        effect, low = candidate_value, finding.shifted.candidate.low
    elif check.type == "Disagreement":
        process = state["checks"][check.name]
        stable_n = candidate_n = process["n"]
        stable_value, candidate_value = None, mirror.share(process)
        low, high = mirror.bounds(process)
    elif check.type == "Latency":
        stable_n, candidate_n = latency.seen(state["checks"][check.name])
        stable_value, candidate_value = finding.times
        effect = candidate_value / stable_value if stable_value and candidate_value else None
    elif check.type == "PodHealth":
        process = state["checks"][check.name]
        (stable_n, candidate_n), (stable_x, candidate_x) = process["n"], process["x"]
        stable_value = stable_x / stable_n if stable_n else None
        candidate_value = candidate_x / candidate_n if candidate_n else None
        effect = counts.odds_ratio(process)
        low, high = finding.odds
    else:
        process, place = state["checks"][check.name], EVENT[check.type]
        stable_value = guardrails.rate(shown["stable"], place)
        candidate_value = guardrails.rate(shown["candidate"], place)
        effect = counts.odds_ratio(process)
        low, high = finding.odds
    return CheckResult(
        name=check.name,
        type=check.type,
        verdict=verdict or _verdict(check, min(stable_n, candidate_n), needs),
        stable_n=stable_n,
        stable_value=stable_value,
        candidate_n=candidate_n,
        candidate_value=candidate_value,
        effect=effect,
        low=low,
        high=high,
        margin=check.margin if finding.e_valued else check.limit,
        log10_evidence=finding.log_e / math.log(10.0) if finding.e_valued else None,
        dispersion=_kept_phi(finding.phi) if check.type in EVENT else None,
        message=guardrails.sentence(finding, state, shown, log_need) + _beside(finding, state),
        scope=check.condemns,
    )


def _kept_phi(phi: float) -> float:
    return float(counts.PHIS[counts.phi_index(phi)])


def _beside(finding: Finding, state: State) -> str:
    """What is said of a check beside its numbers: the pod that is worst, the CPU it takes."""
    if finding.pod is not None:
        return by_pod.sentence(finding.pod)
    spent = state.get("cpu") or _no_cpu()
    return words.cpu(spent["stable"], spent["candidate"]) if finding.check.type == "Latency" else ""


def _verdict(check: CheckPlan, smaller_n: int, needs: Needs | None) -> Word:
    """Pass in the canary means: this step's risk is excluded; in the watch: no alarm on data."""
    if smaller_n == 0:
        return "NoData"
    if needs is None:
        return "Pass"
    return "Inconclusive" if {check.type, check.name} & needs.lacking else "Pass"


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


def _shown(state: State) -> State:
    """The sample that people see: this step's in the canary, the whole in the watch."""
    sample: State = state["in_step"] if state["step"] >= 0 else state["total"]
    return sample


def _pace(sample: State) -> float:
    """Requests of both arms a second."""
    requests = sample["stable"][0] + sample["candidate"][0]
    return float(requests / sample["seconds"]) if sample["seconds"] > 0 else 0.0


def _seen(state: State) -> int:
    """What a step's minimum of requests counts: the candidate's, or compared copies."""
    n: int = state["mirror"]["compared"] if state["mirror"] else _shown(state)["candidate"][0]
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


def _no_cpu() -> State:
    """Requests of each arm, and the CPU seconds that they took."""
    return {"stable": [0, 0.0], "candidate": [0, 0.0]}


def _cpu(state: State, look: Look) -> State:
    spent = state.get("cpu") or _no_cpu()
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
