"""Trust is the administrator's word about a digest in a namespace, and a refusal says how."""

from __future__ import annotations

from typing import Any

from tests.worlds.rollout import digest_of

from sluice.api.modelrevision import PackageInfo
from sluice.api.trustpolicy import TrustPolicySpec
from sluice.rollout.trust import admitted, refusal


def package(kind: str = "Code", imports: list[str] | None = None) -> PackageInfo:
    return PackageInfo.model_validate(
        {"digest": digest_of("a"), "format": "joblib", "class": kind, "imports": imports or []}
    )


def policy(*, namespace: str = "team", **line: Any) -> TrustPolicySpec:
    return TrustPolicySpec.model_validate(
        {"namespaces": [namespace], "admit": [{"classes": ["Code"], **line}]}
    )


def test_data_needs_nobody() -> None:
    assert admitted(package("Data"), "team", []) == "Data"


def test_code_needs_a_policy_for_this_digest_here() -> None:
    mine = policy(packageDigest=digest_of("a"))
    assert admitted(package(), "team", []) is None
    assert admitted(package(), "team", [mine]) == "Digest"
    assert admitted(package(), "other", [mine]) is None
    assert admitted(package(), "team", [policy(packageDigest=digest_of("b"))]) is None


def test_a_policy_admits_only_the_classes_it_names() -> None:
    mine = policy(packageDigest=digest_of("a"))
    assert admitted(package("Restricted"), "team", [mine]) is None


def test_any_digest_is_named_as_such_and_an_exact_one_is_preferred() -> None:
    every = policy(anyDigest=True)
    assert admitted(package(), "team", [every]) == "Any"
    assert admitted(package(), "team", [every, policy(packageDigest=digest_of("a"))]) == "Digest"


def test_the_refusal_names_the_imports_and_keeps_its_ways_out() -> None:
    imports = [f"a.very.long.module.path.{'x' * 150}.Class{i}" for i in range(9)]
    reason, message = refusal(package(imports=imports), "team", True)
    assert reason == "NotTrusted"
    assert len(message) <= 512
    assert "a.very.long.module.path" in message
    assert "save it as data" in message
    assert f"namespaces [team], admit [{{packageDigest: {digest_of('a')}}}]" in message


def test_policies_that_cannot_be_read_are_the_operators_problem() -> None:
    reason, message = refusal(package(), "team", False)
    assert reason == "TrustUnreadable"
    assert "trustpolicies.sluice.dev" in message
