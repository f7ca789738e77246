"""Watching: a regression may begin at any look, long after promotion.

The Shiryaev-Roberts mixture R_k = (1 + R_{k-1}) L_k, E_k = (sum_j pi_j R_k + H - k) / H begins one
Engine C process at each of H planned looks (Shin, Ramdas, Rinaldo, *E-detectors*): false alarms
over the whole watch stay below alpha, and old innocence does not hide new guilt.  The recursion
itself is sluice.stats.counts.start and absorb; this module plans the starts and says what a watch
could have seen.

Called by sluice.rollout.judge.
"""

from __future__ import annotations

import math

MAX_STARTS = 400
"""More starts only cost evidence: log H nats."""


def planned_starts(planned_looks: int) -> int:
    """How many of the planned looks begin a process of their own."""
    looks = max(1, planned_looks)
    return math.ceil(looks / stride(looks))


def stride(planned_looks: int) -> int:
    """Looks between two starts."""
    return max(1, math.ceil(planned_looks / MAX_STARTS))


def begins(look: int, planned_looks: int) -> bool:
    """Whether the ``look``-th absorbed look (from 0) begins a process."""
    return look < planned_looks and look % stride(max(1, planned_looks)) == 0


def detectable_ratio(
    stable_n: int, stable_x: int, candidate_n: int, *, margin: float, log_need: float, phi: float
) -> float | None:
    """The smallest odds ratio that this sample would probably have shown; None when not even 50.

    The evidence of rare events at odds ratio t is s KL(share of events | share at the margin) on
    average; two nats are added for luck.
    """
    if stable_n == 0 or candidate_n == 0:
        return None
    rate = (stable_x + 0.5) / (stable_n + 1.0)

    def evidence(ratio: float) -> float:
        odds = ratio * rate / (1.0 - rate) if rate < 1.0 else ratio
        candidate_events = candidate_n * odds / (1.0 + odds)
        stable_events = stable_n * rate
        expected = candidate_n * margin / (stable_n + candidate_n * margin)
        share = candidate_events / (candidate_events + stable_events)
        divergence = share * math.log(share / expected)
        divergence += (1.0 - share) * math.log((1.0 - share) / (1.0 - expected))
        return (candidate_events + stable_events) * divergence / phi

    low, high = margin, 50.0
    if evidence(high) < log_need + 2.0:
        return None
    for _ in range(12):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if evidence(middle) >= log_need + 2.0 else (middle, high)
    return high
