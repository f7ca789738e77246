"""Reading ``/journal`` of serving pods: which units they answered, and what came of them.

Called by the controller at each look of an experiment; calls aiohttp.  What a pod sends is not
trusted.  Records are taken up to one moment, the *cut*, from every pod: so an outcome is never
taken before the exposure it belongs to, whichever pods they were seen by.  A pod that does not
answer, or has more than was read, sets back the moment up to which all is known.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from sluice.evidence.counters import MAX_COUNT, EvidenceError, ServingPod
from sluice.evidence.units_store import LARGEST_OUTCOME, Exposure, Outcome

SCHEMA = 1
RECORD = struct.Struct("<BQdddQ")
PAGE = 4096
MAX_BYTES = 1 << 20
MOST_PAGES = 16
"""Pages of one pod in one look; the rest comes with the next."""
LAG = 1.0
"""Seconds that the cut is behind the operator's clock: pods' clocks are not exactly the same."""

_EXPOSED, _OUTCOME = 0, 1

Cursor = dict[str, Any]
"""``boot``; ``seq``, the last record taken; ``until``, up to when all of it is known; ``dropped``,
units that the pod had no room for."""


@dataclass(frozen=True)
class PodJournal:
    """What one pod had since its cursor."""

    pod: ServingPod
    cursor: Cursor
    exposed: tuple[tuple[int, float], ...] = ()
    outcomes: tuple[Outcome, ...] = ()
    lost: int = 0
    """Records that had gone before they were read, and units that the pod had no room for."""
    error: EvidenceError | None = None


@dataclass(frozen=True)
class Journals:
    """What all pods of both arms had, and up to which moment that is everything."""

    exposures: list[Exposure] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)
    cursors: dict[str, Cursor] = field(default_factory=dict)
    until: float = 0.0
    lost: int = 0
    message: str = ""


async def read_journals(
    session: aiohttp.ClientSession,
    arms: Mapping[str, int],
    pods: Sequence[ServingPod],
    experiment: str,
    cursors: Mapping[str, Cursor],
    *,
    now: float,
    since: float,
    deadline: float = 3.0,
) -> Journals:
    """Everything new up to the cut.  ``arms``: the arm of each revision; ``since``: the beginning.

    A pod that cannot be read is no exception: its cursor stays, and ``message`` names it.
    """
    cut = now - LAG
    read = await asyncio.gather(
        *(
            _read(session, pod, experiment, cursors.get(pod.uid), since, cut, deadline)
            for pod in pods
        )
    )
    errors = [one.error for one in read if one.error is not None]
    return Journals(
        exposures=[
            Exposure(unit, arms[one.pod.revision], at) for one in read for unit, at in one.exposed
        ],
        outcomes=[outcome for one in read for outcome in one.outcomes],
        cursors={one.pod.uid: one.cursor for one in read},
        until=min((one.cursor["until"] for one in read), default=since),
        lost=sum(one.lost for one in read),
        message=str(errors[0].message) if errors else "",
    )


async def _read(
    session: aiohttp.ClientSession,
    pod: ServingPod,
    experiment: str,
    cursor: Cursor | None,
    since: float,
    cut: float,
    deadline: float,
) -> PodJournal:
    so_far = PodJournal(pod, cursor or {"boot": "", "seq": 0, "until": since})
    try:
        async with asyncio.timeout(deadline):
            for _ in range(MOST_PAGES):
                page = await _page(session, pod, experiment, so_far.cursor["seq"])
                so_far, whole = taken(so_far, page, cut)
                if whole:
                    break
        return so_far
    except EvidenceError as error:
        failed = error
    except TimeoutError:
        failed = _unreadable(pod, f"did not answer within {deadline:g} s")
    except (aiohttp.ClientError, OSError) as error:
        failed = _unreadable(pod, f"cannot be reached ({error})")
    return PodJournal(
        pod, so_far.cursor, so_far.exposed, so_far.outcomes, so_far.lost, error=failed
    )


async def _page(
    session: aiohttp.ClientSession, pod: ServingPod, experiment: str, since: int
) -> Page:
    host = f"[{pod.address}]" if ":" in pod.address else pod.address
    url = f"http://{host}:{pod.port}/journal"
    asked = {"experiment": experiment, "since": str(since)}
    async with session.get(url, params=asked, allow_redirects=False) as response:
        if response.status != 200:
            raise _unreadable(pod, f"answered {response.status}")
        body = bytearray()
        async for chunk in response.content.iter_chunked(1 << 16):
            body += chunk
            if len(body) > MAX_BYTES:
                raise _unreadable(pod, f"sent more than {MAX_BYTES} bytes")
    return parse_page(bytes(body), pod, experiment)


Row = tuple[int, int, float, float, float, int]
"""Kind, unit, time, value, denominator, event."""


@dataclass(frozen=True)
class Page:
    """One checked answer."""

    boot: str
    now: float
    first: int
    last: int
    dropped: int
    rows: list[Row]


def parse_page(body: bytes, pod: ServingPod, experiment: str) -> Page:
    """An answer as checked values.  EvidenceError names what cannot be true."""
    try:
        return _parsed(json.loads(body), experiment)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        detail = f"lacks {error}" if isinstance(error, KeyError) else str(error)
        raise _unreadable(pod, f"sent a journal that cannot be right: {detail}") from error


def _parsed(document: Mapping[str, Any], experiment: str) -> Page:
    if document["schema"] != SCHEMA or document["experiment"] != experiment:
        raise ValueError(f"schema {document['schema']!r} of {document['experiment']!r}"[:100])
    try:
        packed = base64.b64decode(document["records"], validate=True)
    except binascii.Error as error:
        raise ValueError(f"records are no base64 ({error})") from error
    if len(packed) % RECORD.size or len(packed) > PAGE * RECORD.size:
        raise ValueError(f"records are {len(packed)} bytes")
    rows = list(RECORD.iter_unpack(packed))
    boot = document["boot"]
    if not isinstance(boot, str) or not 0 < len(boot) <= 64:
        raise ValueError("boot is not a short text")
    first, last, dropped = (_count(document[k], k) for k in ("first", "last", "dropped"))
    if rows and first + len(rows) - 1 > last:
        raise ValueError(f"{len(rows)} records from {first} on, but the last is {last}")
    for row in rows:
        _check(row)
    return Page(boot, float(document["now"]), first, last, dropped, rows)


def _check(row: Row) -> None:
    kind, _, at, value, size, _ = row
    if kind not in (_EXPOSED, _OUTCOME):
        raise ValueError(f"a record of kind {kind}")
    if not (math.isfinite(at) and abs(value) <= LARGEST_OUTCOME and 0 <= size <= LARGEST_OUTCOME):
        raise ValueError(f"a record with time {at!r}, value {value!r} and denominator {size!r}")


def _count(value: Any, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_COUNT:
        raise ValueError(f"{name} is {str(value)[:40]}, not a count")
    return value


def taken(before: PodJournal, page: Page, cut: float) -> tuple[PodJournal, bool]:
    """``before`` with the page's records up to the cut; whether the pod has no more of them.

    Pure.  A process that started anew numbers its records anew; what the old one had and nobody
    read is gone, and cannot be counted.
    """
    cursor = before.cursor
    if cursor["boot"] and cursor["boot"] != page.boot and cursor["seq"] > 0:
        fresh = {"boot": page.boot, "seq": 0, "until": cursor["until"]}
        return (
            PodJournal(before.pod, fresh, before.exposed, before.outcomes, before.lost),
            False,
        )
    rows = [row for row in page.rows if row[2] <= cut]
    seq = page.first + len(rows) - 1 if page.rows else max(cursor["seq"], page.first - 1)
    whole = len(rows) < len(page.rows) or seq >= page.last
    known = cut if whole else rows[-1][2]
    refused = cursor.get("dropped", 0)
    after = PodJournal(
        before.pod,
        {
            "boot": page.boot,
            "seq": seq,
            "until": max(cursor["until"], known),
            "dropped": page.dropped,
        },
        before.exposed + tuple((row[1], row[2]) for row in rows if row[0] == _EXPOSED),
        before.outcomes + tuple(Outcome(*row[1:]) for row in rows if row[0] == _OUTCOME),
        before.lost + max(0, page.first - 1 - cursor["seq"]) + max(0, page.dropped - refused),
    )
    return after, whole


def _unreadable(pod: ServingPod, what: str) -> EvidenceError:
    return EvidenceError(
        f"Pod {pod.name} (revision {pod.revision}) {what}.",
        hint="Units whose windows it may know of wait; see the pod's log if this stays.",
    )
