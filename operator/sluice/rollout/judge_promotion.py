"""The judge's promotion side: has this step shown that the candidate is not worse by more than tau?

One bounded-risk e-process per kind of failure and one pair of latency processes, anew at each step
(DESIGN, section 6).  Called by sluice.rollout.judge only; calls sluice.stats.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

from sluice.api.duration import human
from sluice.rollout import judge_guardrails as guardrails
from sluice.rollout import judge_metrics as metrics
from sluice.rollout import judge_mirror as mirror
from sluice.rollout import judge_words as words
from sluice.rollout.judge_pods import EVENT
from sluice.rollout.plan import Plan, StepPlan
from sluice.stats import bounded_risk, dispersion, latency
from sluice.stats.look import Look

State = dict[str, Any]

MIN_HISTORY = 20
MIN_UNITS = 100
PATIENCE = 2.0
"""The last step's margin must be affordable in this many minimum durations: 20 min by default."""

RISKS = {"ErrorRate": "errors", "ClientErrorRate": "client errors"}


@dataclass(frozen=True)
class Needs:
    """What the step still lacks: in words, in seconds at the present traffic, and by type of check
    (a metric: by name).

    ``bounds`` is what has been excluded so far: worse by this many failures per request.
    """

    missing: list[str] = field(default_factory=list)
    eta: float | None = 0.0
    lacking: set[str] = field(default_factory=set)
    bounds: dict[str, float | None] = field(default_factory=dict)


def new(plan: Plan, state: State, step: StepPlan) -> State:
    """Processes of a step: bets tuned to stable's past, the last margin to the traffic so far."""
    share = step.share
    risks = {}
    for kind in RISKS:
        p0 = _past_rate(state, kind)
        tau = step.risk
        if step.last:
            time = PATIENCE * step.min_duration
            tau = min(tau, bounded_risk.last_margin(p0, share, _traffic(state), time))
        if _judged(plan, kind):
            risks[kind] = bounded_risk.new(tau, step.ratio, p0=p0, share=share)
    timed = _judged(plan, "Latency") and not step.mirror
    return {"risks": risks, "latency": latency.new_promotion() if timed else None}


def absorb(plan: Plan, state: State, look: Look) -> State:
    """The step's processes with one more look; ``state`` is the one from before the look."""
    had: State = state["promotion"]
    if not had:
        return had
    risks = {
        kind: bounded_risk.absorb(risk, guardrails.counts_of(kind, look))
        for kind, risk in had["risks"].items()
    }
    return {"risks": risks, "latency": _absorb_latency(plan, state, look)}


def _absorb_latency(plan: Plan, state: State, look: Look) -> State | None:
    had: State | None = state["promotion"]["latency"]
    load = latency.load_of(look.stable, look.candidate)
    if had is None or load == "unknown":
        return had
    name = next(c.name for c in plan.checks if c.type == "Latency")
    tolerance = latency.tolerance_of(load, plan.steps[state["step"]].latency_margin)
    thresholds = latency.edges(state["checks"][name])
    return latency.absorb_promotion(
        had, thresholds, look.stable.latency, look.candidate.latency, tolerance
    )


def needs(plan: Plan, state: State) -> Needs:
    """What is missing before the step passes."""
    step = plan.steps[state["step"]]
    sample = state["in_step"]
    n, seconds = sample["candidate"][0], sample["seconds"]
    per_second = n / seconds if seconds > 0 else 0.0
    risks = _risks(plan, state)
    items: list[tuple[str, float | None, str]] = []
    if state["mirror"]:
        items += mirror.lacking(step, state["mirror"], seconds)
        if n > 0:
            items += [i for risk in risks for i in _lacking(plan, step, risk, per_second)]
        return replace(_summed(items), bounds={r.kind: r.bound for r in risks})
    if n < step.min_requests:
        text = f"{words.many(n)} of {words.many(step.min_requests)} candidate requests"
        items.append((text, _wait(step.min_requests - n, per_second), ""))
    if seconds < step.min_duration:
        left = step.min_duration - seconds
        items.append((f"{human(seconds)} of {human(step.min_duration)} observed", left, ""))
    if n == 0 or sample["stable"][0] == 0:
        who = "the candidate" if n == 0 else "stable"
        items.append((f"no request has reached {who} in this step", None, ""))
    else:
        items += _units(state, n, per_second)
        items += [i for risk in risks for i in _lacking(plan, step, risk, per_second)]
    items += _latency(plan, state, per_second)
    for check in filter(metrics.judges, plan.checks):
        items += metrics.lacking(check, state["checks"][check.name], seconds)
    return replace(_summed(items), bounds={r.kind: r.bound for r in risks})


def _summed(items: list[tuple[str, float | None, str]]) -> Needs:
    """All that is missing as one, which takes as long as the slowest of it."""
    waits = [wait for _, wait, _ in items]
    known = [w for w in waits if w is not None]
    eta = None if len(known) < len(waits) else max(known, default=0.0)
    return Needs([text for text, _, _ in items], eta, {kind for _, _, kind in items if kind})


@dataclass(frozen=True)
class _Risk:
    """One kind of failure: its process, and what it has shown so far."""

    kind: str
    process: State
    phi: float
    log_e: float
    bound: float | None


def _risks(plan: Plan, state: State) -> list[_Risk]:
    processes = state["promotion"]["risks"]
    phis = [phi_of(plan, state, kind) for kind in processes]
    log_es = bounded_risk.log_e_each(list(processes.values()), phis)
    bounds = bounded_risk.bound_each(list(processes.values()), plan.alpha_promotion, phis)
    rows = zip(processes, processes.values(), phis, log_es, bounds, strict=True)
    return [_Risk(*row) for row in rows]


def _lacking(
    plan: Plan, step: StepPlan, risk: _Risk, per_second: float
) -> list[tuple[str, float | None, str]]:
    """What is still missing until the risk is excluded to be worse by tau."""
    if risk.log_e >= math.log(1.0 / plan.alpha_promotion):
        return []
    so_far = "nothing excluded yet" if risk.bound is None else f"so far {_points(risk.bound)}"
    limit = tolerated(risk.process)
    text = f"{RISKS[risk.kind]} not yet shown to be worse by less than {limit} ({so_far})"
    left = bounded_risk.requests_left(
        risk.process, step.share, alpha=plan.alpha_promotion, phi=risk.phi
    )
    return [(text, _wait(left, per_second), risk.kind)]


def _units(state: State, n: int, per_second: float) -> list[tuple[str, float | None, str]]:
    if state["buckets"] is None:
        return []
    units = dispersion.distinct_units(state["buckets"])
    if units >= MIN_UNITS:
        return []
    rate = per_second * units / n
    return [
        (f"{units} of {MIN_UNITS} distinct candidate units", _wait(MIN_UNITS - units, rate), "")
    ]


def _latency(plan: Plan, state: State, per_second: float) -> list[tuple[str, float | None, str]]:
    had = state["promotion"]["latency"]
    if had is None:
        return []
    need = math.log(1.0 / plan.alpha_promotion)
    log_es = latency.log_e_promotion(had)
    late = [
        f"p{100 * q:.0f}"
        for q, log_e in zip(latency.QUANTILES, log_es, strict=False)
        if log_e < need
    ]
    if not late:
        return []
    margin = plan.steps[state["step"]].latency_margin
    seen = latency.seen_in_promotion(had)
    best = min(max(0.0, log_e) for log_e in log_es)
    # Evidence grows in proportion to requests; before it has begun, a hundred requests are a guess.
    left = seen * (need / best - 1.0) if best > 0.5 and seen else max(100.0, float(seen))
    text = f"{' and '.join(late)} latency not yet shown to be within {100 * (margin - 1):.0f} %"
    return [(text, _wait(left, per_second), "Latency")]


def phi_of(plan: Plan, state: State, kind: str) -> float:
    """Over-dispersion at promotion: at least 2 when the split is sticky."""
    phi = guardrails.phi_of_both(state, kind)
    return max(phi, dispersion.STICKY_FLOOR) if plan.sticky else phi


def tolerated(risk: State) -> str:
    """The step's margin in words."""
    return f"{_points(risk['tau'])} or {100 * (risk['ratio'] - 1):.0f} % of stable's"


def claim(bound: float | None, alpha: float) -> str:
    """What may be said of a candidate that has passed so far: never "not worse"."""
    if bound is None:
        return ""
    return f" Not worse by more than {_points(max(0.0, bound))} ({100 * (1 - alpha):g} %)."


def _judged(plan: Plan, kind: str) -> bool:
    return any(c.type == kind for c in plan.checks)


def _past_rate(state: State, kind: str) -> float | None:
    sample = state["total"]["stable"]
    if sample[0] < MIN_HISTORY:
        return None
    return float((sample[EVENT[kind]] + 0.5) / (sample[0] + 1.0))


def _traffic(state: State) -> float:
    total = state["total"]
    if total["seconds"] <= 0:
        return 0.0
    return float((total["stable"][0] + total["candidate"][0]) / total["seconds"])


def _wait(requests: float, per_second: float) -> float | None:
    return requests / per_second if per_second > 0 else None


def _points(value: float) -> str:
    return f"{100.0 * value:.2g} pp"
