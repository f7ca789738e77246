"""What must be installed for a model file, and whether it is.

Called by the packager (to record) and by ``load`` (to check before anything is loaded); calls
``importlib.metadata`` and the names of wheels, so it never imports what it looks at.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from importlib import metadata
from typing import NoReturn

from sluice.errors import PackageError
from sluice.package.manifest import GOLDEN_NAME, Manifest, canonical_json

_SAME_MAJOR_IS_ENOUGH = {
    "numpy", "scipy", "pandas", "joblib", "threadpoolctl", "skops",
    "xgboost", "lightgbm", "catboost",
}  # fmt: skip
"""Libraries whose pickles load across minor versions, and those that promise it of their model
files; other model libraries do not."""

_ALSO_AS = {"xgboost": ("xgboost-cpu",)}
"""Distributions that hold the same library under another name."""

_REQUIREMENT = re.compile(r"^\s*([A-Za-z0-9][A-Za-z0-9._-]*)")


def normalized(name: str) -> str:
    """A distribution's name as package indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def distributions_of(modules: Iterable[str]) -> tuple[dict[str, str], list[str]]:
    """``{distribution: version}`` for top-level modules, and the modules nobody installed."""
    owners = metadata.packages_distributions()
    found: dict[str, str] = {}
    missing: list[str] = []
    for module in sorted(set(modules)):
        if module in sys.stdlib_module_names:
            continue
        names = owners.get(module)
        if not names:
            missing.append(module)
            continue
        name = sorted(names)[0]
        found[normalized(name)] = metadata.version(name)
    return found, missing


def installed_version(name: str) -> str | None:
    """The version of a distribution, or of another one that holds the same library."""
    found = _installed(name)
    return found.version if found is not None else None


def _installed(name: str) -> metadata.Distribution | None:
    for candidate in (name, *_ALSO_AS.get(name, ())):
        try:
            return metadata.distribution(candidate)
        except metadata.PackageNotFoundError:
            continue
    return None


def lock(requires: dict[str, str]) -> str:
    """``requirements.lock``: the distributions and all that they need, at the versions here."""
    pinned: dict[str, str] = {}
    queue = sorted(requires)
    while queue:
        name = normalized(queue.pop())
        if name in pinned:
            continue
        distribution = _installed(name)
        if distribution is None:
            continue
        pinned[normalized(distribution.metadata["Name"])] = distribution.version
        queue.extend(_needs(distribution.requires or []))
    return "".join(f"{name}=={version}\n" for name, version in sorted(pinned.items()))


def _needs(requirements: Iterable[str]) -> list[str]:
    """Names of unconditional requirements; optional extras are not what the model runs on."""
    names = []
    for requirement in requirements:
        match = _REQUIREMENT.match(requirement)
        if match and "extra" not in requirement.partition(";")[2]:
            names.append(match[1])
    return names


def check_environment(manifest: Manifest) -> None:
    """Refuse to go on when this interpreter cannot be trusted to load the model as it was saved."""
    wanted = manifest.environment
    own = _own_versions(manifest)
    if _carries_bytecode(manifest) and wanted.python and wanted.python != python_version():
        _mismatch(
            f"the model carries bytecode of Python {wanted.python}, image has {python_version()}",
            f"Use an image with Python {wanted.python}",
        )
    for name, version in sorted(wanted.requires.items()):
        series = _series(name, version)
        installed = own.get(normalized(name)) or installed_version(name)
        if installed is None:
            foreign = _of_other_platforms(manifest, name)
            _mismatch(
                f"{name} needs {series}, image has none{foreign}", f"Add {name}=={version} to it"
            )
        if _series(name, installed) != series and not _may_differ(manifest, version, installed):
            _mismatch(
                f"{name} needs {series}, image has {_short(installed)}",
                f"Use an image with {name}=={version}",
            )


def _own_versions(manifest: Manifest) -> dict[str, str]:
    """Versions that the package brings as wheels, by distribution."""
    if not manifest.wheels:
        return {}
    from sluice.package.wheels import usable

    return {name: version for name, (version, _) in usable(manifest.wheels).items()}


def _of_other_platforms(manifest: Manifest, name: str) -> str:
    """What the package brings of a distribution, none of which fits here; empty for nothing."""
    if not manifest.wheels:
        return ""
    from sluice.package.wheels import parsed

    files = [path.rpartition("/")[2] for path in manifest.wheels]
    brought = [file for file in files if parsed(file)[0] == normalized(name)]
    return f" and none of {', '.join(brought[:3])} fits its platform" if brought else ""


def _may_differ(manifest: Manifest, wanted: str, installed: str) -> bool:
    """Another minor version, allowed by the package, with golden examples to judge it by."""
    same_major = wanted.split(".")[0] == installed.split(".")[0]
    golden = manifest.entry(GOLDEN_NAME)
    return (
        manifest.environment.minor == "Any"
        and same_major
        and golden is not None
        and golden.size > len(canonical_json([]))
    )


def _mismatch(what: str, hint: str) -> NoReturn:
    raise PackageError(
        f"EnvironmentMismatch: {what}.",
        hint=f"{hint}, package the model again with the image's versions, or with its own: "
        "--wheels.",
        reason="EnvironmentMismatch",
    )


def python_version() -> str:
    """The series of the interpreter, e.g. 3.11."""
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def _carries_bytecode(manifest: Manifest) -> bool:
    return any(i.startswith(("cloudpickle", "dill.", "types.CodeType")) for i in manifest.imports)


def _series(name: str, version: str) -> str:
    parts = version.split(".")
    keep = 1 if normalized(name) in _SAME_MAJOR_IS_ENOUGH else 2
    return ".".join(parts[:keep]) + ".*"


def _short(version: str) -> str:
    return ".".join(version.split(".")[:2])
