"""What a native model file says of itself, the same for every library.

Made by the ``*_file`` readers; read by the packager, ``bare`` and the engines.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NoReturn

import numpy as np

from sluice.errors import PackageError
from sluice.package.manifest import MAX_INPUTS, Format, InputType, Label, ScoreName, Task

NativeFormat = Literal["xgboost", "lightgbm", "catboost"]
NATIVE: dict[Format, str] = {
    "xgboost": "XGBoost",
    "lightgbm": "LightGBM",
    "catboost": "CatBoost",
}
MAX_LABELS = 10_000
MAX_TREES = 1_000_000
MAX_NAME = 256

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class NativeFeature:
    """One feature as the file has it.

    ``categories`` are the values behind the codes 0, 1, … of a categorical feature, when the file
    carries them; ``categorical`` without them takes whatever value comes.
    """

    name: str
    type: InputType | None = None
    """None where the file does not say more than that it is a number."""
    categories: tuple[str, ...] | tuple[int, ...] | None = None
    categorical: bool = False
    nullable: bool = True
    """Whether the file says that a missing value has its place in the trees."""
    min: float | None = None
    max: float | None = None


@dataclass(frozen=True, slots=True)
class NativeModel:
    """Features in the model's order, and what it answers."""

    format: NativeFormat
    features: tuple[NativeFeature, ...]
    named: bool
    """Whether the names come from the file; else they are x0, x1, …"""
    task: Task
    labels: tuple[Label, ...] | None = None
    score: ScoreName = "probability"
    threshold: float = 0.5
    trees: int = 0
    width: int = 1
    """Scores that the library answers for a row."""
    mode: str = ""
    """How the engine has to ask, in its library's own word."""
    last_tree: int = 0
    """Rounds to use, as early stopping left them; 0 for all."""

    @property
    def detail(self) -> str:
        """A line for people."""
        return f"{len(self.features)} features, {self.trees} trees"


def damaged(kind: str, what: str) -> NoReturn:
    """Refuse a file whose structure its library could not be trusted with."""
    raise PackageError(
        f"The {kind} model is damaged: {what[:300]}.",
        hint="It may be truncated. Save it again with its library's save_model.",
        reason="Corrupt",
    )


def unserved(kind: str, what: str, hint: str) -> NoReturn:
    """Refuse a sound file that this version cannot serve."""
    raise PackageError(f"The {kind} model {what}.", hint=hint, reason="UnknownFormat")


def plain_names(count: int) -> tuple[str, ...]:
    """Names of features that have none."""
    return tuple(f"x{i}" for i in range(count))


def check_names(kind: str, names: tuple[str, ...]) -> None:
    """Names must be unique, of 1 to 256 characters, and at most 10,000."""
    if not 0 < len(names) <= MAX_INPUTS:
        unserved(kind, f"has {len(names)} features", f"Between 1 and {MAX_INPUTS} can be served.")
    if len(set(names)) != len(names):
        damaged(kind, "two features have the same name")
    if any(not 0 < len(name) <= MAX_NAME for name in names):
        damaged(kind, f"a feature's name has not 1 to {MAX_NAME} characters")


def check_children(kind: str, tree: int, left: Array, right: Array) -> None:
    """Every node but the root is one other node's child, and the root is nobody's.

    ``left`` and ``right`` are the children of each inner node, already known to be in range, as
    numbers of nodes 0 (the root) to ``nodes - 1``; each number may come once.  That alone allows a
    ring beside the tree, which no walk from the root can enter.
    """
    children = np.concatenate([left, right])
    if (children == 0).any() or len(np.unique(children)) != len(children):
        damaged(kind, f"the nodes of tree {tree} do not form a tree")


def check_range(kind: str, what: str, values: Array, low: int, high: int) -> None:
    """All of ``values`` are in low..high-1."""
    if len(values) and (int(values.min()) < low or int(values.max()) >= high):
        damaged(kind, f"{what} is not between {low} and {high - 1}")
