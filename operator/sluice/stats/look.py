"""A look: what both arms did between two readings of the counters.

Made by sluice.evidence (from router and pod counters), consumed by sluice.rollout.judge.  A look is
a value: requests are already summed over pods and differenced against the last committed snapshot,
the weight never changed inside it, and its boundaries came from the clock, never from the data.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from sluice.stats.counts import Counts
from sluice.stats.means import Moments

LATENCY_BASE = 1e-4
LATENCY_RATIO = 1.02
LATENCY_BINS = 700
BUCKETS = 500

Cell = tuple[int, int, int]
"""Requests, client errors, model errors."""


class PodMinutes(NamedTuple):
    """Minutes of one pod that ended in a look, and those of them in which it failed."""

    pod: str
    observed: int
    failed: int


def latency_edge(index: int) -> float:
    """Lower edge, in seconds, of latency bin ``index``: bins are 2 % wide."""
    return LATENCY_BASE * LATENCY_RATIO**index


def latency_bin(seconds: float) -> int:
    """The bin that holds ``seconds``, at least 0 and at most the last one."""
    if not math.isfinite(seconds) or seconds <= LATENCY_BASE:
        return 0
    return min(LATENCY_BINS - 1, int(math.log(seconds / LATENCY_BASE) / math.log(LATENCY_RATIO)))


@dataclass(frozen=True)
class ArmLook:
    """One arm's part of a look, at the level of requests.

    ``model_errors`` holds everything that is the arm's fault: 5xx, attempts that the router
    retried, timeouts, aborts.  ``latency`` holds warm pods only.  ``score_reference`` is the
    revision's own profile on the same bins as ``scores``.  ``load_per_pod`` is requests per warm
    pod; ``cpu`` are requests of those and the CPU seconds that their processes took meanwhile.
    ``pod_names`` are those of ``pods`` in the same order, or nothing where nobody knows them.
    """

    n: int = 0
    client_errors: int = 0
    model_errors: int = 0
    latency: Mapping[int, int] = field(default_factory=dict)
    scores: tuple[int, ...] = ()
    score_reference: tuple[int, ...] = ()
    non_finite: int = 0
    pods: tuple[Cell, ...] = ()
    pod_names: tuple[str, ...] = ()
    buckets: Mapping[int, Cell] = field(default_factory=dict)
    load_per_pod: float = 0.0
    minutes: tuple[PodMinutes, ...] = ()
    cpu: tuple[int, float] = (0, 0.0)

    def check(self, source: str) -> None:
        """Raise ValueError, naming ``source``, when the numbers cannot be true."""
        _check_cell((self.n, self.client_errors, self.model_errors), source)
        _check_count(self.non_finite, f"{source}: non-finite scores")
        for index, count in self.latency.items():
            if not 0 <= index < LATENCY_BINS:
                raise ValueError(f"{source}: latency bin {index} is outside 0..{LATENCY_BINS - 1}")
            _check_count(count, f"{source}: latency bin {index}")
        for name, counts in (("scores", self.scores), ("score reference", self.score_reference)):
            for position, count in enumerate(counts):
                _check_count(count, f"{source}: {name}[{position}]")
        if self.scores and self.score_reference and len(self.scores) != len(self.score_reference):
            raise ValueError(
                f"{source}: {len(self.scores)} score bins but {len(self.score_reference)} in the "
                "reference profile"
            )
        if self.pod_names and len(self.pod_names) != len(self.pods):
            raise ValueError(f"{source}: {len(self.pod_names)} names of {len(self.pods)} pods")
        for position, pod in enumerate(self.pods):
            _check_cell(pod, f"{source}: pod {position}")
        for bucket, cell in self.buckets.items():
            if not 0 <= bucket < BUCKETS:
                raise ValueError(f"{source}: unit bucket {bucket} is outside 0..{BUCKETS - 1}")
            _check_cell(cell, f"{source}: unit bucket {bucket}")
        if not math.isfinite(self.load_per_pod) or self.load_per_pod < 0:
            raise ValueError(f"{source}: load per pod is {self.load_per_pod}, not a number >= 0")
        _check_count(self.cpu[0], f"{source}: requests beside CPU seconds")
        if not math.isfinite(self.cpu[1]) or self.cpu[1] < 0:
            raise ValueError(f"{source}: {self.cpu[1]} CPU seconds, not a number >= 0")
        for name, observed, failed in self.minutes:
            _check_count(observed, f"{source}: minutes of pod {name}")
            _check_count(failed, f"{source}: failed minutes of pod {name}")
            if failed > observed:
                raise ValueError(f"{source}: pod {name} failed in {failed} of {observed} minutes")


@dataclass(frozen=True)
class Means:
    """Moments of both arms in a look."""

    stable: Moments
    candidate: Moments


@dataclass(frozen=True)
class Values:
    """One number of each arm in a look."""

    stable: float
    candidate: float


MetricData = Counts | Means | Values


@dataclass(frozen=True)
class MetricLook:
    """What a metric check's source gave in a look: counts, moments or values of both arms.

    ``problem`` says why nothing was given, or nothing for one arm; ``error`` that the source could
    not be read, as opposed to having no data.
    """

    data: MetricData | None = None
    problem: str = ""
    error: bool = False

    def __post_init__(self) -> None:
        if self.data is None and not self.problem:
            raise ValueError("a metric without data says why")


@dataclass(frozen=True)
class MirrorLook:
    """Copies of stable's requests in a look, and how the candidate's answers to them compared.

    ``compared`` were answered well by both, ``disagreed`` of those differ; ``failed`` copies got no
    answer that says anything, ``dropped`` ones were never sent.  ``apart``: the largest difference
    of two scores so far, absolute and relative.
    """

    compared: int = 0
    disagreed: int = 0
    failed: int = 0
    dropped: int = 0
    apart: tuple[float, float] = (0.0, 0.0)

    def check(self, source: str) -> None:
        """Raise ValueError, naming ``source``, when the numbers cannot be true."""
        for name in ("compared", "disagreed", "failed", "dropped"):
            _check_count(getattr(self, name), f"{source}: {name}")
        if self.disagreed > self.compared:
            raise ValueError(f"{source}: {self.disagreed} of only {self.compared} disagreed")
        if not all(math.isfinite(value) and value >= 0 for value in self.apart):
            raise ValueError(f"{source}: largest differences are {self.apart}")


@dataclass(frozen=True)
class Look:
    """Both arms over the same observed seconds at one weight.

    In the canary ``candidate`` is the new revision; in the watch it is the promoted revision and
    ``stable`` is the previous one on its holdback.  ``metrics`` are what sources elsewhere gave, by
    name of the check; a check that is not there was not asked for in this look.  With ``mirror``
    both arms are the same requests: stable's, and the candidate's copies of them.
    """

    id: int
    seconds: float
    weight: int
    stable: ArmLook
    candidate: ArmLook
    metrics: Mapping[str, MetricLook] = field(default_factory=dict)
    mirror: MirrorLook | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.id, int) or self.id < 0:
            raise ValueError(f"look {self.id}: its id is not a whole number >= 0")
        if not math.isfinite(self.seconds) or self.seconds < 0:
            raise ValueError(f"look {self.id}: {self.seconds} observed seconds")
        if not 0 <= self.weight <= 100:
            raise ValueError(f"look {self.id}: candidate weight {self.weight} is outside 0..100")
        self.stable.check(f"look {self.id}, stable")
        self.candidate.check(f"look {self.id}, candidate")
        if self.mirror is not None:
            self.mirror.check(f"look {self.id}, mirror")


def _check_count(value: int, source: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{source}: {value!r} is not a whole number")
    if value < 0:
        raise ValueError(f"{source}: {value} is negative")


def _check_cell(cell: Cell, source: str) -> None:
    n, client, model = cell
    _check_count(n, f"{source}: requests")
    _check_count(client, f"{source}: client errors")
    _check_count(model, f"{source}: model errors")
    if client + model > n:
        raise ValueError(f"{source}: {client} client and {model} model errors of only {n} requests")
