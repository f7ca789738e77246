"""``sluice`` with its counting taken out: what the features cost is the difference.

Started by ``tests.bench.serving`` as ``python -m tests.bench.serving.bare serve PACKAGE ...``.
"""

from __future__ import annotations

from typing import Any

from sluice.cli import main
from sluice.runtime.counters import Counters


def _nothing(*_: Any) -> None:
    """Instead of requests, latency, unit buckets, predictions and drift."""


if __name__ == "__main__":
    for counting in ("finished", "observe_latency", "observe_rows"):
        assert hasattr(Counters, counting), counting
        setattr(Counters, counting, _nothing)
    main()
