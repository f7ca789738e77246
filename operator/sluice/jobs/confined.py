"""The process that the gates run in, ``python -m sluice.jobs.confined FD``; ``validate`` starts it.

The order comes as JSON on standard input; results go as JSON lines to the descriptor FD.  Standard
output is turned into standard error first, so that nothing a model prints can be taken for a
result.  Whatever a model does to this process, its parent lives and says so; to anything else it
can do nothing, for the sandbox is closed before ``worker``, which judges, opens a package.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import signal
import sys
from pathlib import Path
from typing import Any

from sluice.runtime.sandbox.confine import Sandbox

PR_SET_PDEATHSIG = 1


def main() -> None:
    order = json.load(sys.stdin)
    results = os.fdopen(int(sys.argv[1]), "w", buffering=1, encoding="utf-8")
    os.set_inheritable(results.fileno(), False)
    os.dup2(2, 1)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a crash is reported, not dumped
    _die_with_parent()
    sandbox = _confine(order, results.fileno())
    from sluice.jobs import worker  # numpy's threads start here, inside

    worker.run(order, results, sandbox)
    # Not sys.exit: threads or exit handlers that a model left behind must not hold us.
    results.flush()
    os._exit(0)


def _confine(order: dict[str, Any], results: int) -> Sandbox:
    if order["withoutSandbox"]:
        return Sandbox.none()
    paths = [order[name] for name in ("candidate", "stable", "dataset")]
    paths += [one["place"] for one in order["unpacked"]]
    sandbox = Sandbox.begin([Path(path) for path in paths if path], kept=[results])
    sandbox.prepare_libraries()
    sandbox.close()
    return sandbox


def _die_with_parent() -> None:
    """A hanging model must not outlive a parent that was killed and cannot end it any more."""
    with contextlib.suppress(OSError, AttributeError):  # Linux only
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    main()
