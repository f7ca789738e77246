"""The way into the sandbox, in two steps: files first, the rest when the sockets are open.

Called by ``sluice serve``, by the gates' process and by the one that unpacks wheels.
``Sandbox.begin`` comes before numpy is imported, since threads that run already would keep their
sight of the file system; ``Sandbox.close`` comes when everything is open that will ever be needed,
and before a byte of the model is loaded.  There is no way back.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import platform
import resource
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sluice.errors import SluiceError
from sluice.runtime.sandbox import kernel, program
from sluice.runtime.sandbox.semaphore import SemaphoreOfThreads

if TYPE_CHECKING:
    import socket

FLAG = "--dangerously-without-sandbox"
WARNING = (
    f"{FLAG}: the model's code can do whatever you can: read and delete your files, start programs "
    "and send what it finds over the network."
)


class NoSandboxError(SluiceError):
    """A model of class Code would run without walls."""

    reason = "NoSandbox"


class Sandbox:
    """What is up of this process's walls."""

    def __init__(self, *, missing: str = "", unseen: str = "", wanted: bool = True) -> None:
        self.missing = missing
        """Why there can be no filter; empty when there is one, or will be."""
        self.unseen = unseen
        """Why files are not hidden; empty when they are."""
        self.connector: socket.socket | None = None
        """To ask for connections for mirroring, once this process can make none."""
        self._wanted = wanted
        self._closed = False
        self._makes_files = False

    @classmethod
    def none(cls) -> Sandbox:
        """Nobody wants one: a person's word, on a machine of their own."""
        print(f"WARNING: {WARNING}", file=sys.stderr)
        return cls(missing=f"{FLAG} was given", wanted=False)

    @classmethod
    def begin(
        cls,
        readable: Iterable[Path],
        *,
        kept: Iterable[int],
        mirror_file: Path | None = None,
        writable: Path | None = None,
    ) -> Sandbox:
        """Hide the files but ``readable`` and the system's, and be ready to connect for mirroring.

        Paths that do not exist yet stay hidden when they come.  Descriptors that this process was
        started with are closed, but for ``kept`` and the standard three.  ``writable`` is a folder
        that files can be made in, for a process that no model is ever in.
        """
        missing = _unsupported()
        if missing:
            return cls(missing=missing)
        from sluice.runtime.sandbox import files

        kernel.close_all_but(kept)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        sandbox = cls()
        sandbox._makes_files = writable is not None
        # libuv would open a ring for its loop, and what goes through a ring no filter sees.
        sandbox._install(program.without_rings)
        try:
            files.restrict(readable, writable)
        except OSError as error:
            sandbox.unseen = f"this kernel has no Landlock ({error.strerror})"
        if mirror_file is not None:
            from sluice.runtime.sandbox import connector

            sandbox.connector = connector.start(mirror_file)
        return sandbox

    def prepare_libraries(self) -> None:
        """Let joblib's threads work where no semaphore can be made, which is a file.

        joblib tries one when it is imported, and each pool of threads makes some that would also
        guard processes.  There will be no processes.  joblib itself is not imported here: the
        package may bring its own.
        """
        if not self.missing:
            multiprocessing: Any = importlib.import_module("_multiprocessing")
            multiprocessing.SemLock = SemaphoreOfThreads

    def close(self) -> None:
        """Install the filter over all threads: no new socket, no process, no writing."""
        if self.missing:
            return
        self.missing = _open_ring()
        if not self.missing:
            making = self._makes_files
            self._install(lambda machine: program.build(machine, os.getpid(), makes_files=making))
            self._closed = not self.missing

    def _install(self, build: Callable[[int], bytes]) -> None:
        try:
            kernel.forbid_new_privileges()
            architecture = program.ARCHITECTURES[platform.machine()]
            kernel.install(build(architecture), architecture)
        except OSError as error:
            self.missing = f"the kernel refuses the seccomp filter ({error.strerror or error})"

    def admit_code(self) -> None:
        """Raise unless code may run here; say so when it could read more than it should."""
        if self._wanted and not self._closed:
            why = self.missing or "it has not been closed"
            raise NoSandboxError(
                f"The package is code, and there is no sandbox for it: {why}.",
                hint="Serve it on Linux, or save the model as data; on your own machine "
                f"{FLAG} runs it as you.",
            )
        if self.unseen:
            print(
                f"sandbox: {self.unseen}: the model can read what this user can read; network, "
                "processes and writing are closed all the same",
                file=sys.stderr,
            )


def _open_ring() -> str:
    """Why a descriptor that is open already would be a way around the filter; empty: none is."""
    try:
        descriptors = list(Path("/proc/self/fd").iterdir())
    except OSError as error:
        return f"/proc/self/fd cannot be read ({error.strerror})"
    for descriptor in descriptors:
        with contextlib.suppress(FileNotFoundError):
            if "io_uring" in str(descriptor.readlink()):
                return "an io_uring is open, which no filter sees"
    return ""


def _unsupported() -> str:
    if sys.platform != "linux":
        return f"{sys.platform} has no seccomp"
    if platform.machine() not in program.ARCHITECTURES or sys.maxsize < 2**32:
        return f"there is no filter for {platform.machine()}"
    return ""
