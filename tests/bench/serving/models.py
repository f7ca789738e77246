"""The three models that every server is asked for, in the forms that servers take.

Called by ``tests.bench.serving``; calls scikit-learn and ``sluice.save``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import joblib
import numpy as np
from sklearn.datasets import load_breast_cancer, load_iris
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tests.unit.runtime_support import read_manifest, write_package

import sluice

KINDS = {"iris": "iris pipeline", "forest": "100-tree forest", "boosting": "gradient boosting"}
SEED = 20261124
ROWS = 48
PROFILE = "profile.json"


@dataclass(frozen=True)
class Model:
    """One trained model: files for every server, rows to ask and their right answers."""

    kind: str
    folder: Path
    """Has model.joblib, model.onnx, and the packages full, bare and original."""
    names: list[str]
    rows: list[list[float]]
    answers: list[int]


def build(kind: str, folder: Path) -> Model:
    """Trains ``kind`` and writes its files into ``folder``."""
    folder.mkdir(parents=True)
    data = load_iris() if kind == "iris" else load_breast_cancer()
    model = _estimator(kind).fit(data.data, data.target)
    joblib.dump(model, folder / "model.joblib")
    saved = sluice.save(model, data.data, data.target, folder / "full", name="m")
    assert saved.manifest.model.format == "onnx", saved
    sluice.save(model, data.data, data.target, folder / "original", name="m", convert=False)
    _without_profile(folder / "full", folder / "bare")
    graph = (folder / "full" / saved.manifest.model.file).read_bytes()
    (folder / "model.onnx").write_bytes(graph)
    chosen = np.random.default_rng(SEED).choice(len(data.data), ROWS, replace=False)
    rows = data.data[chosen]
    return Model(
        kind,
        folder,
        [str(name) for name in data.feature_names],
        rows.tolist(),
        model.predict(rows).tolist(),
    )


def _estimator(kind: str) -> Any:
    if kind == "iris":
        return make_pipeline(StandardScaler(), LogisticRegression(max_iter=500))
    if kind == "forest":
        return RandomForestClassifier(100, random_state=SEED)
    return HistGradientBoostingClassifier(random_state=SEED)


def _without_profile(full: Path, bare: Path) -> None:
    """The same model with nothing to count drift or predictions against."""
    manifest = read_manifest(full)
    kept = {f.path: (full / f.path).read_bytes() for f in manifest.files if f.path != PROFILE}
    write_package(bare, manifest, kept)
