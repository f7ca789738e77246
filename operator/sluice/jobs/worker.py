"""Judge a candidate, gate by gate, and tell each result as a line of JSON.

Called by ``confined``, in a process of its own behind the sandbox's walls.
"""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

from sluice.errors import PackageError
from sluice.jobs.gates import Bench, CannotJudgeError, GateFailedError
from sluice.jobs.gates.bench import first_line
from sluice.package.wheels import Unpacked
from sluice.runtime.sandbox.confine import NoSandboxError, Sandbox


def run(order: dict[str, Any], results: Any, sandbox: Sandbox) -> None:
    """Run the gates that ``order`` names; what happens goes to ``results``, a text stream."""

    def admit_code() -> None:
        try:
            sandbox.admit_code()
        except NoSandboxError as error:
            raise CannotJudgeError(error.message, hint=error.hint, reason=error.reason) from error

    bench = Bench(
        candidate_path=Path(order["candidate"]),
        stable_path=Path(order["stable"]) if order["stable"] else None,
        allow_code=order["allowCode"],
        gates=order["gates"],
        dataset=Path(order["dataset"]) if order["dataset"] else None,
        max_rows=order["maxRows"],
        unpacked=[Unpacked(**one) for one in order["unpacked"]],
        admit_code=admit_code,
    )
    for name in order["run"]:
        _tell(results, {"started": name})
        _tell(results, {"gate": name, **judge(bench, name)})
    _tell(results, {"done": True})


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
