"""What a failure is: from the counts of routers and pods to one arm's requests and errors.

Pure; called by ``evidence.snapshot``.  docs/router.md says it in prose.  HAProxy hides failures: an
attempt that it retried leaves no trace in the statuses.  Pods hide others: a connection that was
never accepted, a reset, a hang.  Both see some of the same failures, so this file says who counts
what, and everything is counted once:

- ``n``: prediction requests that the router assigned to the arm.  A retry is not another request.
- final failures: 5xx answers and closed connections as the router saw them, or the pods' own model
  errors and time-outs if those are more (a client that left never gets its 5xx).
- saved failures: requests that failed at least once and were answered after a retry.  The router
  counts attempts; a request that failed for good after retries used all of them, so those attempts
  are taken off, also when they were in an earlier look than the failure.  5xx that a pod answered
  itself (500, 504) are never retried and used none.
- client errors: as the pods counted them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from sluice.objects.haproxy_config import RETRIES


@dataclass(frozen=True)
class ArmDelta:
    """What an arm's routers and pods counted since the last look."""

    assigned: int = 0
    failed: int = 0
    retried: int = 0
    pod_errors: int = 0
    client_errors: int = 0


@dataclass(frozen=True)
class ArmTotals:
    """Sums since the arms and their weights were last the same, and what looks already got.

    Routers and pods are read some milliseconds apart, and a request that hangs is retried in one
    look and fails in the next.  Looks get differences of these totals: nothing is lost or counted
    twice, errors never exceed requests, and what one look was told too early the next is not told.
    """

    assigned: int = 0
    failed: int = 0
    pod_errors: int = 0
    exhausted: int = 0
    saved: int = 0
    client_errors: int = 0
    told_model: int = 0
    told_client: int = 0

    def add(self, delta: ArmDelta) -> ArmTotals:
        """The totals with one more reading."""
        final, pods = self.failed + delta.failed, self.pod_errors + delta.pod_errors
        # The highest so far: a pod's 500 that the router does not know yet hides one for a moment.
        exhausted = max(self.exhausted, final - pods)
        return replace(
            self,
            assigned=self.assigned + delta.assigned,
            failed=final,
            pod_errors=pods,
            exhausted=exhausted,
            saved=max(0, self.saved + delta.retried - RETRIES * (exhausted - self.exhausted)),
            client_errors=self.client_errors + delta.client_errors,
        )

    @property
    def failures(self) -> int:
        """Requests that were the arm's fault."""
        return max(self.failed, self.pod_errors) + self.saved

    def tell(self, n: int) -> tuple[ArmTotals, int, int]:
        """Totals after a look of ``n`` requests was told its (client errors, model errors)."""
        model = min(n, max(0, self.failures - self.told_model))
        client = min(n - model, max(0, self.client_errors - self.told_client))
        told = replace(
            self, told_model=self.told_model + model, told_client=self.told_client + client
        )
        return told, client, model
