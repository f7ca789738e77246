"""Checks as people read them.  Called by status, and by interrupts for what is taken back."""

from __future__ import annotations

from sluice.api.status import ArmValue, CheckStatus
from sluice.rollout.judge import CheckResult, Judgement


def shown_checks(judgement: Judgement) -> list[CheckStatus]:
    """Every check with both values, the effect and the evidence."""
    return [_shown(check) for check in judgement.checks]


def _shown(check: CheckResult) -> CheckStatus:
    return CheckStatus(
        name=check.name,
        verdict=check.verdict,
        stable=ArmValue(count=check.stable_n, value=check.stable_value),
        candidate=ArmValue(count=check.candidate_n, value=check.candidate_value),
        effect=check.effect,
        low=check.low,
        high=check.high,
        margin=check.margin,
        log10_evidence=check.log10_evidence,
        message=check.message[:512],
    )
