"""How many pods each role needs, so that no weight exceeds what is ready to carry it."""

from __future__ import annotations

from math import ceil


def needed(replicas: int, weight: int) -> int:
    """Ready pods that ``weight`` percent of traffic needs when 100 % needs ``replicas``."""
    if weight <= 0 or replicas <= 0:
        return 0
    return max(1, ceil(replicas * weight / 100))


def comparable(replicas: int, weight: int) -> int:
    """Candidate pods at ``weight`` percent whose load is as near stable's as whole pods allow.

    Latency is judged only under comparable load: with ``replicas`` pods of stable carrying the
    rest, the candidate gets ``replicas * weight / (100 - weight)`` of them, at most ``replicas``.
    """
    if weight <= 0 or replicas <= 0:
        return 0
    if weight >= 50:
        return replicas
    return max(needed(replicas, weight), ceil(replicas * weight / (100 - weight)))
