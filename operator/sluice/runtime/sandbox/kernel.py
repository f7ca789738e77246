"""The few calls that have no name in Python's library.  Called by its neighbours; Linux only."""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Iterable
from itertools import pairwise

from sluice.runtime.sandbox import syscalls

_SET_DUMPABLE, _SET_NO_NEW_PRIVILEGES = 4, 38
_MAX_DESCRIPTOR = 2**31 - 1
_SET_MODE_FILTER, _ALL_THREADS, _NO_SLOWER = 1, 1, 4


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("steps", ctypes.c_char_p)]


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def system_call(number: int, *arguments: object) -> int:
    """The kernel's answer; OSError when it is an error."""
    converted = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    _libc().syscall.restype = ctypes.c_long
    answer = int(_libc().syscall(ctypes.c_long(number), *converted))
    if answer < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return answer


def close_all_but(kept: Iterable[int]) -> None:
    """Close every descriptor above 2 but ``kept``."""
    bounds = [2, *sorted({descriptor for descriptor in kept if descriptor > 2}), _MAX_DESCRIPTOR]
    for before, after in pairwise(bounds):
        low, high = before + 1, after - (after != _MAX_DESCRIPTOR)
        if low <= high:
            try:
                system_call(syscalls.CLOSE_RANGE, low, high, 0)
            except OSError:  # Before Linux 5.9.
                os.closerange(low, min(high, os.sysconf("SC_OPEN_MAX")))


def forbid_new_privileges() -> None:
    """No program that this process starts gets more than it has; filters need that."""
    _prctl(_SET_NO_NEW_PRIVILEGES, 1)


def hide_memory() -> None:
    """Processes of the same user may neither trace this one nor look into it."""
    _prctl(_SET_DUMPABLE, 0)


def install(program: bytes, architecture: int) -> None:
    """Put a seccomp filter over every thread.  OSError, also when one has a filter of its own.

    Not slower: without the flag older kernels turn off a way of the processor to be quick, which
    protects from reading one's own process; the model may do that anyway.
    """
    described = _Program(len(program) // 8, program)
    thread = system_call(
        syscalls.SECCOMP[architecture],
        _SET_MODE_FILTER,
        _ALL_THREADS | _NO_SLOWER,
        ctypes.byref(described),
    )
    if thread:
        raise OSError(0, f"thread {thread} has a filter of its own")


def _prctl(option: int, value: int) -> None:
    zeros = [ctypes.c_ulong(0)] * 3
    if _libc().prctl(option, ctypes.c_ulong(value), *zeros):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
