"""Wheels inside a package: the model's own libraries, put beside the image's without any network.

Called by the packager (``collect``), by the check of the environment (``usable``), by the process
that unpacks (``unpack``) and, once loading code was allowed, before a model is loaded
(``install``); calls ``packaging`` for names and tags.  Wheels are part of the package's digest, so
of what was admitted.  They are unpacked from the verified bytes; no installer takes part.
"""

from __future__ import annotations

import importlib
import io
import lzma
import shutil
import stat
import sys
import zipfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from packaging.tags import Tag, sys_tags
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename

from sluice.errors import InvalidInputError, PackageError
from sluice.package.load import Package, read_verified
from sluice.package.manifest import WHEELS

OF_THE_RUNTIME = ("numpy",)
"""Loaded by the server itself before any package is, so never taken from one."""

MAX_EXPANDED_BYTES = 4 * 1024**3
MAX_ENTRIES = 200_000
_DAMAGE = (
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError),
    *(ValueError, NotImplementedError, RuntimeError),
)
"""What reading a zip file raises when it is damaged, encrypted or made by something else."""

_KEPT_SCHEMES = ("purelib", "platlib")
_installed: set[frozenset[str]] = set()
"""Sets of wheels, by their hashes, that this process already has."""


def collect(folder: Path, lock: str) -> dict[str, bytes]:
    """Wheels from ``folder`` for every line of ``requirements.lock``, as they lie in a package.

    Several wheels of one version are all taken: each pod uses the one for its own platform.
    Raises InvalidInputError when a distribution has none.
    """
    pinned = dict(line.split("==", 1) for line in lock.splitlines())
    found: dict[str, bytes] = {}
    missing = {name: v for name, v in pinned.items() if name not in OF_THE_RUNTIME}
    try:
        for file in sorted(folder.glob("*.whl")):
            name, version, _ = parsed(file.name)
            if pinned.get(name) == version and name not in OF_THE_RUNTIME:
                found[WHEELS + file.name] = file.read_bytes()
                missing.pop(name, None)
    except OSError as error:
        raise InvalidInputError(f"{error.filename} cannot be read: {error.strerror}.") from None
    if missing:
        wanted = " ".join(f"{name}=={version}" for name, version in sorted(missing.items()))
        raise InvalidInputError(
            f"{folder} has no wheel for {wanted}.",
            hint=f"Fetch them: pip download --no-deps --only-binary :all: -d {folder} {wanted}; "
            "for another platform add --platform manylinux2014_x86_64 --python-version 3.11.",
            reason="MissingWheel",
        )
    return found


def usable(paths: Iterable[str]) -> dict[str, tuple[str, str]]:
    """``{distribution: (version, path)}``: for each the wheel that fits this interpreter best."""
    rank: dict[Tag, int] = {}
    best: dict[str, tuple[int, str, str]] = {}
    for path in sorted(paths):
        name, version, tags = parsed(PurePosixPath(path).name)
        rank = rank or {tag: place for place, tag in enumerate(sys_tags())}
        places = [rank[tag] for tag in tags if tag in rank]
        if places and name not in OF_THE_RUNTIME:
            offered = (min(places), version, path)
            best[name] = min(best.get(name, offered), offered)
    return {name: (version, path) for name, (_, version, path) in best.items()}


@dataclass(frozen=True, slots=True)
class Unpacked:
    """What came of unpacking one package's wheels, in another process and before the walls."""

    place: str
    """The directory they are importable from."""
    digest: str
    """The package's."""
    refused: tuple[str, str, str] | None = None
    """Reason, message and hint when they could not be unpacked."""


def unpack(package: Package, place: Path) -> None:
    """Unpack the wheels that fit this interpreter into ``place``, an empty directory.

    Raises PackageError Corrupt, TooLarge or CannotWrite.
    """
    room = MAX_EXPANDED_BYTES
    for _, path in usable(package.manifest.wheels).values():
        room -= _unpack(path, read_verified(package, path), place, room)


def install(package: Package, unpacked: Iterable[Unpacked]) -> None:
    """Make the package's wheels importable, before the image's own versions.

    Only for a package whose class Code was admitted.  Raises PackageError EnvironmentMismatch when
    this process has already imported another copy, DigestMismatch when none of ``unpacked`` is of
    this package, and what unpacking raised.
    """
    paths = [path for _, path in usable(package.manifest.wheels).values()]
    hashes = {e.sha256 for e in package.manifest.files if e.path in paths}
    if not hashes or frozenset(hashes) in _installed:
        return
    place = Path(_of(package, unpacked).place)
    _not_imported_yet(place)
    sys.path.insert(0, str(place))
    importlib.invalidate_caches()
    _installed.add(frozenset(hashes))


def _of(package: Package, unpacked: Iterable[Unpacked]) -> Unpacked:
    found = next((one for one in unpacked if one.digest == package.digest), None)
    if found is None:
        raise PackageError(
            f"The wheels of {package.path} were not unpacked: when this process began, the package "
            f"was not {package.digest}.",
            hint="It was changed meanwhile: start again.",
            reason="DigestMismatch",
        )
    if found.refused is not None:
        reason, message, hint = found.refused
        raise PackageError(message, hint=hint, reason=reason)
    return found


def _unpack(path: str, data: bytes, place: Path, room: int) -> int:
    """Unpack a wheel's importable files; how many bytes that took."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = [info for info in archive.infolist() if not info.is_dir()]
            size = sum(info.file_size for info in entries)
            if size > room or len(entries) > MAX_ENTRIES:
                raise PackageError(
                    f"{path} unpacks to {size:,} bytes in {len(entries):,} files, more than fit.",
                    hint="Put such libraries into the image.",
                    reason="TooLarge",
                )
            for info in entries:
                inside = _inside(path, info)
                if inside is not None:
                    target = place / inside
                    target.parent.mkdir(parents=True, exist_ok=True)
                    with archive.open(info) as source, target.open("wb") as sink:
                        shutil.copyfileobj(source, sink)
            return size
    except OSError as error:
        raise PackageError(
            f"{path} cannot be unpacked to {place}: {error.strerror}.",
            hint="Give the pod room in its temporary directory, or point TMPDIR at some.",
            reason="CannotWrite",
        ) from None
    except _DAMAGE as error:
        raise _corrupt(path, str(error)[:100]) from None


def _inside(path: str, info: zipfile.ZipInfo) -> PurePosixPath | None:
    """Where an entry goes; None for what is not importable, such as scripts."""
    name = PurePosixPath(info.filename)
    odd = name.is_absolute() or ".." in name.parts or "\\" in info.filename or not name.parts
    if odd or stat.S_ISLNK(info.external_attr >> 16):
        raise _corrupt(path, f"it holds {info.filename[:100]!r}")
    if not name.parts[0].endswith(".data"):
        return name
    kept = len(name.parts) > 2 and name.parts[1] in _KEPT_SCHEMES
    return PurePosixPath(*name.parts[2:]) if kept else None


def _not_imported_yet(place: Path) -> None:
    """What is imported stays imported: a second version of it would be used half."""
    for entry in sorted(place.glob("[!.]*")):
        module = sys.modules.get(entry.name.partition(".")[0])
        file = getattr(module, "__file__", None)
        if file is not None and place not in Path(file).parents:
            raise PackageError(
                f"EnvironmentMismatch: the package brings its own {entry.name}, and {file} is "
                "already loaded in this process.",
                hint="Models with different wheels need processes of their own.",
                reason="EnvironmentMismatch",
            )


def parsed(file: str) -> tuple[str, str, frozenset[Tag]]:
    """Distribution, version and tags in the name of a wheel.  Raises PackageError Corrupt."""
    try:
        name, version, _, tags = parse_wheel_filename(file)
    except InvalidWheelFilename as error:
        raise _corrupt(file, str(error)[:200]) from None
    return canonicalize_name(name), str(version), tags


def _corrupt(path: str, why: str) -> PackageError:
    return PackageError(
        f"{path} is not a wheel that can be used: {why}.",
        hint="Download it again with pip download, and package again.",
        reason="Corrupt",
    )
