"""Prometheus metrics: controller-runtime's and workqueue's names, so that known dashboards work,
and ours (``sluice_*``).

A registry of 100 lines instead of a library: counters, gauges, histograms, one text format.
Written by the shell and by ``controller.reconcile``; read by ``controller.health``.
"""

from __future__ import annotations

import bisect
import resource
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from sluice.version import __version__

Labels = tuple[str, ...]

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_QUEUE_SECONDS = (1e-4, 1e-3, 0.01, 0.1, 1, 10, 60, 600)
_REACTION_SECONDS = (1, 2, 5, 10, 15, 20, 30, 60, 120, 300)


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else repr(float(value))


class _Family:
    """One metric name with its label names."""

    type = "untyped"

    def __init__(self, name: str, text: str, labels: Sequence[str] = ()) -> None:
        self.name, self.text, self.label_names = name, text, tuple(labels)

    def _labels(self, labels: Labels, extra: str = "") -> str:
        pairs = [f'{n}="{_escape(v)}"' for n, v in zip(self.label_names, labels, strict=True)]
        if extra:
            pairs.append(extra)
        return "{" + ",".join(pairs) + "}" if pairs else ""

    def lines(self) -> Iterator[str]:
        raise NotImplementedError

    def forget(self, matches: Callable[[Labels], bool]) -> None:
        raise NotImplementedError


class Gauge(_Family):
    """A value that goes up and down; ``read`` may compute it at scrape time."""

    type = "gauge"

    def __init__(self, name: str, text: str, labels: Sequence[str] = ()) -> None:
        super().__init__(name, text, labels)
        self.values: dict[Labels, float] = {}
        self.read: Callable[[], Iterable[tuple[Labels, float]]] | None = None

    def set(self, value: float, *labels: str) -> None:
        self.values[labels] = float(value)

    def forget(self, matches: Callable[[Labels], bool]) -> None:
        self.values = {k: v for k, v in self.values.items() if not matches(k)}

    def lines(self) -> Iterator[str]:
        pairs = self.read() if self.read is not None else self.values.items()
        for labels, value in pairs:
            yield f"{self.name}{self._labels(labels)} {_number(value)}"


class Counter(Gauge):
    """A total."""

    type = "counter"

    def inc(self, *labels: str, by: float = 1.0) -> None:
        self.values[labels] = self.values.get(labels, 0.0) + by


class Histogram(_Family):
    """Observations in fixed buckets."""

    type = "histogram"

    def __init__(
        self, name: str, text: str, buckets: Sequence[float], labels: Sequence[str] = ()
    ) -> None:
        super().__init__(name, text, labels)
        self.buckets = tuple(buckets)
        self.counts: dict[Labels, list[int]] = {}
        self.sums: dict[Labels, float] = {}

    def observe(self, value: float, *labels: str) -> None:
        counts = self.counts.get(labels)
        if counts is None:
            counts = self.counts[labels] = [0] * (len(self.buckets) + 1)
            self.sums[labels] = 0.0
        counts[bisect.bisect_left(self.buckets, value)] += 1
        self.sums[labels] += value

    def forget(self, matches: Callable[[Labels], bool]) -> None:
        for labels in [key for key in self.counts if matches(key)]:
            del self.counts[labels], self.sums[labels]

    def lines(self) -> Iterator[str]:
        for labels, counts in self.counts.items():
            total = 0
            for edge, count in zip((*self.buckets, float("inf")), counts, strict=True):
                total += count
                le = "+Inf" if edge == float("inf") else _number(edge)
                extra = f'le="{le}"'
                yield f"{self.name}_bucket{self._labels(labels, extra)} {total}"
            yield f"{self.name}_sum{self._labels(labels)} {_number(self.sums[labels])}"
            yield f"{self.name}_count{self._labels(labels)} {total}"


_PER_CHECK = ("namespace", "name", "revision", "check")
_PER_REVISION = ("namespace", "name", "revision", "role")
_CONTROLLER = "modeldeployment"


F = TypeVar("F", bound=_Family)


class Metrics:
    """Every metric of the operator."""

    def __init__(self) -> None:
        self._families: list[_Family] = []
        self._define_controller_runtime()
        self._define_workqueue()
        self._define_sluice()
        self._define_process()

    def _define_controller_runtime(self) -> None:
        c = ("controller",)
        self.reconciles = self._counter(
            "controller_runtime_reconcile_total", "Reconciles by result.", (*c, "result")
        )
        self.reconcile_errors = self._counter(
            "controller_runtime_reconcile_errors_total", "Reconciles that failed.", c
        )
        self.reconcile_seconds = self._histogram(
            "controller_runtime_reconcile_time_seconds", "Duration of a reconcile.", _SECONDS, c
        )
        self.max_workers = self._gauge(
            "controller_runtime_max_concurrent_reconciles", "Workers at most.", c
        )
        self.active_workers = self._gauge(
            "controller_runtime_active_workers", "Keys being worked on.", c
        )
        self.rest_requests = self._counter(
            "rest_client_requests_total",
            "Requests to the API server; code 0 had no answer.",
            ("code", "method", "kind"),
        )
        self.leader = self._gauge(
            "leader_election_master_status", "1 where this instance leads.", ("name",)
        )

    def _define_workqueue(self) -> None:
        n = ("name",)
        self.queue_depth = self._gauge("workqueue_depth", "Keys waiting.", n)
        self.queue_adds = self._counter("workqueue_adds_total", "Additions.", n)
        self.queue_retries = self._counter("workqueue_retries_total", "Retries.", n)
        self.queue_wait = self._histogram(
            "workqueue_queue_duration_seconds", "Time a key waited.", _QUEUE_SECONDS, n
        )
        self.queue_work = self._histogram(
            "workqueue_work_duration_seconds", "Time a key was worked on.", _QUEUE_SECONDS, n
        )
        self.queue_unfinished = self._gauge(
            "workqueue_unfinished_work_seconds", "Seconds of work in flight.", n
        )
        self.queue_longest = self._gauge(
            "workqueue_longest_running_processor_seconds", "Age of the oldest work.", n
        )

    def _define_sluice(self) -> None:
        self.build = self._gauge("sluice_build_info", "1, labelled with the version.", ("version",))
        self.build.set(1, __version__)
        self.check_value = self._gauge(
            "sluice_check_value", "A check's estimate for the revision.", _PER_CHECK
        )
        self.check_bound = self._gauge(
            "sluice_check_bound",
            "A check's confidence bound, which the limit is held against.",
            _PER_CHECK,
        )
        self.check_samples = self._gauge(
            "sluice_check_samples", "Observations behind a check.", _PER_CHECK
        )
        self.check_evidence = self._gauge(
            "sluice_check_log10_evidence", "Evidence that the revision is worse.", _PER_CHECK
        )
        self.weight_desired = self._gauge(
            "sluice_weight_desired", "Percent of traffic meant for a revision.", _PER_REVISION
        )
        self.weight_observed = self._gauge(
            "sluice_weight_observed", "Percent of traffic as the routers report.", _PER_REVISION
        )
        self.rollbacks = self._counter(
            "sluice_rollbacks_total", "Rollbacks.", ("namespace", "name", "check")
        )
        self.promotions = self._counter(
            "sluice_promotions_total", "Promotions.", ("namespace", "name")
        )
        self.rollback_reaction = self._histogram(
            "sluice_rollback_reaction_seconds",
            "From detection to an observed weight of 0.",
            _REACTION_SECONDS,
        )
        self.decision_lag = self._histogram(
            "sluice_decision_lag_seconds", "From a due look to its decision.", _REACTION_SECONDS
        )
        self.feed_age = self._gauge(
            "sluice_feed_age_seconds", "Since the feed last heard or tried.", ("kind",)
        )
        self.feed_objects = self._gauge("sluice_feed_objects", "Objects in the cache.", ("kind",))
        self.loop_lag = self._gauge("sluice_event_loop_lag_seconds", "Lateness of the event loop.")

    def _define_process(self) -> None:
        started = time.time()
        self._gauge("process_start_time_seconds", "Unix time of the start.").set(started)
        self._gauge("process_resident_memory_bytes", "Resident memory.").read = lambda: (
            ((), _resident_bytes()),
        )
        self._counter("process_cpu_seconds_total", "User and system CPU time.").read = lambda: (
            ((), _cpu_seconds()),
        )
        self._gauge("process_open_fds", "Open file descriptors.").read = lambda: (
            ((), _open_files()),
        )

    def _gauge(self, name: str, text: str, labels: Sequence[str] = ()) -> Gauge:
        return self._add(Gauge(name, text, labels))

    def _counter(self, name: str, text: str, labels: Sequence[str] = ()) -> Counter:
        return self._add(Counter(name, text, labels))

    def _histogram(
        self, name: str, text: str, buckets: Sequence[float], labels: Sequence[str] = ()
    ) -> Histogram:
        return self._add(Histogram(name, text, buckets, labels))

    def _add(self, family: F) -> F:
        self._families.append(family)
        return family

    def observe_request(self, method: str, kind: str, status: int) -> None:
        """For ``KubeClient(observe=...)``."""
        self.rest_requests.inc(str(status), method, kind)

    def forget(self, namespace: str, name: str) -> None:
        """Drops every series of a ModelDeployment that is gone."""
        for family in self._families:
            if family.label_names[:2] == ("namespace", "name"):
                family.forget(lambda labels: labels[:2] == (namespace, name))

    def render(self) -> str:
        """The text exposition format, version 0.0.4."""
        out: list[str] = []
        for family in self._families:
            out.append(f"# HELP {family.name} {family.text}")
            out.append(f"# TYPE {family.name} {family.type}")
            out.extend(family.lines())
        return "\n".join(out) + "\n"


class QueueMeter:
    """Implements ``kube.queue.QueueMetrics`` with the workqueue names."""

    def __init__(self, metrics: Metrics, name: str = _CONTROLLER) -> None:
        self._metrics, self._name = metrics, name

    def added(self) -> None:
        self._metrics.queue_adds.inc(self._name)

    def depth(self, depth: int) -> None:
        self._metrics.queue_depth.set(depth, self._name)

    def started(self, waited: float) -> None:
        self._metrics.queue_wait.observe(waited, self._name)

    def finished(self, worked: float) -> None:
        self._metrics.queue_work.observe(worked, self._name)
        self._metrics.reconcile_seconds.observe(worked, self._name)

    def retried(self) -> None:
        self._metrics.queue_retries.inc(self._name)


def _resident_bytes() -> float:
    statm = Path("/proc/self/statm")
    if statm.exists():
        return float(int(statm.read_text().split()[1]) * resource.getpagesize())
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


def _open_files() -> float:
    folder = Path("/proc/self/fd")
    return float(sum(1 for _ in folder.iterdir())) if folder.exists() else 0.0


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime
