"""What an experiment needs to know of this process: which units it answered, what came of them.

Called by the predictions (a unit's first request) and by ``POST /feedback``; read by the operator
on the admin port.  The router names the experiment and the unit in one header, so nothing is kept
while no experiment runs.  A unit is a 64-bit hash, keyed by the experiment; its id is never stored.

Records are packed in order and numbered from 1.  Memory is bounded: beyond MOST_RECORDS the oldest
half goes, which the reader sees by the number of the first one; beyond MOST_UNITS exposures are
only counted.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

RECORD = struct.Struct("<BQdddQ")
"""Kind, unit, seconds since 1970, value, denominator, event (0: none)."""
EXPOSED, OUTCOME = 0, 1

MOST_RECORDS = 1 << 17
MOST_UNITS = 1 << 18
EXPERIMENTS = 2
"""Two at a time: routers do not learn of a new one in the same moment."""
PAGE = 4096

_MASK = (1 << 64) - 1


@dataclass(slots=True)
class _Log:
    """One experiment's records."""

    records: bytearray = field(default_factory=bytearray)
    first: int = 1
    units: set[int] = field(default_factory=set)
    dropped: int = 0
    sent: int | None = None
    """The last record that a reader got; None before anybody has asked."""

    def append(self, record: bytes, most: int) -> None:
        if len(self.records) >= most * RECORD.size:
            gone = max(1, most // 2)
            del self.records[: gone * RECORD.size]
            self.first += gone
        self.records += record

    @property
    def last(self) -> int:
        return self.first + len(self.records) // RECORD.size - 1


class Journal:
    """All experiments that this process has seen lately.  Used on the event loop only."""

    def __init__(
        self,
        boot: str,
        clock: Callable[[], float],
        *,
        most_records: int = MOST_RECORDS,
        most_units: int = MOST_UNITS,
    ) -> None:
        self.boot = boot
        self._clock = clock
        self._most_records = most_records
        self._most_units = most_units
        self._logs: dict[str, _Log] = {}

    def exposed(self, header: bytes) -> None:
        """A unit's request came to this process; only its first one is written down."""
        named = parse(header)
        if named is None:
            return
        experiment, unit = named
        log = self._log(experiment)
        if unit in log.units:
            return
        if len(log.units) >= self._most_units:
            log.dropped += 1
            return
        log.units.add(unit)
        log.append(RECORD.pack(EXPOSED, unit, self._clock(), 0.0, 0.0, 0), self._most_records)

    def outcome(self, header: bytes, value: float, denominator: float, event: str) -> bool:
        """Something came of a unit; False when no experiment is running for it."""
        named = parse(header)
        if named is None:
            return False
        experiment, unit = named
        record = RECORD.pack(
            OUTCOME, unit, self._clock(), value, denominator, event_hash(unit, event)
        )
        self._log(experiment).append(record, self._most_records)
        return True

    @property
    def awaited(self) -> bool:
        """Whether somebody reads the newest experiment and has not got all of it yet."""
        log = next(reversed(self._logs.values()), None)
        return log is not None and log.sent is not None and log.sent < log.last

    def page(self, experiment: str, since: int) -> dict[str, Any]:
        """Records after number ``since``, at most PAGE of them, as ``/journal`` shows them."""
        log = self._logs.get(experiment) or _Log()
        start = max(since + 1, log.first)
        offset = (start - log.first) * RECORD.size
        packed = bytes(log.records[offset : offset + PAGE * RECORD.size])
        log.sent = max(log.sent or 0, start - 1 + len(packed) // RECORD.size)
        return {
            "schema": 1,
            "boot": self.boot,
            "now": self._clock(),
            "experiment": experiment,
            "first": start,
            "last": log.last,
            "dropped": log.dropped,
            "records": base64.b64encode(packed).decode(),
        }

    def _log(self, experiment: str) -> _Log:
        log = self._logs.get(experiment)
        if log is None:
            if len(self._logs) >= EXPERIMENTS:
                del self._logs[next(iter(self._logs))]
            log = self._logs[experiment] = _Log()
        return log


def parse(header: bytes) -> tuple[str, int] | None:
    """(experiment, unit) of ``EXPERIMENT:HASH`` as the router writes it; None for anything else."""
    experiment, _, number = header.partition(b":")
    digits = number.removeprefix(b"-")
    if not 0 < len(experiment) <= 64 or not digits.isdigit() or len(digits) > 20:
        return None
    return experiment.decode("latin-1"), int(number) & _MASK


def event_hash(unit: int, event: str) -> int:
    """A unit's event as a number, the same in every pod; 0 for one without a name."""
    if not event:
        return 0
    digest = blake2b(event.encode("utf-8", "surrogatepass"), digest_size=8, salt=unit.to_bytes(8))
    return int.from_bytes(digest.digest()) or 1
