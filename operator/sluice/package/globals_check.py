"""Globals that could not be found where the model will be loaded are refused by name.

Called by the packager, before anything is loaded; calls ``importlib.metadata``.
"""

from __future__ import annotations

from collections.abc import Iterable

from sluice.errors import PackageError
from sluice.package.code import module_name
from sluice.package.environment import distributions_of

_ENTRY_MODULES = {"__main__", "__mp_main__"}


def check_globals(imports: Iterable[str], code: Iterable[str] = ()) -> dict[str, str]:
    """Distributions that the globals come from; PackageError naming those that come from none."""
    names = list(imports)
    own = {module_name(path) for path in code}
    local = [n for n in names if n.split(".", 1)[0] in _ENTRY_MODULES]
    if local:
        raise PackageError(
            f"The model refers to {', '.join(local[:5])}, which exists only in the program or "
            "notebook that trained it.",
            hint="Move it into a file, e.g. features.py, import it from there, train again, and "
            "package with --code features.py.",
            reason="MainGlobal",
        )
    modules = {n.split(".", 1)[0] for n in names if not n.startswith("(")} - own
    requires, missing = distributions_of(modules)
    if missing:
        examples = [n for n in names if n.split(".", 1)[0] in missing]
        raise PackageError(
            f"The model refers to {', '.join(examples[:5])}, which no installed distribution "
            "provides.",
            hint=f"Install what provides {', '.join(missing[:5])}, or add its source with "
            f"--code {missing[0]}.py.",
            reason="MissingDistribution",
        )
    return requires
