"""The judge's promotion side for failures: one process per kind, anew at each step.

``BoundedRisk`` excludes tau more failures per request, ``NonInferiority`` a margin on the odds
(DESIGN, section 6).  Called by judge_promotion and estimate; calls sluice.stats.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from sluice.rollout import judge_guardrails as guardrails
from sluice.rollout import judge_words as words
from sluice.rollout.judge_pods import EVENT
from sluice.rollout.plan import Plan, StepPlan
from sluice.stats import bounded_risk, dispersion, non_inferiority
from sluice.stats.look import Look

State = dict[str, Any]

MIN_HISTORY = 20
PATIENCE = 2.0
"""The last step's margin must be affordable in this many minimum durations: 20 min by default."""

KINDS = {"ErrorRate": "errors", "ClientErrorRate": "client errors"}


@dataclass(frozen=True)
class Risk:
    """What a step has shown of one kind of failure.

    ``missing`` is empty once the risk is excluded; ``requests`` of the candidate are still needed
    (infinite: none would do).  ``bound``: worse by at most this many failures per request, where
    that is known.  ``claim`` is what may be said to people.
    """

    kind: str
    missing: str
    requests: float
    bound: float | None
    claim: str


def new(plan: Plan, state: State, step: StepPlan) -> dict[str, State]:
    """The step's processes: bets tuned to stable's past, the last margin to the traffic so far."""
    return {kind: _new(plan, state, step, kind) for kind in KINDS if _margins(plan, kind)}


def _new(plan: Plan, state: State, step: StepPlan, kind: str) -> State:
    if plan.promotion == "NonInferiority":
        return non_inferiority.new(min(_margins(plan, kind)))
    p0, tau = _past_rate(state, kind), step.risk
    if step.last:
        time = PATIENCE * step.min_duration
        tau = min(tau, bounded_risk.last_margin(p0, step.share, _traffic(state), time))
    return bounded_risk.new(tau, step.ratio, p0=p0, share=step.share)


def absorb(plan: Plan, had: dict[str, State], look: Look) -> dict[str, State]:
    """The processes with one more look."""
    seen = [guardrails.counts_of(kind, look) for kind in had]
    if plan.promotion == "NonInferiority":
        return dict(zip(had, non_inferiority.absorb_each(list(had.values()), seen), strict=True))
    return {
        kind: bounded_risk.absorb(process, counts)
        for (kind, process), counts in zip(had.items(), seen, strict=True)
    }


def read(plan: Plan, state: State) -> list[Risk]:
    """What each process of the step has shown so far."""
    processes: dict[str, State] = state["promotion"]["risks"]
    phis = [phi_of(plan, state, kind) for kind in processes]
    step = plan.steps[state["step"]]
    if plan.promotion == "NonInferiority":
        rows = zip(processes.items(), phis, strict=True)
        return [_odds(plan, step, kind, process, phi) for (kind, process), phi in rows]
    log_es = bounded_risk.log_e_each(list(processes.values()), phis)
    bounds = bounded_risk.bound_each(list(processes.values()), plan.alpha_promotion, phis)
    return [
        _excess(plan, step, kind, process, phi, log_e, bound)
        for (kind, process), phi, log_e, bound in zip(
            processes.items(), phis, log_es, bounds, strict=True
        )
    ]


def _excess(
    plan: Plan,
    step: StepPlan,
    kind: str,
    process: State,
    phi: float,
    log_e: float,
    bound: float | None,
) -> Risk:
    alpha, claim = plan.alpha_promotion, ""
    if bound is not None:
        claim = f"Not worse by more than {_points(max(0.0, bound))} ({_sure(alpha)})."
    if log_e >= math.log(1.0 / alpha):
        return Risk(kind, "", 0.0, bound, claim)
    so_far = "nothing excluded yet" if bound is None else f"so far {_points(bound)}"
    limit = f"{_points(process['tau'])} or {100 * (process['ratio'] - 1):.0f} % of stable's"
    missing = f"{KINDS[kind]} not yet shown to be worse by less than {limit} ({so_far})"
    left = bounded_risk.requests_left(process, step.share, log_e, alpha=alpha, phi=phi)
    return Risk(kind, missing, left, bound, claim)


def _odds(plan: Plan, step: StepPlan, kind: str, process: State, phi: float) -> Risk:
    alpha, margin = plan.alpha_promotion, 1.0 / process["margin"]
    log_e, need = non_inferiority.log_e(process, phi), math.log(1.0 / alpha)
    limit = f"at most {margin:.3g} x stable's"
    if log_e >= need:
        return Risk(kind, "", 0.0, None, f"Odds shown to be {limit} ({_sure(alpha)}).")
    failed = sum(process["x"])
    why = words.evidence(log_e, need) if failed else "none in either arm, so no ratio can be shown"
    missing = f"odds of {KINDS[kind]} not yet shown to be {limit} ({why})"
    left = non_inferiority.requests_left(process, step.share, alpha=alpha, phi=phi)
    return Risk(kind, missing, left, None, "")


def phi_of(plan: Plan, state: State, kind: str) -> float:
    """Over-dispersion at promotion: at least 2 when the split is sticky."""
    phi = guardrails.phi_of_both(state, kind)
    return max(phi, dispersion.STICKY_FLOOR) if plan.sticky else phi


def _margins(plan: Plan, kind: str) -> list[float]:
    """What checks of this kind tolerate; none when nothing is judged by it."""
    return [c.margin for c in plan.checks if c.type == kind]


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


def _points(value: float) -> str:
    return f"{100.0 * value:.2g} pp"


def _sure(alpha: float) -> str:
    return f"{100 * (1 - alpha):g} %"
