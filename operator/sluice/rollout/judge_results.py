"""The judge's results: one check as people read it, from what it found.

Called by sluice.rollout.judge and judge_alarms; calls sluice.stats.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

from sluice.rollout import judge_guardrails as guardrails
from sluice.rollout import judge_metrics as metrics
from sluice.rollout import judge_mirror as mirror
from sluice.rollout import judge_pods as by_pod
from sluice.rollout import judge_words as words
from sluice.rollout.judge_guardrails import Finding
from sluice.rollout.judge_pods import EVENT
from sluice.rollout.judge_promotion import Needs
from sluice.rollout.plan import CheckPlan
from sluice.stats import counts, latency

State = dict[str, Any]
Word = Literal["Pass", "Fail", "Inconclusive", "NoData"]


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


def claimed(result: CheckResult, needs: Needs | None) -> CheckResult:
    """The check with what promotion may claim; what has failed is not praised."""
    claim = needs.claims.get(result.type) if needs is not None else ""
    return replace(result, message=f"{result.message} {claim}") if claim else result


def result_of(state: State, finding: Finding, needs: Needs | None, log_need: float) -> CheckResult:
    """The check as status shows it, before anything has failed."""
    check, shown = finding.check, shown_sample(state)
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
    spent = state.get("cpu") or no_cpu()
    return words.cpu(spent["stable"], spent["candidate"]) if finding.check.type == "Latency" else ""


def _verdict(check: CheckPlan, smaller_n: int, needs: Needs | None) -> Word:
    """Pass in the canary means: this step's risk is excluded; in the watch: no alarm on data."""
    if smaller_n == 0:
        return "NoData"
    if needs is None:
        return "Pass"
    return "Inconclusive" if {check.type, check.name} & needs.lacking else "Pass"


def shown_sample(state: State) -> State:
    """The sample that people see: this step's in the canary, the whole in the watch."""
    sample: State = state["in_step"] if state["step"] >= 0 else state["total"]
    return sample


def no_cpu() -> State:
    """Requests of each arm, and the CPU seconds that they took."""
    return {"stable": [0, 0.0], "candidate": [0, 0.0]}
