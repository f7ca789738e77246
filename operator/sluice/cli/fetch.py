"""``sluice fetch``: copy a package here, verified; with ``--resolve`` also report what it is."""

from __future__ import annotations

import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import click

from sluice.errors import SluiceError, SourceError

EXIT_FINAL = 3
EXIT_RETRYABLE = 4


def digest_option(_context: click.Context, _parameter: click.Parameter, value: str | None) -> Any:
    """A digest as people paste it, checked before anything is fetched."""
    if value is None:
        return None
    bare = value.strip().lower().removeprefix("sha256:")
    if len(bare) != 64 or set(bare) - set("0123456789abcdef"):
        raise click.BadParameter("expected sha256: and 64 hex digits")
    return f"sha256:{bare}"


def duration_option(
    _context: click.Context, _parameter: click.Parameter, value: str | None
) -> float | None:
    """A Gateway API duration as seconds."""
    if value is None:
        return None  # and nothing is imported: this runs before every pod starts
    from sluice.api.duration import seconds

    try:
        return seconds(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


def _say(line: str) -> None:
    click.echo(f"sluice fetch: {line}", err=True)


@click.command()
@click.argument("uri")
@click.option(
    "--to", type=click.Path(path_type=Path), required=True, help="Directory for the package."
)
@click.option("--digest", callback=digest_option, help="Refuse other bytes: sha256:….")
@click.option("--resolve", is_flag=True, help="Inspect what came and report it on stdout.")
@click.option("--data", is_flag=True, help="URI is a single file such as a dataset; --to names it.")
@click.option(
    "--max-bytes",
    type=click.IntRange(min=1),
    default=5 * 1024**3,
    help="Refuse more. Default 5 GiB.",
)
@click.option(
    "--timeout",
    callback=duration_option,
    help="For the whole fetch. Default 30m, or longer for a package that needs it at 2 MiB/s.",
)
@click.option("--report", type=click.Path(path_type=Path), help="Also write the report here.")
def command(
    uri: str,
    to: Path,
    digest: str | None,
    resolve: bool,
    data: bool,
    max_bytes: int,
    timeout: float | None,
    report: Path | None,
) -> None:
    """Copy the package at URI to a directory, or not at all.

    URI is a directory with sluice.json, an MLflow model directory, or a single model file: a path,
    file://, pvc://, http(s)://, s3://, gs://, az://, oci://, hf:// or mlflow://.  Every byte is
    verified; nothing is loaded.  Exit codes: 0 done, 3 refused, 4 worth another try.

    \b
    sluice fetch oci://registry.example/team/iris:v2 --to ./iris
    sluice fetch hf://acme/iris@v2/model.onnx --to ./iris
    sluice fetch mlflow://models/churn@champion --to ./churn
    """
    from sluice.jobs import report as reports

    # So that a pod told to stop leaves no half-made directory behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    path = report or reports.default_path()
    try:
        result = _fetch(uri, to, digest, resolve, data, max_bytes, timeout)
    except SluiceError as error:
        _fail(error, path, resolve)
    written = reports.write({"ok": True, **result}, path)
    if resolve:
        click.echo(written)


def _fetch(
    uri: str,
    to: Path,
    digest: str | None,
    resolve: bool,
    data: bool,
    max_bytes: int,
    timeout: float | None,
) -> dict[str, Any]:
    from sluice.jobs import fetch as job

    limits = job.Limits(max_bytes=max_bytes)
    if timeout is not None:
        limits = replace(limits, seconds=timeout, slowest=float("inf"))
    if data:
        file = job.fetch_file(uri, to, digest=digest, limits=limits, progress=_say)
        return {"file": {"digest": file.digest, "size": file.size}}
    done = job.fetch(
        uri, to, digest=digest, limits=limits, progress=_say, signature_matters=resolve
    )
    if resolve:
        return {"package": job.resolve(done, max_bytes=max_bytes)}
    return {"package": {"digest": done.digest, "size": done.size, "mutableSource": done.mutable}}


def _fail(error: SluiceError, path: Path | None, resolve: bool) -> NoReturn:
    from sluice.jobs import report as reports

    written = reports.write(reports.failure(error), path)
    if resolve:
        click.echo(written)
    _say(error.message)
    if error.hint:
        click.echo(f"  {error.hint}", err=True)
    sys.exit(EXIT_RETRYABLE if isinstance(error, SourceError) and error.retryable else EXIT_FINAL)
