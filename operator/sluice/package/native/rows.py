"""Columns as the runtime holds them become the numbers that a library reads.

Called by the engines; calls numpy.  One row is written into the same memory every time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from sluice.package.features import Columns
from sluice.package.native.description import Array, NativeFeature

Encode = Callable[[Array], Any]


class Rows:
    """A float64 matrix, features x rows; a category is its code, anything else NaN."""

    def __init__(self, features: Sequence[NativeFeature], names: Sequence[str]) -> None:
        self.names = tuple(names)
        self._encoders = {
            name: _encoder(feature.categories)
            for name, feature in zip(names, features, strict=True)
            if feature.categories is not None
        }
        self.one = np.empty((len(self.names), 1), dtype=np.float64)
        """The memory of a single row."""
        self._flat = self.one.reshape(-1)

    def fill(self, columns: Columns) -> Array:
        """The matrix; ``one`` itself when there is one row."""
        parts: list[Any] = [columns[name] for name in self.names]
        if self._encoders:
            parts = [
                self._encoders[name](part) if name in self._encoders else part
                for name, part in zip(self.names, parts, strict=True)
            ]
        count = len(parts[0])
        if count == 1:
            np.concatenate(parts, out=self._flat)
            return self.one
        return np.concatenate(parts, dtype=np.float64).reshape(len(parts), count)


def _encoder(categories: Sequence[str | int]) -> Encode:
    """As pandas does it for these libraries: a category that training never saw is missing."""
    codes: dict[Any, float] = {value: float(code) for code, value in enumerate(categories)}
    missing = float("nan")

    def encode(values: Array) -> list[float]:
        return [codes.get(value, missing) for value in values.tolist()]

    return encode
