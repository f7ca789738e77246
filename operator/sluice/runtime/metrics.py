"""The counters as Prometheus text.  Called by the admin port; pure; docs/runtime.md names them."""

from __future__ import annotations

from collections.abc import Iterator

from sluice.runtime.counters import LATENCY_BASE, LATENCY_RATIO, Counters

CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"

# Every 17th fine edge: x1.4 a bucket from 0.1 ms to 83 s; sums of fine bins, so they are exact.
_EDGES = range(17, 700, 17)


def exposition(counters: Counters, *, ready: bool) -> bytes:
    """The whole page."""
    labels = ",".join(
        f'{name}="{_escape(value)}"'
        for name, value in (
            ("deployment", counters.deployment),
            ("revision", counters.revision),
            ("package_digest", counters.package_digest),
        )
    )
    return "".join(_lines(counters, labels, ready)).encode()


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
    yield from _histogram(counters, labels)


def _histogram(counters: Counters, labels: str) -> Iterator[str]:
    name = "sluice_request_duration_seconds"
    yield _head(name, "histogram", "Server time of answered prediction requests.")
    cumulative, fine = 0, 0
    for edge in _EDGES:
        cumulative += sum(counters.latency[fine:edge])
        fine = edge
        upper = LATENCY_BASE * LATENCY_RATIO**edge
        yield f'{name}_bucket{{{labels},le="{upper:.6g}"}} {cumulative}\n'
    total = sum(counters.latency)
    yield f'{name}_bucket{{{labels},le="+Inf"}} {total}\n'
    yield f"{name}_sum{{{labels}}} {counters.latency_sum:.9g}\n"
    yield f"{name}_count{{{labels}}} {total}\n"


def _head(name: str, kind: str, text: str) -> str:
    return f"# HELP {name} {text}\n# TYPE {name} {kind}\n"


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
