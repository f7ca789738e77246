"""A directory with one package's wheels unpacked, for as long as this process lives.

Called by ``sluice serve`` and by the gates' parent, before the sandbox: behind its walls nothing
can be written or started.  Calls ``unpacker``, a process of its own, and starts a janitor: an
interpreter without a single module of ours that waits for the lock which this process holds, and
then removes the directory.  The kernel releases the lock, so it does not matter how we end.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import BinaryIO

from sluice.errors import PackageError
from sluice.package.manifest import MANIFEST_NAME, MAX_MANIFEST_BYTES, WHEELS
from sluice.package.wheels import Unpacked

_PREFIX, _LOCK, _MODULES = "sluice-wheels-", ".in-use", "modules"

_JANITOR = f"""
import fcntl, sys
with open(sys.argv[1] + "/{_LOCK}", "rb") as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    import shutil
    shutil.rmtree(sys.argv[1], ignore_errors=True)
"""


def wheelhouse_for(
    package: Path, digest: str | None = None, *, seconds: float
) -> Wheelhouse | None:
    """Unpack the wheels of the package of class Code at ``package``; None when it has none.

    What is wrong with the package itself is not raised here but by whoever opens it, and what is
    wrong with its wheels by ``install``.  Raises PackageError CannotWrite, LoadFailed, and
    LoadTimeout after ``seconds``.
    """
    if not _names_wheels(package):
        return None
    try:
        return Wheelhouse(package, digest, seconds)
    except OSError as error:
        raise PackageError(
            f"The package's wheels cannot be unpacked: {error.strerror}.",
            hint="Give the pod room in its temporary directory, or point TMPDIR at some.",
            reason="CannotWrite",
        ) from None


def _names_wheels(package: Path) -> bool:
    """Whether it is worth starting a process.  Nothing is parsed: that would be done outside."""
    manifest = package / MANIFEST_NAME
    with contextlib.suppress(OSError):
        if manifest.is_file():
            with manifest.open("rb") as stream:
                return f'"{WHEELS}'.encode() in stream.read(MAX_MANIFEST_BYTES)
    return False


class Wheelhouse:
    """The directory, its lock and its janitor."""

    def __init__(self, package: Path, digest: str | None, seconds: float) -> None:
        _remove_leftovers()
        self._place, self._lock = _own_directory()
        # Sessions of their own: a person's Ctrl-C is for us, who then go.
        self._janitor = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _JANITOR, str(self._place)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
        )
        (self._place / _MODULES).mkdir()
        self.unpacked = self._unpack(package, digest or "", seconds)
        """What came of it."""

    @property
    def descriptor(self) -> int:
        """The lock's; the directory stays for as long as it is open."""
        return self._lock.fileno()

    def remove(self) -> None:
        """For a process that can: nothing is left when it returns."""
        shutil.rmtree(self._place, ignore_errors=True)
        self._lock.close()
        self._janitor.wait()

    def _unpack(self, package: Path, digest: str, seconds: float) -> Unpacked:
        place = str(self._place / _MODULES)
        arguments = [str(package), digest, place, str(self.descriptor)]
        try:
            ran = subprocess.run(
                # -P: the folder we were called in may be the package itself, with a json.py.
                [sys.executable, "-P", "-m", "sluice.runtime.unpacker", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                pass_fds=[self.descriptor],
                timeout=seconds,
                start_new_session=True,
                check=True,
            )
        except subprocess.TimeoutExpired:
            raise PackageError(
                f"The package's wheels are not unpacked after {seconds:g} s.",
                hint="Raise --load-timeout, or put such libraries into the image.",
                reason="LoadTimeout",
            ) from None
        except subprocess.CalledProcessError as error:
            raise PackageError(
                f"The process that unpacks the package's wheels ended with {error.returncode}.",
                hint="Minus 9 is most likely out of memory; else see what it said before.",
                reason="LoadFailed",
            ) from None
        return Unpacked(place, **json.loads(ran.stdout))


def _remove_leftovers() -> None:
    """Of containers, whose janitors died with them: a pod's temporary volume stays."""
    for left in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        lock = _locked(left)
        if lock is not None:
            with lock:
                shutil.rmtree(left, ignore_errors=True)


def _own_directory() -> tuple[Path, BinaryIO]:
    place = Path(tempfile.mkdtemp(prefix=_PREFIX))
    while (lock := _locked(place, create=True)) is None:  # another process was quicker
        place = Path(tempfile.mkdtemp(prefix=_PREFIX))
    return place, lock


def _locked(place: Path, *, create: bool = False) -> BinaryIO | None:
    """The lock of a directory of ours, while it is held open; None when somebody has it.

    A lock and not a process number: those mean nothing in another container.
    """
    try:
        if place.lstat().st_uid != os.getuid() or not stat.S_ISDIR(place.lstat().st_mode):
            return None
        lock = (place / _LOCK).open("xb" if create else "rb")
    except OSError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        return None
    return lock
