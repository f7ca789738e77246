"""``sluice validate``: the gates of a rollout, on a laptop, in CI, and in the cluster's Job."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from sluice.cli.fetch import duration_option
from sluice.errors import SluiceError

if TYPE_CHECKING:
    from sluice.jobs.validate import GateResult, Plan, Validation

EXIT_GATE_FAILED = 1
EXIT_CANNOT_JUDGE = 2
EXIT_NOT_LOADED = 3


@click.command()
@click.argument("package", type=click.Path(path_type=Path))
@click.option("--stable", type=click.Path(path_type=Path), help="Package that serves today.")
@click.option("--gates", default="{}", help="JSON of spec.validation, or a file that holds it.")
@click.option(
    "--dataset", type=click.Path(path_type=Path), help="Parquet or CSV for the quality gate."
)
@click.option("--allow-code", is_flag=True, help="Load a package of class Code: it runs its code.")
@click.option(
    "--dangerously-without-sandbox",
    "without_sandbox",
    is_flag=True,
    help="Run the model's code with all that you may do yourself. Never for a file you got.",
)
@click.option("--gate-timeout", callback=duration_option, help="For each gate. Default 10m.")
@click.option(
    "--max-rows",
    type=click.IntRange(min=1),
    default=100_000,
    help="Of the dataset. Default 100000.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON instead.")
@click.option("--report", type=click.Path(path_type=Path), help="Also write the report here.")
def command(
    package: Path,
    stable: Path | None,
    gates: str,
    dataset: Path | None,
    allow_code: bool,
    without_sandbox: bool,
    gate_timeout: float | None,
    max_rows: int,
    as_json: bool,
    report: Path | None,
) -> None:
    """Run the gates over PACKAGE, as the operator does before the first user request.

    smoke, schema and golden always run; quality and latency when --gates asks for them.  Exit
    codes: 0 all passed, 1 a gate failed, 2 the gates could not be judged, 3 the package cannot be
    loaded.
    """
    from sluice.jobs import report as reports
    from sluice.jobs import validate as job

    # So that a Job told to stop takes the model's process along, also as a container's first one.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    path = report or reports.default_path()
    shown = _Table(quiet=as_json)
    try:
        wanted = job.read_gates(gates)
        plan = job.Plan(
            candidate=package,
            stable=stable,
            gates=wanted,
            dataset=dataset or _local_dataset(wanted),
            allow_code=allow_code,
            without_sandbox=without_sandbox,
            gate_seconds=gate_timeout or job.GATE_SECONDS,
            max_rows=max_rows,
        )
        shown.head(plan)
        result = job.validate(plan, shown.step)
    except SluiceError as error:
        _fail(error, path, as_json)
    data = reports.write(job.report(result), path)
    if as_json:
        click.echo(data)
    shown.end(result)
    if not result.loaded:
        sys.exit(EXIT_NOT_LOADED)
    sys.exit(0 if result.ok else EXIT_GATE_FAILED)


def _local_dataset(gates: dict[str, object]) -> Path | None:
    """The dataset that the gates name, when it is a file of this machine."""
    from sluice.sources import parse
    from sluice.sources.local import local_path

    uri = json.loads(json.dumps(gates)).get("quality", {}).get("dataset", {}).get("uri", "")
    if not uri.startswith("file://"):
        return None
    path = local_path(parse(uri))
    return path if path.is_file() else None


def _fail(error: SluiceError, path: Path | None, as_json: bool) -> NoReturn:
    from sluice.errors import PackageError
    from sluice.jobs import report as reports

    data = reports.write({**reports.failure(error), "gates": []}, path)
    if as_json:
        click.echo(data)
    click.echo(f"sluice validate: {error.message}", err=True)
    if error.hint:
        click.echo(f"  {error.hint}", err=True)
    sys.exit(EXIT_NOT_LOADED if isinstance(error, PackageError) else EXIT_CANNOT_JUDGE)


class _Table:
    """The gates as a person reads them, each line as soon as it is known."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet

    def head(self, plan: Plan) -> None:
        against = f" against stable {plan.stable}" if plan.stable else ""
        self._line(f"{plan.candidate}{against}")

    def step(self, step: GateResult | str) -> None:
        if isinstance(step, str):
            if sys.stderr.isatty() and not self._quiet:
                click.echo(f"  … {step.removesuffix(' …')}\r", nl=False, err=True)
            return
        mark = click.style("✓", fg="green") if step.passed else click.style("✗", fg="red")
        self._line(f"  {mark} {step.name:<8} {step.message}")

    def end(self, result: Validation) -> None:
        for name in result.not_run:
            self._line(f"  - {name:<8} not run")
        passed = sum(gate.passed for gate in result.gates)
        total = len(result.gates) + len(result.not_run)
        self._line(f"{passed} of {total} gates passed.")

    def _line(self, text: str) -> None:
        if not self._quiet:
            click.echo(text)
