"""The looks behind a verdict, kept so that a person can judge them again (``sluice judge``).

A row is [look, looks in it, starts begun, stable's requests, client errors and model errors, the
candidate's].  There are never more than MOST rows: beyond that, old neighbours become one row.
Called by sluice.rollout.judge (added) and sluice.rollout.checks (written, summed).
"""

from __future__ import annotations

from collections.abc import Mapping

from sluice.stats.look import ArmLook, Look

Trail = list[list[int]]

MOST = 60
MOST_CHARACTERS = 30_000
"""Of a status that may be read often, and below what its field allows."""

COLUMNS = "look,check,starts,arm,n,events"


def added(trail: Trail, look: Look, starts: int) -> Trail:
    """The trail with one more look, before which ``starts`` starts had begun."""
    rows = [*trail, [look.id, 1, starts, *_cells(look.stable), *_cells(look.candidate)]]
    return rows if len(rows) <= MOST else _shorter(rows)


def _cells(arm: ArmLook) -> tuple[int, int, int]:
    return arm.n, arm.client_errors, arm.model_errors


def _shorter(rows: Trail) -> Trail:
    """One row less: of the older half, the two neighbours that lose least by being added up.

    Looks without events say nothing and lose nothing; starts that differ lose most.
    """

    def loss(i: int) -> tuple[bool, bool, int]:
        older, newer = rows[i], rows[i + 1]
        return older[2] != newer[2], _tells(older) or _tells(newer), older[1] + newer[1]

    place = min(range(len(rows) // 2), key=loss)
    older, newer = rows[place], rows[place + 1]
    sums = [a + b for a, b in zip(older[3:], newer[3:], strict=True)]
    one = [newer[0], older[1] + newer[1], older[2], *sums]
    return [*rows[:place], one, *rows[place + 2 :]]


def _tells(row: list[int]) -> bool:
    return any(row[i] for i in (4, 5, 7, 8))


def written(trail: Trail, events: Mapping[str, int]) -> tuple[Trail, str]:
    """The looks as a file of ``sluice judge`` of at most MOST_CHARACTERS, and its rows.

    ``events`` says which event each check counts.  Many checks make long rows, so fewer fit.
    """
    text = csv(trail, events)
    while len(text) > MOST_CHARACTERS and len(trail) > 1:
        fewer = max(1, len(trail) * MOST_CHARACTERS // len(text))
        while len(trail) > fewer:
            trail = _shorter(trail)
        text = csv(trail, events)
    return trail, text


def csv(trail: Trail, events: Mapping[str, int]) -> str:
    """Every row of the trail, whatever its length."""
    lines = [COLUMNS]
    for look, _, starts, *cells in trail:
        for check, place in events.items():
            for arm, at in (("stable", 0), ("candidate", 3)):
                lines.append(f"{look},{check},{starts},{arm},{cells[at]},{cells[at + place]}")
    return "\n".join(lines) + "\n"


def summed(trail: Trail) -> int:
    """How many looks share a row with another one."""
    return sum(row[1] for row in trail if row[1] > 1)
