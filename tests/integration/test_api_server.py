"""What the real API server makes of the CRDs: names, policies, records, status, columns.

Here and in test_api_*_rules.py every refused object has a twin that differs in the one field at
fault and is accepted.  A test here proves that no rule of the CRDs is without such a pair.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from tests.integration import (
    test_api_analysis_rules,
    test_api_rollout_rules,
    test_api_serving_rules,
)
from tests.integration.crd_rules import (
    DIGEST,
    MODEL,
    Case,
    Server,
    assert_told_apart,
    minimal,
    path_of,
    put,
)

from sluice.api.cel import VALIDATIONS
from sluice.api.crd import crd, stale
from sluice.api.kinds import KINDS, MODEL_DEPLOYMENT, MODEL_REVISION, TRUST_POLICY, Kind
from sluice.signature import pem_of

pytestmark = pytest.mark.cluster

CRDS = Path(__file__).parents[2] / "crds"
OTHER = "sha256:" + "ab" * 32

WHOLE = [
    Case("metadata.name", "a" * 41, "a" * 40, "at most 40 characters", "<nil>"),
    Case("metadata.name", "1iris", "iris1", "must start with a letter", "<nil>"),
    Case("spec", {}, {"model": {"uri": "s3://models/iris"}}, "Required value", MODEL),
]

CURVES = (ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1())
_OTHER = ed25519.Ed25519PrivateKey.generate().public_key()
NO_KEYS = (
    "-----BEGIN PUBLIC KEY-----\n-----END PUBLIC KEY-----\n",
    _OTHER.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode(),
    "-----BEGIN EC PRIVATE KEY-----\nMHcCAQEEIA==\n-----END EC PRIVATE KEY-----\n",
)


def signer(curve: ec.EllipticCurve = CURVES[0], *, pem: str = "") -> dict[str, str]:
    """A signer with ``pem``, or with a new key on ``curve``."""
    made = pem or pem_of(ec.generate_private_key(curve).public_key())
    return {"name": "ml-platform", "publicKey": made}


TRUST = [
    Case(
        "spec.admit",
        [{}],
        [{"packageDigest": DIGEST}],
        "exactly one of packageDigest",
        "spec.admit[0]",
        TRUST_POLICY,
    ),
    Case(
        "spec.admit",
        [{"packageDigest": DIGEST, "anyDigest": True}],
        [{"anyDigest": True}],
        "exactly one of packageDigest",
        "spec.admit[0]",
        TRUST_POLICY,
    ),
    Case(
        "spec.admit",
        [{"anyDigest": False}],
        [{"anyDigest": True, "classes": ["Code"]}],
        "anyDigest must be true or absent",
        "spec.admit[0].anyDigest",
        TRUST_POLICY,
    ),
    Case(
        "spec.admit",
        [{"anyDigest": True, "classes": ["Data"]}],
        [{"anyDigest": True, "classes": ["Restricted"]}],
        "supported values",
        "spec.admit[0].classes[0]",
        TRUST_POLICY,
    ),
    Case(
        "spec.admit",
        [{"signer": signer(), "packageDigest": DIGEST}],
        [{"signer": signer(), "classes": ["Code"], "expires": "2027-01-31T00:00:00Z"}],
        "exactly one of packageDigest, signer",
        "spec.admit[0]",
        TRUST_POLICY,
    ),
    *(
        Case(
            "spec.admit",
            [{"signer": signer(pem=wrong)}],
            [{"signer": signer(curve)}],
            "public key in PEM on the curve",
            "spec.admit[0].signer.publicKey",
            TRUST_POLICY,
        )
        for wrong, curve in zip(NO_KEYS, CURVES, strict=True)
    ),
    Case(
        "spec.admit",
        [{"signer": {**signer(), "name": "ML Platform"}}],
        [{"signer": signer()}, {"signer": signer()}],
        "should match",
        "spec.admit[0].signer.name",
        TRUST_POLICY,
    ),
    Case(
        "spec.admit",
        [{"packageDigest": DIGEST, "expires": "2027-01-31"}],
        [{"packageDigest": DIGEST, "expires": "2027-01-31T00:00:00Z"}],
        "should match",
        "spec.admit[0].expires",
        TRUST_POLICY,
    ),
    Case(
        "spec.deny",
        [{"reason": "leaked"}],
        [{"packageDigest": DIGEST, "reason": "leaked"}],
        "exactly one of packageDigest and keyDigest",
        "spec.deny[0]",
        TRUST_POLICY,
    ),
    Case(
        "spec.deny",
        [{"packageDigest": DIGEST, "keyDigest": DIGEST}],
        [{"keyDigest": DIGEST}],
        "exactly one of packageDigest and keyDigest",
        "spec.deny[0]",
        TRUST_POLICY,
    ),
    Case(
        "spec",
        {"namespaces": ["dev"]},
        {"namespaces": ["dev"], "deny": [{"packageDigest": DIGEST}]},
        "admit or deny must be set",
        "spec.admit",
        TRUST_POLICY,
    ),
    Case("spec.namespaces", [], ["dev"], "at least 1 items", "spec.namespaces", TRUST_POLICY),
    Case(
        "spec.namespaces",
        ["dev", "dev"],
        ["dev", "prod"],
        "Duplicate value",
        "spec.namespaces[1]",
        TRUST_POLICY,
    ),
]

RECORDS = [
    Case(
        "verdict",
        {"phase": "Failed"},
        {"phase": "Failed", "scope": "Package"},
        "scope must be set when phase is Failed",
        "verdict.scope",
        MODEL_REVISION,
    ),
    Case(
        "verdict",
        {"phase": "Good"},
        {"phase": "Passed"},
        "supported values",
        "verdict.phase",
        MODEL_REVISION,
    ),
]

CASES = [*WHOLE, *TRUST, *RECORDS]
EVERY_CASE = [
    *CASES,
    *test_api_serving_rules.CASES,
    *test_api_rollout_rules.CASES,
    *test_api_analysis_rules.CASES,
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_wrong_value_is_refused_with_field_and_rule_and_its_twin_is_accepted(
    crd_server: Server, case: Case
) -> None:
    assert_told_apart(crd_server, case)


TYPOS = [
    (MODEL_DEPLOYMENT, "spec.model.url", "s3://models/iris", "spec.model.url"),
    (MODEL_DEPLOYMENT, "spec.rollout.step", [{"weight": 5}], "spec.rollout.step"),
    (MODEL_DEPLOYMENT, "spec.autoscaling", {"min": 1}, "spec.autoscaling"),
    (TRUST_POLICY, "spec.namespace", ["dev"], "spec.namespace"),
]


@pytest.mark.parametrize(("kind", "at", "value", "named"), TYPOS, ids=lambda v: str(v)[:30])
def test_a_field_that_does_not_exist_is_refused_by_name(
    crd_server: Server, kind: Kind, at: str, value: Any, named: str
) -> None:
    status, answer = crd_server.try_create(kind, put(minimal(kind), at, value))
    assert status == 400
    assert f'unknown field "{named}"' in answer["message"]


def _messages() -> set[str]:
    found: set[str] = set()

    def walk(node: Any) -> None:
        if isinstance(node, dict):
            found.update(rule["message"] for rule in node.get(VALIDATIONS, []))
            for child in node.values():
                walk(child)
        elif isinstance(node, list):
            for child in node:
                walk(child)

    for kind in KINDS:
        walk(crd(kind))
    return found


TRANSITIONS = ("spec must not change", "verdict must not be removed", "must not leave Failed")


def test_every_rule_has_a_case() -> None:
    said = [case.says for case in EVERY_CASE] + list(TRANSITIONS)
    assert [m for m in _messages() if not any(s.lower() in m.lower() for s in said)] == []


def test_the_committed_files_are_what_the_models_say() -> None:
    assert stale(CRDS) == []


@pytest.fixture
def change(crd_server: Server, namespace: str) -> Callable[..., tuple[int, dict[str, Any]]]:
    """Makes a ModelRevision, then patches it."""
    place = path_of(MODEL_REVISION, namespace)

    def changed(first: dict[str, Any], then: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        status, answer = crd_server.call("POST", place, {**minimal(MODEL_REVISION), **first})
        assert status == 201, answer
        return crd_server.call("PATCH", f"{place}/iris", then, "application/merge-patch+json")

    return changed


FAILED = {"verdict": {"phase": "Failed", "scope": "Package", "reason": "GateFailed"}}


@pytest.mark.parametrize(
    ("first", "then", "says"),
    [
        ({}, {"spec": {"uri": "s3://models/other"}}, "spec must not change"),
        ({}, {"spec": {"package": {"digest": OTHER}}}, "spec must not change"),
        ({}, {"spec": {"identity": {"digest": OTHER}}}, "spec must not change"),
        ({}, {"spec": {"podTemplate": {"spec": {"containers": []}}}}, "spec must not change"),
        ({}, {"spec": {"identity": {"more": 1}}}, "spec must not change"),
        (FAILED, {"verdict": {"phase": "Passed"}}, "must not leave Failed"),
        (FAILED, {"verdict": {"phase": "New"}}, "must not leave Failed"),
        (FAILED, {"verdict": {"phase": None}}, "must not leave Failed"),
        (FAILED, {"verdict": None}, "verdict must not be removed"),
    ],
    ids=str,
)
def test_a_record_is_not_rewritten(
    change: Callable[..., tuple[int, dict[str, Any]]],
    first: dict[str, Any],
    then: dict[str, Any],
    says: str,
) -> None:
    status, answer = change(first, then)
    assert status == 422, answer
    assert says in answer["message"]


@pytest.mark.parametrize(
    ("first", "then"),
    [
        ({}, {"metadata": {"labels": {"team": "a"}}}),
        ({}, {"verdict": {"phase": "Validated"}}),
        ({"verdict": {"phase": "Validated"}}, FAILED),
        (FAILED, {"verdict": {"message": "told again"}}),
        (FAILED, {"verdict": {"phase": "New", "retries": 1}}),
        ({"verdict": {"phase": "Withdrawn"}}, {"verdict": {"phase": "New", "attempts": 1}}),
    ],
    ids=str,
)
def test_what_may_change_in_a_record(
    change: Callable[..., tuple[int, dict[str, Any]]], first: dict[str, Any], then: dict[str, Any]
) -> None:
    status, answer = change(first, then)
    assert status == 200, answer


def test_a_new_object_is_not_yet_observed_and_scales(crd_server: Server, namespace: str) -> None:
    place = path_of(MODEL_DEPLOYMENT, namespace)
    status, made = crd_server.call("POST", place, minimal(MODEL_DEPLOYMENT))
    assert status == 201, made
    assert made["status"] == {"observedGeneration": -1}
    assert made["spec"] == {"model": {"uri": "s3://models/iris"}, "replicas": 2}
    status, scale = crd_server.call("GET", f"{place}/iris/scale")
    assert (status, scale["spec"]["replicas"]) == (200, 2)


def test_objects_are_found_by_digest(crd_server: Server, namespace: str) -> None:
    status, _ = crd_server.call("POST", path_of(MODEL_REVISION, namespace), minimal(MODEL_REVISION))
    assert status == 201
    place = path_of(MODEL_REVISION, namespace)
    for digest, expected in ((DIGEST, 1), (OTHER, 0)):
        _, found = crd_server.call("GET", f"{place}?fieldSelector=spec.package.digest={digest}")
        assert len(found["items"]) == expected


EXAMPLES = sorted((CRDS.parent / "manifests" / "examples").glob("*.yaml"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_every_example_is_accepted(crd_server: Server, path: Path) -> None:
    kinds = {kind.kind: kind for kind in KINDS}
    ours = [b for b in yaml.safe_load_all(path.read_text()) if b["kind"] in kinds]
    assert ours
    for body in ours:
        status, answer = crd_server.try_create(kinds[body["kind"]], body)
        assert status == 201, answer


def test_columns_read_well(crd_server: Server, namespace: str, kubectl: Callable[..., str]) -> None:
    place = path_of(MODEL_DEPLOYMENT, namespace)
    assert crd_server.call("POST", place, minimal(MODEL_DEPLOYMENT))[0] == 201
    role = {"digest": DIGEST, "ready": "2/2"}
    status = {
        "observedGeneration": 1,
        "url": f"http://iris.{namespace}.svc",
        "stable": {**role, "revision": "1f3a9c0b2d", "weight": {"desired": 75, "observed": 75}},
        "candidate": {**role, "revision": "77e01ab9c4", "weight": {"desired": 25, "observed": 25}},
        "step": {"index": 2, "count": 4, "summary": "25 %: 180 of 250 requests, about 40 s"},
        "worstCheck": "latency",
        "worstEvidence": "12%",
        "conditions": [
            _condition("Ready", "Unknown", "RolloutInFlight"),
            _condition("Validated", "True", "AnswersOnly"),
        ],
    }
    code, answer = crd_server.call(
        "PATCH", f"{place}/iris/status", {"status": status}, "application/merge-patch+json"
    )
    assert code == 200, answer
    head, row = kubectl("get", "mdep", "-n", namespace).splitlines()
    assert head.split() == ["NAME", "READY", "STABLE", "CANDIDATE", "WEIGHT", "REASON", "AGE"]
    assert row.split()[:6] == [
        "iris", "Unknown", "1f3a9c0b2d", "77e01ab9c4", "25", "RolloutInFlight",
    ]  # fmt: skip
    wide = kubectl("get", "mdep", "-n", namespace, "-o", "wide")
    assert "iris" in kubectl("get", "sluice", "-n", namespace)
    for shown in ("180 of 250 requests", "latency", "12%", "AnswersOnly", f"iris.{namespace}.svc"):
        assert shown in wide


def _condition(kind: str, status: str, reason: str) -> dict[str, Any]:
    return {"type": kind, "status": status, "reason": reason, "message": "",
            "observedGeneration": 1, "lastTransitionTime": "2026-01-01T00:00:00Z"}  # fmt: skip


def test_explain_reads_well(crd_server: Server, kubectl: Callable[..., str]) -> None:
    said = kubectl("explain", "mdep.spec.rollout.steps")
    for wanted in ("Shares of traffic in rising order", "Instead of weight", "minDuration",
                   "enum: Manual", "Default 2m below 10"):  # fmt: skip
        assert wanted in said
    everything = kubectl("explain", "mdep", "--recursive")
    assert "holdback" in everything
