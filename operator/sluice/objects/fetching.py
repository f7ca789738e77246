"""The fetching container: it alone holds credentials."""

from __future__ import annotations

from sluice.objects.common import Obj, container


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
    return container(name, image, ["fetch", uri, *args], **extra)
