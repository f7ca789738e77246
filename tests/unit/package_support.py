"""Small models and damaged files for the tests of the package room."""

from __future__ import annotations

import io
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sluice.package.manifest import MANIFEST_NAME

ROWS = 300


def table(seed: int = 0, rows: int = ROWS) -> tuple[pd.DataFrame, np.ndarray]:
    """Three numbers that decide a label."""
    random = np.random.default_rng(seed)
    frame = pd.DataFrame(random.normal(size=(rows, 3)), columns=["a", "b", "c"])
    label = (frame.a + 0.5 * frame.b + random.normal(size=rows) * 0.3 > 0).astype(int)
    return frame, label.to_numpy()


def linear() -> tuple[Any, pd.DataFrame, np.ndarray]:
    """A scaler and a logistic regression, which refuses missing values."""
    frame, label = table()
    return make_pipeline(StandardScaler(), LogisticRegression()).fit(frame, label), frame, label


class Marker:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = str(path)

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (self._path,)


def hostile(path: Path, protocol: int = 4) -> bytes:
    return pickle.dumps(Marker(path), protocol=protocol)


def dumped(value: Any, compress: Any = 0) -> bytes:
    import joblib

    buffer = io.BytesIO()
    joblib.dump(value, buffer, compress=compress)
    return buffer.getvalue()


def rewrite(package: Path, old: str, new: str) -> None:
    """Change the text of ``sluice.json``."""
    file = package / MANIFEST_NAME
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))
