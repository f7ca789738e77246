"""scikit-learn by joblib or pickle: a model that is code.

Called by ``predictor.py`` only after it was allowed: loading executes what the file says.  The
environment was checked against the package before anything here is imported.
"""

from __future__ import annotations

import io
from importlib.metadata import PackageNotFoundError, version

import joblib

from sluice.package.code import install_code
from sluice.package.load import Package
from sluice.package.scoring import PythonScorer


def load(package: Package) -> tuple[PythonScorer, str]:
    """A scorer over the unpickled model, behind the package's own preprocessing if it has any."""
    manifest = package.manifest
    preprocess = install_code(package)  # first: the pickle may import it
    model = joblib.load(io.BytesIO(package.model_bytes))
    scorer = PythonScorer(model, manifest, manifest.output, preprocess)
    return scorer, _engine()


def _engine() -> str:
    try:
        return f"scikit-learn {version('scikit-learn')}"
    except PackageNotFoundError:  # a model of another library, which came as wheels
        return f"joblib {joblib.__version__}"
