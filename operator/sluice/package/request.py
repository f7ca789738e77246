"""What somebody asks a package to be made of, and what is made.

Made by ``save`` and ``from_file``; read by ``build`` and ``needs``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from sluice.package.manifest import Label, Manifest
from sluice.package.native.fitted import NativeSource


@dataclass(slots=True)
class Request:
    """Everything that decides what the package will be."""

    examples: Any
    truth: Any = None
    model: Any = None
    onnx: bytes | None = None
    external: dict[str, bytes] = field(default_factory=dict)
    """Files beside the ONNX file that hold some of its tensors."""
    native: NativeSource | None = None
    """A file of XGBoost, LightGBM or CatBoost, in place of ``model``."""
    original: bytes | None = None
    original_format: Literal["skops"] | None = None
    """Of ``original``, unless it is joblib or pickle."""
    name: str = "model"
    threshold: float | None = None
    positive: Label | None = None
    holdout: tuple[Any, Any] | None = None
    nullable: Mapping[str, bool] = field(default_factory=dict)
    keep_original: bool = False
    convert: bool = True
    code: dict[str, bytes] = field(default_factory=dict)
    preprocess: str | None = None
    preprocess_function: Callable[[Any], Any] | None = None
    golden: int = 50
    wheels: Path | None = None
    any_minor: bool = False


@dataclass(slots=True)
class Built:
    """The files of a package but ``sluice.json``, the manifest that lists them, and remarks."""

    manifest: Manifest
    files: dict[str, bytes]
    notes: list[str]
