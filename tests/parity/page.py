"""What a run of ``make parity`` prints, and docs/parity.md.

Called by ``make parity``; calls nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version

from tests.parity.compare import TOLERANCE, Result

_HEAD = """# Converted models beside scikit-learn

Written by `make parity` with scikit-learn {sklearn}, ONNX Runtime {runtime} and NumPy {numpy}.

{method}

{summary}.

## Served as ONNX

| kind | rows | refused | labels that differ | largest difference |
|---|---|---|---|---|
{converted}

## Served by scikit-learn itself

The conversion is not exact or does not exist, so the package holds the original and is class Code.

| kind | rows | why |
|---|---|---|
{original}
"""


_METHOD = (
    "Each kind is trained on real data (scikit-learn's bundled sets, flights from New York), "
    "packaged with `sluice.save`, and asked at least {rows:,} rows: resampled, jittered, spread "
    "over the range, shuffled, with holes, and the values where implementations part: zeros, "
    "negatives, subnormal numbers, what float32 and float64 hold at most, infinities, categories "
    "never seen, empty, very long and twisted text, and neighbouring numbers on both sides of "
    "jumps. scikit-learn is asked directly. A row agrees when the label is the same and no score "
    "differs by more than {tolerance:g} (values and decision values: of their own size), or when "
    "neither gives a number. *Refused* are the rows for which scikit-learn raises or answers no "
    "number: there the package answers none either."
)


def progress(number: int, total: int, result: Result) -> str:
    """One line about one kind."""
    verdict = "equal" if result.holds else "; ".join(result.where[:4])
    if result.engine != "ONNX":
        verdict += f" ({result.reason[:110]})"
    return (
        f"{number:3}/{total} {result.kind.name}: {result.engine}, {result.rows:,} rows, "
        f"{result.refused:,} refused, {result.largest:.1e}, {result.seconds:.1f} s: {verdict}"
    )


def summary(results: Sequence[Result]) -> str:
    """How many kinds, how they are served, what differs."""
    converted = [r for r in results if r.engine == "ONNX"]
    wrong = [r for r in results if not r.holds]
    return (
        f"{len(results)} kinds, {len(converted)} of them served as ONNX with "
        f"{sum(r.rows for r in converted):,} rows compared; {len(wrong)} kinds differ"
    )


def text(results: Sequence[Result], rows: int) -> str:
    """The whole page."""
    return _HEAD.format(
        sklearn=version("scikit-learn"),
        runtime=version("onnxruntime"),
        numpy=version("numpy"),
        method=_METHOD.format(rows=rows, tolerance=TOLERANCE),
        summary=summary(results),
        converted="\n".join(_converted(r) for r in results if r.engine == "ONNX"),
        original="\n".join(_original(r) for r in results if r.engine != "ONNX"),
    )


def _converted(result: Result) -> str:
    labels = sum(result.wrong[what] for what in ("label", "predict()"))
    difference = f"{result.largest:.1e}" if result.holds else f"**{'; '.join(result.where)}**"
    return (
        f"| {result.kind.name} | {result.rows:,} | {result.refused:,} | {labels} | {difference} |"
    )


def _original(result: Result) -> str:
    why = result.reason.replace("|", "/").rstrip(".")
    return f"| {result.kind.name} | {result.rows:,} | {why} |"
