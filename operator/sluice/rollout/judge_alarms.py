"""The judge's alarms: which finding takes the candidate back, asks for a person or is one pod's.

Called by sluice.rollout.judge only; calls sluice.stats.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from sluice.rollout import judge_guardrails as guardrails
from sluice.rollout import judge_words as words
from sluice.rollout.judge_guardrails import Finding
from sluice.rollout.judge_results import CheckResult
from sluice.stats import combine, outage

State = dict[str, Any]

NON_FINITE = 3
"""Non-finite scores of the candidate that are a hard fail while stable has none."""


@dataclass(frozen=True)
class LoneFailure:
    """An alarm that one pod carries while its siblings are as good as stable's."""

    check: CheckResult
    pod: str


def culprit_of(guards: list[Finding], alpha: float) -> Finding | None:
    """The guardrail that fails, when all of them together have the evidence.

    It must matter (0.1 points observed) and survive leaving out its largest unit bucket.
    """
    need = math.log(1.0 / alpha)
    if combine.log_mean([f.log_e for f in guards]) < need:
        return None
    culprit = max(guards, key=lambda f: f.log_e)
    without = [f.log_e_without if f is culprit else f.log_e for f in guards]
    return culprit if culprit.matters and combine.log_mean(without) >= need else None


def other_alarm(
    findings: list[Finding], state: State, results: dict[str, CheckResult], alpha: float
) -> CheckResult | None:
    """Failures beside the e-values: a hard limit, a shift, an outage, non-finite scores."""
    out = _out(state, alpha)
    for finding in findings:
        shifted = finding.shifted is not None and finding.shifted.fires
        down = out and finding.check.type == "ErrorRate" and not _alone(finding, state, alpha)
        over = finding.over_limit and not finding.lone
        if finding.check.action == "Rollback" and (over or shifted or down):
            return failed(finding, results)
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


def held(finding: Finding, log_need: float, results: dict[str, CheckResult]) -> CheckResult | None:
    """A check that asks for a person instead of rolling back."""
    if finding.check.action != "Hold":
        return None
    if finding.lone:
        return None
    shifted = finding.shifted is not None and finding.shifted.fires
    proven = finding.e_valued and finding.log_e_without >= log_need
    if shifted or finding.over_limit or (proven and finding.matters):
        return failed(finding, results)
    return None


def of_model(finding: Finding) -> Finding:
    """The finding with the evidence that is the model's: a lone pod's is not."""
    return replace(finding, log_e=finding.log_e_without) if finding.lone else finding


def lone_of(
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
            check = failed(finding, results)
            assert check is not None
            return LoneFailure(check, pod.name)
    return None


def _alone(finding: Finding, state: State, alpha: float) -> bool:
    pod = guardrails.worst_pod(finding.check, state, alpha)
    return pod is not None and pod.alone


def _out(state: State, alpha: float) -> bool:
    return state["net"] is not None and outage.fires(state["net"], state["planned"], alpha)


def failed(finding: Finding | None, results: dict[str, CheckResult]) -> CheckResult | None:
    return None if finding is None else replace(results[finding.check.name], verdict="Fail")
