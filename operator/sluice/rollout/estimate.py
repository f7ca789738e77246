"""What a rollout can see at the traffic there is, and how long it takes: said once, at its start.

Called by sluice.rollout.steps; calls sluice.stats.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from sluice.api.duration import human
from sluice.rollout.judge_pods import EVENT
from sluice.rollout.judge_risks import PATIENCE
from sluice.rollout.judge_words import percent, requests_per_second
from sluice.rollout.plan import Plan, StepPlan
from sluice.stats import bounded_risk, detection, dispersion, non_inferiority

State = dict[str, Any]

LOOKS = 3
"""Looks after which the traffic is known well enough for an estimate."""

USUAL, TIMES = 0.01, 5.0
"""The example that is given: one failure in a hundred requests becomes five."""


@dataclass(frozen=True)
class Traffic:
    """Requests a second of both arms, and stable's share of failures by type of check."""

    per_second: float
    rates: dict[str, float]


def traffic_of(step: StepPlan, state: State) -> Traffic | None:
    """The traffic in the first looks of a step; None before there are enough of them."""
    sample = state["in_step"]
    stable, candidate, seconds = sample["stable"], sample["candidate"], sample["seconds"]
    if state["looks"] < LOOKS or seconds <= 0 or stable[0] == 0:
        return None
    requests = stable[0] * 100.0 / step.mirror if step.mirror else stable[0] + candidate[0]
    rates = {kind: stable[place] / stable[0] for kind, place in EVENT.items()}
    return Traffic(requests / seconds, rates)


def said(plan: Plan, step: StepPlan, traffic: Traffic) -> str:
    """Two sentences: what would be seen when, and how long an equal candidate takes to the end."""
    notice = f"{step.load} % of {requests_per_second(traffic.per_second)}"
    p = max(USUAL, traffic.rates["ErrorRate"])
    q = min(TIMES * p, 0.5 * (1.0 + p))
    seconds = notice_seconds(plan, step, traffic, p, q)
    if seconds is not None:
        become = f"an error rate of {percent(p)} become {percent(q)}"
        notice += f": about {human(seconds)} to see {become}"
    whole = promotion_seconds(plan, traffic)
    if whole is None:
        return f"{notice}. How long promotion takes cannot be told: nothing fails yet."
    return (
        f"{notice}. An equal candidate takes about {human(whole)} from the first step to promotion."
    )


def notice_seconds(
    plan: Plan, step: StepPlan, traffic: Traffic, p: float, q: float
) -> float | None:
    """Seconds of the step after which an error rate of ``q`` instead of ``p`` would be an alarm.

    None without a guardrail on errors, or when its margin tolerates that.
    """
    guards = [c for c in plan.checks if c.action == "Rollback"]
    margins = [c.margin for c in guards if c.type == "ErrorRate"]
    if not margins or p >= 1.0 or traffic.per_second <= 0:
        return None
    # The mean over guardrails and starts: the others may all say nothing.
    log_need = math.log(len(guards) * len(plan.steps) / plan.alpha_canary)
    needed = detection.requests_to_notice(p, q, step.share, margin=min(margins), log_need=log_need)
    return needed / _candidate_rate(step, traffic) if math.isfinite(needed) else None


def promotion_seconds(plan: Plan, traffic: Traffic) -> float | None:
    """Median of the seconds that an equal candidate takes through all steps; None: for ever.

    Each step takes its least duration, its least sample or its proof, whichever is longest
    (reference formulas: sluice.stats.bounded_risk and non_inferiority).  Latency, metrics and
    pauses come on top.
    """
    total = sum(_step_seconds(plan, step, traffic) for step in plan.steps)
    return total if math.isfinite(total) else None


def _step_seconds(plan: Plan, step: StepPlan, traffic: Traffic) -> float:
    rate = _candidate_rate(step, traffic)
    if rate <= 0:
        return math.inf
    phi = dispersion.STICKY_FLOOR if plan.sticky else 1.0
    proofs = [phi * _requests(plan, step, c.type, c.margin, traffic) for c in plan.checks]
    return max(step.min_duration, max(step.min_requests, *proofs) / rate)


def _requests(plan: Plan, step: StepPlan, kind: str, margin: float, traffic: Traffic) -> float:
    """Candidate requests that the proof of one check takes."""
    if kind not in EVENT:
        return 0.0
    p, alpha = traffic.rates[kind], plan.alpha_promotion
    if plan.promotion == "NonInferiority":
        return non_inferiority.requests_needed(margin, p, step.share, alpha)
    tau = step.risk
    if step.last:
        time = PATIENCE * step.min_duration
        tau = min(tau, bounded_risk.last_margin(p, step.share, traffic.per_second, time))
    return bounded_risk.requests_needed(tau, step.ratio, p, step.share, alpha)


def _candidate_rate(step: StepPlan, traffic: Traffic) -> float:
    return traffic.per_second * step.load / 100.0
