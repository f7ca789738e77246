"""Signatures of model packages, as OpenSSF Model Signing v1.0 writes them.

Called by ``sluice sign`` and ``verify`` where the bytes are, by the fetching job that reports a
signature, and by the operator that decides with it; calls ``cryptography`` only, and only where a
key is used.  A signature is a Sigstore bundle with a DSSE envelope around an in-toto statement that
lists the SHA-256 of every file.  One of them is ``sluice.json``, whose SHA-256 is the package's
digest: who holds statement, key and digest needs no other file to know what was signed.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sluice.errors import InvalidInputError, PackageError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.hashes import HashAlgorithm

SIGNATURE_NAME = "model.sig"
"""Where a package's signature lies: beside its files, outside its digest."""

MANIFEST = "sluice.json"
MAX_BUNDLE_BYTES = 1 << 20
MAX_PACKED = 2816
"""Characters of a packed envelope: what a report of 4,096 bytes has room for."""

MAX_SIGNATURES = 8
BUNDLE_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://model_signing/signature/v1.0"
CURVES = ("secp256r1", "secp384r1", "secp521r1")
IGNORED = (".git", ".gitattributes", ".github", ".gitignore", ".sluice-fetch", SIGNATURE_NAME)
"""Names that other verifiers are told to pass over: no part of a package."""


@dataclass(frozen=True)
class Envelope:
    """What was signed, byte for byte, and the signatures over it; nothing of it is verified."""

    payload: bytes
    signatures: tuple[bytes, ...]


@dataclass(frozen=True)
class Statement:
    """What a verified signature says: the SHA-256 (hex) of each file by its path."""

    name: str
    files: Mapping[str, str]

    @property
    def digest(self) -> str:
        """The digest of the package that was signed."""
        return f"sha256:{self.files[MANIFEST]}"


def statement(name: str, files: Mapping[str, str]) -> bytes:
    """The in-toto statement of ``files`` (path to SHA-256 in hex); the root digest is over theirs
    in the order of their names, as the specification of the predicate says."""
    ordered = sorted(files.items())
    resources = [{"name": k, "algorithm": "sha256", "digest": v} for k, v in ordered]
    serialization = {
        "method": "files",
        "hash_type": "sha256",
        "allow_symlinks": False,
        "ignore_paths": list(IGNORED),
    }
    body = {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": name, "digest": {"sha256": _root(v for _, v in ordered)}}],
        "predicateType": PREDICATE_TYPE,
        "predicate": {"serialization": serialization, "resources": resources},
    }
    return json.dumps(body, separators=(",", ":")).encode()


def signed(payload: bytes, key: ec.EllipticCurvePrivateKey) -> bytes:
    """The bundle of a statement signed with ``key``."""
    from cryptography.hazmat.primitives.asymmetric import ec

    public = key.public_key()
    made = key.sign(_pre_authentication(payload), ec.ECDSA(_hash_of(public)))
    envelope = {
        "payload": base64.b64encode(payload).decode(),
        "payloadType": PAYLOAD_TYPE,
        "signatures": [{"sig": base64.b64encode(made).decode(), "keyid": ""}],
    }
    hint = key_digest(pem_of(public)).removeprefix("sha256:")
    bundle = {
        "mediaType": BUNDLE_TYPE,
        "verificationMaterial": {"publicKey": {"hint": hint}, "tlogEntries": []},
        "dsseEnvelope": envelope,
    }
    return json.dumps(bundle, separators=(",", ":")).encode() + b"\n"


def read_bundle(data: bytes) -> Envelope:
    """The envelope in a bundle.  Raises PackageError SignatureInvalid."""
    if len(data) > MAX_BUNDLE_BYTES:
        raise _invalid(f"has more than {MAX_BUNDLE_BYTES:,} bytes")
    bundle = _object(data, "it")
    if bundle.get("mediaType") != BUNDLE_TYPE:
        raise _invalid(f"is not a Sigstore bundle ({BUNDLE_TYPE})")
    material = bundle.get("verificationMaterial")
    if not isinstance(material, dict) or "publicKey" not in material:
        raise _invalid(
            "was not made with a key", "Sign with a key: `sluice sign` or `model_signing sign key`."
        )
    envelope = bundle.get("dsseEnvelope")
    if not isinstance(envelope, dict) or envelope.get("payloadType") != PAYLOAD_TYPE:
        raise _invalid(f"holds no DSSE envelope of {PAYLOAD_TYPE}")
    return _envelope(envelope.get("payload"), _signatures(envelope))


def packed(envelope: Envelope) -> str:
    """The envelope as short text, for a report."""
    payload = envelope.payload.decode("utf-8", "surrogateescape")
    content = [payload, *(base64.b64encode(s).decode() for s in envelope.signatures)]
    return base64.b64encode(zlib.compress(json.dumps(content).encode(), 9)).decode()


def unpacked(text: str) -> Envelope:
    """What :func:`packed` made.  Raises PackageError SignatureInvalid."""
    try:
        unzip = zlib.decompressobj()
        data = unzip.decompress(base64.b64decode(text, validate=True), MAX_BUNDLE_BYTES)
        content = json.loads(data)
        payload, *signatures = content
        payload = payload.encode("utf-8", "surrogateescape")
    except (ValueError, TypeError, AttributeError, zlib.error, RecursionError):
        raise _invalid("cannot be read as it was reported") from None
    return _envelope(base64.b64encode(payload).decode(), signatures)


def verified(envelope: Envelope, pem: str) -> Statement:
    """The statement, when one of the envelope's signatures is by the public key ``pem``.

    Raises PackageError SignatureInvalid, InvalidInputError InvalidKey.
    """
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric import ec

    public = public_key(pem)
    message = _pre_authentication(envelope.payload)
    for signature in envelope.signatures:
        try:
            public.verify(signature, message, ec.ECDSA(_hash_of(public)))
        except InvalidSignature:
            continue
        return _statement(envelope.payload)
    raise _invalid(
        f"was not made with the key {key_digest(pem)}, or over other bytes",
        "Use the public key of whoever signed it, or sign the package again.",
    )


def public_key(pem: str) -> ec.EllipticCurvePublicKey:
    """A public key on P-256, P-384 or P-521.  Raises InvalidInputError InvalidKey."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(pem.encode())
    except (ValueError, UnsupportedAlgorithm):
        secret = "PRIVATE KEY-----" in pem
        raise invalid_key("a private key" if secret else "not a public key in PEM") from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name not in CURVES:
        raise invalid_key("of another kind")
    return key


def pem_of(key: ec.EllipticCurvePublicKey) -> str:
    """The key as text, the same for the same key."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def key_digest(pem: str) -> str:
    """The name of a public key: SHA-256 of its PEM text as openssl writes it, which is also the
    hint in bundles."""
    return f"sha256:{hashlib.sha256(pem_of(public_key(pem)).encode()).hexdigest()}"


def invalid_key(what: str) -> InvalidInputError:
    """Why a key cannot be used."""
    return InvalidInputError(
        f"The key is {what}.",
        hint="Signatures are made on the curves P-256, P-384 and P-521. A new pair: `openssl "
        "ecparam -name prime256v1 -genkey -noout -out key.pem`, then `openssl ec -in key.pem "
        "-pubout -out key.pub`.",
        reason="InvalidKey",
    )


def _statement(payload: bytes) -> Statement:
    """Read what a signature was verified over; the signer is known, the shape is still checked."""
    body = _object(payload, "its statement")
    if (body.get("_type"), body.get("predicateType")) != (STATEMENT_TYPE, PREDICATE_TYPE):
        raise _invalid(f"does not state {PREDICATE_TYPE}")
    try:
        [subject] = body["subject"]
        predicate = body["predicate"]
        how = predicate["serialization"]
        resources = [(r["name"], r["algorithm"], r["digest"]) for r in predicate["resources"]]
        files = {str(name): str(digest) for name, _, digest in resources}
        root = _root(digest for _, _, digest in resources)
        expected = subject["digest"]["sha256"]
        name = str(subject.get("name", ""))
        by_files = how["method"] == "files" and {a for _, a, _ in resources} == {"sha256"}
    except (KeyError, TypeError, ValueError, AttributeError):
        raise _invalid("has a statement with missing or wrong fields") from None
    if not by_files:
        raise _invalid(
            "was made over shards or with another hash than SHA-256", "Sign whole files by SHA-256."
        )
    if root != expected or len(files) != len(resources):
        raise _invalid("has a root digest that is not that of its files")
    if MANIFEST not in files:
        raise _invalid(f"covers no {MANIFEST}", "Sign the package's own directory.")
    return Statement(name, files)


def _root(digests: Any) -> str:
    return hashlib.sha256(b"".join(bytes.fromhex(d) for d in digests)).hexdigest()


def _signatures(envelope: dict[str, Any]) -> list[Any]:
    listed = envelope.get("signatures")
    if not isinstance(listed, list):
        return []
    return [entry.get("sig") if isinstance(entry, dict) else None for entry in listed]


def _envelope(payload: Any, signatures: list[Any]) -> Envelope:
    if not 1 <= len(signatures) <= MAX_SIGNATURES:
        raise _invalid(f"holds {len(signatures)} signatures, not 1 to {MAX_SIGNATURES}")
    return Envelope(_decoded(payload), tuple(_decoded(s) for s in signatures))


def _decoded(text: Any) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, TypeError, ValueError):
        raise _invalid("holds something that is not base64") from None


def _object(data: bytes, what: str) -> dict[str, Any]:
    try:
        body = json.loads(data)
    except (ValueError, RecursionError):
        body = None
    if not isinstance(body, dict):
        raise _invalid(f"cannot be read: {what} is not a JSON object")
    return body


def _pre_authentication(payload: bytes) -> bytes:
    """What is signed: DSSE v1's PAE of the payload and its type."""
    return b"DSSEv1 %d %s %d %s" % (
        len(PAYLOAD_TYPE),
        PAYLOAD_TYPE.encode(),
        len(payload),
        payload,
    )


def _hash_of(key: ec.EllipticCurvePublicKey) -> HashAlgorithm:
    from cryptography.hazmat.primitives import hashes

    by_size = {256: hashes.SHA256(), 384: hashes.SHA384(), 521: hashes.SHA512()}
    return by_size[key.key_size]


def _invalid(what: str, hint: str = "Sign the package again with `sluice sign`.") -> PackageError:
    return PackageError(f"The signature {what}.", hint=hint, reason="SignatureInvalid")
