"""Open a package: every byte is verified before anything is loaded, and what was verified is kept.

Called by the runtime, the jobs and the CLI; calls the manifest and the sniffers, never a model
library.  The model's bytes are read once: a loader gets the very bytes whose digest was checked, so
nothing can be swapped between the check and the use.  Files that the manifest does not list are
never read.  Symbolic links inside a package are refused.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, NoReturn, TypeVar

import msgspec

from sluice.errors import PackageError
from sluice.package.manifest import (
    GOLDEN_NAME,
    LOCK_NAME,
    MANIFEST_NAME,
    MAX_GOLDEN,
    MAX_MANIFEST_BYTES,
    PROFILE_NAME,
    FileEntry,
    Manifest,
    decode,
    digest_of,
)

MAX_PACKAGE_BYTES = 4 * 1024**3
"""Default bound on a package's size."""

_CHUNK = 1024 * 1024
_FOLDER = os.O_DIRECTORY | os.O_CLOEXEC | getattr(os, "O_PATH", os.O_RDONLY)
"""To walk through a folder, which need not be readable itself."""
T = TypeVar("T")


class GoldenExample(msgspec.Struct, frozen=True, rename="camel"):
    """A row and what the model answered when it was packaged."""

    row: dict[str, float | int | bool | str | None]
    score: float
    label: str | int | bool | None = None


@dataclass(slots=True)
class Package:
    """A verified package.  ``read`` answers from memory, never from the disk again."""

    path: Path
    digest: str
    manifest: Manifest
    bare: bool = False
    """A single model file without ``sluice.json``; ``digest`` is then the file's own."""
    _data: dict[str, bytes] = field(default_factory=dict, repr=False)

    def read(self, path: str) -> bytes:
        """The verified bytes of a listed file."""
        try:
            return self._data[path]
        except KeyError:
            raise PackageError(
                f"The package has no file {path!r} in memory.", reason="Missing"
            ) from None

    def has(self, path: str) -> bool:
        """Whether ``read(path)`` would answer."""
        return path in self._data

    @property
    def model_bytes(self) -> bytes:
        """The bytes of the file that will be loaded."""
        return self.read(self.manifest.model.file)

    @property
    def external(self) -> dict[str, bytes]:
        """Files in memory that an ONNX model may keep tensors in: those with no other role."""
        return {path: self.read(path) for path in _external(self.manifest) if self.has(path)}

    @property
    def size(self) -> int:
        """Bytes of all files, ``sluice.json`` excluded."""
        return sum(f.size for f in self.manifest.files)

    def golden(self) -> list[GoldenExample]:
        """Golden examples, at most 100; empty when the package has none."""
        if not self.has(GOLDEN_NAME):
            return []
        return _decode_part(self.read(GOLDEN_NAME), GOLDEN_NAME, list[GoldenExample])[:MAX_GOLDEN]

    def profile(self) -> dict[str, Any] | None:
        """The reference profile (see ``sluice.package.profile``), or None."""
        if not self.has(PROFILE_NAME):
            return None
        return _decode_part(self.read(PROFILE_NAME), PROFILE_NAME, dict[str, Any])

    def release(self) -> None:
        """Forget the model's bytes once it is loaded; small files stay."""
        keep = {GOLDEN_NAME, PROFILE_NAME}
        self._data = {k: v for k, v in self._data.items() if k in keep}


def open_package(
    path: Path | str,
    expected_digest: str | None = None,
    *,
    max_bytes: int = MAX_PACKAGE_BYTES,
    check_environment: bool = True,
) -> Package:
    """Verify the package at ``path`` and return it; nothing is loaded or executed.

    ``path`` is a directory with ``sluice.json``, or a bare model file (or a directory that holds
    nothing but one), which goes to :func:`wrap_bare`.  Raises ``PackageError`` with reason Missing,
    Truncated, Corrupt, DigestMismatch, TooLarge, UnknownFormat, ClassMismatch, BareCodeFile or
    EnvironmentMismatch.
    """
    root = Path(path)
    bare = _bare_file(root)
    if bare is not None:
        return wrap_bare(bare, expected_digest, max_bytes=max_bytes)
    with _opened(root, MANIFEST_NAME) as stream:
        raw = stream.read(MAX_MANIFEST_BYTES + 1)
    digest = digest_of(raw)
    _check_digest(str(root), expected_digest, digest)
    manifest = decode(raw)
    total = sum(f.size for f in manifest.files)
    if total > max_bytes:
        _too_large(str(root), total, max_bytes)
    package = Package(path=root, digest=digest, manifest=manifest)
    for entry in manifest.files:
        data = _verified(root, entry, keep=entry.path in _kept(manifest))
        if data is not None:
            package._data[entry.path] = data
    _check_content(package)
    if check_environment:
        from sluice.package.environment import check_environment as check

        check(manifest)
    return package


def wrap_bare(
    path: Path | str, expected_digest: str | None = None, *, max_bytes: int = MAX_PACKAGE_BYTES
) -> Package:
    """A single model file as a package: an ONNX file with what can be inferred, code never.

    The digest is the file's own.  A pickle or joblib file is inspected only and refused with the
    ways out (reason BareCodeFile).
    """
    from sluice.package.bare import describe_bare

    file = Path(path)
    with _opened(file.parent, file.name, follow_first=True) as stream:
        size = os.fstat(stream.fileno()).st_size
        if size > max_bytes:
            _too_large(str(file), size, max_bytes)
        data = stream.read(size + 1)
    digest = digest_of(data)
    _check_digest(str(file), expected_digest, digest)
    manifest = describe_bare(file.name, data)
    return Package(
        path=file, digest=digest, manifest=manifest, bare=True, _data={manifest.model.file: data}
    )


def read_verified(package: Package, path: str) -> bytes:
    """The bytes of a listed file that is not kept in memory, verified as they are read."""
    entry = package.manifest.entry(path)
    if entry is None:
        raise PackageError(f"The package lists no file {path!r}.", reason="Missing")
    data = _verified(package.path, entry, keep=True)
    assert data is not None
    return data


def _bare_file(root: Path) -> Path | None:
    """The model file when ``root`` is not a package directory but a bare file."""
    if root.is_file() and root.name != MANIFEST_NAME:
        return root
    if not root.exists():
        raise PackageError(
            f"There is no package at {root}.", hint="Check the path.", reason="Missing"
        )
    if root.is_dir() and not (root / MANIFEST_NAME).exists():
        entries = [e for e in root.iterdir() if not e.name.startswith(".")]
        if len(entries) == 1 and entries[0].is_file():
            return entries[0]
        raise PackageError(
            f"{root} has no {MANIFEST_NAME}.",
            hint="Make a package with `sluice package` or sluice.save.",
            reason="Missing",
        )
    return None


def _kept(manifest: Manifest) -> set[str]:
    """Files whose bytes a loader or a judge needs: everything but the original and wheels, which
    are large and read once more when they are unpacked."""
    skip = {manifest.original.file} if manifest.original else set()
    skip.update(manifest.wheels)
    return {f.path for f in manifest.files} - skip


def _external(manifest: Manifest) -> list[str]:
    taken = {manifest.model.file, GOLDEN_NAME, PROFILE_NAME, LOCK_NAME, *manifest.code}
    return [f.path for f in manifest.files if f.path not in taken]


def _verified(root: Path, entry: FileEntry, *, keep: bool) -> bytes | None:
    """Read a listed file once; its bytes when they are to be kept."""
    hasher = hashlib.sha256()
    kept: bytes | None = None
    seen = 0
    with _opened(root, entry.path) as stream:
        if keep:
            # In one piece: joining chunks would need twice the memory of the model.
            kept = stream.read(min(entry.size, os.fstat(stream.fileno()).st_size) + 1)
            seen = len(kept)
            hasher.update(kept)
        else:
            while seen <= entry.size and (chunk := stream.read(_CHUNK)):
                seen += len(chunk)
                hasher.update(chunk)
    if seen < entry.size:
        raise PackageError(
            f"{entry.path} has {seen} bytes, {MANIFEST_NAME} says {entry.size}.",
            hint="The copy was cut short: fetch or upload the package again.",
            reason="Truncated",
        )
    if seen > entry.size or hasher.hexdigest() != entry.sha256:
        raise PackageError(
            f"{entry.path} is not the file that was packaged: its SHA-256 is not the one in "
            f"{MANIFEST_NAME}.",
            hint="The copy is damaged or was changed: upload the package again.",
            reason="Corrupt",
        )
    return kept


def _check_content(package: Package) -> None:
    """The manifest cannot lie about what the loaded file is: its own bytes say it."""
    from sluice.package.sniff import sniff

    model = package.manifest.model
    found = sniff(package.model_bytes, external_files=package.external)
    code = found.trust_class == "Code" or bool(package.manifest.code)
    actual = "Code" if code else found.trust_class
    if found.format != model.format or actual != model.trust_class:
        raise PackageError(
            f"{MANIFEST_NAME} says that {model.file} is {model.format} of class "
            f"{model.trust_class}, but its content is {found.format} of class {actual}.",
            hint="Package the model again with `sluice package`.",
            reason="ClassMismatch",
        )


@contextlib.contextmanager
def _opened(root: Path, relative: str, *, follow_first: bool = False) -> Iterator[BinaryIO]:
    """Open a regular file below ``root`` without following any symbolic link inside it."""
    parts = PurePosixPath(relative).parts
    flags = os.O_RDONLY | os.O_CLOEXEC | (0 if follow_first else os.O_NOFOLLOW)
    opened: list[int] = []
    try:
        opened.append(os.open(root, _FOLDER))
        for part in parts[:-1]:
            opened.append(os.open(part, _FOLDER | os.O_NOFOLLOW, dir_fd=opened[-1]))
        fd = os.open(parts[-1], flags | os.O_NONBLOCK, dir_fd=opened[-1])
    except OSError as error:
        _cannot_open(relative, error)
    finally:
        for descriptor in opened:
            os.close(descriptor)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise PackageError(
            f"{relative} is not a regular file.",
            hint="Package the model again with `sluice package`.",
            reason="Corrupt",
        )
    with os.fdopen(fd, "rb") as stream:
        yield stream


def _cannot_open(relative: str, error: OSError) -> NoReturn:
    if isinstance(error, FileNotFoundError):
        raise PackageError(
            f"{relative} is missing from the package.",
            hint="The copy is incomplete: fetch or upload the package again.",
            reason="Missing",
        ) from None
    if isinstance(error, PermissionError):
        raise PackageError(
            f"{relative} may not be read.", hint="Check its permissions.", reason="Missing"
        ) from None
    raise PackageError(
        f"{relative} is a symbolic link or not a plain path; packages hold regular files only.",
        hint="Package the model again with `sluice package`.",
        reason="Corrupt",
    ) from None


def _check_digest(where: str, expected: str | None, actual: str) -> None:
    if expected is not None and expected != actual:
        raise PackageError(
            f"The package at {where} has digest {actual}, not {expected}.",
            hint="Something else was published there: set the digest you mean, or publish again.",
            reason="DigestMismatch",
        )


def _too_large(where: str, size: int, limit: int) -> NoReturn:
    raise PackageError(
        f"The package at {where} has {size} bytes, the limit is {limit}.",
        hint="Raise the limit, or package a smaller model.",
        reason="TooLarge",
    )


def _decode_part(data: bytes, name: str, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise PackageError(
            f"{name} cannot be read: {str(error)[:300]}.",
            hint="Package the model again with `sluice package`.",
            reason="Corrupt",
        ) from None
