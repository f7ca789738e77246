"""Port numbers for servers that are started later, in another process or more than once.

Called by the tests' servers: ``runtime_support``, ``router_lab``, ``kube_api_server``,
``goserver``, ``postgres``, ``prometheus`` and others.  A socket that is bound to port 0 and kept
needs none of this.

A number that the system gave and got back can be given again before the server listens on it.
These come from below the range that the system gives from, in blocks.  A block belongs to one
process of a network namespace for as long as that process lives: an abstract Unix socket says so.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

_FIRST = 12_000
"""Above the ports that people and the local cluster choose."""
_LAST = 30_000
"""Below Kubernetes' node ports; exclusive."""
_BLOCK = 100


def free_port() -> int:
    """A number that nobody listens on at any IPv4 address and that was not given before.

    Raises RuntimeError when there is none left.
    """
    for port in _numbers:
        if _binds(port):
            return port
    raise RuntimeError(f"All ports from {_FIRST} to {_end()} are taken, or promised by other tests")


def _own_numbers() -> Iterator[int]:
    starts = range(_FIRST, _end() - _BLOCK + 1, _BLOCK)
    for turn in range(len(starts)):
        # Begun elsewhere than the process before: its ports may still be in TIME_WAIT.
        start = starts[(os.getpid() + turn) % len(starts)]
        if _claims(start):
            yield from range(start, start + _BLOCK)


def _end() -> int:
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    # A system that may give nearly any number leaves no better range.
    return lowest if _FIRST + 10 * _BLOCK <= lowest < _LAST else _LAST


_claimed: list[socket.socket] = []


def _claims(start: int) -> bool:
    claim = socket.socket(socket.AF_UNIX)
    try:
        claim.bind(f"\0sluice-tests-ports-{start}")
    except OSError:
        claim.close()
        return False
    _claimed.append(claim)
    return True


def _binds(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("", port))
        except OSError:
            return False
        return True


_numbers = _own_numbers()
