"""Sums of numbers known by their logarithms.

scipy's logsumexp spends most of its time finding out what kind of array it was given.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray


def log_sum(log_values: NDArray[np.float64]) -> float:
    """log of the sum of exp(values); -inf when all are."""
    top = float(log_values.max())
    if not math.isfinite(top):
        return top
    return top + math.log(float(np.exp(log_values - top).sum()))
