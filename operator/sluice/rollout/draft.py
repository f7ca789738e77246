"""The working copy of one decision.  Lives inside ``decide`` only; rules write to it in order."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from sluice.api.duration import seconds
from sluice.api.modelrevision import Verdict
from sluice.rollout import ledger
from sluice.rollout.judge import Judgement
from sluice.rollout.model import (
    Failure,
    Inputs,
    NewRevision,
    Note,
    Outcome,
    PodsView,
    Progress,
    Revision,
    Roles,
    RolloutProgress,
    WatchProgress,
)
from sluice.rollout.states import Move, state_of


@dataclass
class Draft:
    """What the rules of one decision read and write."""

    i: Inputs
    roles: Roles
    progress: Progress
    elapsed: float = 0.0
    judgement: Judgement | None = None
    verdicts: dict[str, Verdict] = field(default_factory=dict)
    notes: list[Note] = field(default_factory=list)
    executed: list[str] = field(default_factory=list)
    moves: list[Move] = field(default_factory=list)
    new_revision: NewRevision | None = None
    resolve: bool = False
    drop_resolve: bool = False
    gates: str | None = None
    drop_gates: bool = False
    waiting: str = ""
    waiting_reason: str = "Progressing"
    eta: float | None = None
    requeue: float | None = None

    @property
    def rollout(self) -> RolloutProgress | None:
        return self.progress.rollout

    @property
    def watch(self) -> WatchProgress | None:
        return self.progress.watch

    @property
    def interval(self) -> float:
        return seconds(self.i.spec.analysis.interval)

    def set_progress(self, *, event: str = "", **changes: Any) -> None:
        """Changes the progress; ``event`` says why when that moves the state."""
        before = state_of(self.progress)
        self.progress = self.progress.model_copy(update=changes)
        after = state_of(self.progress)
        if after != before:
            self.moves.append(Move(before, event, after))

    def set_rollout(self, *, event: str = "", **changes: Any) -> None:
        assert self.progress.rollout is not None
        self.set_progress(event=event, rollout=self.progress.rollout.model_copy(update=changes))

    def set_watch(self, **changes: Any) -> None:
        assert self.progress.watch is not None
        self.set_progress(watch=self.progress.watch.model_copy(update=changes))

    def set_roles(self, **changes: Any) -> None:
        before = self.roles
        self.roles = before.model_copy(update=changes)
        gone = {before.stable, before.previous} - {self.roles.stable, self.roles.previous, None}
        if gone:
            left = {**before.left, **{r: self.i.now for r in gone if r}}
            self.roles = self.roles.model_copy(update={"left": left})

    def verdict(self, revision: str) -> Verdict:
        """The verdict as this decision leaves it."""
        if revision in self.verdicts:
            return self.verdicts[revision]
        known = self.i.revisions.get(revision)
        return known.verdict if known else Verdict()

    def set_verdict(self, revision: str, verdict: Verdict) -> None:
        if verdict != self.verdict(revision):
            self.verdicts[revision] = verdict

    def pods(self, revision: str | None) -> PodsView:
        return self.i.pods.get(revision or "", PodsView())

    def revision(self, revision: str | None) -> Revision | None:
        """The record, with the verdict as this decision leaves it."""
        known = self.i.revisions.get(revision or "")
        return replace(known, verdict=self.verdict(known.hash)) if known else None

    def note(self, reason: str, message: str, *, warning: bool = False) -> None:
        self.notes.append(Note("Warning" if warning else "Normal", reason, message[:1000]))

    def wait(self, message: str, *, reason: str = "Progressing", eta: float | None = None) -> None:
        """Says what this decision waits for.  The first word counts."""
        if not self.waiting:
            self.waiting, self.waiting_reason, self.eta = message[:512], reason, eta

    def come_back(self, after: float) -> None:
        """Asks to be called again after at most ``after`` seconds."""
        self.requeue = after if self.requeue is None else min(self.requeue, after)

    def records(self) -> list[Revision]:
        """Every record, with the verdict as this decision leaves it."""
        return [replace(r, verdict=self.verdict(r.hash)) for r in self.i.revisions.values()]

    def drop_rollout(self, event: str) -> None:
        """Forgets the rollout without a verdict; one that it already has is written."""
        rollout = self.rollout
        if rollout is not None and rollout.revision and rollout.failure and not rollout.withdrawn:
            verdict = ledger.failed(rollout.failure, self.verdict(rollout.revision), self.i.now)
            self.set_verdict(rollout.revision, verdict)
        self.set_progress(event=event, rollout=None)

    def end_rollout(self, outcome: Outcome | None, event: str) -> None:
        self.set_progress(event=event, rollout=None, outcome=outcome)
        if self.watch is None:
            self.set_progress(judge={}, snapshot={}, metrics={}, pod_minutes={})
        self.set_roles(candidate=None, weight=0)
        self.drop_gates = True

    def fail(self, failure: Failure, event: str) -> None:
        """Begins to take the candidate back."""
        if self.rollout is not None and self.rollout.failure is None:
            self.set_rollout(event=event, failure=failure, phase="RollingBack", since=self.i.now)


def draft_of(i: Inputs) -> Draft:
    """A fresh draft: nothing changed yet."""
    draft = Draft(i=i, roles=i.roles, progress=i.progress)
    if i.progress.tick:
        draft.elapsed = min(max(0.0, i.now - i.progress.tick), 2 * draft.interval)
    return draft
