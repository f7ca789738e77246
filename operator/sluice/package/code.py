"""Python source carried in a package (``--code features.py``): class Code, part of the digest.

Called by the runtime's loader after trust was decided, and by the packager; calls the import
system.  Modules are made from the verified bytes, never from a search path, so nothing on disk can
stand in for them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import PurePosixPath
from types import ModuleType
from typing import Any

from sluice.errors import PackageError
from sluice.package.load import Package


def module_name(path: str) -> str:
    """``code/features.py`` is imported as ``features``."""
    return PurePosixPath(path).stem


def install_code(package: Package) -> Callable[[Any], Any] | None:
    """Run the package's source as modules; the preprocessing function, if there is one.

    Only for packages whose class Code was admitted.
    """
    sources = {path: package.read(path) for path in package.manifest.code}
    return run_sources(sources, package.manifest.preprocess)


def run_sources(sources: dict[str, bytes], preprocess: str | None) -> Callable[[Any], Any] | None:
    """Make modules from ``{path: source}`` and find ``module:function`` in them."""
    modules = [_module(path, source) for path, source in sources.items()]
    for module, (path, source) in zip(modules, sources.items(), strict=True):
        _execute(module, path, source)
    if preprocess is None:
        return None
    name, _, function = preprocess.partition(":")
    found = getattr(sys.modules.get(name), function, None)
    if not callable(found):
        raise PackageError(
            f"{preprocess!r} names no function of the package's code.",
            hint="--preprocess is MODULE:FUNCTION, and MODULE.py must be given with --code.",
            reason="Corrupt",
        )
    return found  # type: ignore[no-any-return]


def _module(path: str, _: bytes) -> ModuleType:
    name = module_name(path)
    present = sys.modules.get(name)
    if present is not None and not hasattr(present, "__sluice_package__"):
        raise PackageError(
            f"{path} would replace the installed module {name!r}.",
            hint="Give the file another name.",
            reason="Corrupt",
        )
    module = ModuleType(name)
    module.__file__ = path
    module.__spec__ = ModuleSpec(name, None, origin=path)
    module.__sluice_package__ = True  # type: ignore[attr-defined]
    sys.modules[name] = module
    return module


def _execute(module: ModuleType, path: str, source: bytes) -> None:
    try:
        exec(compile(source, path, "exec"), module.__dict__)  # noqa: S102 - admitted as class Code
    except Exception as error:
        raise PackageError(
            f"{path} cannot be imported: {type(error).__name__}: {str(error)[:200]}.",
            hint="Run it by itself to see why.",
            reason="Corrupt",
        ) from error
