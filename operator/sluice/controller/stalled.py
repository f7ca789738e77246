"""The status of a ModelDeployment that cannot be read.  Called by reconcile.  Pure."""

from __future__ import annotations

from typing import Any

from sluice.errors import SluiceError
from sluice.objects.common import Obj
from sluice.rollout.times import rfc3339

_SAID = (("Ready", "False"), ("Reconciling", "False"), ("Stalled", "True"))


def stalled(mdep: Obj, error: SluiceError, now: float) -> dict[str, Any]:
    """The present status with the conditions that say what a person must do.

    Everything else stays as it was: what serves goes on serving.
    """
    present = dict(mdep.get("status") or {})
    generation = int(mdep["metadata"].get("generation") or 0)
    before = {c["type"]: c for c in present.get("conditions") or []}
    rows = dict(before)
    for kind, truth in _SAID:
        old = before.get(kind, {})
        same = old.get("status") == truth
        rows[kind] = {
            "type": kind,
            "status": truth,
            "observedGeneration": generation,
            "lastTransitionTime": old["lastTransitionTime"] if same else rfc3339(now),
            "reason": error.reason,
            "message": str(error)[:512],
        }
    return {**present, "observedGeneration": generation, "conditions": list(rows.values())}
