"""Which inputs look different from what stable was trained on.  Called by the schema gate.

Pure.  A moved input breaks nothing by itself: data do change.  It is named because a changed unit,
a lost join or a new filter looks just like this, and a person sees at once which it is.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

MOVED = 0.2
"""Distance between two distributions (0 to 1) from which a person would see it in a plot."""
MISSING_MOVED = 0.1
SHOWN = 5

Floats = np.ndarray[Any, np.dtype[np.float64]]


def moved(stable: dict[str, Any] | None, candidate: dict[str, Any] | None) -> list[str]:
    """One phrase that names the inputs whose reference profile moved a lot; often none."""
    if not stable or not candidate:
        return []
    try:
        before, after = stable.get("features", {}), candidate.get("features", {})
        found = [
            (size, phrase)
            for name in before.keys() & after.keys()
            for size, phrase in _feature(name, before[name], after[name])
        ]
    except (AttributeError, KeyError, TypeError, ValueError, IndexError):
        # Written by somebody else's tool, or another version of ours; a note is not worth a Fail.
        return ["the reference profiles cannot be compared"]
    phrases = [phrase for _, phrase in sorted(found, key=lambda f: (-f[0], f[1]))]
    if not phrases:
        return []
    more = f" and {len(phrases) - SHOWN} more" if len(phrases) > SHOWN else ""
    return [f"trained on other data than stable: {', '.join(phrases[:SHOWN])}{more}"]


def _feature(name: str, old: dict[str, Any], new: dict[str, Any]) -> list[tuple[float, str]]:
    found = []
    gap = abs(new["missingShare"] - old["missingShare"])
    if gap > MISSING_MOVED:
        share = f"{new['missingShare']:.0%}, was {old['missingShare']:.0%}"
        found.append((gap, f"{name!r} is missing in {share}"))
    distance = _distance(old, new)
    if distance > max(MOVED, _chance(old, new)):
        found.append((distance, f"{name!r} moved ({distance:.2f} of 1)"))
    return found


def _distance(old: dict[str, Any], new: dict[str, Any]) -> float:
    if old["kind"] != new["kind"] or not _size(old) or not _size(new):
        return 0.0
    if old["kind"] == "categorical":
        shares = _shares(old), _shares(new)
        names = shares[0].keys() | shares[1].keys()
        return sum(abs(shares[0].get(n, 0.0) - shares[1].get(n, 0.0)) for n in names) / 2
    # Each distribution is known exactly at its own edges and nearly so at the other's.
    at = np.array([*old["edges"], *new["edges"]], dtype=np.float64)
    if not len(at):
        return float(old["min"] != new["min"])
    return float(np.max(np.abs(_below(old, at) - _below(new, at))))


def _below(profile: dict[str, Any], at: Floats) -> Floats:
    """The share of values below each point; straight lines between the edges."""
    counts = np.array(profile["counts"], dtype=np.float64)
    points = np.array([profile["min"], *profile["edges"], profile["max"]], dtype=np.float64)
    shares = np.concatenate([[0.0], np.cumsum(counts) / counts.sum()])
    return np.asarray(np.interp(at, points, shares, left=0.0, right=1.0))


def _shares(profile: dict[str, Any]) -> dict[str, float]:
    size = _size(profile)
    counted = dict(zip(profile["categories"], profile["counts"], strict=True))
    return {name: count / size for name, count in {**counted, "\0": profile["other"]}.items()}


def _size(profile: dict[str, Any]) -> int:
    return int(sum(profile["counts"])) + int(profile.get("other", 0))


def _chance(old: dict[str, Any], new: dict[str, Any]) -> float:
    """What two samples of one distribution stay below in 99 of 100 cases."""
    first, second = _size(old), _size(new)
    return 1.63 * math.sqrt((first + second) / (first * second)) if first and second else 1.0
