"""What a packaged model imports, and what must be installed for it.

Called by ``build`` once the file that will be loaded is known; calls the inspectors,
``environment`` and ``wheels``.  Adds ``requirements.lock`` and wheels to the package's files.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sluice.errors import InvalidInputError
from sluice.package import environment, globals_check
from sluice.package.inspect_archive import inspect_archive
from sluice.package.inspect_pickle import inspect_pickle
from sluice.package.manifest import GOLDEN_NAME, LOCK_NAME, WHEELS, Environment, ModelFile
from sluice.package.request import Request


@dataclass(frozen=True, slots=True)
class Needs:
    """Finds them for one request; ``files`` and ``notes`` grow."""

    request: Request
    files: dict[str, bytes]
    notes: list[str]
    layout: Literal["Columns", "Matrix"]

    def of(self, model: ModelFile) -> tuple[list[str], Environment]:
        """Globals of the file that will be loaded, and its environment."""
        if self.request.wheels is not None and model.trust_class != "Code":
            self.notes.append(
                f"The model is of class {model.trust_class} and takes no wheels; none were packed."
            )
        if self.request.native is not None:
            requires = {str(model.format): environment.installed_version(model.format) or ""}
            self._lock(requires)
            return [], Environment(requires=requires)
        if model.trust_class == "Data":
            return [], Environment()
        look_at = inspect_archive if model.format == "skops" else inspect_pickle
        report = look_at(self.files[model.file])
        requires = globals_check.check_globals(report.imports, self.request.code)
        if model.format in ("joblib", "skops"):
            requires |= environment.distributions_of([model.format])[0]
        if self.request.wheels is not None and model.trust_class == "Code":
            requires |= self._wheels(requires, self.request.wheels)
        else:
            self._lock(requires)
        return report.imports, Environment(
            python=environment.python_version(),
            requires=requires,
            minor=self._minor(),
        )

    def _lock(self, requires: dict[str, str]) -> str:
        lock = environment.lock(requires)
        self.files[LOCK_NAME] = lock.encode()
        return lock

    def _wheels(self, requires: dict[str, str], folder: Path) -> dict[str, str]:
        """Wheels for all that serves the model, which must not depend on the image then."""
        from sluice.package.wheels import collect

        ours = ["joblib", "pandas"] if self.layout == "Columns" else ["joblib"]
        requires = requires | environment.distributions_of(ours)[0]
        taken = collect(folder, self._lock(requires))
        self.files.update(taken)
        bound = sorted(path for path in taken if not path.endswith("-none-any.whl"))
        if bound:
            self.notes.append(
                f"Serves only where these fit: {', '.join(p[len(WHEELS) :] for p in bound)}."
            )
        return requires

    def _minor(self) -> Literal["Any"] | None:
        if not self.request.any_minor:
            return None
        if GOLDEN_NAME not in self.files:
            raise InvalidInputError(
                "Other minor versions can only be allowed with golden examples to judge them by.",
                hint="Leave out --no-golden (golden=0), or --any-minor.",
            )
        return "Any"
