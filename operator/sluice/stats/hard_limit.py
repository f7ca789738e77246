"""A limit in plain numbers, judged at any time: "no more than 2 % errors".

A beta-binomial mixture with a uniform prior gives a confidence sequence for one arm's rate
(Howard, Ramdas, McAuliffe, Sekhon, *Time-uniform, nonparametric, nonasymptotic confidence
sequences*): the true rate p stays for ever inside {p : log B(x+1, n-x+1) - log lik(p) <
log 1/alpha} with probability 1 - alpha, for a constant rate.  The limit is enforced only when the
candidate is surely above it and stable surely below, so that a shared outage never fires it.

Called by sluice.rollout.judge.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from scipy.special import betaln


def rate_bounds(n: int, x: int, alpha: float) -> tuple[float, float]:
    """Anytime two-sided bounds of a rate after ``x`` events in ``n`` requests."""
    if not 0 <= x <= n:
        raise ValueError(f"{x} events of {n} requests")
    if n == 0:
        return 0.0, 1.0
    mixture = float(betaln(x + 1, n - x + 1))
    need = math.log(1.0 / alpha)

    def refuted(p: float) -> bool:
        if (p <= 0.0 and x > 0) or (p >= 1.0 and x < n):
            return True
        likelihood = (x * math.log(p) if x else 0.0) + ((n - x) * math.log1p(-p) if x < n else 0.0)
        return mixture - likelihood >= need

    best = x / n
    low = 0.0 if x == 0 else _edge(refuted, best, 0.0)
    high = 1.0 if x == n else _edge(refuted, best, 1.0)
    return low, high


def _edge(refuted: Callable[[float], bool], inside: float, outside: float) -> float:
    for _ in range(60):
        middle = 0.5 * (inside + outside)
        inside, outside = (inside, middle) if refuted(middle) else (middle, outside)
    return outside


def exceeded(
    stable: tuple[int, int], candidate: tuple[int, int], limit: float, alpha: float
) -> bool:
    """Whether the candidate's rate is surely above ``limit`` and stable's surely below.

    Each arm is (requests, events).  Both bounds are two-sided at ``alpha``, so the chance of a
    false alarm is at most ``alpha`` / 2 for each.
    """
    return rate_bounds(*candidate, alpha)[0] > limit and rate_bounds(*stable, alpha)[1] < limit
