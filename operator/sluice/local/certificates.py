"""The cluster's certificate authority, its certificates and kubeconfigs.

Called by the supervisor before anything starts.  Made once per instance, kept across restarts.
"""

from __future__ import annotations

import base64
import datetime as dt
import ipaddress
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from sluice.local.settings import CLUSTER_DOMAIN, NODE_NAME, Settings

_LIFETIME = dt.timedelta(days=3650)


def ensure(settings: Settings) -> None:
    """Write the pki directory unless it is complete (the last file written says so)."""
    pki = settings.pki_dir
    if (pki / "complete").exists():
        return
    pki.mkdir(parents=True, exist_ok=True)
    pki.chmod(0o700)
    authority = _Authority("sluice-local")
    _write(pki / "ca.crt", authority.pem)
    service_ip = str(ipaddress.ip_network(settings.service_network)[1])
    names = [f"kubernetes{s}" for s in ("", ".default", ".default.svc")]
    names.append(f"kubernetes.default.svc.{CLUSTER_DOMAIN}")
    here = ["localhost", "127.0.0.1", settings.host_ip]
    authority.issue(pki / "apiserver", "kube-apiserver", sans=[*names, *here, service_ip])
    authority.issue(pki / "kubelet", f"system:node:{NODE_NAME}", ["system:nodes"], [*here])
    authority.issue(pki / "kubelet-client", "kube-apiserver-kubelet-client", ["system:masters"])
    inside = f"https://{settings.host_ip}:{settings.secure_port}"
    for file, user, groups in (
        ("admin", "admin", ["system:masters"]),
        ("node", "sluice-node", ["system:masters"]),
        ("proxy", "system:kube-proxy", []),
        ("controller-manager", "system:kube-controller-manager", []),
        ("scheduler", "system:kube-scheduler", []),
    ):
        authority.issue(pki / file, user, groups)
        _write(pki / f"{file}.kubeconfig", kubeconfig(pki, file, inside, file))
    account_key = ec.generate_private_key(ec.SECP256R1())
    _write(pki / "service-account.key", _key_pem(account_key))
    _write(
        pki / "service-account.pub",
        account_key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        ),
    )
    _write(pki / "complete", b"")


def kubeconfig(pki: Path, file: str, server: str, context: str) -> bytes:
    """A kubeconfig that authenticates as the client certificate ``file``."""

    def b64(name: str) -> str:
        return base64.b64encode((pki / name).read_bytes()).decode()

    return f"""apiVersion: v1
kind: Config
current-context: {context}
contexts:
- name: {context}
  context: {{cluster: {context}, user: {context}}}
clusters:
- name: {context}
  cluster:
    server: {server}
    certificate-authority-data: {b64("ca.crt")}
users:
- name: {context}
  user:
    client-certificate-data: {b64(f"{file}.crt")}
    client-key-data: {b64(f"{file}.key")}
""".encode()


def _write(path: Path, data: bytes) -> None:
    path.touch(mode=0o600)
    path.write_bytes(data)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _subject(common_name: str, groups: Sequence[str] = ()) -> x509.Name:
    attributes = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, g) for g in groups]
    return x509.Name([*attributes, x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _san(name: str) -> x509.GeneralName:
    if name[0].isdigit():
        return x509.IPAddress(ipaddress.ip_address(name))
    return x509.DNSName(name)


class _Authority:
    """Signs; its key never leaves this process."""

    def __init__(self, name: str) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _subject(name)
        certificate = self._sign(self._name, self._key.public_key(), is_ca=True)
        self.pem = certificate.public_bytes(serialization.Encoding.PEM)

    def issue(
        self, path: Path, common_name: str, groups: Sequence[str] = (), sans: Sequence[str] = ()
    ) -> None:
        """Write ``path``.crt and ``path``.key."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._sign(_subject(common_name, groups), key.public_key(), sans=sans)
        _write(path.with_suffix(".crt"), certificate.public_bytes(serialization.Encoding.PEM))
        _write(path.with_suffix(".key"), _key_pem(key))

    def _sign(
        self,
        subject: x509.Name,
        key: ec.EllipticCurvePublicKey,
        *,
        is_ca: bool = False,
        sans: Sequence[str] = (),
    ) -> x509.Certificate:
        now = dt.datetime.now(dt.UTC)
        issuer_key = self._key.public_key()
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(hours=1))
            .not_valid_after(now + _LIFETIME)
            .add_extension(x509.BasicConstraints(is_ca, None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key), critical=False
            )
            .add_extension(
                x509.KeyUsage(True, False, False, False, False, is_ca, is_ca, False, False),
                critical=True,
            )
        )
        if not is_ca:
            usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
            builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        if sans:
            alternatives = x509.SubjectAlternativeName([_san(s) for s in sans])
            builder = builder.add_extension(alternatives, critical=False)
        return builder.sign(self._key, hashes.SHA256())
