"""XGBoost through its C interface.  Called by ``engines``; calls libxgboost by ctypes.

One thread, and one row in memory that XGBoost is told of once.
"""

from __future__ import annotations

import ctypes
import json
from typing import Any

import numpy as np

from sluice.package.features import Columns
from sluice.package.manifest import Output
from sluice.package.native.description import Array, NativeModel
from sluice.package.native.rows import Rows
from sluice.package.native.shared_library import open_library


class XgboostScorer:
    """Scores of a booster made from the verified bytes."""

    def __init__(
        self, data: bytes, model: NativeModel, names: tuple[str, ...], output: Output
    ) -> None:
        self._library = open_library("xgboost", "libxgboost")
        self._library.XGBGetLastError.restype = ctypes.c_char_p
        self._handle = ctypes.c_void_p()
        self._call("XGBoosterCreate", None, ctypes.c_uint64(0), ctypes.byref(self._handle))
        self._call("XGBoosterSetParam", self._handle, b"nthread", b"1")
        self._call("XGBoosterSetParam", self._handle, b"verbosity", b"0")
        self._call("XGBoosterLoadModelFromBuffer", self._handle, data, ctypes.c_uint64(len(data)))
        self._rows = Rows(model.features, names)
        self._output = output
        self._settings = json.dumps(
            {
                "type": 0,
                "training": False,
                "iteration_begin": 0,
                "iteration_end": model.last_tree,
                "missing": float("nan"),
                "strict_shape": False,
                "cache_id": 0,
            }
        ).encode()
        self._one = _interface(self._rows.one)
        self._found = ctypes.c_void_p()
        shape, dimensions = ctypes.c_void_p(), ctypes.c_uint64()
        self._kept = (shape, dimensions)
        self._answer = (ctypes.byref(shape), ctypes.byref(dimensions), ctypes.byref(self._found))
        self._predict = self._library.XGBoosterPredictFromDense
        self._nothing = ctypes.c_void_p()
        self._width = model.width
        self._check_width()

    def raw(self, columns: Columns) -> Array:
        """Scores as XGBoost's float32, widened."""
        matrix = self._rows.fill(columns)
        rows = matrix.shape[1]
        described = self._one if matrix is self._rows.one else _interface(matrix)
        failed = self._predict(
            self._handle, described, self._settings, self._nothing, *self._answer
        )
        if failed:
            raise ValueError(self._reason())
        raw = ctypes.string_at(self._found.value or 0, 4 * rows * self._width)
        return self._shaped(np.frombuffer(raw, dtype=np.float32).reshape(rows, self._width))

    def __del__(self) -> None:
        if getattr(self, "_handle", None):
            self._library.XGBoosterFree(self._handle)

    def _shaped(self, values: Array) -> Array:
        labels, kind = self._output.labels, self._output.score_name
        if labels is None:
            return values[:, 0].astype(np.float64)
        if kind == "vote":
            return np.asarray(values[:, :1] == np.arange(len(labels)), dtype=np.float64)
        if len(labels) == 2 and self._width == 1:
            # In float32, as XGBClassifier.predict_proba has it.
            rest = -values if kind == "decision" else np.float32(1.0) - values
            values = np.concatenate([rest, values], axis=1)
        return np.asarray(values, dtype=np.float64)

    def _check_width(self) -> None:
        """What is read of an answer must be what XGBoost has written."""
        features = ctypes.c_uint64()
        self._call("XGBoosterGetNumFeature", self._handle, ctypes.byref(features))
        if features.value != len(self._rows.names):
            raise ValueError(f"XGBoost reads {features.value} features from this file")
        self._rows.one.fill(np.nan)
        self._call(
            "XGBoosterPredictFromDense",
            self._handle, self._one, self._settings, self._nothing, *self._answer,
        )  # fmt: skip
        shape, dimensions = self._kept
        sizes = ctypes.cast(shape, ctypes.POINTER(ctypes.c_uint64))[: dimensions.value]
        if int(np.prod(sizes)) != self._width:
            raise ValueError(f"XGBoost answers the shape {sizes} from this file")

    def _call(self, name: str, *arguments: Any) -> None:
        if getattr(self._library, name)(*arguments):
            raise ValueError(self._reason())

    def _reason(self) -> str:
        text: bytes = self._library.XGBGetLastError() or b""
        return text.decode("utf-8", "replace").partition("\n")[0][:300]


def _interface(matrix: Array) -> bytes:
    """NumPy's array interface of features x rows, told as rows x features."""
    features, rows = matrix.shape
    return json.dumps(
        {
            "data": [matrix.ctypes.data, True],
            "shape": [rows, features],
            "strides": [matrix.strides[1], matrix.strides[0]],
            "typestr": "<f8",
            "version": 3,
        }
    ).encode()
