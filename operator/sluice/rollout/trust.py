"""Which packages may be loaded in a namespace: the administrator's word, never the artifact's."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from sluice.api.modelrevision import PackageInfo
from sluice.api.trustpolicy import TrustPolicySpec
from sluice.rollout.messages import with_way_out

Admitted = Literal["Data", "Digest", "Any"]


def admitted(
    package: PackageInfo, namespace: str, policies: Iterable[TrustPolicySpec]
) -> Admitted | None:
    """How ``package`` is admitted in ``namespace``; None when it is not."""
    if package.trust_class == "Data":
        return "Data"
    found: Admitted | None = None
    for policy in policies:
        if namespace not in policy.namespaces:
            continue
        for line in policy.admit:
            if package.trust_class not in line.classes:
                continue
            if line.package_digest == package.digest:
                return "Digest"
            if line.any_digest:
                found = "Any"
    return found


def refusal(package: PackageInfo, namespace: str, readable: bool) -> tuple[str, str]:
    """Reason and sentence for a package that is not admitted."""
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
            f"Loading the {package.format} package would run code ({listed}{more}).",
            "Either save it as data (sluice package without --keep-original), use the library's "
            f"native format, or ask an administrator for a TrustPolicy: namespaces [{namespace}], "
            f"admit [{{packageDigest: {package.digest}}}].",
        ),
    )
