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
    """Publish PACKAGE below DEST: a directory, an object store's prefix, or a registry.

    It is written to DEST/sha256-<digest>/, so an address never changes its content and pushing
    twice changes nothing.  In a registry it is an artifact, with the tag that DEST names or one
    made of its digest.  Printed: the address, the digest, and the lines for the ModelDeployment.

    \b
    sluice push ./iris s3://models/iris
    sluice push ./iris gs://models/iris
    sluice push ./iris az://models/iris
    sluice push ./iris oci://registry.example/team/iris:v2
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
    click.echo("")
    for line in _notes(done.uri):
        click.echo(line)


def _notes(uri: str) -> list[str]:
    notes = [
        "The address alone pins these bytes, so `digest` may be left out; a `digest` that is there "
        "must be changed together with `uri`, or fetching ends with DigestMismatch."
    ]
    if uri.startswith("file://"):
        notes.append(
            "file:// is a directory of this machine: in a cluster each pod looks for it in its own "
            "files. Push to s3://, gs://, az:// or oci://, or copy it to a volume for pvc://."
        )
    if uri.startswith(("file:///tmp/", "file:///var/tmp/")):
        notes.append("What lies in a temporary directory may be gone after a restart.")
    return notes
