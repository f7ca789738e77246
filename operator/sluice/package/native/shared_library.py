"""The compiled part of an installed library, without its Python part.

Called by the engines of XGBoost and LightGBM; calls ctypes.  Their documented C interface is all
that serving needs.  Their Python packages import pandas, SciPy and scikit-learn where those are
installed: a second of start and 160 MB of memory for every pod.
"""

from __future__ import annotations

import ctypes
from importlib.util import find_spec
from pathlib import Path

from sluice.errors import PackageError


def not_installed(package: str) -> PackageError:
    """The refusal where a library is missing."""
    return PackageError(
        f"EnvironmentMismatch: {package} is not installed here.",
        hint=f"Use an image that has it: pip install 'sluice-operator[{package}]'.",
        reason="EnvironmentMismatch",
    )


def open_library(package: str, stem: str) -> ctypes.CDLL:
    """The shared library ``stem`` of an installed ``package``; else PackageError."""
    spec = find_spec(package)
    folders = list(spec.submodule_search_locations or []) if spec is not None else []
    found = [
        file for folder in folders for file in sorted((Path(folder) / "lib").glob(f"{stem}.*"))
    ]
    if not found:
        raise not_installed(package)
    try:
        return ctypes.CDLL(str(found[0]))
    except OSError as error:
        raise PackageError(
            f"EnvironmentMismatch: {package} cannot be opened: {str(error)[:200]}.",
            hint="LightGBM needs libgomp: apt-get install libgomp1.",
            reason="EnvironmentMismatch",
        ) from None
