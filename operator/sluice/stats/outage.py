"""A fast net for outages in a watch with little traffic on the holdback.

Engine C learns only as fast as the holdback sends requests.  This net compares the promoted
revision with its own past in the watch (Shiryaev-Roberts against three times a frozen baseline,
reference/statistics.md, section 5), which a shared outage would set off too.  So it also asks for
the last minute's split between the arms to be one that chance gives in less than 1 of 1,000.
A net for outages only: a doubling never sets it off.

Called by sluice.rollout.judge.  The state is plain JSON.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

from sluice.stats.counts import NOTHING, Counts
from sluice.stats.hard_limit import rate_bounds
from sluice.stats.logs import log_sum

State = dict[str, Any]
Floats = NDArray[np.float64]

BASELINE_REQUESTS = 500
MARGIN = 3.0
FLOOR = 0.01
"""Rates below this are no outage, whatever the baseline."""

EXCESS: Floats = np.array([0.1, 0.2, 0.4, 0.6, 0.8, 0.95])
WINDOW_SECONDS = 60.0
CHANCE = 0.001


def new() -> State:
    """No baseline yet."""
    return {"baseline": [0, 0], "r": [NOTHING] * len(EXCESS), "looks": 0, "recent": [0.0] * 4}


def absorb(state: State, counts: Counts, seconds: float) -> State:
    """One more look: into the baseline until it is large enough, then against it."""
    keep = math.exp(-seconds / WINDOW_SECONDS)
    now = (counts.stable_n, counts.stable_x, counts.candidate_n, counts.candidate_x)
    recent = [round(keep * a + b, 4) for a, b in zip(state["recent"], now, strict=True)]
    n, x = state["baseline"]
    if n < BASELINE_REQUESTS:
        grown = [n + counts.candidate_n, x + counts.candidate_x]
        return {**state, "baseline": grown, "recent": recent}
    limit = _limit(state)
    rates = limit + (1.0 - limit) * EXCESS
    good = counts.candidate_n - counts.candidate_x
    gain = counts.candidate_x * np.log(rates / limit) + good * np.log1p(
        (limit - rates) / (1 - limit)
    )
    r = np.maximum(np.logaddexp(np.array(state["r"]), 0.0) + gain, NOTHING)
    return {**state, "r": np.round(r, 5).tolist(), "looks": state["looks"] + 1, "recent": recent}


def fires(state: State, planned_looks: int, alpha: float) -> bool:
    """Whether the candidate fails far above its own past while stable does not."""
    if state["looks"] == 0:
        return False
    log_e = float(log_sum(np.array(state["r"]))) - math.log(
        len(EXCESS) * max(planned_looks, state["looks"])
    )
    return log_e >= math.log(1.0 / alpha) and _chance_of_split(state["recent"]) < CHANCE


def _limit(state: State) -> float:
    """Three times what the baseline's rate could have been at most, within reason."""
    n, x = state["baseline"]
    return min(0.5, max(FLOOR, MARGIN * rate_bounds(n, x, 0.01)[1]))


def _chance_of_split(recent: list[float]) -> float:
    """Chance that at least so many of the last minute's failures fall to the candidate."""
    stable_n, stable_x, candidate_n, candidate_x = (round(v) for v in recent)
    stable_x, candidate_x = min(stable_x, stable_n), min(candidate_x, candidate_n)
    total, events = stable_n + candidate_n, stable_x + candidate_x
    return hypergeometric_tail(candidate_x, total, candidate_n, events)


def hypergeometric_tail(least: int, total: int, marked: int, drawn: int) -> float:
    """P(X >= least) when ``drawn`` of ``total`` are drawn and ``marked`` of them count.

    scipy.stats has the same, for 50 MB and 0.4 s in a process that needs nothing else of it.
    """
    first, last = max(least, drawn - (total - marked), 0), min(marked, drawn)
    if first > last:
        return 0.0
    if least <= max(drawn - (total - marked), 0):
        return 1.0
    x = np.arange(first, last + 1, dtype=np.float64)
    logs = _log_choose(marked, x) + _log_choose(total - marked, drawn - x)
    return min(1.0, math.exp(float(log_sum(logs) - _log_choose(total, np.float64(drawn)))))


def _log_choose(n: int, k: Floats | np.float64) -> Floats:
    out: Floats = gammaln(n + 1.0) - gammaln(k + 1.0) - gammaln(n - k + 1.0)
    return out
