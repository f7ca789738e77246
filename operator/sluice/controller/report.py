"""Numbers of one ModelDeployment for Prometheus.  Called by reconcile after apply."""

from __future__ import annotations

from sluice.controller.metrics import Metrics
from sluice.controller.observe import World
from sluice.rollout.model import Decision, RouterView


def report(metrics: Metrics, world: World, decision: Decision, view: RouterView) -> None:
    """Sets the gauges and counts what this decision did."""
    namespace, name = world.owner.namespace, world.owner.name
    roles = decision.roles
    weights = {
        "candidate": (roles.candidate, roles.weight, view.weight_high),
        "previous": (roles.previous, roles.holdback, view.holdback_high),
    }
    for role, (revision, desired, observed) in weights.items():
        if revision is None:
            continue
        metrics.weight_desired.set(desired, namespace, name, revision, role)
        if observed is not None:
            metrics.weight_observed.set(observed, namespace, name, revision, role)
    for note in decision.notes:
        if note.reason == "RolledBack" and decision.progress.last_rollback is not None:
            metrics.rollbacks.inc(namespace, name, decision.progress.last_rollback.check)
