"""``sluice sign`` and ``verify``: who signed, over which bytes, and every way it goes wrong."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.tools.packages import linear_package

from sluice import signature
from sluice.api.trustpolicy import PUBLIC_KEY_PATTERN
from sluice.cli import group
from sluice.errors import PackageError, SluiceError
from sluice.package.signing import verify_package

CURVES = (ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1())


def write_keys(folder: Path, private: Any, passphrase: bytes | None = None) -> tuple[Path, Path]:
    lock = BestAvailableEncryption(passphrase) if passphrase else NoEncryption()
    secret, public = folder / "key.pem", folder / "key.pub"
    secret.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, lock))
    subject = PublicFormat.SubjectPublicKeyInfo
    public.write_bytes(private.public_key().public_bytes(Encoding.PEM, subject))
    return secret, public


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    return write_keys(tmp_path, ec.generate_private_key(ec.SECP256R1()))


@pytest.fixture
def package(tmp_path: Path) -> Path:
    linear_package(tmp_path / "package")
    return tmp_path / "package"


def sluice(*arguments: object, **options: Any) -> Result:
    return CliRunner().invoke(group, [str(a) for a in arguments], **options)


def refused(*arguments: object, **options: Any) -> SluiceError:
    error = sluice(*arguments, **options).exception
    assert isinstance(error, SluiceError), repr(error)
    assert error.message.endswith(".") and error.hint
    return error


@pytest.mark.parametrize("curve", CURVES, ids=lambda c: c.name)
def test_signed_on_every_curve_and_verified(
    curve: ec.EllipticCurve, package: Path, tmp_path: Path
) -> None:
    secret, public = write_keys(tmp_path, ec.generate_private_key(curve))
    made = sluice("sign", package, "--key", secret)
    assert made.exit_code == 0, made.output
    shown = sluice("verify", package, "--key", public)
    assert shown.exit_code == 0, shown.output
    assert made.output.splitlines()[1:] == shown.output.splitlines()[1:]
    found = json.loads((package / "model.sig").read_bytes())
    hint = found["verificationMaterial"]["publicKey"]["hint"]
    assert f"sha256:{hint}" in shown.output
    assert signature.key_digest(public.read_text()) == f"sha256:{hint}"


@pytest.mark.parametrize("curve", CURVES, ids=lambda c: c.name)
def test_the_policys_pattern_takes_every_key_that_can_sign(curve: ec.EllipticCurve) -> None:
    import re

    pattern = re.compile(
        PUBLIC_KEY_PATTERN.replace("[[:space:]]", r"\s").replace("[:space:]", r"\s")
    )
    for _ in range(20):
        pem = signature.pem_of(ec.generate_private_key(curve).public_key())
        assert pattern.match(pem) and pattern.match(pem.replace("\n", "\r\n"))
        assert len(pem) <= 1024


def test_signing_changes_no_digest_and_inspect_says_that_it_is_signed(
    package: Path, keys: tuple[Path, Path]
) -> None:
    before = json.loads(sluice("inspect", package, "--json").output)
    sluice("sign", package, "--key", keys[0])
    after = json.loads(sluice("inspect", package, "--json").output)
    assert (before["signed"], after["signed"]) == (False, True)
    assert {**after, "signed": False} == before
    assert "sluice verify" in sluice("inspect", package).output


def test_an_encrypted_key_asks_or_takes_the_environment(package: Path, tmp_path: Path) -> None:
    secret, public = write_keys(tmp_path, ec.generate_private_key(ec.SECP256R1()), b"sesame")
    assert refused("sign", package, "--key", secret).reason == "WrongPassphrase"
    wrong = {"SLUICE_KEY_PASSPHRASE": "open"}
    error = refused("sign", package, "--key", secret, env=wrong)
    assert "does not open" in error.message and not (package / "model.sig").exists()
    right = {"SLUICE_KEY_PASSPHRASE": "sesame"}
    assert sluice("sign", package, "--key", secret, env=right).exit_code == 0
    assert sluice("verify", package, "--key", public).exit_code == 0


@pytest.mark.parametrize(
    ("private", "said"),
    [
        (ed25519.Ed25519PrivateKey.generate(), "of another kind"),
        (rsa.generate_private_key(65537, 2048), "of another kind"),
        (ec.generate_private_key(ec.SECP256K1()), "of another kind"),
    ],
    ids=["ed25519", "rsa", "secp256k1"],
)
def test_keys_that_the_format_does_not_know(
    private: Any, said: str, package: Path, tmp_path: Path
) -> None:
    secret, public = write_keys(tmp_path, private)
    assert said in refused("sign", package, "--key", secret).message
    assert "P-256, P-384 and P-521" in refused("verify", package, "--key", public).hint


def test_the_wrong_half_and_no_key_at_all(
    package: Path, keys: tuple[Path, Path], tmp_path: Path
) -> None:
    secret, public = keys
    assert "a public key" in refused("sign", package, "--key", public).message
    assert "a private key" in refused("verify", package, "--key", secret).message
    (tmp_path / "huge").write_bytes(b"-" * 100_000)
    for file, reason in (("nowhere", "InvalidKey"), ("huge", "InvalidKey")):
        assert refused("sign", package, "--key", tmp_path / file).reason == reason
        assert refused("verify", package, "--key", tmp_path / file).reason == reason


def test_unsigned_another_key_another_package_and_a_changed_file(
    package: Path, keys: tuple[Path, Path], tmp_path: Path
) -> None:
    secret, public = keys
    assert refused("verify", package, "--key", public).reason == "SignatureMissing"
    sluice("sign", package, "--key", secret)
    (tmp_path / "other").mkdir()
    _, stranger = write_keys(tmp_path / "other", ec.generate_private_key(ec.SECP256R1()))
    assert "was not made with the key" in refused("verify", package, "--key", stranger).message
    linear_package(tmp_path / "second", bias=1.0)
    (tmp_path / "second" / "model.sig").write_bytes((package / "model.sig").read_bytes())
    assert "of another package" in refused("verify", tmp_path / "second", "--key", public).message
    model = package / "model.onnx"
    model.write_bytes(b"X" + model.read_bytes()[1:])
    assert refused("verify", package, "--key", public).reason == "Corrupt"
    assert refused("sign", package, "--key", secret).reason == "Corrupt"


def test_a_bare_file_and_a_manifest_that_lists_the_signature(
    package: Path, keys: tuple[Path, Path], tmp_path: Path
) -> None:
    assert refused("sign", package / "model.onnx", "--key", keys[0]).reason == "NotAPackage"
    linear_package(tmp_path / "own", extra={"model.sig": b"{}"})
    error = refused("sign", tmp_path / "own", "--key", keys[0])
    assert error.reason == "Corrupt" and "model.sig" in error.message


def test_where_nothing_may_be_written(
    package: Path, keys: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    (package / "model.sig").mkdir()
    assert refused("sign", package, "--key", keys[0]).reason == "CannotWrite"
    assert [p.name for p in package.glob(".model.sig*")] == []
    assert refused("verify", package, "--key", keys[1]).reason == "SignatureMissing"


def payload_of(bundle: dict[str, Any]) -> dict[str, Any]:
    return dict(json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"])))


def _envelope(change: Callable[[dict[str, Any]], Any]) -> Callable[[dict[str, Any]], bytes]:
    def made(bundle: dict[str, Any]) -> bytes:
        change(bundle["dsseEnvelope"])
        return json.dumps(bundle).encode()

    return made


HOSTILE: dict[str, Callable[[dict[str, Any]], bytes]] = {
    "empty": lambda b: b"",
    "not json": lambda b: b"\x00\xff",
    "a list": lambda b: b"[]",
    "deep": lambda b: b'{"a":' * 100_000,
    "huge": lambda b: b" " * (signature.MAX_BUNDLE_BYTES + 1),
    "truncated": lambda b: json.dumps(b).encode()[:-40],
    "another media type": lambda b: json.dumps({**b, "mediaType": "text/html"}).encode(),
    "no material": lambda b: json.dumps({**b, "verificationMaterial": None}).encode(),
    "a certificate": lambda b: json.dumps(
        {**b, "verificationMaterial": {"certificate": {}}}
    ).encode(),
    "no envelope": lambda b: json.dumps({**b, "dsseEnvelope": []}).encode(),
    "another payload type": _envelope(lambda e: e.update(payloadType="text/plain")),
    "payload of a number": _envelope(lambda e: e.update(payload=7)),
    "payload not base64": _envelope(lambda e: e.update(payload="ü")),
    "no signatures": _envelope(lambda e: e.update(signatures=[])),
    "signatures of a number": _envelope(lambda e: e.update(signatures=7)),
    "a signature of a number": _envelope(lambda e: e.update(signatures=[7])),
    "too many signatures": _envelope(lambda e: e.update(signatures=e["signatures"] * 9)),
    "a signature of zeros": _envelope(lambda e: e.update(signatures=[{"sig": "AAAA"}])),
    "a changed payload": _envelope(lambda e: e.update(payload=e["payload"].replace("e", "f", 1))),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_bundles_are_refused_by_name(
    name: str, package: Path, keys: tuple[Path, Path]
) -> None:
    sluice("sign", package, "--key", keys[0])
    file = package / "model.sig"
    file.write_bytes(HOSTILE[name](json.loads(file.read_bytes())))
    assert refused("verify", package, "--key", keys[1]).reason == "SignatureInvalid"


def _swap(**fields: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda body: {**body, **fields}


def _predicate(**fields: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda body: {**body, "predicate": {**body["predicate"], **fields}}


STATEMENTS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "a list": lambda body: [body],
    "another statement": _swap(_type="https://in-toto.io/Statement/v0.1"),
    "another predicate": _swap(predicateType="https://slsa.dev/provenance/v1"),
    "two subjects": lambda body: {**body, "subject": body["subject"] * 2},
    "no subject": _swap(subject=[]),
    "a wrong root": _swap(subject=[{"name": "x", "digest": {"sha256": "00" * 32}}]),
    "no predicate": _swap(predicate=None),
    "no resources": _predicate(resources=[]),
    "a resource of a number": _predicate(resources=[7]),
    "shards": _predicate(serialization={"method": "shards", "hash_type": "sha256"}),
    "another hash": lambda body: _predicate(
        resources=[{**r, "algorithm": "blake3"} for r in body["predicate"]["resources"]]
    )(body),
    "a file twice": lambda body: _predicate(resources=body["predicate"]["resources"] * 2)(body),
    "no manifest": lambda body: _predicate(resources=body["predicate"]["resources"][:-1])(body),
}


@pytest.mark.parametrize("name", STATEMENTS)
def test_a_signed_statement_that_is_no_models_is_refused(
    name: str, package: Path, tmp_path: Path
) -> None:
    private = ec.generate_private_key(ec.SECP256R1())
    secret, public = write_keys(tmp_path, private)
    sluice("sign", package, "--key", secret)
    body = STATEMENTS[name](payload_of(json.loads((package / "model.sig").read_bytes())))
    (package / "model.sig").write_bytes(signature.signed(json.dumps(body).encode(), private))
    assert refused("verify", package, "--key", public).reason == "SignatureInvalid"


def test_a_statement_that_lists_other_bytes_than_the_manifest(
    package: Path, tmp_path: Path
) -> None:
    private = ec.generate_private_key(ec.SECP256R1())
    _, public = write_keys(tmp_path, private)
    manifest = json.loads(sluice("inspect", package, "--json").output)["digest"][7:]
    said = signature.statement("x", {"sluice.json": manifest, "model.onnx": "00" * 32})
    (package / "model.sig").write_bytes(signature.signed(said, private))
    assert "lists other bytes" in refused("verify", package, "--key", public).message
    # Files that were beside the package when it was signed are no part of it.
    said = signature.statement("x", {"sluice.json": manifest, "README.md": "00" * 32})
    (package / "model.sig").write_bytes(signature.signed(said, private))
    assert verify_package(package, public.read_text())[1].name == "x"


def test_one_of_several_signatures_is_enough(package: Path, tmp_path: Path) -> None:
    """Signed by the old and the new key, as during a rotation."""
    keys = [ec.generate_private_key(curve) for curve in CURVES[:2]]
    bundles = []
    for private in keys:
        secret, _ = write_keys(tmp_path, private)
        sluice("sign", package, "--key", secret)
        bundles.append(json.loads((package / "model.sig").read_bytes()))
    bundles[0]["dsseEnvelope"]["signatures"] += bundles[1]["dsseEnvelope"]["signatures"]
    (package / "model.sig").write_text(json.dumps(bundles[0]))
    for private in keys:
        verify_package(package, signature.pem_of(private.public_key()))
    stranger = ec.generate_private_key(ec.SECP256R1()).public_key()
    with pytest.raises(PackageError, match="was not made with the key"):
        verify_package(package, signature.pem_of(stranger))


@pytest.mark.parametrize("text", ["", "ü", "AAAA", "eJyrjgUAATQAug==", "A" * 4097])
def test_what_is_not_a_packed_envelope(text: str) -> None:
    with pytest.raises(PackageError) as error:
        signature.unpacked(text)
    assert error.value.reason == "SignatureInvalid"


def test_a_packed_bomb_is_cut_off() -> None:
    bomb = base64.b64encode(zlib.compress(b'["' + b"A" * 30_000_000 + b'"]', 9)).decode()
    with pytest.raises(PackageError):
        signature.unpacked(bomb)


def test_packing_keeps_every_byte_also_of_payloads_that_are_no_text() -> None:
    envelope = signature.Envelope(bytes(range(256)), (b"\x00\xff", b"two"))
    assert signature.unpacked(signature.packed(envelope)) == envelope


def test_thirty_files_fit_into_a_report(tmp_path: Path) -> None:
    files = {
        f"wheels/distribution-1.{i}-cp311-cp311-manylinux_x86_64.whl": f"{i:064x}"
        for i in range(29)
    }
    said = signature.statement("iris", {**files, "sluice.json": "9f" * 32})
    made = signature.signed(said, ec.generate_private_key(ec.SECP521R1()))
    assert len(signature.packed(signature.read_bundle(made))) < signature.MAX_PACKED


def test_the_peers_requirements_are_pinned_with_hashes() -> None:
    pinned = Path(__file__).parents[1] / "signing_peers" / "model-signing.txt"
    lines = pinned.read_text(encoding="utf-8").splitlines()
    pins = [k for k, line in enumerate(lines) if "==" in line.split(";")[0]]
    assert pins and all("--hash=sha256:" in lines[k + 1] for k in pins)


FUZZ_KEY = ec.generate_private_key(ec.SECP256R1())
FUZZ_PEM = signature.pem_of(FUZZ_KEY.public_key())
FUZZ_BUNDLE = signature.signed(
    signature.statement("x", {"sluice.json": "9f" * 32, "a": "00" * 32}), FUZZ_KEY
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=8,
)


@settings(max_examples=300)
@given(st.integers(0, len(FUZZ_BUNDLE) - 1), st.binary(max_size=3), st.integers(0, 9))
def test_a_bundle_changed_anywhere_verifies_as_what_was_signed_or_not_at_all(
    place: int, put: bytes, cut: int
) -> None:
    changed = FUZZ_BUNDLE[:place] + put + FUZZ_BUNDLE[place + cut :]
    try:
        said = signature.verified(signature.read_bundle(changed), FUZZ_PEM)
    except PackageError as error:
        assert error.reason == "SignatureInvalid"
    else:
        assert said.digest == "sha256:" + "9f" * 32


def _put(tree: Any, path: list[int], value: Any) -> Any:
    """``tree`` with ``value`` somewhere; ``path`` says where."""
    if not path or not isinstance(tree, dict | list) or not tree:
        return value
    keys = list(tree) if isinstance(tree, dict) else list(range(len(tree)))
    key = keys[path[0] % len(keys)]
    copy = dict(tree) if isinstance(tree, dict) else list(tree)
    copy[key] = _put(tree[key], path[1:], value)
    return copy


@settings(max_examples=300)
@given(st.lists(st.integers(0, 9), max_size=5), JSON)
def test_a_signed_statement_of_any_shape_is_read_or_refused(path: list[int], value: Any) -> None:
    body = _put(payload_of(json.loads(FUZZ_BUNDLE)), path, value)
    bundle = signature.signed(json.dumps(body).encode(), FUZZ_KEY)
    try:
        said = signature.verified(signature.read_bundle(bundle), FUZZ_PEM)
    except PackageError as error:
        assert error.reason == "SignatureInvalid"
    else:
        assert set(said.files) >= {"sluice.json"} and said.digest.startswith("sha256:")


@settings(max_examples=200)
@given(JSON)
def test_a_report_of_any_shape_is_unpacked_or_refused(value: Any) -> None:
    text = base64.b64encode(zlib.compress(json.dumps(value).encode())).decode()
    try:
        signature.unpacked(text)
    except PackageError as error:
        assert error.reason == "SignatureInvalid"
