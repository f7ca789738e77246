"""Files on this machine: ``file://``, and ``pvc://CLAIM/PATH`` which a pod mounts at /pvc/CLAIM."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from sluice.errors import SourceError
from sluice.sources.address import Address
from sluice.sources.base import CHUNK, SELF, Reader, denied, missing, unreachable

PVC_ROOT = "/pvc"


def local_path(address: Address, environ: dict[str, str] | None = None) -> Path:
    """Where ``address`` is on this machine."""
    if address.scheme == "pvc":
        # Overridable so that a laptop can rehearse what a pod mounts.
        root = (os.environ if environ is None else environ).get("SLUICE_PVC_ROOT", PVC_ROOT)
        return Path(root) / address.host / address.path.strip("/")
    return Path(address.path)


class LocalSource:
    """Reads regular files that lie, links resolved, below the address's root."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self._base = local_path(address)
        # A volume is other people's data: no link in it may point out of it.  A path that this
        # machine's own user typed may lead through links, but a package's files stay below it.
        volume = local_path(Address("pvc", address.host, "/", ""))
        self._root = volume if address.scheme == "pvc" else self._base

    @asynccontextmanager
    async def open(
        self, name: str, *, offset: int = 0, version: str | None = None
    ) -> AsyncIterator[Reader]:
        address = self.address if name == SELF else self.address.child(name)
        descriptor = self._descriptor(address, self._base / name if name else self._base)
        with os.fdopen(descriptor, "rb") as stream:
            size = os.fstat(descriptor).st_size
            stream.seek(offset)
            yield Reader(_chunks(stream, address), size, offset)

    async def file_name(self) -> str:
        return self.address.name

    def _descriptor(self, address: Address, path: Path) -> int:
        try:
            real = path.resolve(strict=True)
            root = self._root.resolve(strict=True)
            if real != root and root not in real.parents:
                raise SourceError(
                    f"{address.shown} is a link that leads out of {self._root}.",
                    hint="Copy the file to where the link is.",
                    reason="Corrupt",
                )
            # O_NONBLOCK: a pipe in a volume must not hang us before we see that it is one.
            descriptor = os.open(real, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError as error:
            raise _explain(address, error) from error
        except RuntimeError as error:  # pathlib before 3.13 says so of a loop of links
            raise missing(address) from error
        kind = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(kind):
            os.close(descriptor)
            if stat.S_ISDIR(kind):
                raise missing(address)
            raise SourceError(
                f"{address.shown} is not a regular file.",
                hint="Give a file or a package directory.",
                reason="Corrupt",
            )
        return descriptor

    async def close(self) -> None:
        """Nothing is held."""


async def _chunks(stream: object, address: Address) -> AsyncIterator[bytes]:
    read = stream.read  # type: ignore[attr-defined]
    while True:
        try:
            chunk = read(CHUNK)
        except OSError as error:
            raise _explain(address, error) from error
        if not chunk:
            return
        yield chunk


def _explain(address: Address, error: OSError) -> SourceError:
    if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG):
        return missing(address)
    if error.errno in (errno.EACCES, errno.EPERM):
        return denied(address, "file permissions")
    return unreachable(address, error.strerror or type(error).__name__)


class LocalDestination:
    """Writes below a directory of this machine."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self._base = local_path(address)

    async def read(self, name: str, limit: int) -> bytes | None:
        try:
            with (self._base / name).open("rb") as stream:
                return stream.read(limit)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise _explain(self.address.child(name), error) from error

    async def size(self, name: str) -> int | None:
        try:
            return (self._base / name).stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            return None

    async def write(self, name: str, file: Path) -> None:
        target = self._base / name
        temporary = target.with_name(f".{target.name}.{os.getpid()}")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with file.open("rb") as source, temporary.open("wb") as sink:
                while chunk := source.read(CHUNK):
                    sink.write(chunk)
                sink.flush()
                os.fsync(sink.fileno())
            temporary.replace(target)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise _explain(self.address.child(name), error) from error

    async def close(self) -> None:
        """Nothing is held."""
