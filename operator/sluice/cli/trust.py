"""``sluice trust request PACKAGE --namespace NS``: the exact TrustPolicy for the administrator."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from sluice.package.load import Package


@click.group("trust")
def command() -> None:
    """Ask for consent to load a package that is code."""


@command.command("request")
@click.argument("package", type=click.Path(path_type=Path))
@click.option(
    "--namespace", "-n", "namespaces", required=True, multiple=True, help="Where it is to serve."
)
@click.option(
    "--signer",
    type=click.Path(path_type=Path),
    metavar="KEY.PUB",
    help="Ask for the key that PACKAGE is signed with: admits whatever it signs.",
)
@click.option(
    "--signer-name", metavar="NAME", help="Name of the signer in status (default: KEY of KEY.PUB)."
)
def request(
    package: Path, namespaces: tuple[str, ...], signer: Path | None, signer_name: str | None
) -> None:
    """Print the TrustPolicy that admits PACKAGE; an administrator applies it.

    With --signer it admits everything of that class that the key signs, and PACKAGE must be signed
    with it.

    \b
    sluice trust request flights -n churn
    sluice trust request flights -n churn --signer ml-platform.pub
    """
    from sluice.package.inspect import imports_of
    from sluice.package.load import open_package
    from sluice.package.plain_text import printable
    from sluice.package.trust import what_loading_does

    opened = open_package(package, check_environment=False)
    policy = _policy(opened, list(namespaces), signer, signer_name)
    model = opened.manifest.model
    click.echo(
        f"# {model.format} of class {model.trust_class}: {what_loading_does(opened.manifest)}."
    )
    for name in imports_of(opened)[:40]:
        click.echo(f"#   imports {printable(name)}")
    for wheel in opened.manifest.wheels:
        click.echo(f"#   brings {printable(wheel)}")
    if signer is not None:
        click.echo("# This admits every package that the key signs, now and later.")
    click.echo("# Review what made it, then: kubectl apply -f THIS_FILE")
    click.echo(_yaml(policy), nl=False)


def _policy(
    opened: Package, namespaces: list[str], signer: Path | None, name: str | None
) -> dict[str, object]:
    from sluice.package.signing import read_public_key, verify_package
    from sluice.package.trust import signer_policy, trust_policy

    manifest = opened.manifest
    if signer is None:
        return trust_policy(manifest.name, opened.digest, namespaces, manifest.model.trust_class)
    pem = read_public_key(signer)
    verify_package(opened.path, pem)
    called = name or re.sub(r"[^a-z0-9]+", "-", signer.stem.lower()).strip("-")
    return signer_policy(called, pem, namespaces, manifest.model.trust_class)


def _yaml(policy: dict[str, object]) -> str:
    """YAML with a key on lines of its own, as people paste it."""
    import yaml

    class Dumper(yaml.SafeDumper):
        pass

    def text(dumper: Any, value: str) -> Any:
        style = "|" if "\n" in value else None
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)

    Dumper.add_representer(str, text)
    written: str = yaml.dump(policy, Dumper=Dumper, sort_keys=False)
    return written
