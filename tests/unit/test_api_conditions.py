"""What generic tools make of each situation that our status can describe."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest

from sluice.api import conditions as c


def body(observed: int | None = 2, deleting: bool = False, **conditions: str) -> dict[str, Any]:
    metadata: dict[str, Any] = {"generation": 2}
    if deleting:
        metadata["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    listed = [{"type": kind, "status": status} for kind, status in conditions.items()]
    status: dict[str, Any] = {"conditions": listed}
    if observed is not None:
        status["observedGeneration"] = observed
    return {"metadata": metadata, "status": status}


@pytest.mark.parametrize(
    ("situation", "seen"),
    [
        (body(observed=-1), "InProgress"),
        (body(observed=1, Ready="True"), "InProgress"),
        (body(Reconciling="True", Ready="Unknown", Available="True"), "InProgress"),
        (body(Ready="True", Promoted="False"), "Current"),
        (body(Ready="True", Promoted="True", Available="True"), "Current"),
        (body(Available="True", Promoted="False", Ready="False", Stalled="True"), "Failed"),
        (body(Reconciling="False", Stalled="False", Ready="True"), "Current"),
        (body(Ready="False"), "InProgress"),
        (body(), "Current"),
        (body(observed=None), "Current"),
        (body(deleting=True, Stalled="True"), "Terminating"),
    ],
    ids=["not seen yet", "new spec not seen", "rolling", "held", "promoted", "rolled back",
         "spelled out", "not ready", "no conditions", "no status", "deleting"],
)  # fmt: skip
def test_what_kstatus_sees(situation: dict[str, Any], seen: str) -> None:
    assert c.compute(situation) == seen


def test_every_type_has_a_meaning_and_a_name_of_a_state() -> None:
    assert all(meaning.endswith(".") for meaning in c.TYPES.values())
    assert not [kind for kind in c.TYPES if kind.endswith("ing") and kind != c.RECONCILING]


def test_reasons_are_camel_case() -> None:
    reasons = [v for k, v in vars(c).items() if k.isupper() and isinstance(v, str)]
    assert all(reason.isalnum() and reason[0].isupper() for reason in reasons)
    assert len(reasons) == len(set(reasons))


def test_the_rollout_gives_no_type_and_no_reason_that_is_not_explained() -> None:
    """Read from its source, so that a new one cannot be forgotten in the reference."""
    folder = Path(c.__file__).parents[1] / "rollout"
    words: set[str] = set()
    for node in ast.walk(ast.parse((folder / "status.py").read_text())):
        if isinstance(node, ast.Tuple):
            words |= {e.value for e in node.elts if isinstance(e, ast.Constant)} - {""}
    camel = {w for w in words if isinstance(w, str) and w.isalpha() and w[0].isupper()}
    known = {*c.TYPES, *c.REASONS, "True", "False", "Unknown", "Paused", "Validated", "Passed"}
    assert camel - known == set()
