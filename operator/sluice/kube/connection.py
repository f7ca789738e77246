"""How to reach the API server: the in-cluster service account, or a kubeconfig.

Used by ``KubeClient`` and the kopf login.  The ``kubernetes`` library is imported only for exec
plugins and auth providers; everything else is read here, so that the operator stays small.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import ssl
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from sluice.errors import InvalidInputError

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_TOKEN_MAX_AGE = 60.0


class TokenSource:
    """A bearer token that may rotate: read again every minute and after a 401."""

    def __init__(self, read: Callable[[], str | None], *, blocking: bool = False) -> None:
        self._read = read
        self._blocking = blocking
        self._value: str | None = None
        self._read_at = float("-inf")
        self._lock = asyncio.Lock()

    async def token(self, *, refresh: bool = False) -> str | None:
        """The token now; ``refresh`` after the server refused the last one."""
        if not refresh and time.monotonic() - self._read_at < _TOKEN_MAX_AGE:
            return self._value
        async with self._lock:
            if refresh or time.monotonic() - self._read_at >= _TOKEN_MAX_AGE:
                self._value = (
                    await asyncio.to_thread(self._read) if self._blocking else self._read()
                )
                self._read_at = time.monotonic()
        return self._value


@dataclass(frozen=True, slots=True)
class Connection:
    """Everything needed to open a session."""

    server: str
    ssl: ssl.SSLContext | bool
    tokens: TokenSource | None
    namespace: str


def load_connection(kubeconfig: str | None = None, context: str | None = None) -> Connection:
    """``kubeconfig`` if given, else the in-cluster account, else ``KUBECONFIG`` or ~/.kube/config.

    ``KUBECONFIG`` set by hand beats the in-cluster account, as a person who sets it expects.
    """
    explicit = kubeconfig or os.environ.get("KUBECONFIG")
    if not explicit and os.environ.get("KUBERNETES_SERVICE_HOST"):
        token = SERVICE_ACCOUNT / "token"
        if token.exists():
            return _in_cluster(token)
    path = Path(explicit.split(os.pathsep)[0]) if explicit else Path.home() / ".kube" / "config"
    return _from_kubeconfig(path, context)


def _in_cluster(token: Path) -> Connection:
    host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ["KUBERNETES_SERVICE_PORT"]
    if ":" in host:
        host = f"[{host}]"
    namespace = SERVICE_ACCOUNT / "namespace"
    return Connection(
        server=f"https://{host}:{port}",
        ssl=ssl.create_default_context(cafile=str(SERVICE_ACCOUNT / "ca.crt")),
        tokens=TokenSource(lambda: token.read_text().strip()),
        namespace=namespace.read_text().strip() if namespace.exists() else "default",
    )


def _named(config: dict[str, Any], section: str, name: str, path: Path) -> dict[str, Any]:
    for entry in config.get(section) or []:
        if entry.get("name") == name:
            value = entry.get(section[:-1]) or {}
            assert isinstance(value, dict)
            return value
    raise InvalidInputError(
        f"{path} names no {section[:-1]} {name!r}.",
        hint="Check it with: kubectl config view",
    )


def _from_kubeconfig(path: Path, context: str | None) -> Connection:
    try:
        config = yaml.safe_load(path.read_text())
    except FileNotFoundError as error:
        raise InvalidInputError(
            f"No way to the API server: not in a cluster, and {path} does not exist.",
            hint="Set KUBECONFIG, or start one with: sluice local up",
        ) from error
    if not isinstance(config, dict):
        raise InvalidInputError(f"{path} is not a kubeconfig.", hint="Set KUBECONFIG to one.")
    name = context or config.get("current-context") or ""
    chosen = _named(config, "contexts", name, path)
    cluster = _named(config, "clusters", chosen.get("cluster", ""), path)
    user = _named(config, "users", chosen["user"], path) if chosen.get("user") else {}
    server = str(cluster.get("server", "")).rstrip("/")
    return Connection(
        server=server,
        ssl=_ssl_context(cluster, user, path) if server.startswith("https") else True,
        tokens=_tokens(user, path, name),
        namespace=chosen.get("namespace") or "default",
    )


def _content(section: dict[str, Any], key: str, base: Path) -> bytes | None:
    """The bytes of ``KEY-data`` or of the file that ``KEY`` names."""
    if data := section.get(f"{key}-data"):
        return base64.b64decode(str(data))
    if name := section.get(key):
        return (base / str(name)).read_bytes()
    return None


def _ssl_context(cluster: dict[str, Any], user: dict[str, Any], path: Path) -> ssl.SSLContext:
    authority = _content(cluster, "certificate-authority", path.parent)
    context = ssl.create_default_context(cadata=authority.decode() if authority else None)
    if cluster.get("insecure-skip-tls-verify"):
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    certificate = _content(user, "client-certificate", path.parent)
    key = _content(user, "client-key", path.parent)
    if certificate and key:
        # The ssl module only loads from a file: a private one, for as long as that takes.
        handle, name = tempfile.mkstemp()
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(certificate + b"\n" + key)
            context.load_cert_chain(name)
        finally:
            with contextlib.suppress(OSError):
                Path(name).unlink()
    return context


def _tokens(user: dict[str, Any], path: Path, context: str) -> TokenSource | None:
    if token := user.get("token"):
        return TokenSource(lambda: str(token))
    if token_file := user.get("tokenFile"):
        return TokenSource(lambda: (path.parent / token_file).read_text().strip())
    if user.get("exec") or user.get("auth-provider"):
        return TokenSource(lambda: _plugin_token(path, context), blocking=True)
    return None


def _plugin_token(path: Path, context: str) -> str | None:
    """Runs the exec plugin or auth provider, as kubectl would."""
    from kubernetes.client import Configuration
    from kubernetes.config import load_kube_config

    configuration = Configuration()
    load: Any = load_kube_config
    load(str(path), context=context, client_configuration=configuration)
    # The key's name differs between versions of the library.
    value = configuration.get_api_key_with_prefix(
        "BearerToken"
    ) or configuration.get_api_key_with_prefix("authorization")
    return str(value).removeprefix("Bearer ") if value else None
