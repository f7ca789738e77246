"""The process that the gates run in: ``python -m sluice.jobs.worker FD``, started by ``validate``.

The order comes as JSON on standard input; results go as JSON lines to the descriptor FD.  Standard
output is turned into standard error first, so that nothing a model prints can be taken for a
result.  Whatever a model does to this process, its parent lives and says so.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
import os
import resource
import signal
import sys
from pathlib import Path
from typing import Any

from sluice.errors import PackageError
from sluice.jobs.gates import Bench, CannotJudgeError, GateFailedError
from sluice.jobs.gates.bench import first_line

PR_SET_PDEATHSIG = 1


def main() -> None:
    order = json.load(sys.stdin)
    results = os.fdopen(int(sys.argv[1]), "w", buffering=1, encoding="utf-8")
    os.set_inheritable(results.fileno(), False)
    os.dup2(2, 1)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a crash is reported, not dumped
    _die_with_parent()
    bench = Bench(
        candidate_path=Path(order["candidate"]),
        stable_path=Path(order["stable"]) if order["stable"] else None,
        allow_code=order["allowCode"],
        gates=order["gates"],
        dataset=Path(order["dataset"]) if order["dataset"] else None,
        max_rows=order["maxRows"],
    )
    for name in order["run"]:
        _tell(results, {"started": name})
        _tell(results, {"gate": name, **judge(bench, name)})
    _tell(results, {"done": True})
    # Not sys.exit: threads or exit handlers that a model left behind must not hold us.
    results.flush()
    os._exit(0)


def _die_with_parent() -> None:
    """A hanging model must not outlive a parent that was killed and cannot end it any more."""
    with contextlib.suppress(OSError, AttributeError):  # Linux only
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def judge(bench: Bench, name: str) -> dict[str, Any]:
    """One gate's verdict, whatever the model does."""
    gate = importlib.import_module(f"sluice.jobs.gates.{name}")
    try:
        if name == "smoke":
            bench.stable  # noqa: B018 - a stable that cannot be read is said before anything else
        return {"verdict": "Pass", "message": gate.run(bench)}
    except CannotJudgeError as error:
        return {"cannot": [error.reason, error.message, error.hint]}
    except GateFailedError as error:
        return {"verdict": "Fail", "message": str(error)}
    except PackageError as error:
        return _package_error(bench, error)
    except BaseException as error:  # a model may even raise SystemExit
        return {
            "verdict": "Fail",
            "message": f"it raises {first_line(error)}",
            "loaded": bench.loaded,
        }


def _package_error(bench: Bench, error: PackageError) -> dict[str, Any]:
    """Verified but not loadable is the model's failure; not even verified is no verdict on it."""
    if bench.opened:
        return {"verdict": "Fail", "message": error.message, "loaded": bench.loaded}
    return {"refused": [error.reason, error.message, error.hint]}


def _tell(results: Any, line: dict[str, Any]) -> None:
    results.write(json.dumps(line) + "\n")
    results.flush()


if __name__ == "__main__":
    main()
