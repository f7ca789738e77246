"""A metric check for worlds, and what its source may give at a look."""

from __future__ import annotations

from sluice.stats.counts import Counts
from sluice.stats.look import MetricLook

AWAY = "Prometheus http://p:9090 cannot be reached."
REFUNDS = {
    "name": "refunds",
    "type": "Metric",
    "direction": "Lower",
    "prometheus": {
        "url": "http://p:9090",
        "events": 'refunds{revision="{{revision}}"}[{{interval}}]',
        "total": 'orders{revision="{{revision}}"}[{{interval}}]',
    },
}


def fine() -> MetricLook:
    """Both arms alike."""
    return MetricLook(Counts(400, 8, 400, 8))


def bad() -> MetricLook:
    """The candidate's refunds are many times stable's."""
    return MetricLook(Counts(400, 8, 400, 60))


def away() -> MetricLook:
    """The source cannot be read."""
    return MetricLook(problem=AWAY, error=True)


def empty() -> MetricLook:
    """The source has nothing."""
    return MetricLook(problem="No data for either arm.")
