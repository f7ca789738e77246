"""Making one object true: POST first, server-side apply after, never over somebody else's.

Called by apply.  An object under our name that is not ours is a conflict and stays untouched.
"""

from __future__ import annotations

import hashlib
import re
from typing import Any

import orjson

from sluice.api.meta import GROUP, LABEL_DEPLOYMENT, MANAGER_CHILDREN
from sluice.errors import SluiceError
from sluice.kube.client import KubeClient
from sluice.kube.errors import ConflictError, NotFoundError
from sluice.kube.store import Store
from sluice.objects.common import Obj

APPLIED = f"{GROUP}/applied"

_QUANTITY = re.compile(r"^([0-9.]+)(m|k|M|G|T|Ki|Mi|Gi|Ti)?$")
_SCALE = {
    None: 1.0, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12,
    "Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40,
}  # fmt: skip


class NameConflictError(SluiceError):
    """Somebody else owns a name that we need."""

    reason = "NameConflict"


class Ensurer:
    """Applies desired objects for one ModelDeployment, writing only what differs."""

    def __init__(self, client: KubeClient, store: Store, name: str, uid: str) -> None:
        self._client = client
        self._store = store
        self._name = name
        self._uid = uid

    async def ensure(self, desired: Obj, *, manager: str = MANAGER_CHILDREN) -> Obj | None:
        """Makes ``desired`` true.  None when it already was.  Raises NameConflictError."""
        digest, kind, meta = _digest(desired), desired["kind"], desired["metadata"]
        if self._store.agrees(kind, meta["namespace"], meta["name"], digest):
            return None
        wanted = _marked(desired, digest)
        present = self._store.get(kind, meta["namespace"], meta["name"])
        if present is None:
            return await self._create(wanted, manager)
        if _same(present, wanted):
            self._store.agree(present, digest)
            return None
        return await self._apply(wanted, present, manager)

    async def _create(self, wanted: Obj, manager: str) -> Obj | None:
        try:
            return await self._client.create(wanted, field_manager=manager)
        except ConflictError as error:
            if error.reason != "AlreadyExists":
                raise
        kind, meta = wanted["kind"], wanted["metadata"]
        present = await self._client.find(kind, meta["namespace"], meta["name"])
        if present is None:
            return None
        if not self._ours(present):
            raise NameConflictError(
                f"{kind} {meta['name']} exists and is not ours; it is left untouched.",
                hint=f"Rename the ModelDeployment, or delete {kind.lower()}/{meta['name']}.",
            )
        return await self._apply(wanted, present, manager)

    async def _apply(self, wanted: Obj, present: Obj, manager: str) -> Obj:
        return await self._client.apply(
            wanted, uid=present["metadata"]["uid"], field_manager=manager
        )

    def _ours(self, present: Obj) -> bool:
        """Ours by label and not controlled by another owner: restored objects are adopted."""
        meta = present["metadata"]
        if meta.get("labels", {}).get(LABEL_DEPLOYMENT) != self._name:
            return False
        owners = [r for r in meta.get("ownerReferences") or [] if r.get("controller")]
        return all(r.get("kind") == "ModelDeployment" for r in owners)

    async def scale(self, deployment: Obj, replicas: int, manager: str) -> None:
        """Sets ``replicas`` through a field manager of its own."""
        if deployment["spec"].get("replicas") == replicas:
            return
        meta = deployment["metadata"]
        await self._client.apply(
            {
                "apiVersion": "apps/v1",
                "kind": "Deployment",
                "metadata": {"name": meta["name"], "namespace": meta["namespace"]},
                "spec": {"replicas": replicas},
            },
            uid=meta["uid"],
            field_manager=manager,
        )

    async def remove(self, kind: str, obj: Obj) -> None:
        """Deletes an object of ours, by uid."""
        meta = obj["metadata"]
        try:
            await self._client.delete(kind, meta["namespace"], meta["name"], uid=meta["uid"])
        except NotFoundError:
            return
        self._store.deleted(obj)


def _digest(desired: Obj) -> str:
    return hashlib.sha256(orjson.dumps(desired, option=orjson.OPT_SORT_KEYS)).hexdigest()[:16]


def _marked(desired: Obj, digest: str) -> Obj:
    meta = desired["metadata"]
    annotations = {**meta.get("annotations", {}), APPLIED: digest}
    return {**desired, "metadata": {**meta, "annotations": annotations}}


def _same(present: Obj, wanted: Obj) -> bool:
    """The same desired state was applied last, and nobody has changed it since."""
    mark = present["metadata"].get("annotations", {}).get(APPLIED)
    return mark == wanted["metadata"]["annotations"][APPLIED] and covers(present, wanted)


def covers(present: Any, wanted: Any) -> bool:
    """Whether everything in ``wanted`` is so in ``present``; defaults the server adds are fine."""
    if present == wanted:
        return True
    if isinstance(wanted, dict):
        return isinstance(present, dict) and all(
            covers(present.get(k), v) for k, v in wanted.items() if v is not None
        )
    if isinstance(wanted, list):
        if not wanted and present is None:
            return True
        return (
            isinstance(present, list)
            and len(present) >= len(wanted)
            and all(map(covers, present, wanted))
        )
    if wanted in ("", {}) and present is None:
        return True
    return bool(present == wanted) or _quantity(present) == _quantity(wanted) is not None


def _quantity(value: Any) -> float | None:
    match = _QUANTITY.match(str(value)) if isinstance(value, str | int | float) else None
    if match is None:
        return None
    try:
        return float(match[1]) * _SCALE[match[2]]
    except ValueError:
        return None
