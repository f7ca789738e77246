"""A skops file: a scikit-learn model whose types are named before anything is built.

Called by the packager and the runtime's loader; calls the archive reader and skops.  Only types
that skops itself trusts are built, whatever the file or its manifest says: a list that came with
the model would be the attacker's.  The file is class Restricted, since a trusted type may still be
built with arguments that nobody foresaw.
"""

from __future__ import annotations

import io
import zipfile
from typing import Any

from sluice.errors import PackageError
from sluice.package.expand import RATIO_FREE_BYTES
from sluice.package.inspect_archive import inspect_archive
from sluice.package.plain_text import printable

MAX_RATIO = 20
"""How often over its own size a file above the limit may expand; skops stores uncompressed."""


def load_skops(data: bytes, file: str = "model.skops") -> Any:
    """The fitted object.

    Raises PackageError: TooLarge, Corrupt, NotTrusted (naming the types), EnvironmentMismatch.
    """
    _check_size(data, file)
    problem = inspect_archive(data).problem
    if problem:
        raise _corrupt(file, problem)
    try:
        from skops import io as skops_io
    except ImportError:
        raise PackageError(
            "EnvironmentMismatch: skops is not installed here.",
            hint="Use an image that has it: pip install 'sluice-operator[skops]'.",
            reason="EnvironmentMismatch",
        ) from None
    try:
        unknown = skops_io.get_untrusted_types(data=data)
    except Exception as error:
        raise _corrupt(file, f"{type(error).__name__}: {error}") from None
    if unknown:
        raise _untrusted(file, unknown)
    try:
        return skops_io.loads(data, trusted=[])
    except Exception as error:
        raise _corrupt(file, f"{type(error).__name__}: {error}") from None


def _check_size(data: bytes, file: str) -> None:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            total = sum(member.file_size for member in archive.infolist())
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError) as error:
        raise _corrupt(file, str(error)) from None
    if total > max(RATIO_FREE_BYTES, MAX_RATIO * len(data)):
        raise PackageError(
            f"{file} has {len(data)} bytes and expands to {total}.",
            hint="Nothing a model needs looks like this: do not load it.",
            reason="TooLarge",
        )


def _untrusted(file: str, unknown: list[str]) -> PackageError:
    shown = ", ".join(unknown[:10])
    more = f" and {len(unknown) - 10} more" if len(unknown) > 10 else ""
    return PackageError(
        f"{printable(file)} names types that skops does not trust: {printable(shown)[:300]}{more}.",
        hint="From the program that has the model, sluice.save(model, X, y, out) writes ONNX where "
        "that is exact, also of trees, which skops does not trust.",
        reason="NotTrusted",
    )


def _corrupt(file: str, why: str) -> PackageError:
    return PackageError(
        f"{printable(file)} cannot be loaded by skops: {printable(why)[:300]}.",
        hint="It may be truncated, or saved with other versions than are installed here.",
        reason="Corrupt",
    )
