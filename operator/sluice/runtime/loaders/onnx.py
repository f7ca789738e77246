"""ONNX: a model that is data.  Called by ``predictor.py``; calls ONNX Runtime, not scikit-learn.

One thread a call: pods scale by replicas, and for the small batches that one event-loop turn
collects a second thread costs more than it gains.
"""

from __future__ import annotations

import onnxruntime

from sluice.package.load import Package
from sluice.package.manifest import GOLDEN_NAME, LOCK_NAME, PROFILE_NAME
from sluice.package.scoring import OnnxScorer


def load(package: Package) -> tuple[OnnxScorer, str]:
    """A scorer over a session made from the package's verified bytes."""
    manifest = package.manifest
    scorer = OnnxScorer(
        package.model_bytes, manifest, manifest.output, external=_external_data(package)
    )
    return scorer, f"onnxruntime {onnxruntime.__version__}"


def _external_data(package: Package) -> dict[str, bytes] | None:
    """Weights that an ONNX file keeps beside itself: what else the manifest lists."""
    own = {package.manifest.model.file, GOLDEN_NAME, PROFILE_NAME, LOCK_NAME}
    own |= set(package.manifest.code)
    found = {
        entry.path: package.read(entry.path)
        for entry in package.manifest.files
        if entry.path not in own and package.has(entry.path)
    }
    return found or None
