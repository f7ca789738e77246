"""Reading ``/counters`` of serving pods.

Called by the controller once a look; calls aiohttp.  What a pod sends is not trusted: every number
is checked, and a document that cannot be true is an error that names the pod and the field.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from sluice.errors import SluiceError
from sluice.stats.look import BUCKETS, LATENCY_BASE, LATENCY_BINS, LATENCY_RATIO, Cell

SCHEMA = 1
MAX_BYTES = 2 << 20
MAX_COUNT = 1 << 53
MAX_SCORE_BINS = 200


class EvidenceError(SluiceError):
    """Counters cannot be read, or cannot be true.  The look is not taken; nothing is lost."""

    reason = "EvidenceUnreadable"


@dataclass(frozen=True)
class ServingPod:
    """A pod whose counters are wanted."""

    uid: str
    name: str
    revision: str
    address: str
    port: int = 9090


@dataclass(frozen=True)
class MirrorCounters:
    """What a pod says of the requests that it copied to ``candidate`` in ``rollout``.

    ``to`` is where copies go now, empty for nowhere; counts are about ``candidate``, the last one.
    Errors are those of pairs: requests that both took to an outcome.
    """

    to: str = ""
    rollout: str = ""
    candidate: str = ""
    problem: str = ""
    waiting: int = 0
    dropped: int = 0
    failed: int = 0
    pairs: int = 0
    compared: int = 0
    disagreed: int = 0
    stable_client_errors: int = 0
    stable_errors: int = 0
    candidate_client_errors: int = 0
    candidate_errors: int = 0
    absolute: float = 0.0
    relative: float = 0.0


@dataclass(frozen=True)
class PodCounters:
    """One ``/counters`` document, checked.  Everything is cumulative since ``boot``."""

    boot: str
    age: float
    revision: str
    requests: int = 0
    client_errors: int = 0
    model_errors: int = 0
    timeouts: int = 0
    shed: int = 0
    misdirected: int = 0
    disconnects: int = 0
    non_finite: int = 0
    cpu_seconds: float = 0.0
    latency: Mapping[int, int] = field(default_factory=dict)
    scores: tuple[int, ...] = ()
    score_edges: tuple[float, ...] = ()
    score_reference: tuple[int, ...] = ()
    buckets: Mapping[int, Cell] = field(default_factory=dict)
    mirror: MirrorCounters = field(default_factory=MirrorCounters)


@dataclass(frozen=True)
class PodReading:
    """What became of asking one pod."""

    pod: ServingPod
    counters: PodCounters | None = None
    error: EvidenceError | None = None


async def read_counters(
    session: aiohttp.ClientSession, pods: Sequence[ServingPod], *, deadline: float = 2.0
) -> list[PodReading]:
    """Ask all pods at once; one that does not answer is a reading with an error."""
    return list(await asyncio.gather(*(_read(session, pod, deadline) for pod in pods)))


async def _read(session: aiohttp.ClientSession, pod: ServingPod, deadline: float) -> PodReading:
    url = f"http://{_host(pod.address)}:{pod.port}/counters"
    try:
        async with asyncio.timeout(deadline), session.get(url, allow_redirects=False) as response:
            if response.status != 200:
                raise _unreadable(pod, f"answered {response.status}")
            body = await _bounded(response, pod)
        return PodReading(pod, parse_counters(body, pod))
    except EvidenceError as error:
        return PodReading(pod, error=error)
    except TimeoutError:
        return PodReading(pod, error=_unreadable(pod, f"did not answer within {deadline:g} s"))
    except (aiohttp.ClientError, OSError) as error:
        return PodReading(pod, error=_unreadable(pod, f"cannot be reached ({error})"))


async def _bounded(response: aiohttp.ClientResponse, pod: ServingPod) -> bytes:
    body = bytearray()
    async for chunk in response.content.iter_chunked(1 << 16):
        body += chunk
        if len(body) > MAX_BYTES:
            raise _unreadable(pod, f"sent more than {MAX_BYTES} bytes")
    return bytes(body)


def parse_counters(body: bytes, pod: ServingPod) -> PodCounters:
    """A document as checked values.  EvidenceError names the field that cannot be true."""
    try:
        counters = _counters(json.loads(body))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        detail = f"lacks {error}" if isinstance(error, KeyError) else str(error)
        raise _unreadable(pod, f"sent counters that cannot be right: {detail}") from error
    if counters.revision != pod.revision:
        raise _unreadable(
            pod, f"says it serves revision {counters.revision!r}, not {pod.revision!r}"
        )
    return counters


def _counters(document: Mapping[str, Any]) -> PodCounters:
    if document["schema"] != SCHEMA:
        raise ValueError(f"schema {document['schema']!r} is not {SCHEMA}")
    scores = document["scores"]
    counts = tuple(_list(scores["counts"], "scores.counts", MAX_SCORE_BINS))
    reference = tuple(_list(scores["reference"], "scores.reference", MAX_SCORE_BINS))
    edges = tuple(_number(e, "scores.edges") for e in scores["edges"][:MAX_SCORE_BINS])
    if reference and len(reference) != len(counts):
        raise ValueError(f"scores has {len(counts)} counts but {len(reference)} in the reference")
    counters = PodCounters(
        boot=_text(document["boot"], "boot"),
        age=max(0.0, _number(document["now"], "now") - _number(document["startedAt"], "startedAt")),
        revision=_text(document["revision"], "revision"),
        requests=_count(document["requests"], "requests"),
        client_errors=_count(document["clientErrors"], "clientErrors"),
        model_errors=_count(document["modelErrors"], "modelErrors"),
        timeouts=_count(document["timeouts"], "timeouts"),
        shed=_count(document["shed"], "shed"),
        misdirected=_count(document["misdirected"], "misdirected"),
        disconnects=_count(document["disconnects"], "disconnects"),
        non_finite=_count(document["nonFinite"], "nonFinite"),
        cpu_seconds=_number(document["cpuSeconds"], "cpuSeconds"),
        latency=_latency(document["latency"]),
        scores=counts,
        score_edges=edges,
        score_reference=reference,
        buckets=_buckets(document["buckets"]),
        mirror=_mirror(document.get("mirror")),
    )
    bad = counters.client_errors + counters.model_errors + counters.timeouts + counters.shed
    if bad > counters.requests:
        raise ValueError(f"{bad} errors of only {counters.requests} requests")
    return counters


_MIRROR_COUNTS = {
    "waiting": "waiting",
    "dropped": "dropped",
    "failed": "failed",
    "pairs": "pairs",
    "compared": "compared",
    "disagreed": "disagreed",
    "stable_client_errors": "stableClientErrors",
    "stable_errors": "stableErrors",
    "candidate_client_errors": "candidateClientErrors",
    "candidate_errors": "candidateErrors",
}


def _mirror(said: Any) -> MirrorCounters:
    """A runtime that knows nothing of mirroring says nothing: it mirrors to nobody."""
    if said is None:
        return MirrorCounters()
    counts = {name: _count(said[key], f"mirror.{key}") for name, key in _MIRROR_COUNTS.items()}
    read = MirrorCounters(
        to=_text(said["to"], "mirror.to", empty=True),
        rollout=_text(said["rollout"], "mirror.rollout", empty=True),
        candidate=_text(said["candidate"], "mirror.candidate", empty=True),
        problem=_text(said["problem"], "mirror.problem", empty=True),
        absolute=_size(said["absolute"]["max"], "mirror.absolute"),
        relative=_size(said["relative"]["max"], "mirror.relative"),
        **counts,
    )
    errors = (
        read.stable_client_errors + read.stable_errors,
        read.candidate_client_errors + read.candidate_errors,
    )
    if not read.disagreed <= read.compared <= read.pairs or max(errors) > read.pairs:
        raise ValueError(
            f"mirror has {read.compared} compared, {read.disagreed} disagreed and {max(errors)} "
            f"errors of {read.pairs} pairs"
        )
    return read


def _size(value: Any, name: str) -> float:
    number = _number(value, name)
    if number < 0:
        raise ValueError(f"{name} is {number}, below 0")
    return number


def _latency(histogram: Mapping[str, Any]) -> dict[int, int]:
    scale = (histogram["base"], histogram["ratio"])
    if scale != (LATENCY_BASE, LATENCY_RATIO):
        raise ValueError(f"latency bins are {scale}, not {(LATENCY_BASE, LATENCY_RATIO)}")
    bins = {int(i): _count(n, f"latency bin {i}") for i, n in histogram["bins"].items()}
    if any(not 0 <= i < LATENCY_BINS for i in bins):
        raise ValueError(f"a latency bin is outside 0..{LATENCY_BINS - 1}")
    return bins


_INT = {int}


def _buckets(buckets: Mapping[str, Any]) -> dict[int, Cell]:
    cells: dict[int, Cell] = {}
    for key, value in buckets.items():
        bucket = int(key)
        if type(value) is list and len(value) == 3 and {*map(type, value)} == _INT:
            # Five hundred of these a pod and look: no names are made for what is well.
            n, client, model = value
            counts = client >= 0 and model >= 0 and client + model <= n <= MAX_COUNT
            if counts and 0 <= bucket < BUCKETS:
                cells[bucket] = (n, client, model)
                continue
        n, client, model = _list(value, f"bucket {key}", 3)
        if not 0 <= bucket < BUCKETS or client + model > n:
            raise ValueError(f"unit bucket {key} holds {value}")
        cells[bucket] = (n, client, model)
    return cells


def _list(values: Any, name: str, longest: int) -> list[int]:
    if not isinstance(values, list) or len(values) > longest:
        raise ValueError(f"{name} is not a list of at most {longest} counts")
    return [_count(value, name) for value in values]


def _count(value: Any, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_COUNT:
        raise ValueError(f"{name} is {str(value)[:40]}, not a count")
    return value


def _number(value: Any, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{name} is {str(value)[:40]}, not a number")
    return float(value)


def _text(value: Any, name: str, *, empty: bool = False) -> str:
    if not isinstance(value, str) or not (value or empty) or len(value) > 253:
        raise ValueError(f"{name} is not a short text")
    return value


def _host(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def _unreadable(pod: ServingPod, what: str) -> EvidenceError:
    return EvidenceError(
        f"Pod {pod.name} (revision {pod.revision}) {what}.",
        hint="Its share of the evidence waits; see the pod's log if this stays.",
    )
