"""Which file of an MLflow model directory is the model: read from its ``MLmodel``, nothing loaded.

Called by ``sluice.jobs.fetch``.  A directory often holds the same model in several flavors; the one
that needs the least trust is taken.  What the file then is, is decided by its content, as for any
bare model file: ``MLmodel`` only says where to look.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

from sluice.errors import PackageError

MLMODEL_NAME = "MLmodel"
MAX_MLMODEL_BYTES = 1024 * 1024

# Flavor and the key of its file, in MLflow's own words; the safest first.
_FILES = (
    ("onnx", "data"),
    ("xgboost", "data"),
    ("lightgbm", "data"),
    ("catboost", "data"),
    ("sklearn", "pickled_model"),
    ("python_function", "python_model"),
    ("python_function", "model_path"),
)


def model_file(data: bytes) -> str:
    """The path of the model below the directory.  Raises PackageError."""
    flavors = _flavors(data)
    for flavor, key in _FILES:
        written = flavors.get(flavor)
        path = written.get(key) if isinstance(written, dict) else None
        if path not in (None, "null", "~"):
            return _checked(path)
    shown = ", ".join(sorted(str(name)[:40] for name in flavors)[:10])
    raise PackageError(
        f"The MLflow model has no flavor that can be served: {shown or 'it names none'}.",
        hint="Log it with mlflow.onnx, or package it with `sluice package`.",
        reason="UnknownFormat",
    )


def _flavors(data: bytes) -> dict[str, Any]:
    import yaml  # fetching runs before every pod starts, and most packages are not MLflow's

    if len(data) > MAX_MLMODEL_BYTES:
        raise _corrupt(f"is larger than {MAX_MLMODEL_BYTES:,} bytes")
    try:
        # Only texts are wanted: nothing is made of tags, and no merge key multiplies.
        written = yaml.load(data, Loader=yaml.BaseLoader)  # noqa: S506
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, RecursionError):
        raise _corrupt("is not YAML") from None
    flavors = written.get("flavors") if isinstance(written, dict) else None
    if not isinstance(flavors, dict):
        raise _corrupt("lists no flavors")
    return flavors


def _checked(path: Any) -> str:
    if not isinstance(path, str) or not 0 < len(path) <= 240:
        raise _corrupt("names a file that is not a path")
    parts = PurePosixPath(path).parts
    if path.startswith("/") or ".." in parts or "\\" in path or not path.isprintable():
        raise _corrupt("names a file outside its directory")
    return str(PurePosixPath(path))


def _corrupt(what: str) -> PackageError:
    return PackageError(
        f"{MLMODEL_NAME} {what}.",
        hint="Log the model again with MLflow, or package it with `sluice package`.",
        reason="Corrupt",
    )
