"""The seccomp filter as BPF instructions: what a confined process may ask of the kernel.

Called by ``confine``; pure.  Everything is allowed that computes, reads, starts threads or uses a
descriptor that is open already.  Refused is what would open a way out: new sockets, other
processes, writing, and parts of the kernel that no model needs.  Calls that are newer than
``LAST_KNOWN`` do not exist, nor does x32; another architecture's calls are refused.

A filter sees numbers and the values of arguments, never what a pointer points to.
"""

from __future__ import annotations

import errno
import struct
from itertools import chain

from sluice.runtime.sandbox import syscalls
from sluice.runtime.sandbox.syscalls import Numbers

X86_64, AARCH64 = 0, 1
ARCHITECTURES = {"x86_64": X86_64, "aarch64": AARCH64}
"""``platform.machine()`` -> column of the tables."""

_AUDIT = (0xC000003E, 0xC00000B7)

_LOAD, _AND, _RETURN = 0x20, 0x54, 0x06
_IF_EQUAL, _IF_GREATER, _IF_BITS = 0x15, 0x25, 0x45
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16

_ALLOW = 0x7FFF0000
_ERRNO = 0x00050000

_CLONE_THREAD = 0x00010000
_CLONE_NAMESPACES = 0x7E020000
_MSG_FASTOPEN = 0x20000000
_AF_UNIX, _SOCK_STREAM, _SOCK_TYPES = 1, 1, 0xF
_FOR_WRITING = 0o3 | 0o100 | 0o1000 | 0o20000000
"""O_WRONLY, O_RDWR, O_CREAT, O_TRUNC, and the one bit of O_TMPFILE that is its own."""

_SETOWN, _SETOWN_EX, _SETSIG = 8, 15, 10
_TIOCSTI, _TIOCLINUX, _FIOSETOWN, _SIOCSPGRP = 0x5412, 0x541C, 0x8901, 0x8902
_SETFLAGS, _FSSETXATTR = 0x40086602, 0x401C5820

_MAKING_FILES = frozenset({"open", "openat", "mkdir", "mkdirat"})

Code = list[bytes]


def build(architecture: int, pid: int, *, makes_files: bool = False) -> bytes:
    """The program for a process on ``architecture`` (X86_64 or AARCH64): eight bytes a step.

    One that ``makes_files`` may open for writing and make folders, where Landlock lets it.
    """
    without = _MAKING_FILES if makes_files else frozenset()
    return b"".join(
        [
            _step(_LOAD, _ARCHITECTURE),
            _step(_IF_EQUAL, _AUDIT[architecture], 1, 0),
            _refuse(errno.EPERM),
            _step(_LOAD, _NUMBER),
            _step(_IF_GREATER, syscalls.LAST_KNOWN, 0, 1),
            _refuse(errno.ENOSYS),
            *_looked_at(architecture, pid, without),
            *_all(syscalls.HIDDEN, architecture, errno.ENOSYS),
            *_all(syscalls.NETWORK, architecture, errno.EPERM),
            *_all(syscalls.PROCESSES, architecture, errno.EPERM),
            *_all(syscalls.KERNEL, architecture, errno.EPERM),
            *_all(_rest(syscalls.WRITING, without), architecture, errno.EROFS),
            _step(_RETURN, _ALLOW),
        ]
    )


def without_rings(architecture: int) -> bytes:
    """A first program, from before there is an event loop: no io_uring, as if there were none."""
    rings = {"io_uring_setup": syscalls.KERNEL["io_uring_setup"]}
    steps = _all(rings, architecture, errno.ENOSYS)
    return b"".join([_step(_LOAD, _NUMBER), *steps, _step(_RETURN, _ALLOW)])


def _rest(numbers: Numbers, without: frozenset[str]) -> Numbers:
    return {name: number for name, number in numbers.items() if name not in without}


def _looked_at(architecture: int, pid: int, without: frozenset[str]) -> Code:
    blocks = {
        "sendto": [*_unless_bits(3, _MSG_FASTOPEN), *_only_null(4)],
        "sendmsg": [*_unless_bits(2, _MSG_FASTOPEN), _step(_RETURN, _ALLOW)],
        "sendmmsg": [*_unless_bits(3, _MSG_FASTOPEN), _step(_RETURN, _ALLOW)],
        "fcntl": _none_of(1, _SETOWN, _SETOWN_EX, _SETSIG),
        "ioctl": _none_of(1, _TIOCSTI, _TIOCLINUX, _FIOSETOWN, _SIOCSPGRP, _SETFLAGS, _FSSETXATTR),
        "open": [*_unless_bits(1, _FOR_WRITING, errno.EROFS), _step(_RETURN, _ALLOW)],
        "openat": [*_unless_bits(2, _FOR_WRITING, errno.EROFS), _step(_RETURN, _ALLOW)],
        "clone": [
            _argument(0),
            _step(_AND, _CLONE_THREAD | _CLONE_NAMESPACES),
            *_only_one_of(_CLONE_THREAD),
        ],
        "kill": [_argument(0), *_only_one_of(pid)],
        "tgkill": [_argument(0), *_only_one_of(pid)],
        "prlimit64": [_argument(0), *_only_one_of(0, pid)],
        # A datagram socket could send to any name in the file system.
        "socketpair": [
            _argument(0),
            _step(_IF_EQUAL, _AF_UNIX, 1, 0),
            _refuse(errno.EPERM),
            _argument(1),
            _step(_AND, _SOCK_TYPES),
            *_only_one_of(_SOCK_STREAM),
        ],
    }
    return list(
        chain.from_iterable(
            _when(numbers[architecture], blocks[name])
            for name, numbers in _rest(syscalls.LOOKED_AT, without).items()
        )
    )


def _all(numbers: Numbers, architecture: int, error: int) -> Code:
    return list(
        chain.from_iterable(
            _when(number[architecture], [_refuse(error)]) for number in numbers.values()
        )
    )


def _when(number: int | None, block: Code) -> Code:
    """``block``, which always returns, for one call."""
    return [] if number is None else [_step(_IF_EQUAL, number, 0, len(block)), *block]


def _only_one_of(*values: int) -> Code:
    allowed = [[_step(_IF_EQUAL, value, 0, 1), _step(_RETURN, _ALLOW)] for value in values]
    return [*chain.from_iterable(allowed), _refuse(errno.EPERM)]


def _none_of(index: int, *values: int) -> Code:
    refused = [[_step(_IF_EQUAL, value, 0, 1), _refuse(errno.EPERM)] for value in values]
    return [_argument(index), *chain.from_iterable(refused), _step(_RETURN, _ALLOW)]


def _unless_bits(index: int, bits: int, error: int = errno.EPERM) -> Code:
    """Goes on only when none of ``bits`` is set."""
    return [_argument(index), _step(_IF_BITS, bits, 0, 1), _refuse(error)]


def _only_null(index: int) -> Code:
    return [
        _argument(index),
        _step(_IF_EQUAL, 0, 1, 0),
        _refuse(errno.EPERM),
        _argument(index, high=True),
        *_only_one_of(0),
    ]


def _argument(index: int, *, high: bool = False) -> bytes:
    return _step(_LOAD, _ARGUMENTS + 8 * index + 4 * high)


def _refuse(error: int) -> bytes:
    return _step(_RETURN, _ERRNO | error)


def _step(code: int, value: int, then: int = 0, otherwise: int = 0) -> bytes:
    """One ``struct sock_filter``."""
    return struct.pack("<HBBI", code, then, otherwise, value)
