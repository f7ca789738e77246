"""Where a rising function crosses 0.  scipy.optimize has better, and costs the operator 50 MB.

Called by sluice.stats.sample_ratio and group_sequential; pure.
"""

from __future__ import annotations

from collections.abc import Callable

HALVINGS = 200
"""More than a double has places; halving ends long before, when the middle is an end."""


def crossing(function: Callable[[float], float], low: float, high: float) -> float:
    """The point of a sign change between ``low`` and ``high``, to the last place.

    ValueError when the ends do not differ in sign.
    """
    at_low, at_high = function(low), function(high)
    if at_low == 0.0 or at_high == 0.0:
        return low if at_low == 0.0 else high
    if (at_low > 0) == (at_high > 0):
        raise ValueError(f"no sign change between {low} ({at_low:g}) and {high} ({at_high:g})")
    for _ in range(HALVINGS):
        middle = 0.5 * (low + high)
        if middle in (low, high):
            break
        value = function(middle)
        if value == 0.0:
            return middle
        if (value > 0) == (at_low > 0):
            low = middle
        else:
            high = middle
    return 0.5 * (low + high)
