"""``sluice push``: publish a package under its digest and print the lines that deploy it."""

from __future__ import annotations

from pathlib import Path

import click


def _say(line: str) -> None:
    click.echo(f"sluice push: {line}", err=True)


@click.command()
@click.argument("package", type=click.Path(exists=True, path_type=Path))
@click.argument("dest")
@click.option("--force", is_flag=True, help="Write every file again, to repair a damaged copy.")
def command(package: Path, dest: str, force: bool) -> None:
    """Publish PACKAGE below DEST, which is s3://BUCKET/PREFIX or a directory.

    It is written to DEST/sha256-<digest>/, so an address never changes its content and pushing
    twice changes nothing.  Printed: the address, the digest, and the lines for the ModelDeployment.
    """
    from sluice.jobs.push import push

    done = push(package, dest, force=force, progress=_say)
    click.echo(f"uri:    {done.uri}")
    click.echo(f"digest: {done.digest}")
    click.echo("")
    click.echo("In the ModelDeployment:")
    click.echo("spec:")
    click.echo("  model:")
    click.echo(f"    uri: {done.uri}")
    click.echo(f"    digest: {done.digest}")
