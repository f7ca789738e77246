"""The operator's certificate authority: who may steer a router.

Called by the controller, which keeps the PEM texts in Secrets; calls cryptography only.  The CA key
and the client key stay in the operator's namespace.  Every namespace with routers gets one leaf
certificate.  Keys are P-256, texts are PEM, times are UTC.
"""

from __future__ import annotations

import datetime as dt
import ssl
import tempfile
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from sluice.errors import SluiceError

CA_NAME = "sluice-router-ca"
CLIENT_NAME = "sluice-operator"
CA_LIFE = dt.timedelta(days=3650)
CLIENT_LIFE = dt.timedelta(days=365)
ROUTER_LIFE = dt.timedelta(days=90)
BACKDATE = dt.timedelta(hours=1)
"""Certificates start in the past, so that a node whose clock is slow accepts them."""


class PkiError(SluiceError):
    """A certificate or key of ours cannot be used."""

    reason = "InvalidCertificate"


@dataclass(frozen=True)
class KeyPair:
    """A certificate and its private key, as PEM."""

    certificate: str
    key: str

    @property
    def pem(self) -> str:
        """Both in one text, as HAProxy reads them."""
        return self.certificate + self.key


def router_server_name(namespace: str) -> str:
    """The name in a namespace's router certificate."""
    return f"router.{namespace}.sluice.dev"


def new_authority(now: dt.datetime) -> KeyPair:
    """A new CA that signs for ten years."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name(CA_NAME)
    builder = (
        _builder(name, name, key.public_key(), now, CA_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(sign=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    return _pair(builder.sign(key, hashes.SHA256()), key)


def new_client(authority: KeyPair, now: dt.datetime) -> KeyPair:
    """The operator's certificate for the routers' admin port."""
    return _issue(authority, CLIENT_NAME, [], ExtendedKeyUsageOID.CLIENT_AUTH, CLIENT_LIFE, now)


def new_router(authority: KeyPair, namespace: str, now: dt.datetime) -> KeyPair:
    """The certificate of a namespace's routers.  Good for serving, useless for calling one."""
    name = router_server_name(namespace)
    return _issue(authority, name, [name], ExtendedKeyUsageOID.SERVER_AUTH, ROUTER_LIFE, now)


def needs_renewal(pair: KeyPair, authority: KeyPair, now: dt.datetime) -> bool:
    """Whether less than a third of its life is left, another CA signed it, or it is unreadable."""
    try:
        certificate = _certificate(pair.certificate, "a certificate")
        _private_key(pair.key, "a certificate's key")
    except PkiError:
        return True
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if now < start or end - now < (end - start) / 3:
        return True
    return not _signed_by(certificate, authority)


def valid_since(pair: KeyPair) -> dt.datetime:
    """The beginning of its life; ``BACKDATE`` before it was made."""
    return _certificate(pair.certificate, "a certificate").not_valid_before_utc


def client_context(authority_certificate: str, client: KeyPair) -> ssl.SSLContext:
    """A TLS context that trusts our CA only and shows the operator's certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_verify_locations(cadata=authority_certificate)
        # The ssl module reads keys from files only; this one lives for the length of a call.
        with tempfile.NamedTemporaryFile("w", suffix=".pem") as file:
            file.write(client.pem)
            file.flush()
            context.load_cert_chain(Path(file.name))
    except (ssl.SSLError, ValueError) as error:
        raise PkiError(
            f"The operator's router certificate cannot be loaded: {error}.",
            hint="Delete the Secret that holds it; the operator makes a new one.",
        ) from error
    return context


def _issue(
    authority: KeyPair,
    name: str,
    dns: list[str],
    purpose: x509.ObjectIdentifier,
    life: dt.timedelta,
    now: dt.datetime,
) -> KeyPair:
    issuer = _certificate(authority.certificate, "the CA certificate")
    signer = _private_key(authority.key, "the CA key")
    key = ec.generate_private_key(ec.SECP256R1())
    builder = (
        _builder(_name(name), issuer.subject, key.public_key(), now, life)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(sign=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([purpose]), critical=True)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False
        )
    )
    if dns:
        names = x509.SubjectAlternativeName([x509.DNSName(n) for n in dns])
        builder = builder.add_extension(names, critical=False)
    return _pair(builder.sign(signer, hashes.SHA256()), key)


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    now: dt.datetime,
    life: dt.timedelta,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATE)
        .not_valid_after(now + life)
    )


def _usage(*, sign: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=sign,
        crl_sign=sign,
        encipher_only=False,
        decipher_only=False,
    )


def _name(common_name: str) -> x509.Name:
    # A common name holds at most 64 characters; namespaces may be longer than what is left.
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name[:64])])


def _pair(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> KeyPair:
    return KeyPair(
        certificate.public_bytes(serialization.Encoding.PEM).decode(),
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ).decode(),
    )


def _certificate(pem: str, what: str) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(pem.encode())
    except ValueError as error:
        raise PkiError(
            f"Router access: {what} is not a PEM certificate.",
            hint="Delete the Secret that holds it; the operator makes a new one.",
        ) from error


def _private_key(pem: str, what: str) -> ec.EllipticCurvePrivateKey:
    try:
        key = serialization.load_pem_private_key(pem.encode(), password=None)
    except (ValueError, TypeError) as error:
        key = None
        cause: Exception | None = error
    else:
        cause = None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise PkiError(
            f"Router access: {what} is not a PEM elliptic-curve key.",
            hint="Delete the Secret that holds it; the operator makes a new one.",
        ) from cause
    return key


def _signed_by(certificate: x509.Certificate, authority: KeyPair) -> bool:
    issuer = _certificate(authority.certificate, "the CA certificate")
    try:
        certificate.verify_directly_issued_by(issuer)
    except (InvalidSignature, ValueError, TypeError):
        return False
    return True
