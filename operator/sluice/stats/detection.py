"""How many requests a canary needs to notice that an event has become more frequent.

Called by sluice.rollout.estimate; arithmetic only.
"""

from __future__ import annotations

import math

LUCK = 3.5
"""Nats beyond the threshold after which four of five runs have noticed: within 25 % of eight
simulated cells (0.1 to 1 % becoming 1.2 to ten times as much, at 5 to 50 % of traffic)."""


def requests_to_notice(
    p: float, q: float, share: float, *, margin: float, log_need: float
) -> float:
    """Candidate requests after which a rate of ``q`` instead of stable's ``p`` is an alarm.

    The evidence of rare events is their number times KL(candidate's share of them | its share at
    the margin); infinite where the odds are within ``margin``.  ``share`` is the candidate's of
    requests; p and q are in (0, 1).
    """
    odds = q / (1.0 - q) * (1.0 - p) / p
    if odds <= margin:
        return math.inf
    per_request = q + p * (1.0 - share) / share
    seen = q / per_request
    tolerated = share * margin / (share * margin + 1.0 - share)
    divergence = seen * math.log(seen / tolerated)
    divergence += (1.0 - seen) * math.log((1.0 - seen) / (1.0 - tolerated))
    return (log_need + LUCK) / (per_request * divergence)
