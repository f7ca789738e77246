"""From the bytes of a native model file to its description.

Called by the packager, ``bare`` and the engines; calls the reader of the format.  Each reader also
checks the structure, because the libraries do not.
"""

from __future__ import annotations

from typing import cast

from sluice.package.manifest import Format
from sluice.package.native.description import NATIVE, NativeFormat, NativeModel


def is_native(format_: Format | str) -> bool:
    """Whether a format is one of these libraries' own."""
    return format_ in NATIVE


def read_native(format_: Format | str, data: bytes) -> NativeModel:
    """Describe a file whose format was sniffed; PackageError for what cannot be served."""
    kind = cast(NativeFormat, format_)
    if kind == "xgboost":
        from sluice.package.native.xgboost_file import read_xgboost

        return read_xgboost(data)
    if kind == "lightgbm":
        from sluice.package.native.lightgbm_file import read_lightgbm

        return read_lightgbm(data)
    from sluice.package.native.catboost_file import read_catboost

    return read_catboost(data)
