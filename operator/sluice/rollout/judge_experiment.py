"""The judge of an experiment: is the business metric better, not worse, or worse?

A conversion is Engine C two-sided on units; a mean is Engine M; a ratio is Engine M on units
linearised against stable's own ratio from before the look.  A group-sequential design is Engine M
with Lan-DeMets bounds at declared parts of the most units.  Only units whose windows have closed
are compared, each stratum with itself.  The sample ratio is tested on the units exposed, and
nothing is claimed while it is broken.

Called by sluice.rollout (decide, status) and sluice.controller (absorb); calls sluice.stats only.
The state is plain JSON.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from sluice.rollout import judge_words as words
from sluice.rollout.plan import ExperimentPlan
from sluice.stats import counts, dispersion, group_sequential, means, sample_ratio
from sluice.stats.means import Moments
from sluice.stats.units import Pairs, linearised, ratio_of

State = dict[str, Any]
Verdict = Literal["Superior", "NonInferior", "Inferior", "Inconclusive", "Untrusted"]

VERSION = 1
NOT_A_UNIT = 0.01
"""Share of units that may have been seen in both arms, or lost, before nothing is claimed."""
FEWEST_BAD = 20
"""Fewer crossed or lost units than this are accidents."""
ODD_SPLIT = math.log(10.0)
"""Evidence against the split at which claims wait; one experiment in ten gets there by chance."""
PATIENCE_SECONDS = 86400.0
"""Units that are untrusted for longer will not be trusted again."""
DECLARED = (0.2, 0.4, 0.6, 0.8, 0.98)
"""Parts of maxUnits at which a group-sequential design is judged.  Units seen in both arms are left
out, so not all of them close."""
NO_PAIRS = Pairs(0, 0.0, 0.0, 0.0, 0.0, 0.0)


@dataclass(frozen=True)
class ExperimentLook:
    """What one look adds: units newly exposed, and sums of those whose windows closed together.

    ``crossed`` and ``lost`` are totals since the experiment began.
    """

    id: int
    seconds: float
    weight: int
    exposed: tuple[int, int] = (0, 0)
    stable: Pairs = NO_PAIRS
    candidate: Pairs = NO_PAIRS
    crossed: int = 0
    lost: int = 0


@dataclass(frozen=True)
class Finding:
    """What the evidence says now.  ``effect`` is an odds ratio or a relative lift; ``neutral`` is
    the effect of no difference."""

    verdict: Verdict
    exposed: tuple[int, int]
    closed: tuple[int, int]
    stable_value: float | None
    candidate_value: float | None
    effect: float | None
    low: float | None
    high: float | None
    neutral: float
    log10_evidence: float
    sample_ratio: tuple[float | None, float | None]
    log10_sample_ratio: float
    crossed: int
    lost: int
    message: str
    eta_seconds: float | None


def new_state(plan: ExperimentPlan) -> State:
    """No units yet."""
    share = plan.weight / 100.0
    return {
        "v": VERSION,
        "last": -1,
        "seconds": 0.0,
        "exposed": [0, 0],
        "crossed": 0,
        "lost": 0,
        "arms": [[0, 0.0, 0.0], [0, 0.0, 0.0]],
        "reference": None,
        "ratio": sample_ratio.new(),
        "odds": counts.new(1.0, 1) if _by_odds(plan) else None,
        "means": None
        if _by_odds(plan)
        else means.new(max(1.0, plan.max_units / 2), share, plan.alpha),
        "declared": [],
        "verdict": None,
        "distrusted": None,
    }


def absorb(plan: ExperimentPlan, state: State, look: ExperimentLook) -> State:
    """The state with one more look; a look that is replayed changes nothing."""
    if look.id <= state["last"]:
        return state
    after = {
        **state,
        "last": look.id,
        "seconds": round(state["seconds"] + look.seconds, 3),
        "exposed": [a + b for a, b in zip(state["exposed"], look.exposed, strict=True)],
        "crossed": look.crossed,
        "lost": look.lost,
        "ratio": _split(plan, state, look),
        "arms": [
            [n + arm.n, y + arm.y, x + arm.x]
            for (n, y, x), arm in zip(state["arms"], (look.stable, look.candidate), strict=True)
        ],
    }
    after |= _compared(plan, state, look)
    after["declared"] = _declared(plan, after)
    since = state["distrusted"]
    after["distrusted"] = (
        (after["seconds"] if since is None else since) if distrust(after) else None
    )
    return after if after["verdict"] else {**after, "verdict": _proven(plan, after)}


def _by_odds(plan: ExperimentPlan) -> bool:
    """Whether Engine C compares, exactly and at every look; else Engine M."""
    return plan.kind == "Conversion" and plan.design == "Sequential"


def _declared(plan: ExperimentPlan, state: State) -> list[list[float]]:
    """The looks of a group-sequential design: (part of maxUnits, z of better, z of not worse)."""
    rows: list[list[float]] = state["declared"]
    if plan.design != "GroupSequential" or not means.decisive(state["means"]):
        return rows
    part = sum(row[0] for row in state["arms"]) / plan.max_units
    last = rows[-1][0] if rows else 0.0
    if not any(last < mark <= part for mark in DECLARED):
        return rows
    sign = 1.0 if plan.direction == "Higher" else -1.0
    better, floor = (
        sign * (means.standardised(state["means"], m) or 0.0) for m in (0.0, -sign * plan.margin)
    )
    return [*rows, [part, better, floor]]


def _bound(plan: ExperimentPlan, state: State) -> float:
    """The z that the last declared look must reach."""
    parts = [row[0] for row in state["declared"]]
    return group_sequential.bounds(parts, plan.alpha, two_sided=True)[-1]


def _split(plan: ExperimentPlan, state: State, look: ExperimentLook) -> State:
    """The sample ratio with the look's units; of what are no units no ratio is expected."""
    ratio: State = state["ratio"]
    if not plan.has_units:
        return ratio
    return sample_ratio.absorb(ratio, *look.exposed, look.weight / 100.0)


def _phi(plan: ExperimentPlan) -> float:
    """Over-dispersion: none of units, each once; what returns hangs together."""
    return 1.0 if plan.has_units else dispersion.STICKY_FLOOR


def _compared(plan: ExperimentPlan, state: State, look: ExperimentLook) -> State:
    stable, candidate = look.stable, look.candidate
    if _by_odds(plan):
        row = counts.Counts(stable.n, round(stable.y), candidate.n, round(candidate.y))
        return {"odds": counts.absorb(state["odds"], row)}
    if plan.kind != "Ratio":
        arms = [Moments(arm.n, arm.y, arm.yy) for arm in (stable, candidate)]
        return {"means": means.absorb(state["means"], *arms)}
    reference = state["reference"]
    if reference is None:
        # Nothing to linearise against yet: the first units only give the reference.
        known = stable.n > 0 and stable.x > 0
        return {"reference": list(ratio_of(stable)) if known else None}
    arms = [linearised(arm, *reference) for arm in (stable, candidate)]
    return {"means": means.absorb(state["means"], *arms)}


def judge(plan: ExperimentPlan, state: State) -> Finding:
    """Verdict, effect and what is still missing."""
    effect, low, high = _effect(plan, state)
    verdict = _verdict(plan, state)
    (n_a, y_a, x_a), (n_b, y_b, x_b) = state["arms"]
    evidence = _log_e(plan, state)
    return Finding(
        verdict=verdict,
        exposed=(state["exposed"][0], state["exposed"][1]),
        closed=(n_a, n_b),
        stable_value=_value(plan, n_a, y_a, x_a),
        candidate_value=_value(plan, n_b, y_b, x_b),
        effect=effect,
        low=low,
        high=high,
        neutral=_neutral(plan),
        log10_evidence=evidence / math.log(10.0),
        sample_ratio=sample_ratio.shares(state["ratio"]),
        log10_sample_ratio=sample_ratio.log_e(state["ratio"]) / math.log(10.0),
        crossed=state["crossed"],
        lost=state["lost"],
        message=_sentence(plan, state, verdict, low, high),
        eta_seconds=_eta(plan, state, evidence),
    )


def finished(plan: ExperimentPlan, state: State, open_units: int) -> bool:
    """Whether no more units will come and every window has closed."""
    return sum(state["exposed"]) >= plan.max_units and open_units == 0


def _verdict(plan: ExperimentPlan, state: State) -> Verdict:
    if distrust(state):
        return "Untrusted"
    known: Verdict | None = state["verdict"]
    return known or "Inconclusive"


def distrusted_for(state: State) -> float:
    """Observed seconds since the units cannot be trusted; 0 while they can."""
    since = state["distrusted"]
    return 0.0 if since is None else float(state["seconds"] - since)


def distrust(state: State) -> str:
    """Why no comparison of these units can be trusted; empty when it can."""
    if sample_ratio.log_e(state["ratio"]) >= math.log(1.0 / sample_ratio.ALPHA):
        observed, expected = sample_ratio.shares(state["ratio"])
        return (
            f"{words.percent(observed)} of the units went to the candidate, planned were "
            f"{words.percent(expected)}: the arms do not hold comparable units"
        )
    exposed = sum(state["exposed"])
    for name, bad in (("were seen in both arms", "crossed"), ("lost their outcomes", "lost")):
        if state[bad] >= FEWEST_BAD and state[bad] > NOT_A_UNIT * exposed:
            return f"{words.many(state[bad])} of {words.many(exposed)} units {name}"
    return ""


def _proven(plan: ExperimentPlan, state: State) -> Verdict | None:
    """The first claim that is proven stays: a confidence sequence holds at every look.

    A split that looks odd may soon be proven broken: until it does not, nothing is claimed.
    """
    if distrust(state) or sample_ratio.log_e(state["ratio"]) >= ODD_SPLIT:
        return None
    better, floor, worse = _claims(plan, state)
    if better:
        return "Superior"
    if floor:
        return "NonInferior"
    return "Inferior" if worse else None


def _claims(plan: ExperimentPlan, state: State) -> tuple[bool, bool, bool]:
    """Proven better; proven not worse by the margin (if there is one); proven worse by it."""
    up = plan.direction == "Higher"
    if plan.design == "GroupSequential":
        if not state["declared"]:
            return False, False, False
        bound, (_, above, floor_z) = _bound(plan, state), state["declared"][-1]
        return above >= bound, plan.margin > 0 and floor_z >= bound, floor_z <= -bound
    if _by_odds(plan):
        low, high = counts.confidence(state["odds"], plan.alpha, _phi(plan))
        good, bad = (low, high) if up else (_inverse(high), _inverse(low))
        floor = 1.0 - plan.margin
        better = good is not None and good > 1.0
        within = plan.margin > 0 and good is not None and good > floor
        return better, within, bad is not None and bad < floor
    need = math.log(2.0 / plan.alpha)
    margin = -plan.margin if up else plan.margin
    helps, hurts = ("higher", "lower") if up else ("lower", "higher")
    log_e = means.log_e
    better = log_e(state["means"], helps, 0.0) >= need  # type: ignore[arg-type]
    within = plan.margin > 0 and log_e(state["means"], helps, margin) >= need  # type: ignore[arg-type]
    return better, within, log_e(state["means"], hurts, margin) >= need  # type: ignore[arg-type]


def _effect(plan: ExperimentPlan, state: State) -> tuple[float | None, float | None, float | None]:
    """Odds ratio, or the lift over stable's mean, with its confidence sequence.

    Of a group-sequential design: an interval with the bound of the last declared look.
    """
    if _by_odds(plan):
        low, high = counts.confidence(state["odds"], plan.alpha, _phi(plan))
        return counts.odds_ratio(state["odds"]), low, high
    difference, base = means.estimate(state["means"]), means.stable_mean(state["means"])
    if difference is None or not base:
        return None, None, None
    bounds = means.confidence(state["means"], plan.alpha)
    if plan.design == "GroupSequential":
        bounds = None, None
        error = means.standard_error(state["means"])
        if error is not None and state["declared"]:
            width = _bound(plan, state) * error
            bounds = difference - width, difference + width
    low, high = (None if b is None else b / abs(base) for b in bounds)
    return difference / abs(base), low, high


def _log_e(plan: ExperimentPlan, state: State) -> float:
    if _by_odds(plan):
        return counts.log_e_difference(state["odds"], _phi(plan))
    return means.log_e(state["means"], "two")


def _neutral(plan: ExperimentPlan) -> float:
    return 1.0 if _by_odds(plan) else 0.0


def _value(plan: ExperimentPlan, n: int, y: float, x: float) -> float | None:
    if plan.kind == "Ratio":
        return y / x if x else None
    return y / n if n else None


def _inverse(value: float | None) -> float | None:
    return None if value is None else 1.0 / value


def _eta(plan: ExperimentPlan, state: State, evidence: float) -> float | None:
    """Seconds until the evidence suffices at its present growth, or units or time are up."""
    if distrust(state):
        return None
    if state["verdict"]:
        return 0.0
    seconds, exposed = float(state["seconds"]), int(sum(state["exposed"]))
    if seconds <= 0 or exposed == 0:
        return None
    units_up = max(0.0, plan.max_units - exposed) * seconds / exposed + plan.window_seconds
    last = min(units_up, plan.max_seconds - seconds)
    need = math.log(1.0 / plan.alpha)
    # Evidence grows in proportion to units; below this it has not begun to.
    early = evidence > 0.5 and plan.design == "Sequential"
    grows = seconds * (need / evidence - 1.0) if early else last
    return max(0.0, min(last, grows))


def _sentence(
    plan: ExperimentPlan, state: State, verdict: Verdict, low: float | None, high: float | None
) -> str:
    (n_a, y_a, x_a), (n_b, y_b, x_b) = state["arms"]
    if verdict == "Untrusted":
        return f"Untrusted: {distrust(state)}. Held; nothing is promoted or taken back for it."
    before, now = _value(plan, n_a, y_a, x_a), _value(plan, n_b, y_b, x_b)
    sample = (
        f"{plan.metric} {_shown(plan, now)} of {words.many(n_b)} units, stable "
        f"{_shown(plan, before)} of {words.many(n_a)}"
    )
    return f"{verdict}: {sample} ({_range(plan, low, high)}, {100 * (1 - plan.alpha):g} %)."


def _shown(plan: ExperimentPlan, value: float | None) -> str:
    if plan.kind == "Conversion":
        return words.percent(value)
    return "no data" if value is None else f"{value:.4g}"


def _range(plan: ExperimentPlan, low: float | None, high: float | None) -> str:
    if _by_odds(plan):
        return words.ratio_range(low, high)
    if low is None or high is None:
        return "lift not known yet"
    return f"lift {100 * low:+.1f} % to {100 * high:+.1f} %"
