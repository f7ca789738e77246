"""LightGBM through its C interface.  Called by ``engines``; calls lib_lightgbm by ctypes.

One thread.  A single row goes the way that LightGBM prepares once ("fast" in its C interface).
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from sluice.package.features import Columns
from sluice.package.manifest import Output
from sluice.package.native.description import Array, NativeModel
from sluice.package.native.rows import Rows
from sluice.package.native.shared_library import open_library

_FLOAT64 = 1
_SETTINGS = b"num_threads=1 verbosity=-1"


class LightgbmScorer:
    """Scores of a booster made from the verified bytes."""

    def __init__(
        self, data: bytes, model: NativeModel, names: tuple[str, ...], output: Output
    ) -> None:
        self._library = open_library("lightgbm", "lib_lightgbm")
        self._library.LGBM_GetLastError.restype = ctypes.c_char_p
        self._handle, self._fast = ctypes.c_void_p(), ctypes.c_void_p()
        self._rows = Rows(model.features, names)
        self._output = output
        self._width = model.width
        rounds = ctypes.c_int()
        self._call(
            "LGBM_BoosterLoadModelFromString",
            data,
            ctypes.byref(rounds),
            ctypes.byref(self._handle),
        )
        self._check_width()
        self._call(
            "LGBM_BoosterPredictForMatSingleRowFastInit",
            self._handle, 0, 0, -1, _FLOAT64, len(names), _SETTINGS, ctypes.byref(self._fast),
        )  # fmt: skip
        self._result = np.empty((1, self._width), dtype=np.float64)
        self._count = ctypes.c_int64()
        self._one = (
            self._fast,
            ctypes.c_void_p(self._rows.one.ctypes.data),
            ctypes.byref(self._count),
            ctypes.c_void_p(self._result.ctypes.data),
        )
        self._predict_one = self._library.LGBM_BoosterPredictForMatSingleRowFast

    def raw(self, columns: Columns) -> Array:
        """Scores in float64."""
        matrix = self._rows.fill(columns)
        if matrix is self._rows.one:
            if self._predict_one(*self._one):
                raise ValueError(self._reason())
            return self._shaped(self._result.copy())
        return self._shaped(self._many(matrix))

    def __del__(self) -> None:
        if getattr(self, "_fast", None):
            self._library.LGBM_FastConfigFree(self._fast)
        if getattr(self, "_handle", None):
            self._library.LGBM_BoosterFree(self._handle)

    def _many(self, matrix: Array) -> Array:
        features, rows = matrix.shape
        result = np.empty((rows, self._width), dtype=np.float64)
        self._call(
            "LGBM_BoosterPredictForMat",
            self._handle, ctypes.c_void_p(matrix.ctypes.data), _FLOAT64, rows, features,
            0, 0, 0, -1, _SETTINGS, ctypes.byref(self._count), ctypes.c_void_p(result.ctypes.data),
        )  # fmt: skip
        return result

    def _check_width(self) -> None:
        """The room given for an answer must be what LightGBM will write."""
        found = ctypes.c_int()
        self._call("LGBM_BoosterGetNumClasses", self._handle, ctypes.byref(found))
        features = ctypes.c_int()
        self._call("LGBM_BoosterGetNumFeature", self._handle, ctypes.byref(features))
        if found.value != self._width or features.value != len(self._rows.names):
            raise ValueError(
                f"LightGBM reads {features.value} features and {found.value} scores from this file"
            )

    def _shaped(self, values: Array) -> Array:
        if self._output.labels is None:
            return values[:, 0]
        if len(self._output.labels) == 2:
            return np.concatenate([1.0 - values, values], axis=1)
        return values

    def _call(self, name: str, *arguments: Any) -> None:
        if getattr(self._library, name)(*arguments):
            raise ValueError(self._reason())

    def _reason(self) -> str:
        text: bytes = self._library.LGBM_GetLastError() or b""
        return text.decode("utf-8", "replace").partition("\n")[0][:300]
