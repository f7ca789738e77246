"""How much worse serving has become since a person last agreed to it.

Ten promotions that are each within a margin of 1.2 may multiply failures by six.  Each promotion
adds its estimated change of the log odds; past one margin the next one asks for a person, whose
approval makes a new anchor.  Kept with the roles, so that lost evidence does not forget it.

Called by sluice.rollout.promote and status; calls sluice.stats.
"""

from __future__ import annotations

import math

from sluice.api.status import SinceAnchor
from sluice.rollout import judge_guardrails as guardrails
from sluice.rollout.draft import Draft
from sluice.rollout.judge_pods import EVENT
from sluice.rollout.messages import annotate, short, with_way_out
from sluice.rollout.plan import Plan, analysis_plan
from sluice.stats import counts

LEAST = 0.05
"""The log of the smallest margin that a total is held against: a margin of 1 tolerates nothing."""


def asks(draft: Draft, plan: Plan) -> bool:
    """Whether this promotion waits for a person; says what has added up."""
    rollout = draft.rollout
    assert rollout is not None
    over = _over(draft, plan)
    if not over or rollout.pass_step or draft.verdict(rollout.revision or "").phase == "Passed":
        return False
    kind, total = over
    record = draft.revision(rollout.revision)
    digest = short(record.package.digest) if record else ""
    draft.wait(
        with_way_out(
            f"Promotions since the last approval have multiplied the odds of {_WORDS[kind]} by "
            f"about {math.exp(total):.2g}, more than one margin ({math.exp(_margin(plan, kind)):g})"
            ", each of them within it. The next one asks for a person.",
            f"Approve, and count from here: {annotate(draft.i.name, 'promote', digest)} or take "
            "it back: sluice.dev/abort=now",
        ),
        reason="Held",
    )
    return True


def after(draft: Draft, plan: Plan) -> dict[str, float]:
    """The total with this promotion in it; nothing after an approval, which is the new anchor.

    An improvement is the new reference: the total is never below 0.  Without evidence, as after
    GatesOnly, nothing is known and nothing added.
    """
    rollout = draft.rollout
    assert rollout is not None
    if rollout.pass_step and _over(draft, plan):
        return {}
    state, total = draft.progress.judge, dict(draft.roles.since_anchor)
    for kind in EVENT:
        name = next((c.name for c in plan.checks if c.type == kind), "")
        if name not in state.get("checks", {}) or state["phase"] != "canary":
            continue
        change = counts.shrunk_log_odds(
            state["checks"][name], _margin(plan, kind), guardrails.phi_of_both(state, kind)
        )
        total[kind] = round(max(0.0, total.get(kind, 0.0) + change), 4)
    return total


def shown(draft: Draft) -> list[SinceAnchor]:
    """The total as people read it."""
    if not draft.roles.since_anchor:
        return []
    plan = analysis_plan(draft.i.spec)
    return [
        SinceAnchor(
            type=kind,
            odds_ratio=math.exp(total),
            margin=math.exp(_margin(plan, kind)),
        )
        for kind, total in sorted(draft.roles.since_anchor.items())
    ]


_WORDS = {"ErrorRate": "an error", "ClientErrorRate": "a client error"}


def _over(draft: Draft, plan: Plan) -> tuple[str, float] | None:
    """The kind of failure that has grown past its margin, and the total."""
    totals = draft.roles.since_anchor.items()
    over = [(kind, total) for kind, total in totals if total > _margin(plan, kind)]
    return max(over, key=lambda pair: pair[1], default=None)


def _margin(plan: Plan, kind: str) -> float:
    """log of what one promotion may multiply the odds by; without a check nothing is asked."""
    margins = [c.margin for c in plan.checks if c.type == kind]
    return max(LEAST, math.log(min(margins))) if margins else math.inf
