"""The process that unpacks a package's wheels, ``python -m sluice.runtime.unpacker``.

Started by ``wheelhouse`` with the package, its digest or nothing, the directory to fill and the
descriptor of that directory's lock, which it holds for as long as it writes; calls
``package.wheels``.  What it parses comes from outside, so it too is behind the sandbox's walls and
makes files in that directory only.  One JSON object on standard output says what came of it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from sluice.errors import PackageError
from sluice.runtime.sandbox.confine import Sandbox


def main() -> None:
    package, digest, place, lock = sys.argv[1:]
    sandbox = Sandbox.begin([Path(package)], kept=[int(lock)], writable=Path(place))
    sandbox.close()
    print(json.dumps(_unpack(Path(package), digest or None, Path(place))))


def _unpack(path: Path, digest: str | None, place: Path) -> dict[str, object]:
    from sluice.package.load import open_package
    from sluice.package.wheels import unpack

    try:
        package = open_package(path, digest, check_environment=False)
    except PackageError:  # Whoever started us opens it too, and says so.
        return {"digest": ""}
    try:
        unpack(package, place)
    except PackageError as error:
        return {"digest": package.digest, "refused": [error.reason, error.message, error.hint]}
    return {"digest": package.digest}


if __name__ == "__main__":
    main()
