"""Sums of numbers known by their logarithms.

scipy's logsumexp spends most of its time finding out what kind of array it was given.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Numbers = float | Floats | NDArray[np.int64]
"""One number, or an array of them with any leading axes."""


def log_sum(log_values: Floats) -> Floats:
    """log of the sum of exp(values) over the last axis; the values must be finite."""
    top = log_values.max(axis=-1, keepdims=True)
    total: Floats = top[..., 0] + np.log(np.exp(log_values - top).sum(axis=-1))
    return total
