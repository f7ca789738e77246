"""What is kept running and what may go.

Stable and, in the watch, previous keep full capacity; nothing is scaled down before its observed
traffic is 0 and every router's mounted file has had time to forget it.
"""

from __future__ import annotations

from sluice.rollout.capacity import comparable
from sluice.rollout.draft import Draft
from sluice.rollout.model import SLOTS
from sluice.rollout.provision import steps_of

FILE_LAG = 75.0
"""Seconds until a mounted ConfigMap has certainly reached every router pod."""


def pods_wanted(draft: Draft) -> dict[str, int]:
    """Revision -> replicas of every revision that must run."""
    replicas = draft.i.spec.replicas
    wanted = {r: replicas for r in (draft.roles.stable, draft.roles.previous) if r}
    rollout = draft.rollout
    if (
        rollout is not None
        and rollout.revision
        and rollout.phase not in ("Resolving", "Validating")
    ):
        wanted.setdefault(rollout.revision, _candidate_replicas(draft, replicas))
    for revision, view in draft.i.pods.items():
        if revision not in wanted and view.exists and revision not in retirable(draft):
            wanted[revision] = view.wanted
    return wanted


def _candidate_replicas(draft: Draft, replicas: int) -> int:
    rollout = draft.rollout
    assert rollout is not None
    if rollout.phase == "RollingBack":
        return max(draft.pods(rollout.revision).wanted, 0)
    plan = steps_of(draft) if rollout.phase != "Promoting" else None
    if plan is None:
        return replicas
    load = plan.steps[rollout.step].load
    if rollout.phase == "Experimenting" and plan.experiment is not None:
        load = plan.experiment.weight
    present = comparable(replicas, load)
    return max(present, draft.pods(rollout.revision).wanted)


def retirable(draft: Draft) -> frozenset[str]:
    """Revisions whose pods may go: without a role and without observed traffic."""
    router = draft.i.router
    members = draft.roles.members()
    rollout = draft.rollout
    if rollout is not None and rollout.revision:
        members |= {rollout.revision}
    gone = set()
    for revision, view in draft.i.pods.items():
        if not view.exists or revision in members:
            continue
        if router.pods and not (router.complete and revision not in router.carrying):
            continue
        since = draft.roles.left.get(revision)
        if since is not None and draft.i.now - since < FILE_LAG:
            draft.come_back(FILE_LAG - (draft.i.now - since))
            continue
        gone.add(revision)
    return frozenset(gone)


def slots_kept(draft: Draft) -> None:
    """Frees the slots of revisions that neither hold a role nor carry traffic any more."""
    router = draft.i.router
    keep = draft.roles.members()
    if draft.rollout is not None and draft.rollout.revision:
        keep |= {draft.rollout.revision}
    slots = dict(draft.roles.slots)
    for slot in SLOTS:
        revision = slots.get(slot)
        quiet = router.pods == 0 or (router.complete and revision not in router.carrying)
        gone = revision in retirable(draft) or not draft.pods(revision).exists
        if revision and revision not in keep and quiet and gone:
            slots[slot] = None
    left = {r: at for r, at in draft.roles.left.items() if r not in keep and draft.pods(r).exists}
    if (slots, left) != (draft.roles.slots, draft.roles.left):
        draft.roles = draft.roles.model_copy(update={"slots": slots, "left": left})
