"""What a cell of the report hands back, and how a measured share is held against its claim.

Used by every table of tests.stats_report.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

SEED = 20261124


@dataclass(frozen=True)
class Row:
    """One line of a table: its cells by column, the claim that was checked, and the outcome.

    ``holds`` is None for a line that claims nothing: a method that is shown for comparison.
    ``points`` are named numbers for the plots.
    """

    case: str
    cells: Mapping[str, str]
    holds: bool | None = None
    points: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Cell:
    """A simulation with its own seed: ``run(rng, runs)`` gives the rows of one table."""

    table: str
    name: str
    run: Callable[[np.random.Generator, int], list[Row]]

    def rng(self) -> np.random.Generator:
        """The same numbers in every run of the report, whatever else runs beside it."""
        return np.random.default_rng([SEED, zlib.crc32(f"{self.table}/{self.name}".encode())])


def percent(share: float) -> str:
    """A share as the tables show it."""
    return f"{100 * share:.1f} %"


def limit(alpha: float, runs: int) -> float:
    """The claimed chance plus three standard errors of a simulation of ``runs`` runs."""
    return alpha + 3.0 * math.sqrt(alpha * (1.0 - alpha) / runs)


def false_alarms(case: str, fired: np.ndarray, alpha: float, others: Mapping[str, str]) -> Row:
    """A row that claims "at most ``alpha``"; ``fired`` says of each run whether it alarmed."""
    share, most = float(np.mean(fired)), limit(alpha, len(fired))
    cells = {"Sluice": percent(share), "claim": f"<= {percent(alpha)} + 3 s.e.", **others}
    return Row(case, cells, share <= most, {"share": share, "alpha": alpha})


def within(case: str, measured: float, reference: float, spread: float, unit: str) -> Row:
    """A row that claims a median near the reference's."""
    cells = {
        "median": f"{measured:,.0f} {unit}",
        "reference": f"{reference:,.0f} {unit}",
        "ratio": f"{measured / reference:.2f}x",
    }
    holds = abs(measured / reference - 1.0) <= spread
    return Row(case, cells, holds, {"median": measured, "reference": reference})


def at_least(case: str, share: float, claimed: float, runs: int) -> Row:
    """A row that claims to find at least ``claimed`` of what is there."""
    cells = {"found": percent(share), "claim": f">= {percent(claimed)} - 3 s.e."}
    return Row(case, cells, share >= claimed - (limit(claimed, runs) - claimed))


def at_most(case: str, measured: float, most: float, unit: str) -> Row:
    """A row that claims a median of at most ``most``."""
    cells = {"median": f"{measured:,.0f} {unit}", "claim": f"<= {most:,.0f} {unit}"}
    return Row(case, cells, measured <= most)
