"""A build context for an image that has what a package needs.

Called by ``sluice image``; calls the verifier of packages and the names of wheels.  The model
stays out of the image: it is fetched and verified at every start, so one image serves every package
with the same needs.  What a package says is checked before it becomes a line that a builder runs.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import tempfile
from pathlib import Path, PurePosixPath

from sluice.errors import InvalidInputError, PackageError
from sluice.package.load import Package, read_verified
from sluice.package.manifest import LOCK_NAME, WHEELS

REQUIREMENTS = "requirements.txt"
USER = 65532
"""The user that the operator's pods run as."""

_PIN = re.compile(r"^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?==[A-Za-z0-9][A-Za-z0-9._!+-]*$")
_IMAGE = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._:/@-]{0,254}$")


def write_context(package: Package, base: str, out: Path) -> list[str]:
    """Write ``Dockerfile``, ``requirements.txt`` and the package's wheels to a new folder.

    Returns the requirements.  Raises InvalidInputError, or PackageError for one without needs
    (NothingNeeded) or whose lock is not one (Corrupt).
    """
    if not _IMAGE.match(base):
        raise InvalidInputError(f"{base!r} is not the name of an image.")
    if not package.has(LOCK_NAME):
        raise PackageError(
            f"{package.manifest.name} needs nothing but the runtime.",
            hint="It serves on every runtime image.",
            reason="NothingNeeded",
        )
    pins = _pins(package.read(LOCK_NAME))
    if out.exists():
        raise InvalidInputError(f"{out} exists.", hint="Give a new folder, or remove it.")
    wheels = {PurePosixPath(p).name: read_verified(package, p) for p in package.manifest.wheels}
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
        try:
            lines = _requirements(pins, wheels)
            (scratch / REQUIREMENTS).write_text("".join(f"{line}\n" for line in lines))
            (scratch / "Dockerfile").write_text(_dockerfile(package, base, bool(wheels)))
            for name, data in wheels.items():
                (scratch / WHEELS).mkdir(exist_ok=True)
                (scratch / WHEELS / name).write_bytes(data)
            scratch.chmod(0o755)
            scratch.rename(out)
        except BaseException:
            shutil.rmtree(scratch, ignore_errors=True)
            raise
    except OSError as error:
        raise InvalidInputError(f"{out} cannot be written: {error.strerror}.") from None
    return lines


def _pins(lock: bytes) -> list[str]:
    lines = lock.decode("utf-8", "replace").splitlines()
    odd = next((line for line in lines if not _PIN.match(line)), None)
    if odd is not None or not lines:
        raise PackageError(
            f"{LOCK_NAME} has a line that pins nothing: {(odd or '')[:80]!r}.",
            hint="Package the model again with `sluice package`.",
            reason="Corrupt",
        )
    return lines


def _requirements(pins: list[str], wheels: dict[str, bytes]) -> list[str]:
    """The pins; or, of a package with wheels, only what those hold, by hash."""
    if not wheels:
        return pins
    from sluice.package.wheels import parsed

    hashes: dict[str, list[str]] = {}
    for name, data in sorted(wheels.items()):
        distribution, version, _ = parsed(name)
        digest = f"--hash=sha256:{hashlib.sha256(data).hexdigest()}"
        hashes.setdefault(f"{distribution}=={version}", []).append(digest)
    return [" ".join([pin, *found]) for pin, found in hashes.items()]


def _dockerfile(package: Package, base: str, offline: bool) -> str:
    manifest = package.manifest
    python = manifest.environment.python.strip()
    check = f"import sys; sys.exit(sys.version_info[:2] != ({python.replace('.', ', ')}))"
    flags = "--no-cache-dir --disable-pip-version-check"
    if offline:
        flags += f" --no-index --no-deps --require-hashes --find-links /context/{WHEELS}"
    lines = [
        f"# What {manifest.name} ({package.digest}) needs, for serving.runtime.image.",
        "# Build it with anything that reads a Dockerfile: docker build -t IMAGE THIS_FOLDER",
        f"ARG BASE={base}",
        "FROM ${BASE}",
        "USER root",
        *([f'RUN python -c "{check}"'] if python else []),
        "COPY . /context",
        f"RUN python -m pip install {flags} -r /context/{REQUIREMENTS} && rm -rf /context",
        f"USER {USER}:{USER}",
    ]
    return "\n".join(lines) + "\n"
