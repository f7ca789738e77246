"""From a source to a candidate: what may start, what is refused, what is tried again."""

from __future__ import annotations

from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from tests.worlds.rollout import SimWorld, digest_of, spec_for
from tests.worlds.stories import serving, state, stepping, until, watching

from sluice.api.trustpolicy import TrustPolicySpec
from sluice.rollout.admission import LOOK_AGAIN
from sluice.rollout.keep import FILE_LAG
from sluice.rollout.model import ResolveView
from sluice.rollout.times import rfc3339
from sluice.signature import key_digest, packed, pem_of, read_bundle, signed, statement

KEY = ec.generate_private_key(ec.SECP256R1())
PEM = pem_of(KEY.public_key())


def quarantined() -> SimWorld:
    """``b`` was taken back; ``a`` serves."""
    world = stepping()
    world.command("abort")
    until(world, "Stopped")
    world.run(3)
    return world


def gets_nothing(world: SimWorld, letter: str, seconds: int = 40) -> bool:
    world.got_traffic.clear()
    world.run(seconds)
    return world.revision_of(letter) not in world.got_traffic


def test_a_third_revision_supersedes_the_candidate_without_a_verdict() -> None:
    world = stepping()
    world.ask_for("c")
    world.run(1)
    assert world.roles.weight == 0
    b = world.revision_of("b") or ""
    assert world.revisions[b].verdict.phase == "Validated"
    until(world, "Watching")
    assert world.roles.stable == world.revision_of("c")


def test_the_spec_back_at_stable_ends_the_rollout_without_a_verdict() -> None:
    world = stepping()
    world.ask_for("a")
    world.run(2)
    assert state(world) == "Idle"
    assert world.roles.weight == 0
    assert world.condition("Ready").status == "True"
    assert world.revisions[world.revision_of("b") or ""].verdict.phase == "Validated"


def test_a_flap_a_b_a_b_does_not_launder_a_quarantined_package() -> None:
    world = quarantined()
    for letter in "abab":
        world.ask_for(letter)
        world.run(6)
    assert gets_nothing(world, "b")
    assert world.condition("Stalled").reason == "RevisionQuarantined"


def test_the_same_bytes_under_another_address_are_refused() -> None:
    world = quarantined()
    world.ask_for("b-again")
    assert gets_nothing(world, "b")
    assert "retry=626262626262" in world.condition("Stalled").message


def test_stables_bytes_under_another_address_are_stable() -> None:
    world = serving()
    stable, jobs = world.roles.stable, world.events.count("the package is not known yet")
    world.ask_for("a-moved")
    world.run(4)
    writes = world.writes
    world.run(60)
    assert world.roles.stable == stable
    assert world.condition("Ready").status == "True"
    assert world.writes == writes, world.notes[-4:]
    assert world.events.count("the package is not known yet") == jobs + 1, "looked at once"


def test_a_candidate_under_another_address_is_looked_at_once() -> None:
    world = serving()
    world.ask_for("b")
    until(world, "Stepping")
    world.ask_for("b-moved")
    world.run(10)
    world.events.clear()
    world.run(60)
    assert "the package is not known yet" not in world.events
    assert world.roles.stable == world.revision_of("b")


def test_delete_and_apply_finds_the_quarantine_in_the_records() -> None:
    before = quarantined()
    failed = {r.hash: r for r in before.revisions.values() if r.verdict.phase == "Failed"}
    world = SimWorld(spec_for("b"), revisions=failed)
    assert gets_nothing(world, "b")
    assert world.roles.stable is None
    assert world.condition("Stalled").reason == "RevisionQuarantined"
    world.ask_for("a")
    world.run(12)
    assert world.condition("Ready").status == "True"


def test_the_spec_at_stable_is_fine_although_its_package_failed_in_another_revision() -> None:
    world = serving()
    world.change(serving={"timeout": "3s"})
    until(world, "Stepping")
    world.run(3)
    world.command("abort")
    world.run(5)
    assert world.condition("Stalled").reason == "RevisionQuarantined"
    world.change(serving={})
    world.run(3)
    assert world.condition("Stalled").status == "False"
    assert world.condition("Ready").status == "True"


def test_a_revision_that_was_promoted_before_only_has_to_be_ready() -> None:
    world = watching()
    until(world, "Idle")
    world.run(FILE_LAG + 10)
    assert world.revision_of("a") not in world.wanted, "its pods are gone"
    world.ask_for("a")
    until(world, "Watching", 12)
    assert world.wanted[world.revision_of("a") or ""] == 2
    assert world.roles.stable == world.revision_of("a")
    assert world.roles.previous == world.revision_of("b")


def test_the_spec_back_at_previous_in_the_watch_serves_at_once() -> None:
    world = watching()
    wanted = dict(world.wanted)
    world.ask_for("a")
    world.run(1)
    assert world.roles.stable == world.revision_of("a")
    assert world.wanted == wanted
    world.run(3)
    assert world.condition("Ready").status == "True"


def test_a_watch_comes_before_the_next_canary() -> None:
    world = watching()
    world.ask_for("c")
    world.run(12)
    assert state(world) == "Provisioning"
    assert world.progress.watch is not None
    assert world.revision_of("c") not in world.wanted or world.roles.candidate is None
    until(world, "Stepping", 100)


def test_code_is_refused_until_a_policy_admits_it() -> None:
    world = serving()
    world.classes["d"] = "Code"
    world.ask_for("d")
    world.run(10)
    stalled = world.condition("Stalled")
    assert stalled.reason == "NotTrusted"
    assert digest_of("d") in stalled.message
    assert world.revision_of("d") is None
    world.policies = (policy("other"),)
    world.run(5)
    assert world.condition("Stalled").reason == "NotTrusted"
    world.policies = (policy("default"),)
    until(world, "Watching")
    assert world.condition("CodeTrusted").reason == "TrustDigest"


def test_a_policy_that_goes_away_takes_the_candidate_back_without_a_verdict() -> None:
    world = serving()
    world.classes["d"] = "Code"
    world.policies = (policy("default"),)
    world.ask_for("d")
    until(world, "Stepping")
    world.run(3)
    world.policies = ()
    world.run(3)
    assert world.roles.weight == 0
    assert world.condition("Stalled").reason == "NotTrusted"
    assert world.revisions[world.revision_of("d") or ""].verdict.phase == "Validated"


def test_a_policy_that_goes_away_leaves_stable_serving() -> None:
    world = serving()
    world.classes["d"] = "Code"
    world.policies = (policy("default"),)
    world.ask_for("d")
    until(world, "Watching")
    world.policies = ()
    world.run(10)
    assert world.roles.stable == world.revision_of("d")
    assert world.condition("Available").status == "True"
    assert world.condition("CodeTrusted").status == "False"


def test_policies_that_cannot_be_read_admit_nothing_and_are_named() -> None:
    world = serving()
    world.classes["d"] = "Code"
    world.policies_readable = False
    world.ask_for("d")
    world.run(10)
    assert world.condition("Stalled").reason == "TrustUnreadable"


def test_a_fetch_that_may_succeed_later_is_tried_again_with_backoff() -> None:
    world = serving()
    world.ask_for("b")
    world.fetched = ResolveView("Failed", None, "Unreachable", "No answer.", retryable=True)
    world.run(5)
    assert world.condition("Ready").reason == "Unreachable"
    assert world.condition("Reconciling").status == "True"
    assert world.condition("Stalled").status == "False"
    world.fetched = None
    until(world, "Watching")


def test_a_fetch_that_cannot_help_is_stalled_and_stable_serves() -> None:
    world = serving()
    world.ask_for("b")
    world.fetched = ResolveView("Failed", None, "Corrupt", "model.onnx is not what was published.")
    world.run(60)
    assert world.condition("Stalled").reason == "Corrupt"
    assert world.condition("Available").status == "True"
    world.ask_for("c")
    world.fetched = None
    until(world, "Watching")


def policy(namespace: str) -> TrustPolicySpec:
    return TrustPolicySpec.model_validate(
        {
            "namespaces": [namespace],
            "admit": [{"packageDigest": digest_of("d"), "classes": ["Code"]}],
        }
    )


def signature(letter: str, key: ec.EllipticCurvePrivateKey = KEY) -> str:
    files = {"sluice.json": digest_of(letter).removeprefix("sha256:")}
    return packed(read_bundle(signed(statement("iris", files), key)))


def signer(**more: Any) -> TrustPolicySpec:
    line = {"signer": {"name": "ml-platform", "publicKey": PEM}, **more}
    return TrustPolicySpec.model_validate({"namespaces": ["default"], "admit": [line]})


def deny(**entry: str) -> TrustPolicySpec:
    return TrustPolicySpec.model_validate({"namespaces": ["default"], "deny": [entry]})


def signed_code(*, sign: bool = True) -> SimWorld:
    """``d`` is code, signed by the key that the only policy admits."""
    world = serving()
    world.classes["d"] = "Code"
    if sign:
        world.signatures["d"] = signature("d")
    world.policies = (signer(),)
    world.ask_for("d")
    return world


def test_a_signed_package_rolls_out_and_status_names_the_signer() -> None:
    world = signed_code()
    until(world, "Watching")
    trusted = world.condition("CodeTrusted")
    assert (trusted.status, trusted.reason) == ("True", "TrustSigner")
    assert "ml-platform" in trusted.message
    record = world.revisions[world.revision_of("d") or ""]
    assert record.package.signature == world.signatures["d"]


def test_a_package_signed_later_is_fetched_again_when_its_job_is_gone_or_by_retry() -> None:
    for by_retry in (True, False):
        world = signed_code(sign=False)
        world.run(5)
        stalled = world.condition("Stalled")
        assert stalled.reason == "NotTrusted" and "It is not signed" in stalled.message
        world.signatures["d"] = signature("d")
        world.run(20)
        assert world.condition("Stalled").reason == "NotTrusted", "nobody looks by the second"
        if by_retry:
            world.command("retry", value=digest_of("d")[:20])
        else:
            world.resolved = False  # Kubernetes removes an ended job after an hour.
        until(world, "Watching")
        assert world.condition("CodeTrusted").reason == "TrustSigner"


def test_a_signature_of_another_package_or_key_starts_nothing() -> None:
    for forged in (signature("a"), signature("d", ec.generate_private_key(ec.SECP256R1())), "x"):
        world = signed_code(sign=False)
        world.signatures["d"] = forged
        world.run(20)
        assert "not signed by a key" in world.condition("Stalled").message
        assert world.revision_of("d") is None


def test_a_revoked_key_takes_the_candidate_back_and_leaves_stable_serving() -> None:
    revoked = deny(keyDigest=key_digest(PEM))
    world = signed_code()
    until(world, "Stepping")
    world.policies = (signer(), revoked)
    world.run(3)
    assert world.roles.weight == 0
    assert world.condition("Stalled").reason == "NotTrusted"
    world = signed_code()
    until(world, "Watching")
    world.policies = (signer(), revoked)
    world.run(10)
    assert world.roles.stable == world.revision_of("d")
    assert world.condition("Available").status == "True"
    assert world.condition("CodeTrusted").status == "False"
    assert "It goes on serving." in world.condition("CodeTrusted").message
    exact = policy("default")  # The digest is known good: the administrator says so.
    world.policies = (signer(), revoked, exact)
    world.run(3)
    assert world.condition("CodeTrusted").reason == "TrustDigest"


def test_a_denied_package_is_refused_though_it_is_data() -> None:
    world = serving()
    world.policies = (deny(packageDigest=digest_of("b"), reason="recalled"),)
    world.ask_for("b")
    world.run(10)
    assert world.condition("Stalled").reason == "Denied"
    assert "recalled" in world.condition("Stalled").message
    assert world.condition("CodeTrusted").reason == "Denied"
    assert "serving" not in world.condition("CodeTrusted").message
    assert world.revision_of("b") is None
    world.policies = ()
    until(world, "Watching")


def test_trust_that_ends_is_looked_at_again_in_time() -> None:
    world = signed_code()
    world.policies = (signer(expires=rfc3339(world.now + 400.0)),)
    until(world, "Watching")
    assert f"until {rfc3339(world.now)[:11]}" in world.condition("CodeTrusted").message
    assert world.requeue is not None and world.requeue <= LOOK_AGAIN
    world.run(450)
    assert world.condition("CodeTrusted").status == "False"
    assert world.roles.stable == world.revision_of("d")
