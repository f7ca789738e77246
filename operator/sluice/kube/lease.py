"""Leadership by a ``coordination.k8s.io`` Lease: one works, the others keep their caches warm.

Time is this process's own monotonic clock: another's lease has expired when it has not changed for
its duration *as seen from here*, whatever the clocks on the nodes say.  The leader stops believing
in itself (``is_leader``) at the renew deadline, before anyone else may take over.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
import os
import random
import socket
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from sluice.kube.client import KubeClient
from sluice.kube.errors import ConflictError, KubeError, NotFoundError
from sluice.kube.resources import Object

log = logging.getLogger(__name__)


def boot_clock() -> float:
    """Monotonic seconds that go on while the machine sleeps, where the system has such a clock."""
    clock = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
    return time.clock_gettime(clock)


def default_identity() -> str:
    """Unique per process: a restarted pod under the same name is another one."""
    return f"{os.environ.get('POD_NAME') or socket.gethostname()}_{uuid.uuid4().hex[:8]}"


@dataclass(frozen=True, slots=True)
class LeaseTimes:
    """Seconds; the defaults are those of Kubernetes' own controllers."""

    duration: float = 15.0
    renew_deadline: float = 10.0
    retry: float = 2.0

    def __post_init__(self) -> None:
        if not self.duration > self.renew_deadline > self.retry > 0:
            raise ValueError("a lease needs duration > renew deadline > retry > 0")


class LeaseElector:
    """Runs until cancelled; ``started`` and ``stopped`` are awaited around each leadership."""

    def __init__(
        self,
        client: KubeClient,
        namespace: str,
        name: str,
        *,
        started: Callable[[], Awaitable[None]],
        stopped: Callable[[], Awaitable[None]],
        identity: str | None = None,
        times: LeaseTimes | None = None,
        clock: Callable[[], float] = boot_clock,
    ) -> None:
        self.identity = identity or default_identity()
        self._client = client
        self._namespace = namespace
        self._name = name
        self._started = started
        self._stopped = stopped
        self._times = times or LeaseTimes()
        self._clock = clock
        self._renewed_at = float("-inf")
        self._leading = False
        self._trouble = 0
        self._lease: Object | None = None
        self._seen: tuple[str, str] = ("", "")
        self._seen_at = float("-inf")

    def is_leader(self) -> bool:
        """Whether this process may work now: the fence that workers ask before each key."""
        return self._leading and self._clock() < self._renewed_at + self._times.renew_deadline

    @property
    def holder(self) -> str:
        """Who holds the lease, as last seen."""
        return str((self._lease or {}).get("spec", {}).get("holderIdentity") or "")

    async def run(self) -> None:
        """Tries, holds, loses, tries again.  On cancellation the work is stopped, then released."""
        try:
            while True:
                await self._try()
                await self._settle()
                await asyncio.sleep(self._times.retry * random.uniform(0.8, 1.2))  # noqa: S311
        finally:
            await self._give_up()

    async def _try(self) -> None:
        """One attempt to take or renew, shorter than what is left until the renew deadline."""
        asked_at = self._clock()
        left = self._renewed_at + self._times.renew_deadline - asked_at
        budget = left if self._leading and left > 0 else self._times.renew_deadline
        try:
            async with asyncio.timeout(max(0.1, budget)):
                held = await self._acquire()
        except (KubeError, TimeoutError) as error:
            self._complain(error)
            return
        self._trouble = 0
        if held:
            self._renewed_at = asked_at
        elif self._leading:
            self._renewed_at = float("-inf")  # Someone else holds it: stop at once.

    def _complain(self, error: Exception) -> None:
        """Said once and now and then: without its lease an operator does nothing at all."""
        self._trouble += 1
        if self._trouble == 1 or self._trouble % 50 == 0:
            said = str(error) or "the API server took too long"
            log.warning("The lease %s/%s is not had: %s", self._namespace, self._name, said)

    async def _settle(self) -> None:
        valid = self._clock() < self._renewed_at + self._times.renew_deadline
        if valid and not self._leading:
            self._leading = True
            log.info("This instance leads (%s).", self.identity)
            await self._started()
        elif self._leading and not valid:
            self._leading = False
            log.warning("This instance leads no longer; the work is stopped.")
            await self._stopped()

    async def _acquire(self) -> bool:
        try:
            if self._lease is None or not self._leading:
                self._note(await self._client.get("Lease", self._namespace, self._name))
        except NotFoundError:
            self._note(await self._create())
            return True
        if self.holder not in ("", self.identity) and not self._expired():
            return False
        try:
            self._note(await self._patch(self.identity, self._times.duration))
        except NotFoundError:
            self._lease = None
            return False
        except ConflictError:
            # Someone was faster, or an answer to us was lost: the next look tells.
            self._note(await self._client.get("Lease", self._namespace, self._name))
            return self.holder == self.identity and self._leading
        return True

    def _note(self, lease: Object) -> None:
        self._lease = lease
        spec = lease.get("spec") or {}
        seen = (str(spec.get("holderIdentity") or ""), str(spec.get("renewTime") or ""))
        if seen != self._seen:
            self._seen, self._seen_at = seen, self._clock()

    def _expired(self) -> bool:
        spec = (self._lease or {}).get("spec") or {}
        duration = float(spec.get("leaseDurationSeconds") or self._times.duration)
        return self._clock() >= self._seen_at + duration

    def _spec(self, holder: str, duration: float) -> dict[str, Any]:
        now = dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        spec = (self._lease or {}).get("spec") or {}
        changed = holder != str(spec.get("holderIdentity") or "")
        transitions = int(spec.get("leaseTransitions") or 0)
        return {
            "holderIdentity": holder,
            "leaseDurationSeconds": max(1, round(duration)),
            "renewTime": now,
            "acquireTime": now if changed or "acquireTime" not in spec else spec["acquireTime"],
            "leaseTransitions": transitions + (1 if changed and holder else 0),
        }

    async def _create(self) -> Object:
        return await self._client.create(
            {
                "apiVersion": "coordination.k8s.io/v1",
                "kind": "Lease",
                "metadata": {"name": self._name, "namespace": self._namespace},
                "spec": self._spec(self.identity, self._times.duration),
            }
        )

    async def _patch(self, holder: str, duration: float) -> Object:
        assert self._lease is not None
        version = self._lease["metadata"]["resourceVersion"]
        patch = {
            "metadata": {"resourceVersion": version},
            "spec": self._spec(holder, duration),
        }
        # One attempt: a repeated one would meet its own success as a conflict.
        return await self._client.patch_merge(
            "Lease", self._namespace, self._name, patch, attempts=1
        )

    async def _give_up(self) -> None:
        """Stops the work first, then lets the next one in without waiting for the expiry."""
        if not self._leading:
            return
        await self._stopped()  # Still the leader: work in flight may end in peace.
        valid = self.is_leader()
        self._leading = False
        if not valid:
            return
        try:
            async with asyncio.timeout(self._times.retry * 2):
                await self._release()
        except (KubeError, TimeoutError) as error:
            log.debug("The lease %s was not released: %s", self._name, error)
        else:
            log.info("The lease %s is released.", self._name)

    async def _release(self) -> None:
        try:
            await self._patch("", 1.0)
        except ConflictError:
            # A renewal that was under way when we were told to stop has been stored after all.
            self._note(await self._client.get("Lease", self._namespace, self._name))
            if self.holder == self.identity:
                await self._patch("", 1.0)
