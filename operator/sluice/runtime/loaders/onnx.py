"""ONNX: a model that is data.  Called by ``predictor.py``; calls ONNX Runtime, not scikit-learn.

One thread a call: pods scale by replicas, and for the small batches that one event-loop turn
collects a second thread costs more than it gains.
"""

from __future__ import annotations

import onnxruntime

from sluice.package.load import Package
from sluice.package.scoring import OnnxScorer


def load(package: Package) -> tuple[OnnxScorer, str]:
    """A scorer over a session made from the package's verified bytes."""
    manifest = package.manifest
    scorer = OnnxScorer(
        package.model_bytes, manifest, manifest.output, external=package.external or None
    )
    return scorer, f"onnxruntime {onnxruntime.__version__}"
