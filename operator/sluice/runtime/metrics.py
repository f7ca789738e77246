"""The counters as Prometheus text.  Called by the admin port; pure; docs/runtime.md names them."""

from __future__ import annotations

from collections.abc import Iterator

from sluice.runtime.counters import LATENCY_BASE, LATENCY_RATIO, Counters
from sluice.runtime.mirror import Mirror

CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"

# Every 17th fine edge: x1.4 a bucket from 0.1 ms to 83 s; sums of fine bins, so they are exact.
_EDGES = range(17, 700, 17)


def exposition(counters: Counters, mirror: Mirror, *, ready: bool) -> bytes:
    """The whole page."""
    labels = ",".join(
        f'{name}="{_escape(value)}"'
        for name, value in (
            ("deployment", counters.deployment),
            ("revision", counters.revision),
            ("package_digest", counters.package_digest),
        )
    )
    lines = (*_lines(counters, labels, ready), *_copies(counters, labels), *_mirror(mirror, labels))
    return "".join(lines).encode()


def _lines(counters: Counters, labels: str, ready: bool) -> Iterator[str]:
    yield _head("sluice_requests_total", "counter", "Prediction requests by how they ended.")
    for outcome, count in counters.outcomes.items():
        yield f'sluice_requests_total{{{labels},outcome="{outcome.name.lower()}"}} {count}\n'
    yield _head("sluice_model_errors_total", "counter", "Model errors by class.")
    for name, count in counters.model_errors_by_class.items():
        yield f'sluice_model_errors_total{{{labels},class="{_escape(name)}"}} {count}\n'
    simple = (
        ("rows_total", "counter", "Rows answered.", counters.rows),
        ("misdirected_total", "counter", "Requests for another revision.", counters.misdirected),
        ("disconnects_total", "counter", "Clients gone before the answer.", counters.disconnects),
        ("non_finite_total", "counter", "Rows whose score was not finite.", counters.non_finite),
        ("unknown_fields_total", "counter", "Fields not in the schema.", counters.unknown_fields),
        ("in_flight", "gauge", "Requests being answered.", counters.in_flight),
        ("ready", "gauge", "1 when ready for traffic.", int(ready)),
        ("start_time_seconds", "gauge", "When this process started.", counters.started_at),
    )
    for name, kind, text, value in simple:
        yield _head(f"sluice_{name}", kind, text)
        yield f"sluice_{name}{{{labels}}} {value}\n"
    name = "sluice_request_duration_seconds"
    yield _head(name, "histogram", "Server time of answered prediction requests.")
    yield from _histogram(name, counters.latency, counters.latency_sum, labels)


def _copies(counters: Counters, labels: str) -> Iterator[str]:
    copies = counters.copies
    name = "sluice_copies_total"
    yield _head(name, "counter", "Copies of another revision's requests, by how they ended.")
    for outcome, count in copies.outcomes.items():
        yield f'{name}{{{labels},outcome="{outcome.name.lower()}"}} {count}\n'
    name = "sluice_copy_duration_seconds"
    yield _head(name, "histogram", "Server time of answered copies.")
    yield from _histogram(name, copies.latency, copies.latency_sum, labels)


def _mirror(mirror: Mirror, labels: str) -> Iterator[str]:
    """About the candidate that was mirrored to last; nothing before the first."""
    if not mirror.counted_for[1]:
        return
    labels = f'{labels},candidate="{_escape(mirror.counted_for[1])}"'
    tally = mirror.tally
    for name, text, value in (
        ("sampled", "Requests chosen for a copy.", tally.sampled),
        ("dropped", "Copies for which there was no room.", tally.dropped),
        ("failed", "Copies without an answer that says anything.", tally.failed),
        ("pairs", "Requests that both revisions took to an outcome.", tally.pairs),
        ("compared", "Pairs of predictions that were compared.", tally.compared),
        ("disagreed", "Compared pairs that differ.", tally.disagreed),
        ("candidate_errors", "Pairs that the candidate failed.", tally.candidate_errors),
        ("stable_errors", "Pairs that this revision failed.", tally.stable_errors),
    ):
        yield _head(f"sluice_mirror_{name}_total", "counter", text)
        yield f"sluice_mirror_{name}_total{{{labels}}} {value}\n"


def _histogram(name: str, bins: list[int], seconds: float, labels: str) -> Iterator[str]:
    cumulative, fine = 0, 0
    for edge in _EDGES:
        cumulative += sum(bins[fine:edge])
        fine = edge
        upper = LATENCY_BASE * LATENCY_RATIO**edge
        yield f'{name}_bucket{{{labels},le="{upper:.6g}"}} {cumulative}\n'
    total = sum(bins)
    yield f'{name}_bucket{{{labels},le="+Inf"}} {total}\n'
    yield f"{name}_sum{{{labels}}} {seconds:.9g}\n"
    yield f"{name}_count{{{labels}}} {total}\n"


def _head(name: str, kind: str, text: str) -> str:
    return f"# HELP {name} {text}\n# TYPE {name} {kind}\n"


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
