"""What this process has seen since it started, as the operator reads it on ``/counters``.

Called by the endpoints (one short call a request) and by the admin port; calls numpy only.  All
counters are cumulative and carry the process's boot id, so a reader takes differences and notices a
restart.  Memory is bounded: fixed bins, 500 unit buckets, at most 32 classes of model errors.

``requests`` = ``ok`` + ``clientErrors`` + ``modelErrors`` + ``timeouts`` + ``shed``, always.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping
from enum import Enum
from typing import Any

import numpy as np

from sluice.package.features import Columns
from sluice.package.manifest import Input, Manifest

LATENCY_BASE = 1e-4
LATENCY_RATIO = 1.02
LATENCY_BINS = 700
BUCKETS = 500
MAX_ERROR_CLASSES = 32
FLUSH_ROWS = 256

_LOG_RATIO = math.log(LATENCY_RATIO)


class Outcome(Enum):
    """How a prediction request ended; each counts once in ``requests``."""

    OK = "ok"
    CLIENT_ERROR = "clientErrors"
    MODEL_ERROR = "modelErrors"
    TIMEOUT = "timeouts"
    SHED = "shed"


def latency_bin(seconds: float) -> int:
    """Bin i holds [base·ratio^i, base·ratio^(i+1)); what is below or beyond goes to the ends."""
    if seconds < LATENCY_BASE:
        return 0
    return min(int(math.log(seconds / LATENCY_BASE) / _LOG_RATIO), LATENCY_BINS - 1)


class FeatureBins:
    """Drift bins of one input, as its profile has them.

    Numbers: one bin more than ``edges``.  Strings: one bin a category of the profile, and a last
    one for categories that were seen in training but are too rare to have their own.
    """

    def __init__(self, spec: Input, profile: Mapping[str, Any]) -> None:
        self.numeric = spec.type != "string"
        edges = profile.get("edges") or []
        self.edges = np.asarray(edges, dtype=np.float64)
        named = [str(c) for c in profile.get("categories") or spec.categories or ()]
        self.categories = dict.fromkeys(spec.categories or (), len(named))
        self.categories |= {category: index for index, category in enumerate(named)}
        self.low = -math.inf if spec.min is None else spec.min
        self.high = math.inf if spec.max is None else spec.max
        size = 1 + (len(self.edges) if self.numeric else len(named))
        self.counts = np.zeros(size, dtype=np.int64)
        self.missing = 0
        self.out_of_range = 0
        self.unseen = 0

    def add(self, values: np.ndarray[Any, Any]) -> None:
        """Count a column of values."""
        if self.numeric:
            self._add_numbers(values)
        else:
            self._add_strings(values.tolist())

    def _add_numbers(self, values: np.ndarray[Any, Any]) -> None:
        present = values[~np.isnan(values)]
        self.missing += len(values) - len(present)
        self.out_of_range += int(np.count_nonzero((present < self.low) | (present > self.high)))
        bins = np.searchsorted(self.edges, present, side="right")
        self.counts += np.bincount(bins, minlength=len(self.counts))

    def _add_strings(self, values: list[str | None]) -> None:
        for value in values:
            if value is None:
                self.missing += 1
                continue
            index = self.categories.get(value)
            if index is None:
                self.unseen += 1
            else:
                self.counts[index] += 1

    def as_json(self) -> dict[str, Any]:
        """As on ``/counters``."""
        return {
            "counts": self.counts.tolist(),
            "missing": self.missing,
            "outOfRange": self.out_of_range,
            "unseen": self.unseen,
        }


class Copies:
    """Copies of another revision's requests that this process answered; no user waited for them."""

    def __init__(self) -> None:
        self.outcomes = dict.fromkeys(Outcome, 0)
        self.non_finite = 0
        self.latency = [0] * LATENCY_BINS
        self.latency_sum = 0.0

    def finished(self, outcome: Outcome, seconds: float | None) -> None:
        """One copy ended, as in ``Counters.finished``."""
        self.outcomes[outcome] += 1
        if seconds is not None:
            self.latency[latency_bin(seconds)] += 1
            self.latency_sum += seconds

    def as_json(self) -> dict[str, Any]:
        """As on ``/counters``."""
        return {
            "requests": sum(self.outcomes.values()),
            **{outcome.value: n for outcome, n in self.outcomes.items()},
            "nonFinite": self.non_finite,
            "latency": latency_json(self.latency),
        }


def latency_json(bins: list[int]) -> dict[str, Any]:
    """A latency histogram as on ``/counters``."""
    return {
        "base": LATENCY_BASE,
        "ratio": LATENCY_RATIO,
        "bins": {str(i): n for i, n in enumerate(bins) if n},
    }


class Counters:
    """One process's counters.  Used from the event loop's thread only."""

    def __init__(
        self, *, revision: str = "", package_digest: str = "", deployment: str = ""
    ) -> None:
        self.boot = os.urandom(8).hex()
        self.started_at = time.time()
        self.revision = revision
        self.package_digest = package_digest
        self.deployment = deployment
        self.outcomes = dict.fromkeys(Outcome, 0)
        self.rows = 0
        self.misdirected = 0
        self.disconnects = 0
        self.in_flight = 0
        self.non_finite = 0
        self.unknown_fields = 0
        self.model_errors_by_class: dict[str, int] = {}
        self.latency = [0] * LATENCY_BINS
        self.latency_sum = 0.0
        self.buckets: dict[int, list[int]] = {}
        self.copies = Copies()
        self._features: dict[str, FeatureBins] = {}
        self._score_edges = np.empty(0)
        self._score_counts = np.zeros(1, dtype=np.int64)
        self._score_reference: list[int] = []
        self._pending: list[tuple[Columns, np.ndarray[Any, Any]]] = []
        self._pending_rows = 0

    def use_profile(self, manifest: Manifest, profile: Mapping[str, Any] | None) -> None:
        """Take the bins of the package that is served; called once, before the first request."""
        profile = profile or {}
        features = profile.get("features") or {}
        self._features = {
            spec.name: FeatureBins(spec, features.get(spec.name) or {}) for spec in manifest.inputs
        }
        scores = profile.get("scores") or {}
        self._score_edges = np.asarray(scores.get("edges") or [], dtype=np.float64)
        self._score_counts = np.zeros(len(self._score_edges) + 1, dtype=np.int64)
        self._score_reference = list(scores.get("counts") or [])

    @property
    def requests(self) -> int:
        """Every prediction request that reached this process and was meant for its revision."""
        return sum(self.outcomes.values())

    def finished(self, outcome: Outcome, bucket: int, seconds: float | None, rows: int = 0) -> None:
        """One request ended.  ``seconds`` is None when its time says nothing about the model."""
        self.outcomes[outcome] += 1
        self.rows += rows
        if seconds is not None:
            self.observe_latency(seconds)
        if bucket >= 0:
            sums = self.buckets.setdefault(bucket, [0, 0, 0])
            sums[0] += 1
            if outcome is Outcome.CLIENT_ERROR:
                sums[1] += 1
            elif outcome is Outcome.MODEL_ERROR:
                sums[2] += 1

    def observe_latency(self, seconds: float) -> None:
        """Server time of an answered request, or of one whose client went away."""
        self.latency[latency_bin(seconds)] += 1
        self.latency_sum += seconds

    def model_error(self, class_name: str) -> None:
        """Name the class of what the model raised; the request itself goes to ``finished``."""
        known = self.model_errors_by_class
        if class_name not in known and len(known) >= MAX_ERROR_CLASSES:
            class_name = "Other"
        known[class_name] = known.get(class_name, 0) + 1

    def observe_rows(self, columns: Columns, scores: np.ndarray[Any, Any]) -> None:
        """Remember answered rows for the drift and score bins; counted 256 at a time."""
        self._pending.append((columns, scores))
        self._pending_rows += len(scores)
        if self._pending_rows >= FLUSH_ROWS:
            self.flush()

    def flush(self) -> None:
        """Bin what is remembered."""
        if not self._pending:
            return
        pending, self._pending, self._pending_rows = self._pending, [], 0
        scores = np.concatenate([s for _, s in pending])
        finite = scores[np.isfinite(scores)]
        bins = np.searchsorted(self._score_edges, finite, side="right")
        self._score_counts += np.bincount(bins, minlength=len(self._score_counts))
        for name, feature in self._features.items():
            feature.add(np.concatenate([columns[name] for columns, _ in pending]))

    def as_json(self) -> dict[str, Any]:
        """The document on ``/counters``."""
        self.flush()
        document: dict[str, Any] = {
            "schema": 1,
            "boot": self.boot,
            "startedAt": self.started_at,
            "now": time.time(),
            "revision": self.revision,
            "packageDigest": self.package_digest,
            "deployment": self.deployment,
            "requests": self.requests,
            "rows": self.rows,
        }
        document |= {outcome.value: n for outcome, n in self.outcomes.items()}
        document |= {
            "modelErrorsByClass": dict(self.model_errors_by_class),
            "misdirected": self.misdirected,
            "disconnects": self.disconnects,
            "inFlight": self.in_flight,
            "cpuSeconds": time.process_time(),
            "latency": latency_json(self.latency),
            "scores": {
                "edges": self._score_edges.tolist(),
                "counts": self._score_counts.tolist(),
                "reference": self._score_reference,
            },
            "nonFinite": self.non_finite,
            "features": {name: bins.as_json() for name, bins in self._features.items()},
            "buckets": {str(bucket): list(sums) for bucket, sums in self.buckets.items()},
            "copies": self.copies.as_json(),
        }
        return document
