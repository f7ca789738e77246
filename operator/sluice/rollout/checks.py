"""Checks and their evidence as people read them.

Called by status, and by interrupts for what is taken back.
"""

from __future__ import annotations

from sluice.api.status import ArmValue, CheckStatus, EvidenceStatus
from sluice.rollout import judge, judge_trail
from sluice.rollout.draft import Draft
from sluice.rollout.judge import Judgement
from sluice.rollout.judge_results import CheckResult
from sluice.rollout.model import JUDGED
from sluice.rollout.plan import Plan


def shown_checks(judgement: Judgement) -> list[CheckStatus]:
    """Every check with both values, the effect and the evidence."""
    return [_shown(check) for check in judgement.checks]


def shown_evidence(draft: Draft) -> EvidenceStatus | None:
    """The looks that are judged now, as ``sluice judge`` reads them; None before the first."""
    state, rollout = draft.progress.judge, draft.rollout
    judged = rollout if rollout is not None and rollout.phase in JUDGED else draft.watch
    if draft.judgement is None or judged is None or not judged.revision or not state["trail"]:
        return None
    counted = judge.replayable(Plan.from_json(judged.plan))
    return EvidenceStatus(
        revision=judged.revision,
        phase="Watch" if state["phase"] == "watch" else "Canary",
        planned_starts=state["checks"][next(iter(counted))]["planned"],
        log10_need=draft.judgement.log10_need,
        detectable=draft.judgement.detectable,
        summed_looks=judge_trail.summed(state["trail"]),
        looks=judge_trail.csv(state["trail"], counted),
    )


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
        dispersion=check.dispersion,
        message=check.message[:512],
    )
