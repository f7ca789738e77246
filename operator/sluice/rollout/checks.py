"""Checks and their evidence as people read them.

Called by status, and by decide for what is taken back.
"""

from __future__ import annotations

from sluice.api.status import ArmValue, CheckStatus, EvidenceStatus
from sluice.rollout import judge, judge_trail
from sluice.rollout.judge import Judgement
from sluice.rollout.judge_results import CheckResult
from sluice.rollout.model import JUDGED, Progress
from sluice.rollout.plan import Plan


def shown_checks(judgement: Judgement) -> list[CheckStatus]:
    """Every check with both values, the effect and the evidence."""
    return [_shown(check) for check in judgement.checks]


def shown_evidence(progress: Progress, judgement: Judgement | None) -> EvidenceStatus | None:
    """The looks that are judged now, as ``sluice judge`` reads them; None before the first."""
    state, rollout = progress.judge, progress.rollout
    judged = rollout if rollout is not None and rollout.phase in JUDGED else progress.watch
    if judgement is None or judged is None or not judged.revision:
        return None
    if not state or not state["trail"]:
        return None
    counted = judge.replayable(Plan.from_json(judged.plan))
    trail, looks = judge_trail.written(state["trail"], counted)
    return EvidenceStatus(
        revision=judged.revision,
        phase="Watch" if state["phase"] == "watch" else "Canary",
        planned_starts=state["checks"][next(iter(counted))]["planned"],
        log10_need=judgement.log10_need,
        detectable=judgement.detectable,
        summed_looks=judge_trail.summed(trail),
        looks=looks,
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
