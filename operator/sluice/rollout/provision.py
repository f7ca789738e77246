"""Provisioning: pods of the candidate, then a router slot that lists exactly them."""

from __future__ import annotations

from sluice.api.duration import human
from sluice.rollout.capacity import comparable
from sluice.rollout.draft import Draft
from sluice.rollout.gates import overdue
from sluice.rollout.messages import annotate, short, with_way_out
from sluice.rollout.model import SLOTS, Failure
from sluice.rollout.plan import Plan

SCALED_TO_ZERO = (
    "spec.replicas is 0: no request can be judged. It goes on when spec.replicas is raised."
)


def candidate_pods(draft: Draft, weight: int) -> bool:
    """Whether enough pods of the candidate are ready for ``weight``; says what is missing."""
    rollout = draft.rollout
    assert rollout is not None
    want = comparable(draft.i.spec.replicas, weight)
    view = draft.pods(rollout.revision)
    if view.ready >= want:
        return True
    trouble = view.trouble
    if trouble is not None and trouble.models_fault:
        draft.note("CandidateBroken", trouble.message, warning=True)
        draft.fail(
            Failure(
                check="pods",
                reason=trouble.kind,
                message=trouble.message[:512],
                scope="Revision",
                detected=draft.i.now,
            ),
            "pods fail by the model's fault",
        )
        return False
    missing = f"{view.ready} of {want} pods of {rollout.revision} are ready"
    if trouble is not None:
        missing = f"{missing}: {trouble.message}"
    draft.wait(missing, reason=trouble.kind if trouble else "WaitingForPods")
    overdue(draft, missing)
    return False


def provision(draft: Draft) -> None:
    """Waits for pods and for the router, then starts the first step."""
    rollout = draft.rollout
    assert rollout is not None
    if draft.watch is not None:
        draft.wait(_watch_first(draft), reason="WatchInFlight")
        draft.set_rollout(fetched=0.0)
        return
    if draft.i.spec.replicas == 0 and draft.roles.stable is not None:
        draft.wait(SCALED_TO_ZERO, reason="ScaledToZero")
        draft.set_rollout(fetched=0.0)
        return
    _take_slot(draft)
    if not candidate_pods(draft, first_load(draft)):
        return
    if draft.i.spec.replicas > 0 and not _listed(draft):
        return
    phase, event = "Promoting", "ready, and no steps to walk"
    plan = steps_of(draft)
    if plan is not None:
        phase = "Mirroring" if plan.steps[0].mirror else "Stepping"
        event = "pods and routers are ready"
    draft.set_rollout(
        event=event,
        phase=phase,
        since=draft.i.now,
        fetched=0.0,
        step=0,
        step_observed=0.0,
        mirror_ended=0.0,
    )
    draft.set_progress(judge={}, snapshot={}, metrics={}, pod_minutes={})
    draft.come_back(0.0)


def _listed(draft: Draft) -> bool:
    """Whether every router lists exactly the candidate's pods."""
    rollout = draft.rollout
    assert rollout is not None
    if rollout.revision not in draft.i.router.pointed or not draft.i.router.complete:
        draft.wait(
            draft.i.router.message or "The router does not list the candidate's pods yet.",
            reason="WaitingForRouter",
        )
        overdue(draft, draft.i.router.message or "The router does not list the candidate's pods.")
        return False
    return True


def _watch_first(draft: Draft) -> str:
    watching = draft.watch
    assert watching is not None
    record = draft.revision(watching.revision)
    left = max(0.0, watching.duration - watching.observed)
    return with_way_out(
        f"Waiting for the watch of {watching.revision} to end before the next canary: "
        f"{human(left)} and {watching.min_requests:,} requests to it in all.",
        "End it now: "
        + annotate(draft.i.name, "promote", short(record.package.digest) if record else ""),
    )


def steps_of(draft: Draft) -> Plan | None:
    """The plan when it has steps to walk: a canary against a stable revision.

    A revision that was promoted before only has to be ready; the watch looks after the rest.
    """
    rollout = draft.rollout
    assert rollout is not None
    assert rollout.revision is not None
    if draft.roles.stable is None or draft.i.spec.rollout.strategy == "GatesOnly":
        return None
    if draft.verdict(rollout.revision).phase == "Passed":
        return None
    return Plan.from_json(rollout.plan)


def first_load(draft: Draft) -> int:
    """The percent of requests that provisioning prepares for."""
    plan = steps_of(draft)
    return plan.steps[0].load if plan else 100


def _take_slot(draft: Draft) -> None:
    rollout = draft.rollout
    assert rollout is not None
    roles = draft.roles
    salt = rollout.id
    if roles.slot_of(rollout.revision) is None:
        busy = {roles.slot_of(r) for r in (roles.stable, roles.previous) if r}
        carrying = {roles.slot_of(r) for r in draft.i.router.carrying}
        if roles.stable is None:
            busy.add(SLOTS[0])  # Where routers send everything until somebody is stable.
        free = [s for s in SLOTS if s not in busy and s not in carrying]
        if not free:
            draft.wait("Waiting for a router slot to drain.", reason="WaitingForSlot")
            return
        draft.set_roles(slots={**roles.slots, free[0]: rollout.revision})
    draft.set_roles(candidate=rollout.revision, salt=salt)
