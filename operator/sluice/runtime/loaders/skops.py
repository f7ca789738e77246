"""scikit-learn by skops: a model of named types only.

Called by ``predictor.py`` only after it was allowed.  Allowing it admits the file, never a type
that skops does not trust.
"""

from __future__ import annotations

from importlib.metadata import version

from sluice.package.load import Package
from sluice.package.scoring import PythonScorer
from sluice.package.skops_file import load_skops


def load(package: Package) -> tuple[PythonScorer, str]:
    """A scorer over the object that skops builds."""
    manifest = package.manifest
    model = load_skops(package.model_bytes, manifest.model.file)
    scorer = PythonScorer(model, manifest, manifest.output)
    return scorer, f"scikit-learn {version('scikit-learn')}"
