"""What routers say about themselves.  Values only; made by ``traffic.router``."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from sluice.errors import SluiceError
from sluice.objects.router_plan import SlotTarget, Weights
from sluice.traffic.admin import RouterPod


@dataclass(frozen=True)
class SlotState:
    """Where a slot points and whom it can reach.

    ``addresses`` are all pods the slot has from DNS, ``up`` those that pass their checks, ``known``
    the names of servers with an address; ``vip`` is the ClusterIP behind them, absent while it is
    off.
    """

    revision: str
    hosts: frozenset[str]
    addresses: frozenset[str] = frozenset()
    up: frozenset[str] = frozenset()
    known: frozenset[str] = frozenset()
    vip: str | None = None

    def points_at(self, target: SlotTarget) -> bool:
        """Every server and the mark on requests are those of ``target``."""
        return (
            self.revision == target.revision
            and self.hosts == {target.host}
            and self.vip == target.cluster_ip
        )

    def not_ready(self, addresses: Collection[str] | None) -> str:
        """Why the slot must not get traffic yet; empty when it may.

        ``addresses``: pods of the revision.  A slot that was re-pointed keeps the old revision's
        addresses until the new name resolves; an *empty* answer never removes them.
        """
        foreign = sorted(self.addresses - set(addresses)) if addresses is not None else []
        if foreign:
            return f"still lists {', '.join(foreign[:3])}, not a pod of the revision"
        if not self.up:
            return "lists no pod that passes its checks"
        return ""


@dataclass(frozen=True)
class SlotCounters:
    """Cumulative counts of a slot since the router process started.

    ``predictions`` were assigned to the slot; ``requests`` include docs and listings.
    ``unanswered`` ended without any status: when every attempt of a request that is not the first
    on its connection meets a reset, HAProxy closes the connection and says nothing.
    ``retries`` and ``redispatches`` are HAProxy's ``wretr`` and ``wredis``; see ``retried``.
    """

    predictions: int = 0
    requests: int = 0
    s2xx: int = 0
    s4xx: int = 0
    s5xx: int = 0
    connect_errors: int = 0
    response_errors: int = 0
    retries: int = 0
    redispatches: int = 0
    client_aborts: int = 0
    server_aborts: int = 0
    unanswered: int = 0

    @property
    def failed(self) -> int:
        """Requests that ended in a 5xx, or in nothing."""
        return self.s5xx + self.unanswered

    @property
    def retried(self) -> int:
        """Failed attempts that were followed by another one.

        HAProxy counts a retry of an answer once in ``wretr`` and its move to another server once in
        ``wredis``; a retry of a connection only in ``wredis``; a retry on the same server twice in
        ``wretr``.  Neither column alone is the number; this is it (docs/router.md).
        """
        return self.redispatches + max(0, -((self.redispatches - self.retries) // 2))


@dataclass(frozen=True)
class PodObservation:
    """One router pod: its split, slots, counts, and the files a restart would read.

    ``feedback``: it has a token that opens ``/feedback``.
    """

    pod: RouterPod
    boot: str
    uptime: int
    weights: Weights
    slots: Mapping[str, SlotState]
    counters: Mapping[str, SlotCounters]
    mounted_weights: Weights | None = None
    mounted_roles: Mapping[str, Any] | None = None
    feedback: bool = False


@dataclass(frozen=True)
class RouterObservation:
    """All router pods that were asked: what they said, or why they did not."""

    pods: tuple[PodObservation, ...] = ()
    errors: Mapping[str, SluiceError] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Somebody was asked and everybody answered."""
        return bool(self.pods) and not self.errors

    @property
    def weights(self) -> Weights | None:
        """The split, when every pod that answered has the same one."""
        plans = {pod.weights for pod in self.pods}
        return plans.pop() if len(plans) == 1 else None

    def share_range(self, slot: str) -> tuple[float, float] | None:
        """Lowest and highest share of ``slot`` over the pods; absent when none answered."""
        shares = [pod.weights.share(slot) for pod in self.pods]
        return (min(shares), max(shares)) if shares else None

    @property
    def carrying(self) -> frozenset[str]:
        """Slots that any router that answered sends requests to."""
        return frozenset().union(*(pod.weights.carrying() for pod in self.pods))

    def mounted_on(self, weights: Weights) -> bool:
        """Every pod answered, and its file, if read now, would give ``weights``' stable slot."""
        return self.complete and all(
            pod.mounted_weights is not None and pod.mounted_weights.stable == weights.stable
            for pod in self.pods
        )


@dataclass(frozen=True)
class PodResult:
    """What became of a change on one router pod."""

    pod: RouterPod
    error: SluiceError | None = None

    @property
    def ok(self) -> bool:
        return self.error is None


@dataclass(frozen=True)
class PushResult:
    """What became of a change on all of them."""

    results: tuple[PodResult, ...]

    @property
    def ok(self) -> bool:
        """At least one pod, and each confirmed by reading back."""
        return bool(self.results) and all(result.ok for result in self.results)

    @property
    def message(self) -> str:
        """The first thing that went wrong, or nothing."""
        errors = [r.error for r in self.results if r.error is not None]
        if not errors:
            return "" if self.results else "There is no router pod yet."
        rest = f" ({len(errors)} of {len(self.results)} routers)" if len(errors) > 1 else ""
        return f"{errors[0].message}{rest}"
