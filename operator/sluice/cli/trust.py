"""``sluice trust request PACKAGE --namespace NS``: the exact TrustPolicy for the administrator."""

from __future__ import annotations

from pathlib import Path

import click


@click.group("trust")
def command() -> None:
    """Ask for consent to load a package that is code."""


@command.command("request")
@click.argument("package", type=click.Path(path_type=Path))
@click.option(
    "--namespace", "-n", "namespaces", required=True, multiple=True, help="Where it is to serve."
)
def request(package: Path, namespaces: tuple[str, ...]) -> None:
    """Print the TrustPolicy that admits exactly PACKAGE; an administrator applies it."""
    import yaml

    from sluice.package.inspect import imports_of
    from sluice.package.load import open_package
    from sluice.package.plain_text import printable
    from sluice.package.trust import trust_policy, what_loading_does

    opened = open_package(package, check_environment=False)
    manifest = opened.manifest
    policy = trust_policy(
        manifest.name, opened.digest, list(namespaces), manifest.model.trust_class
    )
    click.echo(
        f"# {manifest.model.format} of class {manifest.model.trust_class}: "
        f"{what_loading_does(manifest)}."
    )
    for name in imports_of(opened)[:40]:
        click.echo(f"#   imports {printable(name)}")
    click.echo("# Review what made it, then: kubectl apply -f THIS_FILE")
    click.echo(yaml.safe_dump(policy, sort_keys=False), nl=False)
