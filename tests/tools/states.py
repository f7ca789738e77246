"""Writes a rollout's states and moves into docs/rollout.md; ``--check`` compares.

Run by ``make crds`` and ``make check``, from the table in sluice.rollout.states.
"""

from __future__ import annotations

import sys
from itertools import groupby
from pathlib import Path

from sluice.rollout.states import MEANING, TRANSITIONS, Transition

PAGE = Path(__file__).parents[2] / "docs" / "rollout.md"
BEGIN = "<!-- made by `make crds` from operator/sluice/rollout/states.py -->"
END = "<!-- end -->"


def main(argv: list[str]) -> int:
    """Writes or checks the page."""
    before = PAGE.read_text()
    after = page(before)
    if "--check" in argv:
        if before != after:
            print("docs/rollout.md is not in sync with sluice.rollout.states; run: make crds")
            return 1
        return 0
    PAGE.write_text(after)
    return 0


def page(text: str) -> str:
    """The page with what lies between the two marks made anew."""
    head, rest = text.split(BEGIN)
    tail = rest.split(END)[1]
    return f"{head}{BEGIN}\n\n{diagram()}\n\n{meanings()}\n\n{table()}\n\n{END}{tail}"


def diagram() -> str:
    """The usual moves as a mermaid state diagram."""
    lines = ["```mermaid", "stateDiagram-v2", "  [*] --> Idle"]
    lines += [f"  {t.state} --> {t.next}: {t.event}" for t in TRANSITIONS if t.usual]
    return "\n".join([*lines, "```"])


def meanings() -> str:
    """What each state is."""
    rows = [f"| **{state}** | {meaning} |" for state, meaning in MEANING.items()]
    return "\n".join(["| state | what happens |", "|---|---|", *rows])


def table() -> str:
    """Every move, by event."""
    rows = ["| event | from | to | rule |", "|---|---|---|---|"]
    ordered = sorted(TRANSITIONS, key=_by_event)
    for (event, after, where), found in groupby(ordered, key=_by_event):
        states = ", ".join(t.state for t in found)
        rows.append(f"| {event} | {states} | {after} | `{where}.py` |")
    return "\n".join(rows)


def _by_event(transition: Transition) -> tuple[str, str, str]:
    return transition.event, transition.next, transition.where


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
