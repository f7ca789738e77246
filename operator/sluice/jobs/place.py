"""Where a fetched package is put: staged out of sight, then in place as a whole.

Called by ``fetch``.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from pathlib import Path

from sluice.errors import SluiceError, SourceError
from sluice.package.manifest import MANIFEST_NAME, MAX_MANIFEST_BYTES, decode, digest_of

MARKER = ".sluice-fetch"
"""Says that a directory is ours to replace; hidden, so that no reader takes it for a model."""

_STAGING = ".sluice-fetch-"


def staging(home: Path) -> tempfile.TemporaryDirectory[str]:
    """A hidden directory in ``home``, so that what is fetched is only renamed into place."""
    try:
        home.mkdir(parents=True, exist_ok=True)
        return tempfile.TemporaryDirectory(prefix=_STAGING, dir=home, ignore_cleanup_errors=True)
    except OSError as error:
        raise cannot_write(home, error) from error


def refuse_foreign(to: Path) -> None:
    """Only an empty place or an earlier fetch is replaced, never somebody's files."""
    if not to.exists() or (to / MARKER).is_file():
        return
    if to.is_dir() and not any(_foreign(entry.name) for entry in to.iterdir()):
        return
    raise SourceError(
        f"{to} exists and was not made by `sluice fetch`.",
        hint="Choose an empty or new directory for --to.",
        reason="CannotWrite",
    )


def _foreign(name: str) -> bool:
    # A fresh volume's own directory, and what a fetch that was killed left behind.
    return name != "lost+found" and not name.startswith(_STAGING)


def publish(stage: Path, to: Path) -> None:
    """Put the package in place.

    A new directory appears at once.  One that exists may be a mount, which nothing can replace: its
    content is exchanged, ``sluice.json`` first out and last in, so that a reader finds the old
    package, the new one, or none.
    """
    try:
        (stage / MARKER).write_text("Made by `sluice fetch`, which may replace all of it.\n")
        if not to.exists():
            stage.rename(to)
            return
        (stage / MARKER).rename(to / MARKER)
        (to / MANIFEST_NAME).unlink(missing_ok=True)
        for entry in to.iterdir():
            if entry not in stage.parents and entry.name not in (MARKER, "lost+found"):
                _remove(entry)
        for entry in sorted(stage.iterdir(), key=lambda e: e.name == MANIFEST_NAME):
            entry.rename(to / entry.name)
    except OSError as error:
        raise cannot_write(to, error) from error


def _remove(entry: Path) -> None:
    if entry.is_dir() and not entry.is_symlink():
        shutil.rmtree(entry)
    else:
        entry.unlink()


def cannot_write(path: Path, error: OSError) -> SourceError:
    return SourceError(
        f"{path} cannot be written: {error.strerror or error}.",
        hint="Choose a directory that you may write to.",
        reason="CannotWrite",
    )


def already_there(to: Path, wanted: str) -> int | None:
    """The size of the package in ``to`` when every byte of it is the wanted one's."""
    manifest_file = to / MANIFEST_NAME
    try:
        if not manifest_file.is_file() or manifest_file.stat().st_size > MAX_MANIFEST_BYTES:
            return None
        data = manifest_file.read_bytes()
        if digest_of(data) != wanted:
            return None
        manifest = decode(data)
        for entry in manifest.files:
            file = to / entry.path
            if file.is_symlink() or file.stat().st_size != entry.size:
                return None
            with file.open("rb") as stream:
                if hashlib.file_digest(stream, "sha256").hexdigest() != entry.sha256:
                    return None
    except (OSError, SluiceError):
        return None
    return len(data) + sum(entry.size for entry in manifest.files)
