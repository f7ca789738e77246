"""``sluice image PACKAGE``: a Dockerfile for an image that has what the package needs."""

from __future__ import annotations

from pathlib import Path

import click

from sluice.version import __version__


@click.command("image")
@click.argument("package", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="New folder (default: PACKAGE-image).")
@click.option(
    "--base",
    default=f"sluice:{__version__}",
    show_default=True,
    help="The runtime image to build on.",
)
def command(package: Path, out: Path | None, base: str) -> None:
    """Write a build context for an image that can serve PACKAGE.

    The folder holds a Dockerfile and requirements.txt with the versions that PACKAGE was made with;
    of a package with wheels, the wheels and their hashes, so that the build needs no network.  The
    model is not in it: it is fetched and verified at every start, so one image serves every package
    with the same needs.  Name the image in spec.serving.runtime.image.

    \b
    sluice image flights --base registry.example/sluice:0.1.0
    docker build -t registry.example/flights-runtime:1 flights-image
    """
    from sluice.package.image import write_context
    from sluice.package.load import open_package

    opened = open_package(package, check_environment=False)
    folder = out or package.with_name(f"{package.name}-image")
    lines = write_context(opened, base, folder)
    click.echo(f"{folder}: Dockerfile and {len(lines)} requirements, on {base}")
    click.echo(f"docker build -t IMAGE {folder}")
