"""The states of a rollout and every transition between them, as data.

The rules (one module a state) do the work; this table says which moves they may make, on which
event, and where.  Each decision records its moves; the simulated worlds of the tests hold every one
of them against the table, and the diagram in docs/rollout.md is made from it.

Called by sluice.rollout.draft (which records moves) and by tests; calls nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sluice.rollout.model import Progress

State = Literal[
    "Idle",
    "Resolving",
    "Validating",
    "Provisioning",
    "Mirroring",
    "Stepping",
    "Experimenting",
    "Promoting",
    "Watching",
    "RollingBack",
    "Stopped",
]

MEANING: dict[State, str] = {
    "Idle": "Nothing is on its way: the revision in spec serves, or nothing is known of it yet.",
    "Resolving": "A fetching Job reads the manifest behind `spec.model.uri`.",
    "Validating": "The gates run in a Job; no user sees the candidate.",
    "Provisioning": "Pods of the candidate start; routers learn their addresses at weight 0.",
    "Mirroring": "Stable's pods copy requests to the candidate; no user gets its answers.",
    "Stepping": "The candidate has a share of the traffic and is judged against stable.",
    "Experimenting": "The steps have passed; units of both arms are compared on a business metric.",
    "Promoting": "Everyone but the holdback goes to the candidate, then the roles flip.",
    "Watching": "The promoted revision is compared with the holdback; previous stays warm.",
    "RollingBack": "Weight 0 is pushed, and confirmed by every router.",
    "Stopped": "The source in spec is refused, quarantined or withdrawn; stable serves.",
}


@dataclass(frozen=True)
class Move:
    """A change of state in one decision."""

    state: State
    event: str
    next: State


@dataclass(frozen=True)
class Transition(Move):
    """A move that may happen: in which module, and whether it is on the usual way."""

    where: str
    usual: bool = False


class ImpossibleMoveError(AssertionError):
    """A rule made a move that the table does not know."""


def state_of(progress: Progress) -> State:
    """The state of a ModelDeployment: its rollout's, else its watch's, else how the last ended.

    A candidate may wait beside a watch; then the state is the candidate's.
    """
    if progress.rollout is not None:
        return progress.rollout.phase
    if progress.watch is not None:
        return "Watching"
    return "Idle" if progress.outcome is None else "Stopped"


def _from(
    states: str, event: str, nexts: str, where: str, *, usual: bool = False
) -> list[Transition]:
    known: dict[str, State] = {name: name for name in MEANING}
    return [
        Transition(known[state], event, known[after], where, usual)
        for state in states.split()
        for after in nexts.split()
    ]


_WAITING = "Resolving Validating Provisioning"
_WITH_PODS = "Provisioning Mirroring Stepping Experimenting Promoting"
_AT_WORK = f"Validating {_WITH_PODS}"

TRANSITIONS: tuple[Transition, ...] = (
    # The usual way
    *_from("Idle", "the package is not known yet", "Resolving", "admission", usual=True),
    *_from("Watching Stopped", "the package is not known yet", "Resolving", "admission"),
    *_from("Resolving", "the package is known", "Validating", "admission", usual=True),
    *_from("Idle Watching Stopped", "the package is known", "Validating", "admission"),
    *_from(
        "Idle Watching Stopped Resolving",
        "its gates have passed before",
        "Provisioning",
        "admission",
    ),
    *_from("Validating", "all gates pass", "Provisioning", "gates", usual=True),
    *_from("Provisioning", "pods and routers are ready", "Stepping", "provision", usual=True),
    *_from("Provisioning", "pods and routers are ready", "Mirroring", "provision", usual=True),
    *_from("Mirroring", "the last mirrored step passes", "Stepping", "mirroring", usual=True),
    *_from("Mirroring", "the last mirrored step passes", "Promoting", "mirroring"),
    *_from("Provisioning", "ready, and no steps to walk", "Promoting", "provision", usual=True),
    *_from("Stepping", "the last step passes", "Promoting", "steps", usual=True),
    *_from("Stepping", "the last step passes", "Experimenting", "steps", usual=True),
    *_from("Experimenting", "the experiment is won", "Promoting", "experiment", usual=True),
    *_from("Experimenting", "undecided at its end", "Promoting", "experiment"),
    *_from("Experimenting", "a person has seen enough", "Promoting", "experiment"),
    *_from("Promoting", "routers confirm", "Watching", "promote", usual=True),
    *_from("Promoting", "it is the first revision", "Idle", "promote", usual=True),
    *_from("Watching", "time and requests suffice", "Idle", "watch", usual=True),
    *_from("Watching", "time and requests suffice", "Stopped", "watch"),
    # It is worse
    *_from("Validating", "a gate fails", "RollingBack", "gates", usual=True),
    *_from("Experimenting", "the experiment is lost", "RollingBack", "experiment", usual=True),
    *_from("Experimenting", "undecided at its end", "RollingBack", "experiment"),
    *_from("Experimenting", "its units stay untrusted", "RollingBack", "experiment"),
    *_from(
        _WITH_PODS,
        "pods fail by the model's fault",
        "RollingBack",
        "provision",
    ),
    *_from(
        "Mirroring Stepping Promoting",
        "a guardrail fails",
        "RollingBack",
        "interrupts",
        usual=True,
    ),
    *_from("Experimenting", "a guardrail fails", "RollingBack", "interrupts"),
    *_from(
        "Stepping Experimenting Promoting",
        "the environment is suspected",
        "RollingBack",
        "interrupts",
    ),
    *_from("Mirroring Stepping", "undecided at maxDuration", "RollingBack", "steps"),
    *_from(_AT_WORK, "a Fail is on record", "RollingBack", "interrupts"),
    *_from("RollingBack", "no router sends it traffic", "Stopped", "rollback", usual=True),
    *_from("RollingBack", "no router sends it traffic", "Watching", "rollback"),
    *_from("Watching", "a guardrail fails", "Stopped", "interrupts", usual=True),
    *_from("Watching", "a Fail is on record", "Stopped", "interrupts"),
    *_from(f"{_WAITING} RollingBack", "a guardrail fails", "Watching", "interrupts"),
    *_from(f"{_WAITING} RollingBack", "a Fail is on record", "Watching", "interrupts"),
    # It may not run
    *_from("Resolving", "fetching fails", "Idle Watching Stopped", "admission"),
    *_from("Idle", "fetching fails", "Stopped", "admission"),
    *_from(
        f"Idle Resolving {_AT_WORK}",
        "refused",
        "Stopped",
        "admission",
    ),
    *_from(_WAITING, "refused", "Watching", "admission"),
    *_from("Idle", "withdrawn three times", "Stopped", "admission"),
    *_from("Stopped", "no longer refused", "Idle", "admission"),
    # The spec changes
    *_from(f"Resolving {_AT_WORK}", "the spec is back at stable", "Idle", "interrupts"),
    *_from(_WAITING, "the spec is back at stable", "Watching", "interrupts"),
    *_from(f"Resolving {_AT_WORK}", "the spec moved on", "Idle Stopped", "interrupts"),
    *_from(_WAITING, "the spec moved on", "Watching", "interrupts"),
    *_from("Stopped", "the spec moved on", "Idle", "admission"),
    *_from("Stopped", "the spec is back at stable", "Idle", "admission"),
    *_from(f"{_WAITING} RollingBack", "the spec is back at previous", "Watching", "interrupts"),
    *_from("Watching", "the spec is back at previous", "Idle", "interrupts"),
    # A person decides
    *_from(_AT_WORK, "abort", "RollingBack", "commands"),
    *_from("Watching", "abort", "Stopped", "commands"),
    *_from("Resolving", "abort", "Watching", "commands"),
    *_from("Watching", "promote", "Idle Stopped", "commands"),
    *_from("Stopped", "retry", "Idle", "commands"),
    # The evidence was lost, roles were not
    *_from("Idle Stopped", "a holdback without a watch", "Watching", "whole"),
)

_KNOWN = frozenset((t.state, t.event, t.next) for t in TRANSITIONS)


def prove(move: Move) -> None:
    """Nothing when the table knows ``move``; ImpossibleMoveError, naming state and event, else."""
    if (move.state, move.event, move.next) in _KNOWN:
        return
    event = move.event or "an event without a name"
    raise ImpossibleMoveError(
        f"In {move.state}, {event!r} leads to {move.next}: sluice.rollout.states has no such move."
    )
