"""Sluice rolls out machine-learning models by evidence.

From a notebook, ``sluice.save(model, X, y, out)`` writes a model package; everything else is the
``sluice`` command or a ``ModelDeployment`` object.  Nothing heavy is imported until it is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sluice.version import __version__

if TYPE_CHECKING:
    from sluice.package.save import save as save

__all__ = ["__version__", "save"]


def __getattr__(name: str) -> Any:
    if name == "save":
        from sluice.package.save import save

        return save
    raise AttributeError(f"module 'sluice' has no attribute {name!r}")
