"""A container's environment variables and its expanded command line.

Called by ``container``.  ``field_value`` and ``expand`` are pure and also serve downward volumes.
"""

from __future__ import annotations

import base64
import re
from typing import Any

from sluice.local.node.client import ApiError, Client, Object


class ConfigError(Exception):
    """CreateContainerConfigError: something that the container refers to is missing."""


_SUBSCRIPT = re.compile(r"metadata\.(labels|annotations)\['(.+)'\]")
_REFERENCE = re.compile(r"\$\$|\$\(([A-Za-z0-9_.-]+)\)")
_UNITS = {"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "Ti": 1 << 40}
_DECIMAL = {"k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "m": 10**-3, "": 1}


def field_value(pod: Object, ip: str, host_ip: str, path: str) -> str:
    """What ``fieldRef`` names."""
    meta, spec = pod["metadata"], pod["spec"]
    if match := _SUBSCRIPT.fullmatch(path):
        return str(meta.get(match[1], {}).get(match[2], ""))
    if path in ("metadata.labels", "metadata.annotations"):
        items = meta.get(path.split(".")[1], {})
        return "\n".join(f'{k}="{_quoted(v)}"' for k, v in sorted(items.items()))
    known = {
        "metadata.name": meta["name"],
        "metadata.namespace": meta["namespace"],
        "metadata.uid": meta["uid"],
        "spec.nodeName": spec.get("nodeName", ""),
        "spec.serviceAccountName": spec.get("serviceAccountName", "default"),
        "status.podIP": ip,
        "status.podIPs": ip,
        "status.hostIP": host_ip,
        "status.hostIPs": host_ip,
    }
    if path not in known:
        raise ConfigError(f"the node does not know the field {path}")
    return str(known[path])


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def quantity(text: str | int | float) -> float:
    """A Kubernetes quantity as a number."""
    raw = str(text)
    for suffix, factor in _UNITS.items():
        if raw.endswith(suffix):
            return float(raw[:-2]) * factor
    suffix = raw[-1] if raw[-1] in "kMGTm" else ""
    return float(raw.removesuffix(suffix)) * _DECIMAL[suffix]


def resource_value(containers: list[Object], name: str, ref: Object, node: Object) -> str:
    """What ``resourceFieldRef`` names; an absent limit is the node's capacity."""
    wanted = ref.get("containerName") or name
    container = next(c for c in containers if c["name"] == wanted)
    kind, resource = ref["resource"].split(".")
    value = container.get("resources", {}).get(kind, {}).get(resource)
    if value is None:
        value = node.get(resource, "0") if kind == "limits" else "0"
    divisor = quantity(ref.get("divisor") or "1") or 1
    return str(-int(-quantity(value) // divisor))


def expand(text: str, env: dict[str, str]) -> str:
    """``$(NAME)`` from the environment; ``$$`` is a dollar; unknown names stay as written."""
    return _REFERENCE.sub(lambda m: "$" if m[0] == "$$" else env.get(m[1], m[0]), text)


class Environment:
    """Reads ConfigMaps and Secrets as the pod's spec refers to them."""

    def __init__(self, client: Client, namespace: str) -> None:
        self._client = client
        self._namespace = namespace

    async def data(self, kind: str, name: str, *, optional: bool) -> dict[str, bytes]:
        """All keys of a ConfigMap (``configmaps``) or Secret (``secrets``)."""
        try:
            found = await self._client.get(f"/api/v1/namespaces/{self._namespace}/{kind}/{name}")
        except ApiError as error:
            if error.status == 404 and optional:
                return {}
            raise ConfigError(str(error)) from error
        if kind == "secrets":
            return {k: base64.b64decode(v) for k, v in (found.get("data") or {}).items()}
        plain = {k: v.encode() for k, v in (found.get("data") or {}).items()}
        binary = {k: base64.b64decode(v) for k, v in (found.get("binaryData") or {}).items()}
        return plain | binary

    async def build(self, spec: Object, base: dict[str, str], value_of: Any) -> dict[str, str]:
        """The environment of a container, on top of ``base``."""
        env = dict(base)
        for source in spec.get("envFrom", []):
            kind = "secrets" if "secretRef" in source else "configmaps"
            ref = source.get("secretRef") or source["configMapRef"]
            optional = bool(ref.get("optional"))
            for key, value in (await self.data(kind, ref["name"], optional=optional)).items():
                env[source.get("prefix", "") + key] = value.decode(errors="replace")
        for item in spec.get("env", []):
            text = await self._one(item, env, value_of)
            if text is not None:
                env[item["name"]] = text
        return env

    async def _one(self, item: Object, env: dict[str, str], value_of: Any) -> str | None:
        source = item.get("valueFrom")
        if not source:
            return expand(item.get("value", ""), env)
        if "fieldRef" in source or "resourceFieldRef" in source:
            return str(value_of(source))
        kind = "secrets" if "secretKeyRef" in source else "configmaps"
        ref = source.get("secretKeyRef") or source["configMapKeyRef"]
        found = await self.data(kind, ref["name"], optional=bool(ref.get("optional")))
        if ref["key"] not in found:
            if ref.get("optional"):
                return None
            raise ConfigError(f"couldn't find key {ref['key']} in {kind} {ref['name']}")
        return found[ref["key"]].decode(errors="replace")
