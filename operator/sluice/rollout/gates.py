"""Validating: all gates pass before the first user request."""

from __future__ import annotations

from sluice.api.duration import seconds
from sluice.objects.fetching import fetch_seconds
from sluice.rollout import ledger
from sluice.rollout.draft import Draft
from sluice.rollout.messages import annotate, short, with_way_out
from sluice.rollout.model import Failure


def validate(draft: Draft) -> None:
    """Runs the gate job and records what it says."""
    rollout = draft.rollout
    assert rollout is not None
    assert rollout.revision is not None
    draft.gates = rollout.revision
    view = draft.i.gates
    if view.state in ("Absent", "Running"):
        draft.wait(view.message or "Gates are running.", reason="Validating")
        overdue(draft, view.message or "the gates to finish")
        return
    if view.state == "Broken":
        reason = "GatesBroken" if view.retryable else "GatesCannotRun"
        draft.wait(_could_not_run(draft, view.message), reason=reason)
        overdue(draft, view.message)
        if view.retryable or draft.drop_gates:
            draft.drop_gates = True
            draft.gates = None
            draft.come_back(15.0)
        return
    draft.set_rollout(gates=list(view.gates))
    bad = [g for g in view.gates if g.verdict != "Pass"]
    if bad:
        draft.note("GateFailed", f"{bad[0].name}: {bad[0].message}", warning=True)
        draft.fail(
            Failure(
                check=bad[0].name,
                reason="GateFailed",
                message=f"Gate {bad[0].name} failed: {bad[0].message}"[:512],
                scope="Revision" if bad[0].name == "latency" else "Package",
                detected=draft.i.now,
            ),
            "a gate fails",
        )
        return
    draft.set_verdict(
        rollout.revision, ledger.validated(draft.verdict(rollout.revision), draft.i.now)
    )
    draft.note("GatesPassed", ", ".join(f"{g.name} {g.verdict}" for g in view.gates))
    draft.set_rollout(
        event="all gates pass", phase="Provisioning", since=draft.i.now, observed=0.0, fetched=0.0
    )
    draft.come_back(0.0)


def _could_not_run(draft: Draft, said: str) -> str:
    record = draft.revision(draft.rollout.revision if draft.rollout else None)
    digest = short(record.package.digest) if record else ""
    again = f"Run them again: {annotate(draft.i.name, 'retry', digest)}"
    return with_way_out(f"The gates could not run: {said}", again)


def overdue(draft: Draft, missing: str) -> None:
    """Names what is missing once ``progressDeadline`` is over.  Never a verdict.

    A large package gets the time that fetching it may take on top.
    """
    rollout = draft.rollout
    assert rollout is not None
    record = draft.revision(rollout.revision)
    size = record.package.size if record else 0
    patience = seconds(draft.i.spec.rollout.progress_deadline) + fetch_seconds(size)
    if rollout.fetched >= patience:
        way_out = f"It goes on by itself when that is there, or: {annotate(draft.i.name, 'abort')}"
        draft.waiting = with_way_out(f"No progress within progressDeadline: {missing}.", way_out)
        draft.waiting_reason = "ProgressDeadlineExceeded"
