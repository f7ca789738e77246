"""Which request goes where: the one value that the router's memory holds, and the slots it names.

Pure.  Written into the router's ConfigMap by ``objects.router`` (always with everything on stable)
and into the router's memory by ``traffic.router``.  The whole split is **one** map entry, so that a
change of stable, candidate, holdback and salt together is atomic: no request sees half of it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

SLOTS = ("a", "b", "c")
PLAN_KEY = "plan"
SPLIT_RESOLUTION = 10_000
"""Assignment buckets: a weight of one percent is 100 of them."""

_SALT = re.compile(r"^[A-Za-z0-9._-]{1,64}$")
_NONE = "-"


@dataclass(frozen=True)
class Weights:
    """The split of traffic over the slots.

    A unit whose holdback hash is in the top ``holdback_percent`` goes to the holdback slot.  Of the
    rest, a unit whose hash is below ``weight`` percent goes to the candidate, others to stable.
    With ``holdback_salt`` equal to the ``salt`` of the rollout that was just promoted, the
    held-back units are those that the candidate never had, so a promotion from
    ``100 - holdback`` moves nobody.  While ``experiment`` is named, requests carry their unit's
    hash, keyed by that name.
    """

    stable: str
    candidate: str | None = None
    weight: int = 0
    holdback: str | None = None
    holdback_percent: int = 0
    salt: str = "0"
    holdback_salt: str = "0"
    experiment: str | None = None

    def __post_init__(self) -> None:
        for role in ("stable", "candidate", "holdback"):
            slot = getattr(self, role)
            if slot not in SLOTS and not (slot is None and role != "stable"):
                raise ValueError(f"{role} is {slot!r}, not one of the slots {', '.join(SLOTS)}")
        for name in ("weight", "holdback_percent"):
            if not 0 <= getattr(self, name) <= 100:
                raise ValueError(f"{name} is {getattr(self, name)}, not a percentage")
        if self.weight and self.candidate in (None, self.stable):
            raise ValueError("a weight needs a candidate slot other than stable's")
        if self.holdback_percent and self.holdback is None:
            raise ValueError("a holdback needs the slot it goes to")
        for name in ("salt", "holdback_salt"):
            if not _SALT.match(getattr(self, name)):
                raise ValueError(f"{name} is {getattr(self, name)!r}, not letters and digits")
        if self.experiment is not None and not _SALT.match(self.experiment):
            raise ValueError(f"experiment is {self.experiment!r}, not letters and digits")

    def share(self, slot: str) -> float:
        """Expected percent of all requests for ``slot``."""
        rest = 100.0 - self.holdback_percent
        candidate = rest * self.weight / 100
        total = 0.0
        if slot == self.holdback:
            total += self.holdback_percent
        if slot == self.candidate:
            total += candidate
        if slot == self.stable:
            total += rest - candidate
        return total

    def carrying(self) -> frozenset[str]:
        """Slots that requests may be sent to."""
        return frozenset(slot for slot in SLOTS if self.share(slot) > 0)

    def without(self, slot: str) -> Weights:
        """The same split with nothing on ``slot``; its share falls to stable."""
        if slot == self.stable:
            raise ValueError(f"slot {slot} is stable and cannot be emptied")
        plan = self
        if slot == plan.candidate:
            plan = replace(plan, candidate=None, weight=0)
        if slot == plan.holdback:
            plan = replace(plan, holdback=None, holdback_percent=0)
        return plan

    def encode(self) -> str:
        """The value of the map entry, for example ``a:b:25:-:0:5f3a:0``."""
        named = (self.experiment,) if self.experiment is not None else ()
        return ":".join(
            (
                self.stable,
                self.candidate or _NONE,
                str(self.weight),
                self.holdback or _NONE,
                str(self.holdback_percent),
                self.salt,
                self.holdback_salt,
                *named,
            )
        )

    @classmethod
    def decode(cls, text: str) -> Weights:
        """Read a map entry back.  ValueError when it is not one of ours."""
        parts = text.split(":")
        if len(parts) not in (7, 8):
            raise ValueError(f"the router's plan {text!r} does not have seven or eight fields")
        stable, candidate, weight, holdback, percent, salt, holdback_salt, *named = parts
        return cls(
            stable,
            None if candidate == _NONE else candidate,
            int(weight),
            None if holdback == _NONE else holdback,
            int(percent),
            salt,
            holdback_salt,
            named[0] if named else None,
        )


@dataclass(frozen=True)
class SlotTarget:
    """The revision a slot points at.

    ``host`` is its headless Service (full name); ``cluster_ip`` the address of its ClusterIP
    Service, absent where the cluster has none.  ``timeout_ms`` is how long an answer may take
    before the router gives that attempt up: longer than the runtime's own timeout.
    """

    revision: str
    host: str
    cluster_ip: str | None = None
    timeout_ms: int = 3000


def unset_target(cluster_domain: str = "cluster.local") -> SlotTarget:
    """A slot without a revision: a name that the cluster's DNS answers with NXDOMAIN.

    Not under ``svc``, so that no Service can ever have it, and inside the cluster's zone, so that
    the question never leaves the cluster.
    """
    return SlotTarget(_NONE, f"unset.sluice.{cluster_domain}")
