"""Who we are to a registry: from the environment, or from a Docker configuration.

Called by ``oci_registry``.  In a cluster the operator puts a ``kubernetes.io/dockerconfigjson``
Secret into ``SLUICE_DOCKER_CONFIG``; on a laptop ``docker login`` wrote ``~/.docker/config.json``.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sluice.errors import SourceError

MAX_CONFIG_BYTES = 1024 * 1024
_DOCKER_HUB = ("docker.io", "index.docker.io", "registry-1.docker.io")


@dataclass(frozen=True)
class Login:
    """A name and a password, or a token to present as it is; all empty: anonymous."""

    user: str = field(default="", repr=False)
    password: str = field(default="", repr=False)
    token: str = field(default="", repr=False)


def login(host: str, repository: str, environ: Mapping[str, str]) -> Login:
    """The credentials for ``host/repository``.  Raises SourceError for a broken configuration."""
    if token := environ.get("SLUICE_REGISTRY_TOKEN"):
        return Login(token=token.strip())
    if user := environ.get("SLUICE_REGISTRY_USERNAME"):
        return Login(user, environ.get("SLUICE_REGISTRY_PASSWORD", ""))
    where, text = _configuration(environ)
    if not text:
        return Login()
    return _from_configuration(where, text, host, repository)


def _configuration(environ: Mapping[str, str]) -> tuple[str, str]:
    if text := environ.get("SLUICE_DOCKER_CONFIG"):
        return "the Secret's .dockerconfigjson", text[: MAX_CONFIG_BYTES + 1]
    home = environ.get("DOCKER_CONFIG") or str(Path(environ.get("HOME", "/nonexistent"), ".docker"))
    path = Path(home, "config.json")
    try:
        with path.open(encoding="utf-8", errors="replace") as stream:
            return str(path), stream.read(MAX_CONFIG_BYTES + 1)
    except OSError:
        return str(path), ""  # no configuration: anonymous


def _from_configuration(where: str, text: str, host: str, repository: str) -> Login:
    try:
        config = json.loads(text) if len(text) <= MAX_CONFIG_BYTES else None
        auths = config.get("auths", {}) if isinstance(config, dict) else None
    except (ValueError, RecursionError):
        auths = None
    if not isinstance(auths, dict):
        raise _broken(where, 'is not JSON like {"auths": {"registry.example": {"auth": "…"}}}')
    entry = _entry(auths, host, repository)
    if entry is None:
        return Login()
    if not isinstance(entry, dict):
        raise _broken(where, f"has no object for {host}")
    return _login(entry, where, host)


def _entry(auths: dict[str, Any], host: str, repository: str) -> Any:
    """The most specific entry, as the kubelet chooses it: a repository's before its host's."""
    parts = repository.split("/")
    hosts = _DOCKER_HUB if host in _DOCKER_HUB else (host,)
    paths = ["/".join(parts[:n]) for n in range(len(parts), 0, -1)]
    for path in [*paths, "", "v1/", "v2/"]:
        for name in hosts:
            place = f"{name}/{path}" if path else name
            for written in (place, f"https://{place}", f"http://{place}"):
                if written in auths:
                    return auths[written]
    return None


def _login(entry: dict[str, Any], where: str, host: str) -> Login:
    if entry.get("identitytoken"):
        raise _broken(where, f"has an identity token for {host}, which is not supported")
    if token := entry.get("registrytoken"):
        return Login(token=str(token))
    if entry.get("username") is not None:
        return Login(str(entry["username"]), str(entry.get("password") or ""))
    auth = entry.get("auth")
    if not auth:
        return Login()  # a credentials helper has them, and we start no programs
    try:
        user, colon, password = base64.b64decode(str(auth), validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        raise _broken(where, f"has an 'auth' for {host} that is not base64") from None
    if not colon:
        raise _broken(where, f"has an 'auth' for {host} that is not NAME:PASSWORD in base64")
    return Login(user, password)


def _broken(where: str, what: str) -> SourceError:
    return SourceError(
        f"The Docker configuration ({where}) {what}.",
        hint="Use a Secret from `kubectl create secret docker-registry`, or set "
        "SLUICE_REGISTRY_USERNAME and SLUICE_REGISTRY_PASSWORD.",
        reason="AccessDenied",
    )
