"""``sluice inspect PATH``: what a package or a model file is; never loads it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click


@click.command("inspect")
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(path: Path, as_json: bool) -> None:
    """Say what PATH is and what loading it would do, without loading it.

    Exits 3 when it could not be served here as it is.
    """
    from sluice.package.inspect import inspect, table

    report = inspect(path)
    if as_json:
        click.echo(json.dumps(report, indent=2, sort_keys=True, ensure_ascii=False))
    else:
        click.echo("\n".join(table(report)))
    sys.exit(3 if report["problems"] else 0)
