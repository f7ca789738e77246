"""The examples inside the package are answered as they were when it was packaged."""

from __future__ import annotations

import numpy as np

from sluice.jobs.gates.bench import Bench, GateFailedError, answer
from sluice.package.manifest import Manifest
from sluice.package.scoring import Answer

DEFAULT_TOLERANCE = 1e-9


def run(bench: Bench) -> str:
    tolerance = float(bench.gates.get("golden", {}).get("tolerance", DEFAULT_TOLERANCE))
    examples = bench.candidate.golden()
    if not examples:
        return "the package has no examples to compare with"
    got = answer(bench.predictor, [dict(example.row) for example in examples])
    wanted = np.array([example.score for example in examples])
    off = np.abs(got.scores - wanted)
    wrong = int(np.sum(~(off <= tolerance)))
    worst = int(np.argmax(off))
    if wrong:
        raise GateFailedError(
            f"{wrong} of {len(examples)} recorded examples score otherwise by more than "
            f"{tolerance:g}; the furthest, row {worst}: {float(got.scores[worst])!r}, recorded "
            f"{float(wanted[worst])!r}"
        )
    for row, example in enumerate(examples):
        if got.labels is not None and got.labels[row] != example.label:
            if _tie(got, row, bench.manifest, tolerance):
                continue
            raise GateFailedError(
                f"recorded example {row} has label {got.labels[row]!r}, recorded {example.label!r}"
            )
    return (
        f"{len(examples)} recorded examples answered, off by at most {float(off[worst]):.1e} "
        f"(limit {tolerance:g})"
    )


def _tie(got: Answer, row: int, manifest: Manifest, tolerance: float) -> bool:
    """Whether the label hangs by less than the tolerance, so that either is as recorded."""
    if manifest.binary:
        return abs(float(got.scores[row]) - manifest.output.threshold) <= tolerance
    if got.matrix is None:
        return False
    best, second = np.sort(got.matrix[row])[[-1, -2]]
    return float(best - second) <= tolerance
