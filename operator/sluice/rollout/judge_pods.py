"""The judge's pods: whether one pod carries the failures while the others are as stable is.

Called by the judge's other parts, estimate and running_total; calls sluice.stats.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from sluice.rollout import judge_words as words
from sluice.stats import counts
from sluice.stats.counts import Counts
from sluice.stats.look import ArmLook

State = dict[str, Any]
Row = tuple[str, int, int]
"""Name of a pod; its sample, and its failures."""

EVENT = {"ClientErrorRate": 1, "ErrorRate": 2}
"""Place of the event in a cell (requests, client errors, model errors)."""

KINDS = (*EVENT, "PodHealth")
MOST_PODS = 100
"""Pods that are kept by name; of more, those that fail least are forgotten first."""

APART = math.log(20.0)
"""Evidence that one given pod fails more than its siblings; times the pods that were looked at."""


@dataclass(frozen=True)
class WorstPod:
    """A pod that fails more than its siblings: ``failed`` of all ``failures``.

    ``others`` is the log e-value without it; ``alone`` says that it is no alarm any more.
    """

    name: str
    failed: int
    failures: int
    others: float
    alone: bool


def rows(kind: str, arm: ArmLook) -> list[Row]:
    """A look's pods of one arm: their minutes, or their requests.

    Requests of a pod without a name count under none: as its arm's, and as nobody's.
    """
    if kind == "PodHealth":
        return [*arm.minutes]
    names = arm.pod_names or ("",) * len(arm.pods)
    return [(name, pod[0], pod[EVENT[kind]]) for name, pod in zip(names, arm.pods, strict=True)]


def new() -> State:
    """No pods yet: stable's sample and failures, and the candidate's of each pod."""
    return {"stable": [0, 0], "candidate": {}}


def absorb(state: State, stable: list[Row], candidate: list[Row]) -> State:
    """One look's pods, added."""
    n, x = state["stable"]
    pods = dict(state["candidate"])
    for name, more_n, more_x in candidate:
        had = pods.get(name, (0, 0))
        pods[name] = [had[0] + more_n, had[1] + more_x]
    kept = sorted(pods, key=lambda pod: (-pods[pod][1], -pods[pod][0], pod))[:MOST_PODS]
    return {
        "stable": [n + sum(row[1] for row in stable), x + sum(row[2] for row in stable)],
        "candidate": {name: pods[name] for name in sorted(kept)},
    }


def worst(state: State, margin: float, need: float, apart: float = APART) -> WorstPod | None:
    """The pod that carries an alarm; None when the candidate's pods fail alike.

    Siblings are compared with stable from sums of one step, in which the weight is the same.
    ``need`` is the log evidence that an alarm takes.  A single pod has no siblings to clear it.
    """
    pods = {name: cell for name, cell in state["candidate"].items() if name and cell[0] > 0}
    if len(pods) < 2:
        return None
    name = max(pods, key=lambda pod: (pods[pod][1], pod))
    n, x = pods[name]
    failures = sum(cell[1] for cell in pods.values())
    others = (sum(cell[0] for cell in pods.values()) - n, failures - x)
    if x == 0 or _log_e((*others, n, x), 1.0) < apart + math.log(len(pods)):
        return None
    evidence = _log_e((*state["stable"], *others), margin)
    return WorstPod(name, x, failures, evidence, alone=evidence < need)


def _log_e(sums: tuple[int, int, int, int], margin: float) -> float:
    process = counts.absorb(counts.start(counts.new(margin, 1)), Counts(*sums))
    return counts.log_e(process)


def sentence(pod: WorstPod) -> str:
    """Which pod it is, and what the others do."""
    share = words.percent(pod.failed / pod.failures)
    others = "the others are no worse than stable" if pod.alone else "the others fail too"
    return f" Pod {pod.name} has {share} of the failures; {others}."
