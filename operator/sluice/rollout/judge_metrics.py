"""The judge's checks on what is measured elsewhere (Metric) and on plain limits (Threshold).

Counts go to Engine C, moments to Engine M, a value a look to sluice.stats.gauge; a limit fires when
the candidate is surely beyond it and stable surely not.  A source that gives nothing is silence:
its evidence stands still, nothing fails by it, and nothing is promoted meanwhile.

Called by the judge's other parts; calls sluice.stats.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from sluice.rollout import judge_words as words
from sluice.rollout.plan import CheckPlan
from sluice.stats import counts, dispersion, gauge, hard_limit, means
from sluice.stats.counts import Counts
from sluice.stats.look import ArmLook, Look, Means, MetricData, MetricLook, Values, latency_edge
from sluice.stats.means import Moments

State = dict[str, Any]
Kind = Literal["counts", "means", "values"]

DISPLAY_ALPHA = 0.05
QUANTILES = {"LatencyP50": 0.5, "LatencyP90": 0.9, "LatencyP99": 0.99}
CERTAIN = 1e5
"""Evidence beyond e^100000 is not told apart: sums of it must stay numbers."""

THINGS = {"counts": "counted", "means": "units", "values": "looks"}


@dataclass(frozen=True)
class Silence:
    """A check whose source gave nothing at the last look, and at how many looks in a row.

    ``holds``: nothing may be promoted meanwhile.
    """

    check: str
    looks: int
    said: str
    error: bool
    holds: bool


@dataclass(frozen=True)
class Numbers:
    """Both arms as people see them.  ``effect``: an odds ratio, a difference of means, a ratio."""

    stable_n: int = 0
    stable: float | None = None
    candidate_n: int = 0
    candidate: float | None = None
    effect: float | None = None
    low: float | None = None
    high: float | None = None


# -- evidence


def judges(check: CheckPlan) -> bool:
    """Whether a check is one of these."""
    return check.type in ("Metric", "Threshold")


def new(starts: int) -> State:
    """No evidence; what kind it is, the first data tell.

    ``process`` holds the evidence against stable, ``arms`` what a limit needs and people see.
    """
    return {
        "starts": starts,
        "started": 0,
        "kind": "",
        "process": None,
        "arms": None,
        "n": [0, 0],
        "step": [0, 0],
        "silent": 0,
        "error": False,
        "said": "",
    }


def start(state: State) -> State:
    """Begins one more of the planned starts, and the step's sample."""
    process = counts.start(state["process"]) if _started(state) else state["process"]
    started = min(state["starts"], state["started"] + 1)
    return {**state, "process": process, "started": started, "step": [0, 0]}


def _started(state: State) -> bool:
    return state["kind"] == "counts" and state["process"] is not None


def absorb(check: CheckPlan, state: State, look: Look) -> tuple[State, Counts | None]:
    """The state with what the look says of the check, and the counts its process lacks yet.

    The caller gives those to Engine C together with all others of the look, then to ``told``.
    """
    if check.value is not None:
        return _absorb_data(check, state, _own(check, look))
    reading = look.metrics.get(check.name)
    if reading is None:
        return state, None
    after, lacks = state, None
    if reading.data is not None:
        kind = _kind(reading.data)
        if state["kind"] not in ("", kind):
            said = f"The source gives {kind} where it gave {state['kind']}."
            return _silent(state, MetricLook(problem=said, error=True)), None
        try:
            after, lacks = _absorb_data(check, state, reading.data)
        except ValueError as error:
            # What somebody else's numbers are must not keep the other checks from being judged.
            said = f"The source gives numbers that cannot be judged: {error}."
            return _silent(state, MetricLook(problem=said, error=True)), None
    if reading.problem:
        return _silent(after, reading), lacks
    return {**after, "silent": 0, "error": False, "said": ""}, lacks


def told(state: State, process: State) -> State:
    """The state with its process after the counts it lacked."""
    return {**state, "process": process}


def _silent(state: State, reading: MetricLook) -> State:
    return {
        **state,
        "silent": state["silent"] + 1,
        "error": reading.error,
        "said": reading.problem[:300],
    }


def _kind(data: MetricData) -> Kind:
    if isinstance(data, Counts):
        return "counts"
    return "means" if isinstance(data, Means) else "values"


def _own(check: CheckPlan, look: Look) -> Counts:
    """A Threshold's own value as counts: failures, or requests slower than the limit."""
    assert check.limit is not None
    stable, candidate = (_events(check, arm) for arm in (look.stable, look.candidate))
    return Counts(*stable, *candidate)


def _events(check: CheckPlan, arm: ArmLook) -> tuple[int, int]:
    if check.value == "ErrorRate":
        return arm.n, arm.model_errors
    if check.value == "ClientErrorRate":
        return arm.n, arm.client_errors
    assert check.limit is not None
    slow = sum(n for i, n in arm.latency.items() if latency_edge(i) >= check.limit)
    return sum(arm.latency.values()), slow


def _absorb_data(check: CheckPlan, state: State, data: MetricData) -> tuple[State, Counts | None]:
    had = state if state["kind"] else _begun(check, state, _kind(data))
    lacks = None
    if isinstance(data, Counts):
        more = (data.stable_n, data.candidate_n)
        after, lacks = _absorb_counts(check, had, data)
    elif isinstance(data, Means):
        more, after = (data.stable.n, data.candidate.n), _absorb_moments(had, data)
    else:
        more, after = (1, 1), _absorb_values(check, had, data)
    summed = {
        **after,
        "n": [a + b for a, b in zip(had["n"], more, strict=True)],
        "step": [a + b for a, b in zip(had["step"], more, strict=True)],
    }
    return summed, lacks


def _begun(check: CheckPlan, state: State, kind: Kind) -> State:
    """The state of a check whose first data are of this kind."""
    process: Any = None
    if kind == "counts":
        arms: Any = [[0, 0], [0, 0]]
        if check.limit is None:
            process = counts.new(check.margin, state["starts"])
            for _ in range(state["started"]):
                process = counts.start(process)
            process = {**process, "jumps": dispersion.new_jumps()}
    elif kind == "means":
        arms = [[0, 0.0, 0.0], [0, 0.0, 0.0]]
        process = means.new() if check.limit is None else None
    else:
        arms = [0.0, 0.0]
        process = [gauge.new()] if check.limit is None else [gauge.new(), gauge.new()]
    return {**state, "kind": kind, "process": process, "arms": arms}


def _absorb_counts(check: CheckPlan, state: State, data: Counts) -> tuple[State, Counts | None]:
    rows = ((data.stable_n, data.stable_x), (data.candidate_n, data.candidate_x))
    arms = [[had[0] + n, had[1] + x] for had, (n, x) in zip(state["arms"], rows, strict=True)]
    process = state["process"]
    if process is None:
        return {**state, "arms": arms}, None
    bad = data if check.lower else _others(data)
    jumps = dispersion.absorb_jumps(process["jumps"], bad)
    return {**state, "arms": arms, "process": {**process, "jumps": jumps}}, bad


def _others(data: Counts) -> Counts:
    """The things that were not events: where more is better, those are what is bad."""
    return Counts(
        data.stable_n,
        data.stable_n - data.stable_x,
        data.candidate_n,
        data.candidate_n - data.candidate_x,
    )


def _absorb_moments(state: State, data: Means) -> State:
    data.stable.check("stable")
    data.candidate.check("candidate")
    arms = [
        [had[0] + arm.n, had[1] + arm.total, had[2] + arm.squares]
        for had, arm in zip(state["arms"], (data.stable, data.candidate), strict=True)
    ]
    process = state["process"]
    if process is not None:
        process = means.absorb(process, data.stable, data.candidate)
    return {**state, "arms": arms, "process": process}


def _absorb_values(check: CheckPlan, state: State, data: Values) -> State:
    stable, candidate = data.stable, data.candidate
    sign = 1.0 if check.lower else -1.0
    if check.limit is not None:
        bad = [sign * (check.limit - stable), sign * (candidate - check.limit)]
    elif check.lower:
        bad = [candidate - check.margin * stable]
    else:
        bad = [stable - check.margin * candidate]
    size = max((abs(stable) + abs(candidate)) / 2.0, abs(check.limit or 0.0))
    process = [gauge.absorb(s, v, size) for s, v in zip(state["process"], bad, strict=True)]
    arms = [state["arms"][0] + stable, state["arms"][1] + candidate]
    return {**state, "arms": arms, "process": process}


# -- verdicts


def log_e(check: CheckPlan, state: State, phi_floor: float) -> float:
    """log e-value of "worse than stable by more than the margin"; 0 for a limit and for no data.

    Before its minimum sample a check has no evidence for anything, only against it.
    """
    if check.limit is not None or not state["kind"]:
        return 0.0
    value = _log_e(check, state, phi_floor)
    value = min(CERTAIN, value)
    enough = state["n"][1] >= check.min_sample and _relative(state)
    return value if enough else min(0.0, value)


def _log_e(check: CheckPlan, state: State, phi_floor: float) -> float:
    process = state["process"]
    if state["kind"] == "counts":
        return counts.log_e(process, phi(process, phi_floor))
    if state["kind"] == "values":
        return gauge.log_e(process[0])
    if check.lower:
        return means.log_e(process, "higher", check.margin - 1.0)
    return means.log_e(process, "lower", 1.0 / check.margin - 1.0)


def phi(process: State, floor: float) -> float:
    """Over-dispersion of a metric's events, from how they jump from look to look."""
    return max(floor, dispersion.phi_of_jumps(process["jumps"], process["n"], process["x"]))


def _relative(state: State) -> bool:
    """Whether "times worse" means something: stable's mean is above 0."""
    if state["kind"] == "counts":
        return True
    if state["kind"] == "means":
        mean = means.stable_mean(state["process"])
        return mean is not None and mean > 0
    return bool(state["arms"][0] > 0)


def over_limit(check: CheckPlan, state: State, alpha: float) -> bool:
    """Whether the candidate is surely beyond the limit and stable surely not."""
    if check.limit is None or not state["kind"] or state["n"][1] < check.min_sample:
        return False
    need = math.log(1.0 / alpha)
    if state["kind"] == "counts":
        return _rate_beyond(check, state, alpha)
    if state["kind"] == "values":
        return all(gauge.log_e(series) >= need for series in state["process"])
    stable, candidate = (Moments(*arm) for arm in state["arms"])
    above, below = (candidate, stable) if check.lower else (stable, candidate)
    return (
        means.log_e_beyond(above, check.limit, "higher") >= need
        and means.log_e_beyond(below, check.limit, "lower") >= need
    )


def _rate_beyond(check: CheckPlan, state: State, alpha: float) -> bool:
    assert check.limit is not None
    limit = 1.0 - QUANTILES[check.value] if check.value in QUANTILES else check.limit
    arms = [(n, x if check.lower else n - x) for n, x in state["arms"]]
    return hard_limit.exceeded(arms[0], arms[1], limit if check.lower else 1.0 - limit, alpha)


def silence(check: CheckPlan, state: State) -> Silence | None:
    """What is silent now; None while data come, and for what its owner wants ignored."""
    if not state["silent"]:
        return None
    policy = check.on_provider_error if state["error"] else check.on_no_data
    if policy == "Ignore":
        return None
    holds = check.action != "Show"
    return Silence(check.name, state["silent"], state["said"], state["error"], holds)


def lacking(check: CheckPlan, state: State, seconds: float) -> list[tuple[str, float | None, str]]:
    """What the step still lacks by this check: in words, how long, and for which check."""
    if check.action == "Show":
        return []
    quiet = silence(check, state)
    if quiet is not None:
        return [(f"{check.name}: {quiet.said}", None, check.name)]
    seen = min(state["step"])
    if check.on_no_data == "Ignore" or seen >= check.min_sample:
        return []
    text = f"{seen:,} of {check.min_sample:,} {_things(check, state)} by {check.name}"
    wait = (check.min_sample - seen) * seconds / seen if seen and seconds > 0 else None
    return [(text, wait, check.name)]


def _things(check: CheckPlan, state: State) -> str:
    if state["kind"]:
        return THINGS[state["kind"]]
    looks = check.source is not None and check.source.kind == "Prometheus" and check.source.query
    return THINGS["values" if looks else "counts"]


def numbers(check: CheckPlan, state: State, phi_floor: float) -> Numbers:
    """Both arms and the effect, over everything that was read."""
    if not state["kind"]:
        return Numbers()
    stable_n, candidate_n = state["n"]
    process, arms = state["process"], state["arms"]
    if state["kind"] == "values":
        stable, candidate = (total / max(1, stable_n) for total in arms)
        effect = candidate / stable if stable > 0 else None
        return Numbers(stable_n, stable, candidate_n, candidate, effect)
    stable_value, candidate_value = (row[1] / row[0] if row[0] else None for row in arms)
    shown = Numbers(stable_n, stable_value, candidate_n, candidate_value)
    if process is None:
        return shown
    if state["kind"] == "counts":
        low, high = counts.confidence(process, DISPLAY_ALPHA, phi(process, phi_floor))
        ratio = counts.odds_ratio(process)
        if not check.lower:
            low, high = _inverse(high), _inverse(low)
            ratio = _inverse(ratio)
    else:
        ratio = means.estimate(process)
        low, high = means.confidence(process, DISPLAY_ALPHA)
    return Numbers(stable_n, stable_value, candidate_n, candidate_value, ratio, low, high)


def _inverse(value: float | None) -> float | None:
    return 1.0 / value if value else None


# -- words


def sentence(
    check: CheckPlan, state: State, shown: Numbers, evidence: float, need: float, over: bool
) -> str:
    """One plain sentence: both values with n, what is tolerated, the evidence, and the silence."""
    text = _said(check, state, shown, evidence, need, over)
    if state["silent"]:
        looks = "look" if state["silent"] == 1 else f"{state['silent']} looks"
        text = f"Nothing at the last {looks}: {state['said']} {text}"
    return f"{text} Dry run: it does not act." if check.action == "Show" else text


def _said(
    check: CheckPlan, state: State, shown: Numbers, evidence: float, need: float, over: bool
) -> str:
    if not state["kind"]:
        return f"No data of {check.name} yet."
    name = check.value or check.name
    text = (
        f"{name} {_value(check, state, shown.candidate)} of {words.many(shown.candidate_n)} "
        f"{_things(check, state)}, stable {_value(check, state, shown.stable)} of "
        f"{words.many(shown.stable_n)}"
    )
    if check.limit is not None:
        bound = "at most" if check.lower else "at least"
        return f"{text}, limit {bound} {check.limit:g}{_standing(check, state, over)}."
    return f"{text} ({_effect(check, state, shown)}), {words.evidence(evidence, need)}."


def _standing(check: CheckPlan, state: State, over: bool) -> str:
    if over:
        return ", surely passed by the candidate and surely not by stable"
    few = state["n"][1] < check.min_sample
    return f", judged from {check.min_sample:,} on" if few else ""


def _value(check: CheckPlan, state: State, value: float | None) -> str:
    if value is None:
        return "no data"
    if check.value in QUANTILES and check.limit is not None:
        return f"{words.percent(value)} slower than {words.millis(check.limit)}"
    return words.percent(value) if state["kind"] == "counts" else f"{value:.4g}"


def _effect(check: CheckPlan, state: State, shown: Numbers) -> str:
    if not _relative(state):
        return "stable's mean is not above 0, so nothing can be relative to it"
    worse = f"{check.margin:g} times {'more' if check.lower else 'less'} tolerated"
    if state["kind"] == "counts":
        return f"{words.ratio_range(shown.low, shown.high)}, {worse}"
    if state["kind"] == "means" and shown.low is not None and shown.high is not None:
        return f"difference {shown.low:.3g} to {shown.high:.3g}, {worse}"
    return worse
