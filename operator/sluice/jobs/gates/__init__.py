"""The gates: what a candidate must pass before the first user request.  One file each.

Called by ``sluice.jobs.worker``, in a process of their own.  A gate returns one sentence with its
numbers when it passes and raises ``GateFailed`` with one sentence when it does not; whatever else a
model raises fails the gate too.
"""

from sluice.jobs.gates.bench import Bench, CannotJudgeError, GateFailedError

__all__ = ["Bench", "CannotJudgeError", "GateFailedError"]
