"""``sluice verify PACKAGE --key public.pem``: who signed it, and whether every byte is theirs."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("verify")
@click.argument("package", type=click.Path(path_type=Path))
@click.option(
    "--key", required=True, type=click.Path(path_type=Path), help="The signer's public key in PEM."
)
def command(package: Path, key: Path) -> None:
    """Verify the signature of PACKAGE and every byte of it; nothing is loaded.

    Reads what `sluice sign` and `model_signing sign key` write.  Exits 1, saying why, when the
    signature is missing, is of another key or package, or a file is not what was packaged.

    \b
    sluice verify flights --key key.pub
    """
    from sluice.package.signing import read_public_key, verify_package
    from sluice.signature import key_digest

    pem = read_public_key(key)
    verified, said = verify_package(package, pem)
    files = len(verified.manifest.files) + 1
    click.echo(f"{package}: signed, {files} files verified")
    click.echo(f"package {said.digest}")
    click.echo(f"key     {key_digest(pem)}")
