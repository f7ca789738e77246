"""The judge's sentences: values, sample, limit and evidence, in plain words.

Called by sluice.rollout.judge and its parts, and by what says how long it takes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

KINDS = {"ErrorRate": "error rate", "ClientErrorRate": "client error rate (4xx)"}


def percent(value: float | None) -> str:
    """A share as people read it: ``1.9 %``, ``0.04 %``, ``none`` for no data."""
    if value is None:
        return "no data"
    shown = 100.0 * value
    digits = 1 if shown >= 1 or shown == 0 else 2 if shown >= 0.01 else 4
    return f"{shown:.{digits}f} %"


def millis(value: float | None) -> str:
    """Seconds as milliseconds."""
    if value is None:
        return "no data"
    shown = 1000.0 * value
    return f"{shown:.0f} ms" if shown >= 100 else f"{shown:.1f} ms"


def ratio_range(low: float | None, high: float | None) -> str:
    """The confidence sequence of an odds ratio."""
    if low is None and high is None:
        return "odds ratio not known yet"
    if low is None:
        return f"odds ratio at most {high:.2f}"
    if high is None:
        return f"odds ratio at least {low:.2f}"
    return f"odds ratio {low:.2f} to {high:.2f}"


def evidence(log_e: float, log_need: float) -> str:
    """Evidence beside what an alarm takes: ``evidence 240 of 200``."""
    value = "less than 1" if log_e < 0 else _number(log_e)
    return f"evidence {value} of {_number(log_need)}"


def _number(log_value: float) -> str:
    if log_value > math.log(1e6):
        return f"10^{log_value / math.log(10):.0f}"
    return (
        f"{math.exp(log_value):.3g}" if log_value < math.log(1000) else f"{math.exp(log_value):.0f}"
    )


def cpu(stable: Sequence[float], candidate: Sequence[float]) -> str:
    """CPU time per request of both arms, each as (requests, seconds); empty while one has none."""
    if stable[0] == 0 or candidate[0] == 0:
        return ""
    spent = (seconds / requests for requests, seconds in (candidate, stable))
    return " CPU per request {}, stable {} (not judged).".format(*map(_cpu_time, spent))


def _cpu_time(seconds: float) -> str:
    return f"{1e3 * seconds:.3g} ms" if seconds >= 1e-3 else f"{1e6 * seconds:.3g} µs"


def many(count: float) -> str:
    """A count with thousands separators."""
    return f"{count:,.0f}"


def requests_per_second(value: float) -> str:
    """Traffic: ``10 requests/s``, ``0.35 requests/s``."""
    return f"{many(value) if value >= 10 else f'{value:.2g}'} requests/s"
