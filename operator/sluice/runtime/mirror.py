"""Mirroring without sockets: which requests are copied, what waits, and how answers compare.

Stable's pods copy a share of their requests to a candidate that no user has met yet.  Called by
``predictions.py`` (a request has been answered), by ``mirror_sender.py`` (an answer came, or none)
and by the admin port; opens nothing and reads no clock.  Memory is bounded: at most ``MAX_WAITING``
copies and ``MAX_BYTES`` of bodies wait; what does not fit is dropped and counted.

``sampled`` = ``dropped`` + ``failed`` + ``pairs`` + ``waiting``, always.
"""

from __future__ import annotations

import itertools
import zlib
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec

from sluice.package.scoring import Answer
from sluice.runtime.aim import Aim, Place
from sluice.runtime.counters import Outcome
from sluice.runtime.http import Request

HEADER_MIRROR = b"x-sluice-mirror"
"""Marks a copy, with the id of the request that it is a copy of."""

HEADER_REQUEST_ID = b"x-request-id"

MAX_WAITING = 128
MAX_BYTES = 4 * 1024 * 1024
MAX_BODY = 256 * 1024
MAX_ROWS = 64
"""Larger answers would be compared on the event loop for too long."""

MAX_ID = 128

_FORWARDED = (
    b"content-type",
    b"content-encoding",
    b"inference-header-content-length",
    b"traceparent",
)


class CopyAnswer(msgspec.Struct):
    """What a runtime answers to a copy, whatever protocol the request spoke."""

    id: str
    scores: list[float]
    labels: list[str | int | bool] | None = None


def render_copy_answer(copy_id: str, answer: Answer) -> bytes:
    """The body of a 200 to a copy."""
    return msgspec.json.encode(CopyAnswer(copy_id, answer.scores.tolist(), answer.labels))


_ANSWERS = msgspec.json.Decoder(CopyAnswer)


@dataclass(slots=True, eq=False)
class Copy:
    """One request to be sent once more, and what stable made of it."""

    id: str
    path: str
    headers: list[tuple[bytes, bytes]]
    body: bytes
    outcome: Outcome
    answer: Answer | None
    aim: Aim
    tally: Tally

    def render(self) -> bytes:
        """The request's bytes."""
        lines = [
            b"POST %s HTTP/1.1\r\nhost: candidate\r\n" % self.path.encode("latin-1"),
            *(b"%s: %s\r\n" % header for header in self.headers),
            b"x-sluice-revision: %s\r\n" % self.aim.revision.encode(),
            b"%s: %s\r\n" % (HEADER_MIRROR, self.id.encode("latin-1")),
            b"content-length: %d\r\n\r\n" % len(self.body),
            self.body,
        ]
        return b"".join(lines)


@dataclass(frozen=True, slots=True)
class Difference:
    """How far two answers are apart: the largest over the rows."""

    disagree: bool
    absolute: float = 0.0
    relative: float = 0.0


def compare(stable: Answer, candidate: CopyAnswer, tolerance: float) -> Difference:
    """Whether a label differs; for a regression, whether a value differs by more than tolerated.

    A relative difference is |a - b| / max(|a|, |b|), 0 when both are 0.  Answers of another shape
    disagree.
    """
    scores, labels = stable.scores.tolist(), stable.labels
    other = candidate.labels
    if len(scores) != len(candidate.scores) or (labels is None) is not (other is None):
        return Difference(True)
    absolute = relative = 0.0
    for a, b in zip(scores, candidate.scores, strict=True):
        apart, size = abs(a - b), max(abs(a), abs(b))
        absolute = max(absolute, apart)
        relative = max(relative, apart / size if size else 0.0)
    if labels is None or other is None:
        return Difference(relative > tolerance, absolute, relative)
    same = len(labels) == len(other) and all(map(_same, labels, other))
    return Difference(not same, absolute, relative)


def _same(a: object, b: object) -> bool:
    return a == b and isinstance(a, str) is isinstance(b, str)


@dataclass(slots=True)
class Tally:
    """What became of the requests sampled for one aim.  Errors are counted in pairs only."""

    sampled: int = 0
    dropped: int = 0
    failed: int = 0
    sent: int = 0
    """On their way now."""
    pairs: int = 0
    compared: int = 0
    disagreed: int = 0
    stable_client_errors: int = 0
    stable_errors: int = 0
    candidate_client_errors: int = 0
    candidate_errors: int = 0
    absolute_sum: float = 0.0
    absolute_max: float = 0.0
    relative_sum: float = 0.0
    relative_max: float = 0.0

    def differed(self, difference: Difference) -> None:
        """Two answers were compared."""
        self.compared += 1
        self.disagreed += difference.disagree
        self.absolute_sum += difference.absolute
        self.relative_sum += difference.relative
        self.absolute_max = max(self.absolute_max, difference.absolute)
        self.relative_max = max(self.relative_max, difference.relative)


_JUDGED = {
    Outcome.OK: (0, 0),
    Outcome.CLIENT_ERROR: (1, 0),
    Outcome.MODEL_ERROR: (0, 1),
    Outcome.TIMEOUT: (0, 1),
}
"""Outcomes worth a copy, as (client errors, errors).  What was shed never reached the model."""


@dataclass(slots=True)
class Mirror:
    """The copies of one process."""

    prefix: str = ""
    """Of the ids that requests get which came without one."""
    aim: Aim | None = None
    tally: Tally = field(default_factory=Tally)
    counted_for: tuple[str, str] = ("", "")
    """(rollout, revision) that the tally is about."""
    problem: str = ""
    """Why the file cannot be followed; empty when it can."""
    places: list[Place] = field(default_factory=list)
    """(host, port) that copies go to."""
    _queue: deque[Copy] = field(default_factory=deque)
    _bytes: int = 0
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    @property
    def waiting(self) -> int:
        """Copies that are queued or on their way."""
        return len(self._queue) + self.tally.sent

    @property
    def queued(self) -> int:
        """Copies that are not sent yet."""
        return len(self._queue)

    def take_aim(self, aim: Aim | None) -> None:
        """Follow the file.  What waits for another candidate is dropped."""
        if aim == self.aim:
            return
        self.aim = aim
        self.places = aim.places() if aim is not None else []
        self.tally.dropped += len(self._queue)
        self._queue.clear()
        self._bytes = 0
        if aim is not None and self.counted_for != (aim.id, aim.revision):
            self.counted_for = (aim.id, aim.revision)
            self.tally = Tally()

    def chosen_id(self, headers: dict[bytes, bytes]) -> str | None:
        """The id of a request that is to be offered once it is answered; None when it is not.

        While no room is left nothing is prepared: a candidate that hangs costs next to nothing.
        """
        aim = self.aim
        if aim is None:
            return None
        full = len(self._queue) >= MAX_WAITING
        if not full or aim.percent < 100:
            copy_id = request_id(headers) or f"{self.prefix}-{next(self._numbers):x}"
            if not chosen(copy_id, aim.percent):
                return None
            if not full:
                return copy_id
        self.tally.sampled += 1
        self.tally.dropped += 1
        return None

    def offer(
        self, request: Request, copy_id: str, outcome: Outcome, answer: Answer | None
    ) -> bool:
        """Take a copy of a chosen request that is answered; whether there is something to send."""
        aim = self.aim
        if aim is None or outcome not in _JUDGED:
            return False
        tally = self.tally
        tally.sampled += 1
        size = len(request.body)
        large = size > MAX_BODY or (answer is not None and len(answer.scores) > MAX_ROWS)
        if large or len(self._queue) >= MAX_WAITING or self._bytes + size > MAX_BYTES:
            tally.dropped += 1
            return False
        headers = [(name, request.headers[name]) for name in _FORWARDED if name in request.headers]
        self._queue.append(
            Copy(copy_id, request.path, headers, request.body, outcome, answer, aim, tally)
        )
        self._bytes += size
        return True

    def take(self) -> Copy | None:
        """The next copy to send."""
        if not self._queue:
            return None
        copy = self._queue.popleft()
        self._bytes -= len(copy.body)
        copy.tally.sent += 1
        return copy

    def failed(self, copy: Copy) -> None:
        """No answer came that says anything about the model."""
        copy.tally.sent -= 1
        copy.tally.failed += 1

    def answered(self, copy: Copy, status: int, body: bytes) -> None:
        """The candidate answered; what it means is counted once."""
        found, answer = _read(copy, status, body)
        if found is None:
            self.failed(copy)
            return
        tally = copy.tally
        tally.sent -= 1
        tally.pairs += 1
        client, errors = _JUDGED[copy.outcome]
        tally.stable_client_errors += client
        tally.stable_errors += errors
        client, errors = _JUDGED[found]
        tally.candidate_client_errors += client
        tally.candidate_errors += errors
        if copy.answer is not None and answer is not None:
            tally.differed(compare(copy.answer, answer, copy.aim.tolerance))

    def as_json(self) -> dict[str, Any]:
        """As on ``/counters``."""
        tally, aim = self.tally, self.aim
        return {
            "to": aim.revision if aim is not None else "",
            "percent": aim.percent if aim is not None else 0,
            "problem": self.problem,
            "rollout": self.counted_for[0],
            "candidate": self.counted_for[1],
            "sampled": tally.sampled,
            "dropped": tally.dropped,
            "failed": tally.failed,
            "waiting": self.waiting,
            "pairs": tally.pairs,
            "compared": tally.compared,
            "disagreed": tally.disagreed,
            "stableClientErrors": tally.stable_client_errors,
            "stableErrors": tally.stable_errors,
            "candidateClientErrors": tally.candidate_client_errors,
            "candidateErrors": tally.candidate_errors,
            "absolute": {"sum": tally.absolute_sum, "max": tally.absolute_max},
            "relative": {"sum": tally.relative_sum, "max": tally.relative_max},
        }


def chosen(copy_id: str, percent: int) -> bool:
    """Whether the request of this id is in the sample: the same id always is, or never."""
    if percent >= 100:
        return True
    return zlib.crc32(copy_id.encode("latin-1", "replace")) % 10_000 < 100 * percent


def request_id(headers: dict[bytes, bytes]) -> str | None:
    """The id that whoever sent the request gave it, when it can be passed on."""
    raw = headers.get(HEADER_REQUEST_ID, b"")
    return raw.decode("latin-1") if 0 < len(raw) <= MAX_ID else None


def _read(copy: Copy, status: int, body: bytes) -> tuple[Outcome | None, CopyAnswer | None]:
    """How the candidate's answer counts; None when it says nothing about its model."""
    if status == 200:
        try:
            answer = _ANSWERS.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None, None
        return (Outcome.OK, answer) if answer.id == copy.id else (None, None)
    if status == 500:
        return Outcome.MODEL_ERROR, None
    if status == 504:
        return Outcome.TIMEOUT, None
    return (Outcome.CLIENT_ERROR, None) if 400 <= status < 500 else (None, None)
