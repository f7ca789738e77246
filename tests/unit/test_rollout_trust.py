"""Trust is the administrator's word about a digest or a key in a namespace; a refusal says how."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from tests.worlds.rollout import digest_of

from sluice.api.modelrevision import PackageInfo
from sluice.api.trustpolicy import TrustPolicySpec
from sluice.rollout.trust import Trust, admitted, refusal, signature_may_help
from sluice.signature import key_digest, packed, pem_of, read_bundle, signed, statement

NOW = 1_800_000_000.0  # 2027-01-15T08:00:00Z
KEYS = {name: ec.generate_private_key(ec.SECP256R1()) for name in ("old", "new", "mallory")}
PEMS = {name: pem_of(key.public_key()) for name, key in KEYS.items()}


def package(kind: str = "Code", imports: list[str] | None = None, **more: Any) -> PackageInfo:
    return PackageInfo.model_validate(
        {"digest": digest_of("a"), "format": "joblib", "class": kind, "imports": imports or []}
        | more
    )


def signature(key: str, digest: str = digest_of("a")) -> str:
    files = {"sluice.json": digest.removeprefix("sha256:"), "model.joblib": "00" * 32}
    return packed(read_bundle(signed(statement("iris", files), KEYS[key])))


def policy(*, namespace: str = "team", **line: Any) -> TrustPolicySpec:
    return TrustPolicySpec.model_validate(
        {"namespaces": [namespace], "admit": [{"classes": ["Code"], **line}]}
    )


def signer(key: str, **more: Any) -> TrustPolicySpec:
    return policy(signer={"name": f"team-{key}", "publicKey": PEMS[key]}, **more)


def deny(**entry: Any) -> TrustPolicySpec:
    return TrustPolicySpec.model_validate({"namespaces": ["team"], "deny": [entry]})


def how(found: Trust | None) -> str | None:
    return None if found is None else found.how


def test_data_needs_nobody() -> None:
    assert how(admitted(package("Data"), "team", [], NOW)) == "Data"


def test_code_needs_a_policy_for_this_digest_here() -> None:
    mine = policy(packageDigest=digest_of("a"))
    assert admitted(package(), "team", [], NOW) is None
    assert how(admitted(package(), "team", [mine], NOW)) == "Digest"
    assert admitted(package(), "other", [mine], NOW) is None
    assert admitted(package(), "team", [policy(packageDigest=digest_of("b"))], NOW) is None


def test_a_policy_admits_only_the_classes_it_names() -> None:
    mine = policy(packageDigest=digest_of("a"))
    assert admitted(package("Restricted"), "team", [mine], NOW) is None
    theirs = signer("new")
    assert (
        admitted(package("Restricted", signature=signature("new")), "team", [theirs], NOW) is None
    )


def test_any_digest_is_named_as_such_and_an_exact_one_is_preferred() -> None:
    every, exact = policy(anyDigest=True), policy(packageDigest=digest_of("a"))
    assert how(admitted(package(), "team", [every], NOW)) == "Any"
    assert how(admitted(package(), "team", [every, exact], NOW)) == "Digest"
    mine = package(signature=signature("new"))
    assert how(admitted(mine, "team", [every, signer("new")], NOW)) == "Signer"


def test_a_signature_admits_by_its_key_and_names_the_signer() -> None:
    mine = package(signature=signature("new"))
    assert admitted(mine, "team", [signer("new")], NOW) == Trust("Signer", "team-new")
    assert admitted(mine, "other", [signer("new")], NOW) is None
    assert admitted(mine, "team", [signer("old")], NOW) is None
    assert admitted(package(), "team", [signer("new")], NOW) is None


def test_two_keys_at_once_are_a_rotation_and_the_old_one_can_go() -> None:
    before, after = package(signature=signature("old")), package(signature=signature("new"))
    both = [signer("old"), signer("new")]
    assert how(admitted(before, "team", both, NOW)) == "Signer"
    assert how(admitted(after, "team", both, NOW)) == "Signer"
    assert admitted(before, "team", both[1:], NOW) is None
    assert how(admitted(after, "team", both[1:], NOW)) == "Signer"


@pytest.mark.parametrize(
    "forged",
    [
        signature("mallory"),
        signature("new", digest_of("b")),  # stolen from another package
        "",
        "bm90IHppcHBlZA==",
        "not base64",
        "A" * 4096,
    ],
)
def test_a_tenants_forged_report_admits_nothing(forged: str) -> None:
    mine = package(signature=forged)
    assert admitted(mine, "team", [signer("new"), signer("old")], NOW) is None


def test_a_key_that_is_no_key_admits_nothing() -> None:
    broken = policy(signer={"name": "x", "publicKey": PEMS["new"].replace("E", "F")})
    assert admitted(package(signature=signature("new")), "team", [broken], NOW) is None


def test_a_revoked_key_counts_nowhere_and_a_digest_still_does() -> None:
    mine = package(signature=signature("old"))
    revoked = deny(keyDigest=key_digest(PEMS["old"]))
    assert admitted(mine, "team", [signer("old"), revoked], NOW) is None
    assert how(
        admitted(mine, "team", [signer("old"), deny(keyDigest=key_digest(PEMS["new"]))], NOW)
    )
    exact = policy(packageDigest=digest_of("a"))
    assert how(admitted(mine, "team", [signer("old"), revoked, exact], NOW)) == "Digest"


@pytest.mark.parametrize("kind", ["Code", "Data"])
def test_a_denied_digest_is_admitted_by_nothing(kind: str) -> None:
    lines = [policy(packageDigest=digest_of("a")), policy(anyDigest=True), signer("new")]
    mine = package(kind, signature=signature("new"))
    no = deny(packageDigest=digest_of("a"), reason="learned from leaked data")
    assert admitted(mine, "team", [*lines, no], NOW) is None
    reason, message = refusal(mine, "team", [*lines, no], True, NOW)
    assert reason == "Denied" and "learned from leaked data" in message and len(message) <= 512
    assert admitted(mine, "team", [*lines, deny(packageDigest=digest_of("b"))], NOW) is not None


def test_a_line_ends_when_it_says_and_the_one_that_lasts_is_shown() -> None:
    ends = policy(packageDigest=digest_of("a"), expires="2027-01-15T08:00:01Z")
    assert admitted(package(), "team", [ends], NOW) == Trust("Digest", until=NOW + 1)
    assert admitted(package(), "team", [ends], NOW + 1) is None
    later = policy(packageDigest=digest_of("a"), expires="2027-01-15T08:00:09Z")
    assert admitted(package(), "team", [ends, later], NOW) == Trust("Digest", until=NOW + 9)
    never = policy(packageDigest=digest_of("a"))
    assert admitted(package(), "team", [ends, never, later], NOW) == Trust("Digest")
    nonsense = policy(packageDigest=digest_of("a"), expires="2027-02-31T00:00:00Z")
    assert admitted(package(), "team", [nonsense], NOW) is None


def test_the_refusal_names_the_imports_and_keeps_its_ways_out() -> None:
    imports = [f"a.very.long.module.path.{'x' * 150}.Class{i}" for i in range(9)]
    reason, message = refusal(package(imports=imports), "team", [], True, NOW)
    assert reason == "NotTrusted"
    assert len(message) <= 512
    assert "a.very.long.module.path" in message
    assert "save it as data" in message
    assert f"namespaces [team], admit [{{packageDigest: {digest_of('a')}}}]" in message


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({}, "It is not signed (sluice sign"),
        ({"signature": signature("mallory")}, "It is not signed by a key that is admitted here"),
        ({"signature_problem": "The signature has x."}, "The signature has x."),
    ],
)
def test_a_refusal_says_what_is_wrong_with_the_signature(more: dict[str, str], said: str) -> None:
    _, message = refusal(package(**more), "team", [signer("new")], True, NOW)
    assert message.startswith(said) and "Loading the joblib package" in message
    assert signature_may_help(package(**more), "team", [signer("new")], NOW)
    elsewhere = [signer("new", namespace="other"), signer("new", expires="2026-01-01T00:00:00Z")]
    _, message = refusal(package(**more), "team", elsewhere, True, NOW)
    assert message.startswith("Loading the joblib package")
    assert not signature_may_help(package(**more), "team", elsewhere, NOW)


def test_policies_that_cannot_be_read_are_the_operators_problem() -> None:
    reason, message = refusal(package(), "team", [], False, NOW)
    assert reason == "TrustUnreadable"
    assert "trustpolicies.sluice.dev" in message
