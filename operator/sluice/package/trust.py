"""Which packages need an administrator's consent, and what to do when it is missing.

Called by the runtime, ``bare`` and the CLI; calls the manifest and ``sluice.signature``.
The operator decides with the TrustPolicy objects it reads; this module only says what a package
needs and prints the exact object that would admit it.  Trust never comes from the package itself.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from sluice.errors import InvalidInputError, PackageError
from sluice.package.manifest import Manifest, TrustClass
from sluice.signature import key_digest

_NAME = re.compile(r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")
_DIGEST = re.compile(r"^sha256:[0-9a-f]{64}$")


def requires_trust(manifest: Manifest) -> TrustClass | None:
    """The class an administrator must admit before this package may be loaded; None for data."""
    trust_class = manifest.model.trust_class
    return None if trust_class == "Data" else trust_class


def ways_out(package: str = "PACKAGE", namespace: str = "NAMESPACE") -> str:
    """The three exits of a refusal, in the order in which they should be tried."""
    return (
        "Ways out: 1. save the model as data: `sluice package model.joblib --examples X.parquet` "
        "converts it to ONNX when the conversion is exact; 2. save it in its library's native data "
        "format (ONNX); 3. `sluice trust request "
        f"{package} --namespace {namespace}` prints the TrustPolicy for the cluster's "
        "administrator."
    )


def refusal(manifest: Manifest, *, namespace: str = "NAMESPACE") -> PackageError:
    """Why a package of class Code or Restricted is not loaded, what it would import, the exits."""
    shown = ", ".join(manifest.imports[:10])
    more = len(manifest.imports) - 10
    imports = f" It would import {shown}{f' and {more} more' if more > 0 else ''}." if shown else ""
    return PackageError(
        f"{manifest.model.file} is {manifest.model.format} of class {manifest.model.trust_class}: "
        f"{what_loading_does(manifest)}, and no TrustPolicy admits it.{imports[:400]}",
        hint=ways_out(namespace=namespace),
        reason="Untrusted",
    )


def what_loading_does(manifest: Manifest) -> str:
    """What an administrator agrees to."""
    if manifest.model.trust_class == "Restricted":
        return "loading it builds objects of types that skops trusts"
    return "loading it can run any code"


def trust_policy(
    name: str, digest: str, namespaces: list[str], trust_class: TrustClass
) -> dict[str, object]:
    """The TrustPolicy object that admits exactly this package in these namespaces."""
    if not _DIGEST.match(digest):
        raise InvalidInputError(f"{digest!r} is not a digest like sha256:<64 hex>.")
    line = {"packageDigest": digest}
    return _policy(policy_name(name, digest), line, namespaces, trust_class)


def signer_policy(
    signer: str, pem: str, namespaces: list[str], trust_class: TrustClass
) -> dict[str, object]:
    """The TrustPolicy object that admits what the public key ``pem`` signs in these namespaces."""
    if not _NAME.match(signer):
        raise InvalidInputError(
            f"{signer!r} is not the name of a signer.",
            hint="Lower case letters, digits and dashes, for example --signer-name ml-platform.",
        )
    line = {"signer": {"name": signer, "publicKey": pem}}
    return _policy(policy_name(signer, key_digest(pem)), line, namespaces, trust_class)


def _policy(
    name: str, line: Mapping[str, object], namespaces: list[str], trust_class: TrustClass
) -> dict[str, object]:
    for namespace in namespaces:
        if not _NAME.match(namespace):
            raise InvalidInputError(f"{namespace!r} is not the name of a namespace.")
    if trust_class == "Data":
        raise InvalidInputError(
            "This package is data: it loads without a TrustPolicy.", hint="Nothing to request."
        )
    return {
        "apiVersion": "sluice.dev/v1alpha1",
        "kind": "TrustPolicy",
        "metadata": {"name": name},
        "spec": {
            "namespaces": list(namespaces),
            "admit": [{**line, "classes": [trust_class]}],
        },
    }


def policy_name(name: str, digest: str) -> str:
    """A name for the object: readable, and one per package so that two requests do not collide."""
    stem = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40].strip("-") or "model"
    return f"{stem}-{digest.removeprefix('sha256:')[:10]}"
