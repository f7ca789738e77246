"""``POST /feedback``: what came of a unit, checked and written into the journal.

Called by the endpoints; calls the journal.  The router lets it through only with the token of
``experiment.feedback.secretRef``.  The answer is 202 whether or not an experiment runs, so that
those who send need not know of experiments.
"""

from __future__ import annotations

import math

import msgspec

from sluice.runtime.http import Request, Response
from sluice.runtime.journal import Journal
from sluice.runtime.problems import Problem, bad

PATH = "/feedback"
HEADER_UNIT = b"x-sluice-unit"
LARGEST = 1e12
MOST = 1000
MAX_BODY = 1 << 20


class Outcome(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    """One outcome of the unit that the request names."""

    value: float
    denominator: float = 0.0
    event_id: str = ""


_ONE = msgspec.json.Decoder(Outcome)
_MANY = msgspec.json.Decoder(list[Outcome])
_EXAMPLE = 'send, for example, {"value": 1} or {"value": 19.9, "eventId": "order-7"}'


def take(request: Request, journal: Journal) -> Response:
    """Writes the outcomes down; a Problem names what is wrong with them."""
    outcomes = _outcomes(request)
    header = request.headers.get(HEADER_UNIT, b"")
    kept = sum(journal.outcome(header, o.value, o.denominator, o.event_id) for o in outcomes)
    return Response(202, b'{"accepted":%d}' % kept)


def _outcomes(request: Request) -> list[Outcome]:
    if len(request.body) > MAX_BODY:
        raise Problem(413, "TooLarge", f"feedback is larger than {MAX_BODY} bytes")
    many = request.body.lstrip(b" \t\r\n").startswith(b"[")
    try:
        outcomes = _MANY.decode(request.body) if many else [_ONE.decode(request.body)]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise bad("InvalidFeedback", f"{str(error)[:200]}; {_EXAMPLE}") from None
    if not 1 <= len(outcomes) <= MOST:
        raise bad("InvalidFeedback", f"expected 1 to {MOST} outcomes, got {len(outcomes)}")
    for number, outcome in enumerate(outcomes):
        _check(outcome, f"outcome {number}: " if many else "")
    return outcomes


def _check(outcome: Outcome, where: str) -> None:
    if not math.isfinite(outcome.value) or abs(outcome.value) > LARGEST:
        raise bad(
            "OutOfRange",
            f"{where}expected a value between -1e12 and 1e12, got {outcome.value!r}",
            field="value",
        )
    if not 0 <= outcome.denominator <= LARGEST:
        raise bad(
            "OutOfRange",
            f"{where}expected a denominator between 0 and 1e12, got {outcome.denominator!r}",
            field="denominator",
        )
    if len(outcome.event_id) > 128:
        raise bad(
            "OutOfRange",
            f"{where}expected an eventId of at most 128 characters, got {len(outcome.event_id)}",
            field="eventId",
        )
