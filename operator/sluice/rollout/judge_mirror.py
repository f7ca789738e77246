"""The judge's view of mirrored requests: how many were compared, and how many answers differ.

Errors need nothing of their own: both arms of a mirrored look are the same requests, so Engine C
judges them as it judges traffic (careful where both fail alike; docs/statistics.md, Mirrored
requests).  Disagreement has no stable to be compared with; it fails when its rate is surely above
the limit, whenever one looks (sluice.stats.hard_limit).

Called by the judge's other parts; calls sluice.stats.
"""

from __future__ import annotations

from typing import Any

from sluice.api.duration import human
from sluice.rollout import judge_words as words
from sluice.rollout.plan import CheckPlan, StepPlan
from sluice.stats.hard_limit import rate_bounds
from sluice.stats.look import Look, MirrorLook

State = dict[str, Any]

DISPLAY_ALPHA = 0.05

# The copies of a step.


def no_copies() -> State:
    """The sample of a mirrored step that has just begun."""
    return {"compared": 0, "disagreed": 0, "failed": 0, "dropped": 0, "apart": [0.0, 0.0]}


def sampled(sample: State, look: MirrorLook | None) -> State:
    """The sample with one more look."""
    if look is None:
        return sample
    return {
        "compared": sample["compared"] + look.compared,
        "disagreed": sample["disagreed"] + look.disagreed,
        "failed": sample["failed"] + look.failed,
        "dropped": sample["dropped"] + look.dropped,
        "apart": [max(a, b) for a, b in zip(sample["apart"], look.apart, strict=True)],
    }


def lacking(step: StepPlan, sample: State, seconds: float) -> list[tuple[str, float | None, str]]:
    """What the step still lacks: in words, in seconds at the present traffic."""
    items: list[tuple[str, float | None, str]] = []
    compared = sample["compared"]
    if compared < step.min_requests:
        per_second = compared / seconds if seconds > 0 else 0.0
        wait = (step.min_requests - compared) / per_second if per_second > 0 else None
        text = f"{words.many(compared)} of {words.many(step.min_requests)} mirrored requests"
        items.append((f"{text} compared{_lost(sample)}", wait, ""))
    if seconds < step.min_duration:
        left = step.min_duration - seconds
        items.append((f"{human(seconds)} of {human(step.min_duration)} observed", left, ""))
    return items


def _lost(sample: State) -> str:
    lost = [
        f"{words.many(sample[name])} {said}"
        for name, said in (("failed", "got no answer"), ("dropped", "were dropped"))
        if sample[name]
    ]
    return f" ({', '.join(lost)})" if lost else ""


# The check Disagreement.


def new() -> State:
    """Nothing compared."""
    return {"n": 0, "x": 0, "apart": [0.0, 0.0]}


def absorb(process: State, look: Look) -> State:
    """The process with one more look; one without copies tells nothing."""
    if look.mirror is None:
        return process
    return {
        "n": process["n"] + look.mirror.compared,
        "x": process["x"] + look.mirror.disagreed,
        "apart": [max(a, b) for a, b in zip(process["apart"], look.mirror.apart, strict=True)],
    }


def exceeds(check: CheckPlan, process: State, alpha: float) -> bool:
    """Whether the share of answers that differ is surely above the limit."""
    assert check.limit is not None
    return rate_bounds(process["n"], process["x"], alpha)[0] > check.limit


def share(process: State) -> float | None:
    """Share of compared answers that differ; None without any."""
    return process["x"] / process["n"] if process["n"] else None


def bounds(process: State) -> tuple[float | None, float | None]:
    """Confidence sequence (95 %) of the share; None without a comparison."""
    if not process["n"]:
        return None, None
    return rate_bounds(process["n"], process["x"], DISPLAY_ALPHA)


def sentence(check: CheckPlan, process: State) -> str:
    """One plain sentence: how many differ, what is surely so, and what is tolerated."""
    if not process["n"]:
        return "No mirrored request has been compared yet."
    low, _ = bounds(process)
    absolute, relative = process["apart"]
    return (
        f"{words.percent(share(process))} of {words.many(process['n'])} mirrored requests got "
        f"another answer than from stable (surely above {words.percent(low)}), limit "
        f"{words.percent(check.limit)}; scores differ by up to {absolute:.3g} "
        f"({words.percent(relative)})."
    )
