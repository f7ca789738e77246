"""Sign a package, and verify its signature, where the bytes are.

Called by ``sluice sign``, ``sluice verify`` and ``sluice trust request``; calls the verifier of
packages and ``sluice.signature``.  Every byte of the package is verified first, so that nobody
signs or accepts a damaged copy.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from sluice.errors import InvalidInputError, PackageError
from sluice.package.load import Package, open_package
from sluice.package.manifest import MANIFEST_NAME
from sluice.signature import (
    CURVES,
    MAX_BUNDLE_BYTES,
    SIGNATURE_NAME,
    Envelope,
    Statement,
    invalid_key,
    pem_of,
    read_bundle,
    signed,
    statement,
    verified,
)

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric import ec

MAX_KEY_BYTES = 64 * 1024


def sign_package(path: Path, key: ec.EllipticCurvePrivateKey) -> Package:
    """Write ``model.sig`` into the package; one that is there is replaced.

    Raises PackageError when the package does not verify, InvalidInputError CannotWrite.
    """
    package = open_package(path, check_environment=False)
    bundle = signed(statement(package.manifest.name, _files(package)), key)
    _write(path / SIGNATURE_NAME, bundle)
    return package


def verify_package(path: Path, pem: str) -> tuple[Package, Statement]:
    """The package and what was signed, when it is this package and ``pem`` is the signer's key.

    Raises PackageError SignatureMissing, SignatureInvalid, or that the package does not verify.
    """
    package = open_package(path, check_environment=False)
    files = _files(package)
    said = verified(read_signature(path), pem)
    if said.digest != package.digest:
        raise PackageError(
            f"The signature is of another package: of {said.digest}, this is {package.digest}.",
            hint="Sign this package, or fetch the one that was signed.",
            reason="SignatureInvalid",
        )
    differ = sorted(f for f in files if f in said.files and said.files[f] != files[f])
    if differ:
        raise PackageError(
            f"The signature lists other bytes for {', '.join(differ[:5])} than {MANIFEST_NAME}.",
            hint="Sign the package again with `sluice sign`.",
            reason="SignatureInvalid",
        )
    return package, said


def read_signature(path: Path) -> Envelope:
    """The signature of the package in ``path``.  Raises PackageError."""
    try:
        with (path / SIGNATURE_NAME).open("rb") as stream:
            return read_bundle(stream.read(MAX_BUNDLE_BYTES + 1))
    except FileNotFoundError:
        raise PackageError(
            f"{path} is not signed: it has no {SIGNATURE_NAME}.",
            hint="Sign it with `sluice sign`, or fetch it with its signature.",
            reason="SignatureMissing",
        ) from None
    except OSError as error:
        raise PackageError(
            f"{path / SIGNATURE_NAME} cannot be read: {error.strerror}.",
            hint="Check its permissions.",
            reason="SignatureMissing",
        ) from None


def read_public_key(path: Path) -> str:
    """The public key in a PEM file, in the one form that has a digest."""
    from sluice.signature import public_key

    return pem_of(public_key(_key_text(path).decode("utf-8", "replace")))


def read_private_key(path: Path, passphrase: Callable[[], str]) -> ec.EllipticCurvePrivateKey:
    """The private key in a PEM file; ``passphrase`` is asked only when the key is encrypted.

    Raises InvalidInputError InvalidKey or WrongPassphrase.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    text = _key_text(path)
    key: object
    try:
        try:
            key = load_pem_private_key(text, None)
        except TypeError:
            key = _unlocked(text, passphrase())
    except (ValueError, UnsupportedAlgorithm):
        public = b"BEGIN PUBLIC KEY" in text
        raise invalid_key("a public key" if public else "not a private key in PEM") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name not in CURVES:
        raise invalid_key("of another kind")
    return key


def _unlocked(text: bytes, passphrase: str) -> object:
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        return load_pem_private_key(text, passphrase.encode())
    except ValueError:
        raise InvalidInputError(
            "The passphrase does not open the private key.",
            hint="Type it again, or correct SLUICE_KEY_PASSPHRASE.",
            reason="WrongPassphrase",
        ) from None


def _key_text(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            text = stream.read(MAX_KEY_BYTES + 1)
    except OSError as error:
        raise InvalidInputError(
            f"{path} cannot be read: {error.strerror}.", hint="Check the path.", reason="InvalidKey"
        ) from None
    if len(text) > MAX_KEY_BYTES:
        raise invalid_key(f"larger than {MAX_KEY_BYTES:,} bytes")
    return text


def _files(package: Package) -> dict[str, str]:
    if package.bare:
        raise PackageError(
            f"{package.path} is a single model file, which is data and needs no trust.",
            hint="To sign it, make it a package: `sluice package MODEL --examples ROWS`.",
            reason="NotAPackage",
        )
    listed = {entry.path: entry.sha256 for entry in package.manifest.files}
    return {**listed, MANIFEST_NAME: package.digest.removeprefix("sha256:")}


def _write(target: Path, data: bytes) -> None:
    """Whole or not at all: a signature cut short would refuse a good package."""
    try:
        handle, name = tempfile.mkstemp(prefix=f".{SIGNATURE_NAME}-", dir=target.parent)
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(data)
            Path(name).chmod(0o644)
            Path(name).replace(target)
        except OSError:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise InvalidInputError(
            f"{target} cannot be written: {error.strerror}.",
            hint="Sign a copy that you may write to.",
            reason="CannotWrite",
        ) from None
