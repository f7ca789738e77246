"""Which packages may be loaded in a namespace: the administrator's word, never the artifact's.

A package's signature comes with the package's report, which a tenant could forge; so it is only
material.  It counts when it verifies with a key that a TrustPolicy holds and states the very digest
that is to run, and a pod loads nothing but the bytes of that digest.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Literal

from sluice.api.modelrevision import PackageInfo
from sluice.api.trustpolicy import Admission, Signer, TrustPolicySpec
from sluice.errors import SluiceError
from sluice.rollout.messages import with_way_out
from sluice.signature import key_digest, unpacked, verified

How = Literal["Data", "Digest", "Signer", "Any"]
_STRENGTH: tuple[How, ...] = ("Any", "Signer", "Digest")
_FOREVER = float("inf")


@dataclass(frozen=True)
class Trust:
    """How a package is admitted, by whose key, and until when (seconds; None: without end)."""

    how: How
    signer: str = ""
    until: float | None = None


def admitted(
    package: PackageInfo, namespace: str, policies: Iterable[TrustPolicySpec], now: float
) -> Trust | None:
    """How ``package`` is admitted in ``namespace`` at ``now``; None when it is not."""
    here = [policy for policy in policies if namespace in policy.namespaces]
    if _denial(package, here) is not None:
        return None
    if package.trust_class == "Data":
        return Trust("Data")
    found = [
        Trust(how, line.signer.name if line.signer else "", _end(line))
        for line in _lines(package, here, now)
        if (how := _matched(line, package, here)) is not None
    ]
    return max(found, key=_best, default=None)


def signature_may_help(
    package: PackageInfo, namespace: str, policies: Iterable[TrustPolicySpec], now: float
) -> bool:
    """Whether somebody's signature would admit this package here, were it there."""
    here = [policy for policy in policies if namespace in policy.namespaces]
    return any(line.signer for line in _lines(package, here, now))


def refusal(
    package: PackageInfo,
    namespace: str,
    policies: Iterable[TrustPolicySpec],
    readable: bool,
    now: float,
) -> tuple[str, str]:
    """Reason and sentence for a package that is not admitted."""
    here = [policy for policy in policies if namespace in policy.namespaces]
    denied = _denial(package, here)
    if denied is not None:
        why = f": {denied}" if denied else ""
        return (
            "Denied",
            with_way_out(
                f"A TrustPolicy denies package {package.digest} here{why}.",
                "Set another package in spec.model, or ask an administrator to remove it from "
                "deny.",
            ),
        )
    if not readable:
        return (
            "TrustUnreadable",
            f"The package is class {package.trust_class} and this operator may not read "
            "TrustPolicies; grant it get, list and watch on trustpolicies.sluice.dev.",
        )
    listed = ", ".join(package.imports[:5]) or "code"
    more = f" and {len(package.imports) - 5} more" if len(package.imports) > 5 else ""
    return (
        "NotTrusted",
        with_way_out(
            f"{_of_signature(package, here, now)}"
            f"Loading the {package.format} package would run code ({listed}{more}).",
            "Either save it as data (sluice package without --keep-original), use the library's "
            f"native format, or ask an administrator for a TrustPolicy: namespaces [{namespace}], "
            f"admit [{{packageDigest: {package.digest}}}].",
        ),
    )


def _lines(package: PackageInfo, here: list[TrustPolicySpec], now: float) -> Iterator[Admission]:
    """Lines that are in force and speak of the package's class."""
    for policy in here:
        for line in policy.admit:
            if package.trust_class in line.classes and now < _until(line):
                yield line


def _matched(line: Admission, package: PackageInfo, here: list[TrustPolicySpec]) -> How | None:
    if line.package_digest == package.digest:
        return "Digest"
    if line.signer is not None and _signs(line.signer, package, here):
        return "Signer"
    return "Any" if line.any_digest else None


def _signs(signer: Signer, package: PackageInfo, here: list[TrustPolicySpec]) -> bool:
    key, digest = _signed_digest(package.signature, signer.public_key)
    return digest == package.digest and not any(
        d.key_digest == key for policy in here for d in policy.deny
    )


@lru_cache(maxsize=1024)
def _signed_digest(signature: str, pem: str) -> tuple[str, str]:
    """The key's digest and the package digest that ``signature`` states under it, or twice ""."""
    try:
        return key_digest(pem), verified(unpacked(signature), pem).digest
    except SluiceError:
        return "", ""


def _denial(package: PackageInfo, here: list[TrustPolicySpec]) -> str | None:
    """Why the package is denied; None when it is not."""
    return next(
        (d.reason for policy in here for d in policy.deny if d.package_digest == package.digest),
        None,
    )


def _of_signature(package: PackageInfo, here: list[TrustPolicySpec], now: float) -> str:
    """What is wrong with the signature where one would help; empty elsewhere."""
    if not any(line.signer for line in _lines(package, here, now)):
        return ""
    if package.signature_problem:
        return f"{package.signature_problem} "
    if not package.signature:
        return "It is not signed (sluice sign, then sluice push). "
    return "It is not signed by a key that is admitted here. "


def _until(line: Admission) -> float:
    if line.expires is None:
        return _FOREVER
    try:
        return datetime.fromisoformat(line.expires).timestamp()
    except ValueError:
        return 0.0  # 31 February: a time nobody can mean admits nothing.


def _end(line: Admission) -> float | None:
    return None if line.expires is None else _until(line)


def _best(trust: Trust) -> tuple[int, float]:
    """The most specific line counts, and of several the one that lasts."""
    return _STRENGTH.index(trust.how), _FOREVER if trust.until is None else trust.until
