"""``sluice sign PACKAGE --key private.pem``: a signature that a TrustPolicy can admit."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

ENV_PASSPHRASE = "SLUICE_KEY_PASSPHRASE"  # noqa: S105


@click.command("sign")
@click.argument("package", type=click.Path(path_type=Path))
@click.option(
    "--key",
    required=True,
    type=click.Path(path_type=Path),
    help="Private key in PEM, on the curve P-256, P-384 or P-521.",
)
def command(package: Path, key: Path) -> None:
    """Sign PACKAGE: writes model.sig beside its files.

    The signature is outside the digest, so signing changes no address and no revision.  It is an
    OpenSSF Model Signing bundle, which `model_signing verify key` reads too.  The passphrase of an
    encrypted key is asked for, or taken from SLUICE_KEY_PASSPHRASE.

    \b
    openssl ecparam -name prime256v1 -genkey -noout -out key.pem
    openssl ec -in key.pem -pubout -out key.pub
    sluice sign flights --key key.pem
    """
    from sluice.package.signing import read_private_key, sign_package
    from sluice.signature import SIGNATURE_NAME, key_digest, pem_of

    private = read_private_key(key, _passphrase)
    signed = sign_package(package, private)
    click.echo(f"{package / SIGNATURE_NAME}")
    click.echo(f"package {signed.digest}")
    click.echo(f"key     {key_digest(pem_of(private.public_key()))}")


def _passphrase() -> str:
    given = os.environ.get(ENV_PASSPHRASE)
    if given is not None:
        return given
    if not sys.stdin.isatty():
        from sluice.errors import InvalidInputError

        raise InvalidInputError(
            "The private key is encrypted and nobody can be asked for its passphrase.",
            hint=f"Set {ENV_PASSPHRASE}.",
            reason="WrongPassphrase",
        )
    asked: str = click.prompt("Passphrase of the private key", hide_input=True, err=True)
    return asked
