"""The three kinds of ``sluice judge``: a file's looks through an engine, one row of results each.

Called by sluice.cli.judge.  Calls sluice.stats (imported late: numpy takes a while) and
sluice.cli._judge_files.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sluice.cli import _judge_files as files
from sluice.errors import InvalidInputError

Row = dict[str, Any]


@dataclass(frozen=True)
class Question:
    """What is asked of the file."""

    kind: str
    margin: float
    alpha: float
    two_sided: bool
    better: str
    weight: float | None
    prior: float
    planned_starts: int = 1
    dispersion: float = 1.0

    @property
    def need(self) -> float:
        """log10 of the evidence that decides."""
        return -math.log10(self.alpha)


def _counts(file: Path, question: Question) -> Iterator[Row]:
    return _replayed(files.counts(file), question)


def _replayed(looks: Mapping[int, files.Counted], question: Question) -> Iterator[Row]:
    from sluice.stats import counts, rate_difference

    phi = question.dispersion
    log_e = counts.log_e_difference if question.two_sided else counts.log_e
    state = counts.new(question.margin, question.planned_starts)
    rates = rate_difference.new()
    for look, arms in looks.items():
        while state["started"] < min(arms.starts, question.planned_starts):
            state = counts.start(state)
        seen = counts.Counts(*arms.stable, *arms.candidate)
        state, rates = counts.absorb(state, seen), rate_difference.absorb(rates, seen)
        evidence, estimate = log_e(state, phi), counts.odds_ratio(state)
        bounds = counts.confidence(state, question.alpha, phi)
        row = _row(look, evidence, estimate, bounds, 1.0 if question.two_sided else question.margin)
        low, high = rate_difference.confidence(rates, question.alpha)
        difference = rate_difference.estimate(rates)
        yield row | {"difference": difference, "difference_low": low, "difference_high": high}


def _means(file: Path, question: Question) -> Iterator[Row]:
    from sluice.stats import means

    state = means.new(alpha=question.alpha)
    worse: means.Sided = "lower" if question.better == "higher" else "higher"
    sided: means.Sided = "two" if question.two_sided else worse
    lift = question.margin - 1.0
    for look, (stable, candidate) in files.moments(file).items():
        state = means.absorb(state, means.Moments(*stable), means.Moments(*candidate))
        evidence = means.log_e(state, sided, lift)
        base = means.stable_mean(state)
        tolerated = None if base is None else lift * base
        bounds = means.confidence(state, question.alpha)
        yield _row(look, evidence, means.estimate(state), bounds, tolerated)


def _sample_ratio(file: Path, question: Question) -> Iterator[Row]:
    from sluice.stats import sample_ratio

    looks = files.units(file, question.weight)
    weight = next(iter(looks.values()))[2]
    # A Beta(k w, k (1 - w)) share has about this spread in log odds.
    spread = 1.0 / math.sqrt(question.prior * weight * (1.0 - weight))
    state = sample_ratio.new(min(2.0, max(0.001, spread)))
    for look, (stable, candidate, own) in looks.items():
        state = sample_ratio.absorb(state, stable, candidate, own)
        observed, expected = sample_ratio.shares(state)
        bounds = sample_ratio.confidence(state, question.alpha)
        yield _row(look, sample_ratio.log_e(state), observed, bounds, expected)


JUDGES: dict[str, Callable[[Path, Question], Iterator[Row]]] = {
    "counts": _counts,
    "means": _means,
    "srm": _sample_ratio,
}


def _row(
    look: int,
    evidence: float,
    estimate: float | None,
    bounds: tuple[float | None, float | None],
    margin: float | None,
) -> Row:
    return {
        "look": look,
        "log10_evidence": evidence / math.log(10.0),
        "estimate": estimate,
        "low": bounds[0],
        "high": bounds[1],
        "margin": margin,
    }


def judged(
    file: Path, question: Question, looks: Mapping[int, files.Counted] | None = None
) -> Iterator[Row]:
    """Look, log10 evidence, estimate, low, high, margin and verdict of each look in ``file``.

    Counts have a difference of rates with its two ends beside the odds ratio.  ``looks`` are those
    of ``file`` when they have been read already.
    """
    verdict = "Inconclusive"
    try:
        judge = JUDGES[question.kind]
        for row in judge(file, question) if looks is None else _replayed(looks, question):
            if row["log10_evidence"] >= question.need:
                # What has been proven once stays proven: that is what "anytime" means.
                verdict = "Fail"
            yield {**row, "verdict": verdict}
    except ValueError as error:
        # Each row can be; all of them together cannot.
        raise InvalidInputError(f"{file} cannot be judged: {error}.") from error
