"""XGBoost, LightGBM and CatBoost files: models that are data.

Called by ``predictor.py``; calls the engine that the packager used too.  The environment was
checked against the package before anything here is loaded.
"""

from __future__ import annotations

from sluice.package.environment import installed_version
from sluice.package.load import Package
from sluice.package.native.description import NATIVE
from sluice.package.native.engines import Scorer, native_scorer


def load(package: Package) -> tuple[Scorer, str]:
    """A scorer over the library's reading of the package's verified bytes."""
    manifest = package.manifest
    kind = manifest.model.format
    scorer = native_scorer(package.model_bytes, kind, manifest, manifest.output)
    return scorer, f"{NATIVE[kind]} {installed_version(kind) or ''}".strip()
