"""Run the gates over a package, each within its time, and say what came of it.

Called by ``sluice validate``: a Job in the cluster, the same command on a laptop.  The model runs
in a process of its own (``confined``), so that one that hangs, crashes or eats the memory fails its
gate instead of taking the report with it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sluice.errors import PackageError, SluiceError
from sluice.jobs.gates import CannotJudgeError
from sluice.jobs.report import shorten
from sluice.package.load import open_package
from sluice.package.trust import refusal, requires_trust
from sluice.package.wheels import Unpacked
from sluice.runtime.wheelhouse import wheelhouse_for

ORDER = ("smoke", "schema", "golden", "quality", "latency")
ALWAYS = ("smoke", "schema", "golden")
GATE_SECONDS = 600.0
MAX_ROWS = 100_000


@dataclass(frozen=True)
class Plan:
    """What to validate, against what, how."""

    candidate: Path
    stable: Path | None = None
    gates: dict[str, Any] = field(default_factory=dict)
    dataset: Path | None = None
    allow_code: bool = False
    without_sandbox: bool = False
    gate_seconds: float = GATE_SECONDS
    max_rows: int = MAX_ROWS

    @property
    def run(self) -> list[str]:
        """Names of the gates to run: the three safe ones always, the others when asked for."""
        if self.gates.get("initial") == "SmokeOnly" and self.stable is None:
            return ["smoke"]
        return [name for name in ORDER if name in ALWAYS or self.gates.get(name) is not None]


@dataclass(frozen=True)
class GateResult:
    """One gate's verdict."""

    name: str
    passed: bool
    message: str


@dataclass(frozen=True)
class Validation:
    """What came of it."""

    gates: list[GateResult]
    loaded: bool
    """False when the model could not even be loaded."""
    not_run: list[str]

    @property
    def ok(self) -> bool:
        """Whether every gate ran and passed."""
        return not self.not_run and all(gate.passed for gate in self.gates)


def validate(
    plan: Plan, progress: Callable[[GateResult | str], None] = lambda _step: None
) -> Validation:
    """Run the gates.

    Raises PackageError when the package does not verify or may not be loaded, CannotJudgeError when
    something that is not the candidate's is missing: neither is a verdict on the model.
    """
    package = open_package(plan.candidate)
    if requires_trust(package.manifest) and not plan.allow_code:
        refused = refusal(package.manifest)
        raise PackageError(
            refused.message,
            hint=f"On your own machine --allow-code runs it. {refused.hint}",
            reason=refused.reason,
        )
    del package
    _check_dataset(plan)
    with _own_wheels(plan) as unpacked:
        return _run_gates(plan, unpacked, progress)


@contextlib.contextmanager
def _own_wheels(plan: Plan) -> Iterator[list[Unpacked]]:
    """The wheels of the candidate and of stable, unpacked for as long as the gates run."""
    with contextlib.ExitStack() as stack:
        houses = []
        if plan.allow_code:
            houses.append(wheelhouse_for(plan.candidate, seconds=plan.gate_seconds))
        if plan.allow_code and plan.stable is not None:
            with contextlib.suppress(PackageError):  # The gate that needs stable will say so.
                houses.append(wheelhouse_for(plan.stable, seconds=plan.gate_seconds))
        for house in filter(None, houses):
            stack.callback(house.remove)
        yield [house.unpacked for house in houses if house is not None]


def _run_gates(
    plan: Plan, unpacked: Sequence[Unpacked], progress: Callable[[GateResult | str], None]
) -> Validation:
    results: list[GateResult] = []
    waiting = list(plan.run)
    loaded = False
    while waiting:
        with _Worker(plan, waiting, unpacked) as worker:
            while waiting:
                try:
                    outcome = worker.next(waiting[0], progress)
                except CannotJudgeError:
                    if all(result.passed for result in results):
                        raise
                    # A failure before it is a verdict, whatever could not be judged after it.
                    return Validation(results, loaded, waiting)
                loaded |= outcome.loaded
                results.append(outcome.result)
                progress(outcome.result)
                waiting.pop(0)
                if not loaded or (outcome.ended and outcome.result.name == "smoke"):
                    # What stops on the first questions would stop on the next ones too.
                    return Validation(results, loaded, waiting)
                if outcome.ended:
                    break
    return Validation(results, loaded, [])


def _check_dataset(plan: Plan) -> None:
    """The rows are those that the digest names, or nothing is judged on them."""
    wanted = plan.gates.get("quality", {}).get("dataset", {}).get("digest")
    if wanted is None or plan.dataset is None or not plan.dataset.is_file():
        return
    with plan.dataset.open("rb") as stream:
        found = f"sha256:{hashlib.file_digest(stream, 'sha256').hexdigest()}"
    if found != wanted:
        raise CannotJudgeError(
            f"The dataset {plan.dataset} has digest {found}, not {wanted}.",
            hint="Fetch the right file, or correct quality.dataset.digest.",
            reason="DigestMismatch",
        )


@dataclass(frozen=True)
class _Outcome:
    result: GateResult
    loaded: bool
    ended: bool = False


class _Worker:
    """A worker process and the pipe its results come through."""

    def __init__(self, plan: Plan, run: list[str], unpacked: Sequence[Unpacked]) -> None:
        self._plan, self._run, self._unpacked = plan, run, unpacked
        self._pending = b""

    def __enter__(self) -> _Worker:
        self._read, write = os.pipe()
        try:
            self._process = subprocess.Popen(
                # -P: the folder we were called in may be the package itself, with a json.py.
                [sys.executable, "-P", "-m", "sluice.jobs.confined", str(write)],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                pass_fds=(write,),
                env=_without_credentials(os.environ),
            )
        finally:
            os.close(write)
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError), self._process.stdin as stdin:
            stdin.write(json.dumps(self._order()).encode())
        return self

    def _order(self) -> dict[str, Any]:
        plan = self._plan
        return {
            "candidate": str(plan.candidate),
            "stable": str(plan.stable) if plan.stable else None,
            "dataset": str(plan.dataset) if plan.dataset else None,
            "gates": {k: v for k, v in plan.gates.items() if isinstance(v, dict)},
            "allowCode": plan.allow_code,
            "withoutSandbox": plan.without_sandbox,
            "maxRows": plan.max_rows,
            "run": self._run,
            "unpacked": [asdict(one) for one in self._unpacked],
        }

    def __exit__(self, *_: object) -> None:
        os.close(self._read)
        self._process.kill()
        self._process.wait()

    def next(self, gate: str, progress: Callable[[GateResult | str], None]) -> _Outcome:
        """The result of ``gate``, which is the next to come."""
        deadline = time.monotonic() + self._plan.gate_seconds
        while True:
            line = self._line(deadline)
            if line is None:
                message = f"did not finish within {self._plan.gate_seconds:g} s"
                return _Outcome(GateResult(gate, False, message), loaded=True, ended=True)
            if not line:
                message = self._how_it_ended()
                return _Outcome(GateResult(gate, False, message), loaded=True, ended=True)
            told = json.loads(line)
            if "started" in told:
                progress(f"{gate} …")
                continue
            if "cannot" in told:
                reason, message, hint = told["cannot"]
                raise CannotJudgeError(message, hint=hint, reason=reason)
            if "refused" in told:
                reason, message, hint = told["refused"]
                raise PackageError(message, hint=hint, reason=reason)
            passed = told["verdict"] == "Pass"
            result = GateResult(gate, passed, shorten(told["message"]))
            return _Outcome(result, loaded=told.get("loaded", True))

    def _line(self, deadline: float) -> bytes | None:
        """The next line; None when time is up, empty when the process ended."""
        while b"\n" not in self._pending:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._read], [], [], left)[0]:
                return None
            data = os.read(self._read, 65536)
            if not data:
                return b""
            self._pending += data
        line, _, self._pending = self._pending.partition(b"\n")
        return line

    def _how_it_ended(self) -> str:
        try:
            code = self._process.wait(10)
        except subprocess.TimeoutExpired:
            return "the model's process closed its results"
        if code == -signal.SIGKILL:
            return "the model's process was killed (SIGKILL), most likely out of memory"
        if code < 0:
            return f"the model's process crashed ({signal.Signals(-code).name})"
        return f"the model's process ended itself (exit code {code})"


def _without_credentials(environ: Mapping[str, str]) -> dict[str, str]:
    """The model's process gets none: what fetches has them, what is fetched has not."""
    secret = ("AWS_", "SLUICE_HTTP_")
    return {name: value for name, value in environ.items() if not name.startswith(secret)}


def report(validation: Validation) -> dict[str, Any]:
    """The report as the operator reads it."""
    return {
        "ok": validation.ok,
        "gates": [
            {"name": g.name, "verdict": "Pass" if g.passed else "Fail", "message": g.message}
            for g in validation.gates
        ],
    }


def read_gates(text: str) -> dict[str, Any]:
    """``spec.validation`` as JSON, itself or in a file; checked as the API server does."""
    from pydantic import ValidationError

    from sluice.api.validation import Validation as Spec

    try:
        raw = text if text.lstrip().startswith("{") else Path(text).read_text(encoding="utf-8")
        written = json.loads(raw)
        spec = Spec.model_validate(written)
        if unknown := _unknown(written, spec.model_dump(by_alias=True, exclude_unset=True)):
            raise _bad_gates(f"there is no field {unknown}")
        return spec.model_dump(by_alias=True, exclude_none=True, mode="json")
    except OSError as error:
        raise _bad_gates(f"{text}: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise _bad_gates(f"{where}: {first['msg']}") from error
    except ValueError as error:
        raise _bad_gates(f"not JSON ({error})") from error


def _unknown(written: Any, understood: Any, where: str = "") -> str:
    """The first field that was written but means nothing: a typo must not switch a gate off."""
    pairs: list[tuple[str, Any, Any]] = []
    if isinstance(written, dict) and isinstance(understood, dict):
        for key, value in written.items():
            if key not in understood:
                return f"{where}{key}"
            pairs.append((f"{where}{key}.", value, understood[key]))
    elif isinstance(written, list) and isinstance(understood, list):
        pairs = [(where, *both) for both in zip(written, understood, strict=True)]
    return next((found for path, w, u in pairs if (found := _unknown(w, u, path))), "")


def _bad_gates(what: str) -> SluiceError:
    return CannotJudgeError(
        f"The gates cannot be read: {what}.",
        hint="Give the JSON of spec.validation, or a file that holds it.",
        reason="InvalidGates",
    )
