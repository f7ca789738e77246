"""What the cluster looked like when it was last heard: a cache of every object we work with.

Filled by the feed, read by ``controller.observe``.  Objects are kept as trimmed JSON bytes (a third
of the memory of dicts; 10-20 us to decode) so every reader gets its own copy.  The store also
remembers what this process wrote, so that a reconcile never acts on a cache that is older than its
own last write: see ``caught_up``.
"""

from __future__ import annotations

import itertools
import time
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import orjson

from sluice.api import meta
from sluice.kube.resources import Object

Key = tuple[str, str]
"""(namespace, name of the ModelDeployment): what is reconciled."""

_Ref = tuple[str, str, str]
"""(kind, namespace, name)"""

EXPECTATION_SECONDS = 10.0
"""How long own writes are waited for: a feed that hangs must not stop us from judging."""
_TOMBSTONES = 4096

_ASKING = ("uid", "generation", "labels", "annotations", "deletionTimestamp")
"""Where in a ModelDeployment's metadata somebody's wish shows."""


@dataclass(frozen=True, slots=True)
class Change:
    """One difference between the cache before and after: ``Added``, ``Modified``, ``Deleted``."""

    type: str
    kind: str
    namespace: str
    name: str
    owner: str
    """The ModelDeployment's name; empty for objects that belong to none."""
    echo: bool = False
    """A ModelDeployment in which nothing is new but the status that this process wrote."""

    @property
    def key(self) -> Key | None:
        """What to reconcile because of this change."""
        return (self.namespace, self.owner) if self.owner else None


@dataclass(slots=True)
class _Entry:
    raw: bytes
    version: str
    uid: str
    owner: str
    agreed: str = ""
    """Digest of the desired state that this very version was found to hold; see ``agree``."""


@dataclass(frozen=True, slots=True)
class _Expectation:
    version: str
    uid: str
    deleted: bool
    since: float


def owner_of(obj: Object) -> str:
    """The ModelDeployment that ``obj`` is, or is labelled with."""
    metadata = obj["metadata"]
    if obj.get("kind") == "ModelDeployment":
        return str(metadata["name"])
    return str((metadata.get("labels") or {}).get(meta.LABEL_DEPLOYMENT, ""))


def trim(obj: Object) -> Object:
    """``obj`` without what nobody here reads: field managers, and most of a pod's spec."""
    metadata = {k: v for k, v in obj["metadata"].items() if k != "managedFields"}
    trimmed = {**obj, "metadata": metadata}
    if obj.get("kind") == "Pod" and "spec" in obj:
        spec = obj["spec"]
        trimmed["spec"] = {
            key: spec[key] for key in ("nodeName", "readinessGates") if key in spec
        } | {
            key: [{"name": c["name"], "image": c.get("image", "")} for c in spec[key]]
            for key in ("containers", "initContainers")
            if key in spec
        }
    return trimmed


def _packed(obj: Object) -> bytes:
    """The JSON of ``obj``, in memory of exactly its size.

    orjson writes into a larger buffer whose tail stays unused: 8.8 kB for 2 kB of JSON (measured).
    """
    return bytes(memoryview(orjson.dumps(trim(obj))))


def older(left: str, right: str) -> bool:
    """Whether resource version ``left`` is before ``right`` (both of one server)."""
    if left.isdigit() and right.isdigit():
        return int(left) < int(right)
    return False


class Store:
    """Objects by kind, found by name or by the ModelDeployment they belong to."""

    def __init__(
        self, kinds: Iterable[str], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._objects: dict[str, dict[Key, _Entry]] = {kind: {} for kind in kinds}
        self._owned: dict[str, dict[Key, set[str]]] = {
            kind: defaultdict(set) for kind in self._objects
        }
        self._buried: OrderedDict[str, None] = OrderedDict()
        self._expected: dict[Key, dict[_Ref, _Expectation]] = {}
        self._clock = clock
        self._serial = itertools.count(1)
        self._changed: dict[Key, int] = {}
        self._cluster_changed = 0
        self.trust_readable = True
        """False where RBAC does not let us read TrustPolicies: code formats are then refused."""

    # Reading

    def get(self, kind: str, namespace: str | None, name: str) -> Object | None:
        """A copy of the object, or None."""
        entry = self._objects[kind].get((namespace or "", name))
        return orjson.loads(entry.raw) if entry else None

    def has(self, kind: str, namespace: str | None, name: str) -> bool:
        """Whether it is known, without decoding it."""
        return (namespace or "", name) in self._objects[kind]

    def owned(self, kind: str, key: Key) -> list[Object]:
        """Copies of the objects of ``kind`` labelled with this ModelDeployment, by name."""
        names = sorted(self._owned[kind].get(key, ()))
        rows = self._objects[kind]
        return [orjson.loads(rows[key[0], name].raw) for name in names]

    def each(self, kind: str) -> Iterator[Object]:
        """Copies of all objects of ``kind``."""
        for entry in list(self._objects[kind].values()):
            yield orjson.loads(entry.raw)

    def deployments(self) -> list[Key]:
        """Every ModelDeployment known, and every one that still has a ModelRevision."""
        found = set(self._objects.get("ModelDeployment", ()))
        found.update(k for k, names in self._owned.get("ModelRevision", {}).items() if names)
        return sorted(found)

    def state(self, key: Key) -> tuple[int, int, bool]:
        """Changes with every change of an object of this ModelDeployment, or of one without owner
        and namespace; a change that was undone counts too."""
        return self._changed.get(key, 0), self._cluster_changed, self.trust_readable

    def agrees(self, kind: str, namespace: str, name: str, digest: str) -> bool:
        """Whether ``agree`` was said of exactly the version that is cached, with this digest."""
        entry = self._objects[kind].get((namespace, name))
        return entry is not None and entry.agreed == digest

    def agree(self, obj: Object, digest: str) -> None:
        """Notes that ``obj``, as read from here, holds the desired state of this digest."""
        metadata = obj["metadata"]
        entry = self._objects[obj["kind"]].get((metadata.get("namespace", ""), metadata["name"]))
        if entry is not None and entry.version == metadata.get("resourceVersion"):
            entry.agreed = digest

    def count(self, kind: str) -> int:
        """How many objects of ``kind`` are known."""
        return len(self._objects[kind])

    # Feeding

    def apply_event(self, kind: str, event: str, obj: Object) -> Change | None:
        """Takes ``ADDED``, ``MODIFIED`` or ``DELETED`` in; None when it tells nothing new."""
        metadata = obj["metadata"]
        if event == "DELETED":
            self._bury(metadata.get("uid", ""))
            place = (metadata.get("namespace", ""), metadata["name"])
            version = metadata.get("resourceVersion", "")
            return self._remove(kind, place, metadata.get("uid", ""), version)
        return self._put(kind, obj)

    def replace(
        self,
        kind: str,
        items: Iterable[Object],
        *,
        namespace: str | None = None,
        version: str = "",
    ) -> list[Change]:
        """Makes ``items`` all there is (in ``namespace``); what is no longer there was deleted.

        ``version`` is the list's resource version: what the cache learned after it stays.
        """
        changes, listed = [], set()
        for obj in items:
            metadata = obj["metadata"]
            listed.add((metadata.get("namespace", ""), metadata["name"]))
            if change := self._put(kind, obj):
                changes.append(change)
        return changes + self.prune(kind, listed, namespace=namespace, version=version)

    def prune(
        self, kind: str, listed: set[Key], *, namespace: str | None = None, version: str = ""
    ) -> list[Change]:
        """Drops what a complete list did not name: the second half of ``replace``, for pages."""
        changes = []
        for (space, name), entry in list(self._objects[kind].items()):
            if (space, name) in listed or (namespace is not None and space != namespace):
                continue
            if version and older(version, entry.version):
                continue
            self._bury(entry.uid)
            if change := self._remove(kind, (space, name), entry.uid, version):
                changes.append(change)
        return changes

    def put(self, kind: str, obj: Object) -> Change | None:
        """Takes one listed object in: the first half of ``replace``, for pages."""
        return self._put(kind, obj)

    def _put(self, kind: str, obj: Object) -> Change | None:
        metadata = obj["metadata"]
        place = (metadata.get("namespace", ""), metadata["name"])
        version, uid = metadata.get("resourceVersion", ""), metadata.get("uid", "")
        if uid in self._buried:
            return None
        known = self._objects[kind].get(place)
        if known and known.uid == uid and not older(known.version, version):
            self._seen(kind, place, known.owner, known.version, uid)
            return None
        owner = owner_of({"kind": kind, "metadata": metadata})
        echo = kind == "ModelDeployment" and known is not None and self._echoes(known, obj)
        if known and known.owner != owner:
            self._owned[kind][place[0], known.owner].discard(place[1])
            self._note_change(place[0], known.owner)
        self._objects[kind][place] = _Entry(_packed(obj), version, uid, owner)
        if owner:
            self._owned[kind][place[0], owner].add(place[1])
        self._note_change(place[0], owner)
        going = bool(metadata.get("deletionTimestamp"))
        self._seen(kind, place, owner, version, uid, gone=going)
        return Change("Modified" if known else "Added", kind, place[0], place[1], owner, echo)

    def _echoes(self, known: _Entry, obj: Object) -> bool:
        """Whether ``obj`` is exactly what we wrote, and people asked for nothing meanwhile."""
        metadata = obj["metadata"]
        place = (metadata.get("namespace", ""), metadata["name"])
        expected = self._expected.get(place, {}).get(("ModelDeployment", *place))
        if expected is None or expected.version != metadata.get("resourceVersion"):
            return False
        before = orjson.loads(known.raw)["metadata"]
        return all(before.get(field) == metadata.get(field) for field in _ASKING)

    def _remove(self, kind: str, place: Key, uid: str, version: str) -> Change | None:
        namespace, name = place
        entry = self._objects[kind].get(place)
        if entry is None or (uid and entry.uid != uid):
            return None
        del self._objects[kind][place]
        names = self._owned[kind].get((namespace, entry.owner))
        if names is not None:
            names.discard(name)
            if not names:
                del self._owned[kind][namespace, entry.owner]
        self._note_change(namespace, entry.owner)
        self._seen(kind, place, entry.owner, version, uid, gone=True)
        return Change("Deleted", kind, namespace, name, entry.owner)

    def _note_change(self, namespace: str, owner: str) -> None:
        key = (namespace, owner)
        if not namespace:
            self._cluster_changed = next(self._serial)
        elif any(key in owned for owned in self._owned.values()):
            self._changed[key] = next(self._serial)
        else:
            self._changed.pop(key, None)

    def _bury(self, uid: str) -> None:
        """A uid never comes back: an older list must not raise what an event has buried."""
        if not uid:
            return
        self._buried[uid] = None
        if len(self._buried) > _TOMBSTONES:
            self._buried.popitem(last=False)

    # Own writes

    def wrote(self, obj: Object) -> None:
        """This process wrote ``obj``; until the feed brings that version, its key is behind."""
        self._expect(obj, deleted=False)

    def deleted(self, obj: Object) -> None:
        """This process asked to delete ``obj``; until the feed shows that, its key is behind."""
        self._expect(obj, deleted=True)

    def _expect(self, obj: Object, *, deleted: bool) -> None:
        kind, metadata = obj.get("kind", ""), obj["metadata"]
        owner = owner_of(obj)
        if kind not in self._objects or not owner:
            return
        place = (metadata.get("namespace", ""), metadata["name"])
        version, uid = metadata.get("resourceVersion", ""), metadata.get("uid", "")
        known = self._objects[kind].get(place)
        if deleted and known is None:
            return
        if not deleted and known and known.uid == uid and not older(known.version, version):
            return
        if uid in self._buried:
            return
        waiting = self._expected.setdefault((place[0], owner), {})
        waiting[kind, place[0], place[1]] = _Expectation(version, uid, deleted, self._clock())

    def _seen(
        self, kind: str, place: Key, owner: str, version: str, uid: str, *, gone: bool = False
    ) -> None:
        key = (place[0], owner)
        waiting = self._expected.get(key)
        if not waiting:
            return
        ref = (kind, place[0], place[1])
        expected = waiting.get(ref)
        if expected is None:
            return
        current = bool(version) and not older(version, expected.version)
        same = expected.uid == uid  # A late event of an object that had the name settles nothing.
        if (gone or (current and not expected.deleted)) if same else current:
            del waiting[ref]
            if not waiting:
                del self._expected[key]

    def caught_up(self, key: Key) -> bool:
        """Whether the cache has seen everything that this process wrote for ``key``.

        A write that the feed has not shown by then is no longer waited for: the object may
        have lost the label that the feed selects by.
        """
        waiting = self._expected.get(key)
        if not waiting:
            return True
        now = self._clock()
        for ref in [r for r, e in waiting.items() if now - e.since > EXPECTATION_SECONDS]:
            del waiting[ref]
        if not waiting:
            del self._expected[key]
            return True
        return False
