"""The judge's promotion side: has this step shown that the candidate is not worse by more than tau?

One process per kind of failure (judge_risks) and one pair of latency processes, anew at each step
(DESIGN, section 6).  Called by the judge's other parts; calls sluice.stats.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

from sluice.api.duration import human
from sluice.rollout import judge_metrics as metrics
from sluice.rollout import judge_mirror as mirror
from sluice.rollout import judge_risks as risks
from sluice.rollout import judge_words as words
from sluice.rollout.plan import Plan, StepPlan
from sluice.stats import counts, dispersion, latency
from sluice.stats.counts import Floats
from sluice.stats.look import Look

State = dict[str, Any]

MIN_UNITS = 100


@dataclass(frozen=True)
class Needs:
    """What the step still lacks: in words, in seconds at the present traffic, and by type of check
    (a metric: by name).

    ``bounds`` is what has been excluded so far: worse by this many failures per request; ``claims``
    what may be said of it: never "not worse".
    """

    missing: list[str] = field(default_factory=list)
    eta: float | None = 0.0
    lacking: set[str] = field(default_factory=set)
    bounds: dict[str, float | None] = field(default_factory=dict)
    claims: dict[str, str] = field(default_factory=dict)


def new(plan: Plan, state: State, step: StepPlan) -> State:
    """The processes of a step, without evidence."""
    judged = any(c.type == "Latency" for c in plan.checks) and not step.mirror
    return {
        "risks": risks.new(plan, state, step),
        "latency": latency.new_promotion() if judged else None,
    }


@dataclass(frozen=True)
class Timed:
    """A look's latency as the step's tolerance counts it."""

    seen: latency.Measured
    tolerance: latency.Tolerance
    counts: list[counts.Counts]


def timed(plan: Plan, state: State, look: Look, times: dict[str, latency.Measured]) -> Timed | None:
    """What a look says of latency; None when it says nothing.

    ``times`` is what judge_guardrails.measured says of it.
    """
    had: State | None = state["promotion"].get("latency")
    if had is None or not times:
        return None
    load = latency.load_of(look.stable, look.candidate)
    tolerance = latency.tolerance_of(load, plan.steps[state["step"]].latency_margin)
    # Checks of latency differ in what they tolerate, never in stable's thresholds.
    seen = next(iter(times.values()))
    return Timed(seen, tolerance, latency.swapped(had, seen, tolerance))


def absorb(plan: Plan, state: State, look: Look, slow: Timed | None, gained: Floats) -> State:
    """The step's processes with one more look; ``state`` is the one from before the look.

    ``gained`` are the gains of what ``slow`` counted.
    """
    had: State = state["promotion"]
    if not had:
        return had
    return {
        "risks": risks.absorb(plan, had["risks"], look),
        "latency": _absorb_latency(had["latency"], slow, gained),
    }


def _absorb_latency(had: State | None, slow: Timed | None, gained: Floats) -> State | None:
    if had is None or slow is None:
        return had
    return latency.absorbed_promotion(had, slow.seen, slow.tolerance, slow.counts, gained)


def needs(plan: Plan, state: State) -> Needs:
    """What is missing before the step passes."""
    step = plan.steps[state["step"]]
    sample = state["in_step"]
    n, seconds = sample["candidate"][0], sample["seconds"]
    per_second = n / seconds if seconds > 0 else 0.0
    found = risks.read(plan, state)
    items: list[tuple[str, float | None, str]] = []
    if state["mirror"]:
        items += mirror.lacking(step, state["mirror"], seconds)
        if n > 0:
            items += [i for risk in found for i in _lacking(risk, per_second)]
        return _with_claims(_summed(items), found)
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
        items += [i for risk in found for i in _lacking(risk, per_second)]
    items += _latency(plan, state, per_second)
    for check in filter(metrics.judges, plan.checks):
        items += metrics.lacking(check, state["checks"][check.name], seconds)
    return _with_claims(_summed(items), found)


def _summed(items: list[tuple[str, float | None, str]]) -> Needs:
    """All that is missing as one, which takes as long as the slowest of it."""
    waits = [wait for _, wait, _ in items]
    known = [w for w in waits if w is not None]
    eta = None if len(known) < len(waits) else max(known, default=0.0)
    return Needs([text for text, _, _ in items], eta, {kind for _, _, kind in items if kind})


def _with_claims(needs: Needs, found: list[risks.Risk]) -> Needs:
    bounds = {risk.kind: risk.bound for risk in found}
    return replace(needs, bounds=bounds, claims={risk.kind: risk.claim for risk in found})


def _lacking(risk: risks.Risk, per_second: float) -> list[tuple[str, float | None, str]]:
    if not risk.missing:
        return []
    return [(risk.missing, _wait(risk.requests, per_second), risk.kind)]


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


def _wait(requests: float, per_second: float) -> float | None:
    return requests / per_second if per_second > 0 and math.isfinite(requests) else None
