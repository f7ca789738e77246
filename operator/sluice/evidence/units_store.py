"""Units of an experiment: who was exposed to which arm, when, and what came of it.

Pure state, kept in memory by the controller and rebuilt from a log.  What changes the store is
packed into bytes that the caller appends to that log; reading the log again gives the same store,
so neither a restart of the operator nor a look that could not be committed loses or repeats a
unit.

A unit counts once, in the arm and at the time of its earliest exposure.  Its window closes a fixed
time later, and only then is it compared: counting outcomes as they arrive would favour the arm
whose units are older.  A unit seen in both arms has no arm; it is counted as crossed and left out.
A unit without an outcome is a zero, not a gap.

Called by the controller's experiments; calls sluice.stats for the sums it hands out.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sluice.errors import SluiceError
from sluice.stats.units import Pairs

Kind = Literal["Conversion", "Mean", "Ratio"]
Floats = NDArray[np.float64]

STABLE, CANDIDATE = 0, 1
MOST_UNITS = 200_000
LARGEST_OUTCOME = 1e12
TICKS = 100.0
"""Times in the log are hundredths of a second since the experiment began: 497 days."""

_EXPOSED, _OUTCOME, _CROSSED, _CONVERTED = 0, 2, 3, 4
_HEAD = struct.Struct("<BQI")
_VALUES = struct.Struct("<ddQ")
_LARGEST_RECORD = _HEAD.size + _VALUES.size


class UnitsError(SluiceError):
    """The log of an experiment cannot be read; the experiment begins again."""

    reason = "UnitsUnreadable"


@dataclass(frozen=True, slots=True)
class Exposure:
    """A unit got an answer of an arm for the first time, as one pod saw it (seconds since 1970)."""

    unit: int
    arm: int
    at: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """Something came of a unit: ``value``, of a size (the denominator of a ratio).

    ``event`` is its sender's name for it, hashed; the same one counts once.  0: it has none.
    """

    unit: int
    at: float
    value: float
    size: float = 0.0
    event: int = 0


@dataclass(frozen=True)
class Stratum:
    """Units whose windows closed together: sums of value (y) and size (x) of each arm."""

    stable: Pairs
    candidate: Pairs


@dataclass
class Seen:
    """What the store could not use, and why; shown to people."""

    exposed: list[int] = field(default_factory=lambda: [0, 0])
    crossed: int = 0
    early: int = 0
    late: int = 0
    repeated: int = 0
    unexposed: int = 0
    refused: int = 0
    """Exposures after the most units that the experiment may have."""
    unkept: int = 0
    """Outcomes for which the log had no room."""

    @property
    def not_counted(self) -> int:
        """Outcomes that are of nobody's window."""
        return self.early + self.late + self.unexposed


class UnitStore:
    """All units of one experiment that began at ``since``."""

    def __init__(self, kind: Kind, *, since: float, window: float, most: int = MOST_UNITS) -> None:
        self.seen = Seen()
        self._kind = kind
        self._since = since
        self._window = window
        self._most = min(most, MOST_UNITS)
        self._rows: dict[int, int] = {}
        self._events: set[int] = set()
        self._table = np.zeros((1024, 3))
        self._arms = np.zeros(1024, dtype=np.int8)
        self._crossed = np.zeros(1024, dtype=bool)

    def __len__(self) -> int:
        return len(self._rows)

    def add(
        self, exposures: Iterable[Exposure], outcomes: Iterable[Outcome], room: int = 1 << 30
    ) -> bytes:
        """Takes what pods saw up to one moment; returns what to append to the log.

        Both must be complete up to that moment: an outcome whose exposure comes later is lost.
        The order inside a call does not matter.  When the log has no ``room`` (bytes) left,
        outcomes are only counted.
        """
        log = bytearray()
        for exposure in sorted(exposures, key=lambda e: (e.at, e.unit, e.arm)):
            log += self._expose(exposure)
        for outcome in sorted(outcomes, key=lambda o: (o.at, o.unit)):
            if room - len(log) < _LARGEST_RECORD:
                self.seen.unkept += 1
            else:
                log += self._outcome(outcome)
        return bytes(log)

    def load(self, log: bytes) -> None:
        """Replays a log; UnitsError when it is none of this experiment's."""
        position = 0
        try:
            while position < len(log):
                code, unit, ticks = _HEAD.unpack_from(log, position)
                position += _HEAD.size
                at = self._since + ticks / TICKS
                if code in (_EXPOSED + STABLE, _EXPOSED + CANDIDATE):
                    self._set(unit, code, at)
                elif code == _CROSSED:
                    self._cross(self._rows[unit])
                elif code == _CONVERTED:
                    self._count(self._rows[unit], Outcome(unit, at, 1.0))
                elif code == _OUTCOME:
                    outcome = Outcome(unit, at, *_VALUES.unpack_from(log, position))
                    position += _VALUES.size
                    self._count(self._rows[unit], outcome)
                else:
                    raise ValueError(f"record {code}")
        except (struct.error, KeyError, ValueError) as error:
            raise UnitsError(
                f"The log of the experiment's units is damaged at byte {position}: {error!r}.",
                hint="The experiment begins again; what was compared before is not used.",
            ) from error

    def due(self, after: float, until: float) -> int:
        """How many units' windows close after ``after`` and not after ``until``."""
        return int(np.count_nonzero(self._closing(after, until)))

    def close(self, after: float, until: float) -> Stratum:
        """The units whose windows close after ``after`` (closed before) and up to ``until``."""
        closing = self._closing(after, until)
        n = len(self._rows)
        arms, table = self._arms[:n], self._table[:n]
        return Stratum(*(_pairs(table[closing & (arms == arm), 1:]) for arm in (STABLE, CANDIDATE)))

    def open(self, until: float) -> int:
        """Units whose windows have not closed by ``until``."""
        return int(np.count_nonzero(self._closing(until, math.inf)))

    # One record

    def _expose(self, e: Exposure) -> bytes:
        at = self._time(e.at)
        if at is None:
            return b""
        row = self._rows.get(e.unit)
        if row is None:
            if len(self._rows) >= self._most:
                self.seen.refused += 1
                return b""
            self._set(e.unit, e.arm, at)
            return self._packed(_EXPOSED + e.arm, e.unit, at)
        if self._arms[row] != e.arm:
            if self._crossed[row]:
                return b""
            self._cross(row)
            return self._packed(_CROSSED, e.unit, at)
        if at < self._table[row, 0]:
            self._set(e.unit, e.arm, at)
            return self._packed(_EXPOSED + e.arm, e.unit, at)
        return b""

    def _outcome(self, o: Outcome) -> bytes:
        row, at = self._rows.get(o.unit), self._time(o.at)
        if row is None:
            self.seen.unexposed += 1
            return b""
        exposed = float(self._table[row, 0])
        if at is None or at < exposed:
            self.seen.early += 1
            return b""
        if at >= exposed + self._window:
            self.seen.late += 1
            return b""
        if not self._count(row, o):
            return b""
        if self._kind == "Conversion":
            return self._packed(_CONVERTED, o.unit, at)
        return self._packed(_OUTCOME, o.unit, at) + _VALUES.pack(o.value, o.size, o.event)

    def _set(self, unit: int, arm: int, at: float) -> None:
        row = self._rows.get(unit)
        if row is None:
            row = self._rows[unit] = len(self._rows)
            self._grow()
            self._arms[row] = arm
            self.seen.exposed[arm] += 1
        self._table[row, 0] = at

    def _cross(self, row: int) -> None:
        if not self._crossed[row]:
            self._crossed[row] = True
            self.seen.crossed += 1

    def _count(self, row: int, o: Outcome) -> bool:
        """Whether the outcome makes a difference: a unit converts once."""
        if self._kind == "Conversion":
            if o.value <= 0 or self._table[row, 1] > 0:
                return False
            self._table[row, 1] = 1.0
            return True
        if o.event in self._events:
            self.seen.repeated += 1
            return False
        if o.event:
            self._events.add(o.event)
        self._table[row, 1] += o.value
        self._table[row, 2] += o.size
        return True

    def _closing(self, after: float, until: float) -> NDArray[np.bool_]:
        n = len(self._rows)
        closes = self._table[:n, 0] + self._window
        closing: NDArray[np.bool_] = (closes > after) & (closes <= until) & ~self._crossed[:n]
        return closing

    def _time(self, at: float) -> float | None:
        """``at`` as the log keeps it; None before the experiment."""
        ticks = math.floor((at - self._since) * TICKS)
        return self._since + ticks / TICKS if 0 <= ticks < 1 << 32 else None

    def _packed(self, code: int, unit: int, at: float) -> bytes:
        return _HEAD.pack(code, unit, round((at - self._since) * TICKS))

    def _grow(self) -> None:
        size = len(self._arms)
        if len(self._rows) > size:
            self._table = np.concatenate([self._table, np.zeros((size, 3))])
            self._arms = np.concatenate([self._arms, np.zeros(size, dtype=np.int8)])
            self._crossed = np.concatenate([self._crossed, np.zeros(size, dtype=bool)])


def _pairs(sums: Floats) -> Pairs:
    y, x = sums[:, 0], sums[:, 1]
    return Pairs(
        len(sums),
        float(y.sum()),
        float(y @ y),
        float(x.sum()),
        float(x @ x),
        float(x @ y),
    )
