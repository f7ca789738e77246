"""Which files a confined process can read: Landlock, where the kernel has it.

Called by ``confine``, before any thread is started: a thread that runs already would stay outside.
Reading is allowed below Python's own folders, the system's libraries and what the caller names; so
neither a service account's token, nor the environment of other processes, nor anybody's home is
there.  Writing is refused to every thread by the filter; here it is refused once more.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from sluice.runtime.sandbox import kernel, syscalls

_READ_FILE, _READ_FOLDER = 1 << 2, 1 << 3
_WRITE_FILE, _MAKE_FOLDER, _MAKE_FILE, _TRUNCATE = 1 << 1, 1 << 7, 1 << 8, 1 << 14
_RIGHTS = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}
"""All rights on files that a version of Landlock knows: executing, reading, writing, making …"""

_SCOPES_SINCE = 6
_NO_ABSTRACT_SOCKET, _NO_SIGNAL = 1, 2
_VERSION = 1

_SYSTEM = (
    "/usr",
    "/lib",
    "/lib64",
    "/nix/store",
    "/etc/ld.so.cache",
    "/etc/localtime",
    "/etc/nsswitch.conf",
    "/etc/passwd",
    "/etc/group",
    "/etc/ssl/openssl.cnf",
    "/dev/null",
    "/dev/zero",
    "/dev/random",
    "/dev/urandom",
    "/sys",
    "/proc/self",
    "/proc/cpuinfo",
    "/proc/filesystems",
    "/proc/loadavg",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/sys",
    "/proc/uptime",
    "/proc/version",
)


def restrict(readable: Iterable[Path], writable: Path | None = None) -> None:
    """Read nothing but the system's files and ``readable``; make files in ``writable`` only.

    OSError where there is no Landlock.
    """
    version = kernel.system_call(syscalls.LANDLOCK_CREATE, None, 0, _VERSION)
    handled = _RIGHTS[max(known for known in _RIGHTS if known <= version)]
    scopes = _NO_ABSTRACT_SOCKET | _NO_SIGNAL if version >= _SCOPES_SINCE else 0
    described = struct.pack("<QQQ", handled, 0, scopes)[: 24 if scopes else 8]
    rules = kernel.system_call(
        syscalls.LANDLOCK_CREATE, ctypes.c_char_p(described), len(described), 0
    )
    try:
        for path in dict.fromkeys([*map(Path, _SYSTEM), *_pythons(), *readable]):
            _allow(rules, path, _READ_FILE | _READ_FOLDER)
        if writable is not None:
            making = _WRITE_FILE | _MAKE_FILE | _MAKE_FOLDER | _TRUNCATE
            _allow(rules, writable, making & handled)
        kernel.forbid_new_privileges()
        kernel.system_call(syscalls.LANDLOCK_RESTRICT, rules, 0)
    finally:
        os.close(rules)


def _pythons() -> Iterator[Path]:
    """Where modules come from.  The folder that ``python -m`` was called in is no such place."""
    here: Path | None = None
    with contextlib.suppress(OSError):  # a folder that is gone
        here = Path.cwd()
    yield from map(Path, {sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix})
    yield Path(__file__).parents[2]
    yield from (Path(entry) for entry in sys.path if entry and Path(entry) != here)


def _allow(rules: int, path: Path, rights: int) -> None:
    """What is not there, or cannot be opened, cannot be read either: a rule less hides more."""
    with contextlib.suppress(OSError):
        opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            allowed = rights if path.is_dir() else rights & (_READ_FILE | _WRITE_FILE)
            beneath = struct.pack("<Qi", allowed, opened)
            kernel.system_call(syscalls.LANDLOCK_ADD, rules, 1, ctypes.c_char_p(beneath), 0)
        finally:
            os.close(opened)
