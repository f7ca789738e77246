"""The fetching container: it alone holds credentials."""

from __future__ import annotations

from sluice.objects.common import Obj, container

DOCKER_CONFIG = "SLUICE_DOCKER_CONFIG"
"""Where ``sluice fetch`` finds the content of a ``kubernetes.io/dockerconfigjson`` Secret."""

SLOWEST = 2 * 1024**2
"""Bytes a second that a fetch is still waited for, as ``sluice fetch`` itself does."""


def fetch_seconds(size: int) -> int:
    """What fetching ``size`` bytes may take at the slowest rate; 0 for what takes no second."""
    return size // SLOWEST


def claim_of(uri: str) -> str | None:
    """The PersistentVolumeClaim that ``pvc://claim/path`` names."""
    scheme, _, rest = uri.partition("://")
    return rest.partition("/")[0] if scheme == "pvc" else None


def claim_volumes(*uris: str) -> list[Obj]:
    """Volumes for every claim among ``uris``."""
    claims = sorted({c for c in map(claim_of, uris) if c})
    return [
        {"name": f"claim-{c}"[:63], "persistentVolumeClaim": {"claimName": c, "readOnly": True}}
        for c in claims
    ]


def fetcher(
    name: str,
    image: str,
    uri: str,
    args: list[str],
    mounts: list[Obj],
    secret: str | None,
) -> Obj:
    """A container that runs ``sluice fetch URI`` with the namespace's credentials."""
    claim = claim_of(uri)
    if claim:
        mounts = [
            *mounts,
            {"name": f"claim-{claim}"[:63], "mountPath": f"/pvc/{claim}", "readOnly": True},
        ]
    extra: Obj = {"volumeMounts": mounts}
    if secret:
        extra["envFrom"] = [{"secretRef": {"name": secret}}]
    if secret and uri.startswith("oci://"):
        # Not every cluster takes a key with a leading dot for a variable's name.
        ref = {"name": secret, "key": ".dockerconfigjson", "optional": True}
        extra["env"] = [{"name": DOCKER_CONFIG, "valueFrom": {"secretKeyRef": ref}}]
    return container(name, image, ["fetch", uri, *args], **extra)
