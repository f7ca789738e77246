"""Runs a command in the namespaces of a process: ``enter.py PID KINDS CWD COMMAND...``.

The prefix that ``LocalCluster.enter`` returns.  A script of its own, with the standard library's
smallest parts, because it is started often.  Unlike nsenter it passes signals on and takes the
command along when it is killed, so ``Popen.terminate`` and Ctrl-C mean what they say.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from types import FrameType

# The user namespace first: it gives the right to join the others.
_KINDS = {
    "user": 0x10000000,
    "ipc": 0x08000000,
    "net": 0x40000000,
    "pid": 0x20000000,
    "mnt": 0x00020000,
}
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


def _join(pid: int, kinds: list[str]) -> None:
    spaces = [(k, os.open(f"/proc/{pid}/ns/{k}", os.O_RDONLY | os.O_CLOEXEC)) for k in kinds]
    for kind, descriptor in spaces:
        if _libc.setns(descriptor, _KINDS[kind]) < 0:
            sys.exit(f"sluice: joining the {kind} namespace: {os.strerror(ctypes.get_errno())}")


def _become(cwd: str, argv: list[str]) -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    try:
        os.chdir(cwd)
        os.execvp(argv[0], argv)  # noqa: S606 - becoming the command is the point
    except OSError as error:
        print(f"sluice: {argv[0]}: {error.strerror}", file=sys.stderr)
        sys.stderr.flush()
        os._exit(127)


def main() -> int:
    """Join, fork (a process cannot change its own PID namespace), wait."""
    pid, kinds, cwd, *argv = sys.argv[1:]
    _join(int(pid), kinds.split(","))
    child = os.fork()
    if child == 0:
        _become(cwd, argv)

    def pass_on(number: int, _: FrameType | None) -> None:
        # A terminal sends Ctrl-C to both; once is enough.
        if number != signal.SIGINT or not os.isatty(0):
            os.kill(child, number)

    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGUSR1):
        signal.signal(number, pass_on)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return 128 - code if code < 0 else code


if __name__ == "__main__":
    sys.exit(main())
