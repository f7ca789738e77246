"""The judge's guardrails: one evidence process per check, and what it says.

A check's process is Engine C (rates, latency), the score counts of both arms (PredictionShift) or
what judge_metrics and judge_mirror keep.
Called by the judge's other parts; calls sluice.stats.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sluice.rollout import judge_metrics as metrics
from sluice.rollout import judge_mirror as mirror
from sluice.rollout import judge_pods as by_pod
from sluice.rollout import judge_words as words
from sluice.rollout.judge_pods import EVENT, WorstPod
from sluice.rollout.plan import CheckPlan
from sluice.stats import combine, counts, dispersion, hard_limit, latency, shift
from sluice.stats.counts import Floats
from sluice.stats.look import Look

State = dict[str, Any]

COUNTED = (*EVENT, "PodHealth")
"""Types that Engine C judges by counts."""

MIN_DIFFERENCE = 0.001
"""Observed difference below which nobody is rolled back, whatever the ratio."""

DISPLAY_ALPHA = 0.05
LIMIT_LEVEL = 0.1
"""Part of alpha that hard limits may use, when there are any."""


@dataclass(frozen=True)
class Finding:
    """What one check found: evidence, whether the difference matters, and how it survives.

    ``times``: both arms' recent latency, in seconds, at the quantile with most evidence.  ``odds``:
    confidence sequence (95 %) of a rate's odds ratio.  ``pod``: the one that carries the evidence.
    ``numbers``: both arms of a metric.
    """

    check: CheckPlan
    log_e: float = 0.0
    log_e_without: float = 0.0
    matters: bool = True
    over_limit: bool = False
    shifted: shift.Verdict | None = None
    quantile: int = 0
    times: tuple[float | None, float | None] = (None, None)
    phi: float = 1.0
    odds: tuple[float | None, float | None] = (None, None)
    numbers: metrics.Numbers = field(default_factory=metrics.Numbers)
    pod: WorstPod | None = None

    @property
    def lone(self) -> bool:
        """Whether one pod fails and nothing is left without it: no evidence on the model."""
        return self.pod is not None and self.pod.alone

    @property
    def e_valued(self) -> bool:
        """Whether its evidence is an e-value (a shift's and a plain limit's are not)."""
        if metrics.judges(self.check):
            return self.check.limit is None
        return self.check.type not in ("PredictionShift", "Disagreement")


def new(check: CheckPlan, starts: int) -> State:
    """A process without evidence."""
    if check.type == "Latency":
        return latency.new(starts)
    if check.type == "PredictionShift":
        return {"stable": [], "candidate": [], "references": [[], []]}
    if check.type == "Disagreement":
        return mirror.new()
    if metrics.judges(check):
        return metrics.new(starts)
    return counts.new(check.margin, starts)


def start(check: CheckPlan, process: State) -> State:
    """Begins one more of the planned starts."""
    if check.type == "Latency":
        return latency.start(process)
    if metrics.judges(check):
        return metrics.start(process)
    return counts.start(process) if check.type in COUNTED else process


def absorb(
    checks: Sequence[CheckPlan],
    processes: dict[str, State],
    look: Look,
    times: dict[str, latency.Measured],
    also: Sequence[counts.Counts],
) -> tuple[State, Floats]:
    """Every check's process with one more look; all counts are computed together.

    ``times`` is what ``measured`` says of the look, ``also`` what promotion counted in it: its
    gains come back beside the processes.
    """
    done = dict(processes)
    rates = [check for check in checks if check.type in COUNTED]
    states = [processes[check.name] for check in rates]
    seen_counts = [counts_of(check.type, look) for check in rates]
    most = [math.inf] * len(rates)
    for name, seen in times.items():
        states += latency.parts(processes[name], seen)
        seen_counts += seen.counts
        most += [latency.MOST_A_LOOK] * len(seen.counts)
    lacking = []
    for check in checks:
        if check.type == "PredictionShift":
            done[check.name] = _absorb_scores(processes[check.name], look)
        elif metrics.judges(check):
            done[check.name], lacks = metrics.absorb(check, processes[check.name], look)
            if lacks is not None:
                lacking.append(check.name)
                states.append(done[check.name]["process"])
                seen_counts.append(lacks)
                most.append(math.inf)
        elif check.type == "Disagreement":
            done[check.name] = mirror.absorb(processes[check.name], look)
    absorbed, gained = counts.absorb_all(states, seen_counts, most, also)
    after = iter(absorbed)
    done |= {check.name: next(after) for check in rates}
    for name, seen in times.items():
        done[name] = latency.absorbed(processes[name], seen, [next(after) for _ in seen.counts])
    done |= {name: metrics.told(done[name], next(after)) for name in lacking}
    return done, gained


def measured(
    checks: Sequence[CheckPlan], processes: dict[str, State], look: Look
) -> dict[str, latency.Measured]:
    """A look's latency on the thresholds of each check of it; empty when the look says nothing."""
    stable, candidate = look.stable, look.candidate
    load = latency.load_of(stable, candidate)
    if load == "unknown" or not (stable.latency or candidate.latency):
        return {}
    return {
        c.name: latency.measured(
            processes[c.name],
            stable.latency,
            candidate.latency,
            latency.tolerance_of(load, c.margin),
        )
        for c in checks
        if c.type == "Latency"
    }


def _absorb_scores(process: State, look: Look) -> State:
    return {
        "stable": _added(process["stable"], look.stable.scores),
        "candidate": _added(process["candidate"], look.candidate.scores),
        "references": [
            list(look.stable.score_reference) or process["references"][0],
            list(look.candidate.score_reference) or process["references"][1],
        ],
    }


def counts_of(kind: str, look: Look) -> counts.Counts:
    """A look's events of one kind."""
    stable, candidate = look.stable, look.candidate
    if kind == "PodHealth":
        sides = (stable.minutes, candidate.minutes)
        sums = [(sum(m.observed for m in s), sum(m.failed for m in s)) for s in sides]
        return counts.Counts(*sums[0], *sums[1])
    if kind == "ErrorRate":
        return counts.Counts(stable.n, stable.model_errors, candidate.n, candidate.model_errors)
    return counts.Counts(stable.n, stable.client_errors, candidate.n, candidate.client_errors)


def find_each(
    checks: Sequence[CheckPlan], state: State, alpha: float, limits: int
) -> list[Finding]:
    """What every check says on everything absorbed so far; counts are computed together."""
    counted = [check for check in checks if check.type in COUNTED]
    processes = [state["checks"][check.name] for check in counted]
    phis = [_phi(check, state) for check in counted]
    rows = zip(
        phis,
        counts.log_e_each(processes, phis) if processes else [],
        counts.confidence_each(processes, DISPLAY_ALPHA, phis),
        strict=True,
    )
    known = {check.name: Counted(*row) for check, row in zip(counted, rows, strict=True)}
    return [_find(check, state, alpha, limits, known.get(check.name)) for check in checks]


class Counted(NamedTuple):
    """Dispersion, evidence and confidence sequence of a check that counts events."""

    phi: float
    log_e: float
    odds: tuple[float | None, float | None]


def _find(
    check: CheckPlan, state: State, alpha: float, limits: int, counted: Counted | None
) -> Finding:
    process = state["checks"][check.name]
    if counted is not None:
        found = _find_pods if check.type == "PodHealth" else _find_events
        return found(check, state, alpha, limits, counted)
    if metrics.judges(check):
        floor = units_floor(state)
        evidence = metrics.log_e(check, process, floor)
        over = metrics.over_limit(check, process, limit_alpha(alpha, limits))
        numbers = metrics.numbers(check, process, floor)
        return Finding(check, evidence, evidence, over_limit=over, phi=floor, numbers=numbers)
    if check.type == "Disagreement":
        # Judged where it is measured: who went on from there has decided.
        over = bool(state["mirror"]) and mirror.exceeds(check, process, limit_alpha(alpha, limits))
        return Finding(check, over_limit=over)
    if check.type == "PredictionShift":
        stable = shift.measure(process["stable"], process["references"][0])
        candidate = shift.measure(process["candidate"], process["references"][1])
        limit = math.inf if check.limit is None else check.limit
        return Finding(check, shifted=shift.judge(stable, candidate, limit))
    if check.type == "Latency":
        phi = units_floor(state)
        each = latency.log_e_each(process, phi)
        log_e, worst = combine.log_mean(each), latency.worst(each)
        times = latency.values(process, worst)
        return Finding(check, log_e, log_e, quantile=worst, phi=phi, times=times)
    raise ValueError(f"no check of type {check.type} is known")


def _find_events(
    check: CheckPlan, state: State, alpha: float, limits: int, counted: Counted
) -> Finding:
    process, place = state["checks"][check.name], EVENT[check.type]
    phi, log_e, odds = counted
    over = _over_limit(state, check, place, limit_alpha(alpha, limits))
    pod = worst_pod(check, state, alpha) if over or log_e >= -math.log(alpha) else None
    left = _without_largest(process, state, place, phi, log_e)
    return Finding(
        check,
        log_e,
        min(left, pod.others) if pod is not None and pod.alone else left,
        matters=_matters(state, place),
        over_limit=over,
        phi=phi,
        odds=odds,
        pod=pod,
    )


def _find_pods(
    check: CheckPlan, state: State, alpha: float, limits: int, counted: Counted
) -> Finding:
    """What minutes of pods say.  Those of one pod hang together, so one pod never alarms alone."""
    process = state["checks"][check.name]
    (stable_n, n), (stable_x, x) = process["n"], process["x"]
    phi, log_e, odds = counted
    pod = worst_pod(check, state, alpha) if log_e >= -math.log(alpha) else None
    return Finding(
        check,
        log_e,
        min(log_e, pod.others) if pod is not None and pod.alone else log_e,
        matters=stable_n > 0 and n > 0 and x / n - stable_x / stable_n >= MIN_DIFFERENCE,
        phi=phi,
        odds=odds,
        pod=pod,
    )


def worst_pod(check: CheckPlan, state: State, alpha: float) -> WorstPod | None:
    """The candidate's pod that carries the check's failures in this step, if one does."""
    apart = 0.0 if check.type == "PodHealth" else by_pod.APART
    known = state.get("by_pod", {}).get(check.type)
    return None if known is None else by_pod.worst(known, check.margin, -math.log(alpha), apart)


def limit_alpha(alpha: float, limits: int) -> float:
    """What one of so many hard limits may spend."""
    return alpha * LIMIT_LEVEL / max(1, limits)


def units_floor(state: State) -> float:
    """Dispersion where no unit buckets say more: users with lasting rates, when they stick."""
    return 1.0 if state["buckets"] is None else dispersion.STICKY_FLOOR


def _phi(check: CheckPlan, state: State) -> float:
    if check.type != "PodHealth":
        return phi_of(state, check.type)
    # Minutes have no users, and pods of the two arms need not be equally many.
    stable_n, n = state["checks"][check.name]["n"]
    pods = dispersion.phi_of_pods(state["pods"].get(check.type, {}))
    return float(dispersion.phi_of_alarm(*pods, n / max(1, stable_n)))


def phi_of(state: State, kind: str) -> float:
    """Over-dispersion of one kind of event, for an alarm; unit buckets count when sticky."""
    total = state["total"]
    ratio = total["candidate"][0] / max(1, total["stable"][0])
    pods = dispersion.phi_of_alarm(*dispersion.phi_of_pods(state["pods"][kind]), ratio)
    return max(float(pods), _phi_of_units(state, kind))


def phi_of_both(state: State, kind: str) -> float:
    """The same for a pass, which bursts on either arm's pods could make up."""
    return max(*dispersion.phi_of_pods(state["pods"][kind]), _phi_of_units(state, kind))


def _phi_of_units(state: State, kind: str) -> float:
    if state["buckets"] is None:
        return 1.0
    return dispersion.phi_of_buckets(state["buckets"], EVENT[kind])


def _without_largest(process: State, state: State, place: int, phi: float, log_e: float) -> float:
    """Evidence that is left without the unit bucket that failed most."""
    if state["buckets"] is None:
        return log_e
    stable_x, candidate_x = dispersion.largest_bucket(state["buckets"], place)
    total = process["n"][0] + process["n"][1]
    if total == 0 or candidate_x == 0:
        return log_e
    gain = counts.gain_of(process, stable_x, candidate_x, process["n"][1] / total)
    return counts.log_e(process, phi, without=gain)


def _matters(state: State, place: int) -> bool:
    """Whether the candidate fails at least 0.1 points more, on the whole or lately."""
    return any(
        c[0] > 0 and s[0] > 0 and c[place] / c[0] - s[place] / s[0] >= MIN_DIFFERENCE
        for s, c in (
            (state["total"]["stable"], state["total"]["candidate"]),
            (state["in_step"]["stable"], state["in_step"]["candidate"]),
            (state["recent"][0], state["recent"][1]),
        )
    )


def _over_limit(state: State, check: CheckPlan, place: int, alpha: float) -> bool:
    if check.limit is None:
        return False
    stable, candidate = state["total"]["stable"], state["total"]["candidate"]
    return hard_limit.exceeded(
        (stable[0], stable[place]), (candidate[0], candidate[place]), check.limit, alpha
    )


def sentence(finding: Finding, state: State, shown: State, log_need: float) -> str:
    """One plain sentence: both values with n, what is tolerated, and the evidence."""
    check = finding.check
    stable, candidate = shown["stable"], shown["candidate"]
    if finding.shifted is not None:
        return _shift_sentence(finding.shifted, check)
    if metrics.judges(check):
        process = state["checks"][check.name]
        over = finding.over_limit
        return metrics.sentence(check, process, finding.numbers, finding.log_e, log_need, over)
    if check.type == "Disagreement":
        return mirror.sentence(check, state["checks"][check.name])
    if check.type == "Latency":
        return _latency_sentence(finding, state, log_need)
    if check.type == "PodHealth":
        return _pods_sentence(finding, state, log_need)
    place = EVENT[check.type]
    low, high = finding.odds
    limit = ""
    if check.limit is not None:
        limit = f", hard limit {words.percent(check.limit)}"
        limit += " exceeded" if finding.over_limit else ""
    evidence = words.evidence(finding.log_e, log_need)
    return (
        f"{words.KINDS[check.type].capitalize()} {words.percent(rate(candidate, place))} of "
        f"{words.many(candidate[0])} requests, stable {words.percent(rate(stable, place))} of "
        f"{words.many(stable[0])}{_lately(state, place)} ({words.ratio_range(low, high)}, "
        f"tolerated {check.margin:g}{limit}), {evidence}."
    )


def _pods_sentence(finding: Finding, state: State, log_need: float) -> str:
    process = state["checks"][finding.check.name]
    (stable_n, n), (stable_x, x) = process["n"], process["x"]
    return (
        f"Pods crashed, ran out of memory or were not ready in {words.many(x)} of {words.many(n)} "
        f"pod-minutes, stable's in {words.many(stable_x)} of {words.many(stable_n)} "
        f"({words.ratio_range(*finding.odds)}, tolerated {finding.check.margin:g}), "
        f"{words.evidence(finding.log_e, log_need)}."
    )


def _lately(state: State, place: int) -> str:
    """In a watch, hours of health hide minutes of harm: the last looks' values too."""
    stable, candidate = state["recent"]
    if state["phase"] != "watch" or min(stable[0], candidate[0]) < 1.0:
        return ""
    now, then = candidate[place] / candidate[0], stable[place] / stable[0]
    return f", lately {words.percent(now)} against {words.percent(then)}"


def rate(sample: list[int], place: int) -> float | None:
    """Share of events; None without requests."""
    return sample[place] / sample[0] if sample[0] > 0 else None


def _latency_sentence(finding: Finding, state: State, log_need: float) -> str:
    process = state["checks"][finding.check.name]
    stable, candidate = finding.times
    n = latency.seen(process)
    name = f"p{100 * latency.QUANTILES[finding.quantile]:.0f}"
    text = (
        f"Latency {name} lately {words.millis(candidate)}, stable {words.millis(stable)} (seen "
        f"{words.many(n[1])} and {words.many(n[0])} requests), tolerated "
        f"{100 * (finding.check.margin - 1):.0f} %"
    )
    if process["unequal"]:
        text += " (more while loads per pod differ by over 25 %)"
    return f"{text}, {words.evidence(finding.log_e, log_need)}."


def _shift_sentence(verdict: shift.Verdict, check: CheckPlan) -> str:
    candidate, stable = verdict.candidate, verdict.stable
    if candidate.psi is None:
        return "No live scores beside a reference profile yet."
    control = "no figure" if stable.psi is None else f"{stable.psi:.2f}"
    return (
        f"Live scores differ from the candidate's own reference profile: PSI {candidate.psi:.2f} "
        f"of {words.many(candidate.n)} scores (surely above {candidate.low:.2f}), stable against "
        f"its own {control}, limit {check.limit:g}."
    )


def _added(past: list[int], counts_now: tuple[int, ...]) -> list[int]:
    if not counts_now:
        return past
    if len(past) != len(counts_now):
        return list(counts_now)
    return [a + b for a, b in zip(past, counts_now, strict=True)]
