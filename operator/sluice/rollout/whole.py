"""Roles and progress that do not belong together are brought together before anything is decided.

The evidence ConfigMap may be lost; the router's ConfigMap still says who serves.  What nobody
judges any more must not keep its traffic.
"""

from __future__ import annotations

from sluice.rollout.draft import Draft
from sluice.rollout.plan import analysis_plan
from sluice.rollout.watch import begin


def made_whole(draft: Draft) -> None:
    """A candidate without a rollout loses its weight; a holdback without a watch is watched."""
    roles = draft.roles
    if draft.rollout is None and (roles.candidate is not None or roles.weight):
        draft.set_roles(candidate=None, weight=0)
    if draft.watch is None and roles.previous is not None and roles.stable is not None:
        begin(
            draft,
            roles.stable,
            roles.previous,
            analysis_plan(draft.i.spec),
            event="a holdback without a watch",
        )
