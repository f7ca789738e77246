"""``sluice judge``: the engines on a file, so that a person can check a verdict.

Calls sluice.cli._judge_kinds; for a ModelDeployment sluice.cli._judge_object, and for ``--plot``
sluice.cli._judge_plot.
"""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import click
from click.core import ParameterSource

from sluice.cli import _judge_object
from sluice.cli._judge_files import Counted
from sluice.cli._judge_kinds import Question, Row, judged
from sluice.errors import InvalidInputError

ALPHAS = {"counts": 0.05, "means": 0.05, "srm": 0.001}
EFFECTS = {
    "counts": "odds ratio",
    "means": "difference",
    "srm": "share",
}
ONLY_FOR = {
    "margin": ("counts", "means"),
    "sided": ("counts", "means"),
    "better": ("means",),
    "weight": ("srm",),
    "prior": ("srm",),
}


class _Number(click.FloatRange):
    """A range that NaN is outside of: click compares, and NaN is neither below nor above."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        number = float(super().convert(value, param, ctx))
        if math.isnan(number):
            self.fail(f"{value!r} is not a number.", param, ctx)
        return number


@click.command()
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option(
    "--kind",
    type=click.Choice(sorted(ALPHAS)),
    default="counts",
    show_default=True,
    help="counts: events among requests; means: a metric per unit; srm: units per arm.",
)
@click.option(
    "--margin",
    type=_Number(0.01, 100.0),
    default=1.0,
    show_default=True,
    help="Ratio candidate : stable that is still tolerated (counts: of odds; means: of means).",
)
@click.option(
    "--alpha",
    type=_Number(1e-6, 0.5),
    help="Chance of a false alarm over all looks.  [default: 0.05; 0.001 for srm]",
)
@click.option(
    "--sided",
    type=click.Choice(["one", "two"]),
    default="one",
    show_default=True,
    help="one: is the candidate worse? two: do the arms differ?",
)
@click.option(
    "--better",
    type=click.Choice(["higher", "lower"]),
    default="higher",
    show_default=True,
    help="Whether more or less of the metric is better (means).",
)
@click.option(
    "--weight",
    type=_Number(1e-6, 1 - 1e-6),
    help="Candidate's planned share of units, if FILE has no column weight (srm).",
)
@click.option(
    "--prior",
    type=_Number(2.0, 1e6),
    default=1000.0,
    show_default=True,
    help="How many units the plan counts for; more find smaller mismatches (srm).",
)
@click.option("--check", help="Check of a ModelDeployment.  [default: the worst]")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
@click.option(
    "--plot",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Also draw effect and evidence into this .svg or .png file.",
)
@click.pass_context
def command(
    context: click.Context,
    file: Path,
    kind: str,
    margin: float,
    alpha: float | None,
    sided: str,
    better: str,
    weight: float | None,
    prior: float,
    check: str | None,
    as_json: bool,
    plot: Path | None,
) -> None:
    """Judge the numbers in FILE (CSV, or a ModelDeployment with its status) look by look.

    A CSV file has the columns look and arm (stable or candidate) and, by kind:

    \b
      counts  n, events       requests and how many of them failed
      means   n, sum, sumsq   units, sum of their outcomes and of the squares
      srm     units           units seen for the first time; optionally weight, the planned share

    Further columns, such as pod, are ignored; rows of one look and arm are added up. The effect
    comes with its confidence sequence, which may be looked at any time; counts show the difference
    of the rates with its own beside the odds ratio.

    A ModelDeployment, saved with kubectl get mdep NAME -o yaml, carries the looks of its rollout;
    margin, threshold, starts and dispersion are then the operator's own.

    \b
    Examples:
      sluice judge errors.csv --margin 1.2
      sluice judge revenue.csv --kind means --margin 0.98 --plot revenue.svg
      sluice judge latency.csv --kind means --better lower --margin 1.1
      sluice judge users.csv --kind srm --weight 0.5
      kubectl get mdep iris -o yaml > iris.yaml && sluice judge iris.yaml --check errors
    """
    given = {
        name
        for name in context.params
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE
    }
    for name, kinds in ONLY_FOR.items():
        if kind not in kinds and name in given:
            raise InvalidInputError(
                f"--{name} says nothing about {kind}.", hint=f"It is for {' and '.join(kinds)}."
            )
    question = Question(kind, margin, alpha or ALPHAS[kind], sided == "two", better, weight, prior)
    saved = _saved(file, check, question, given)
    question = saved.question if saved else question
    results = list(judged(file, question, saved.looks if saved else None))
    if plot is not None:
        from sluice.cli import _judge_plot

        _judge_plot.draw(plot, file.name, results, _words(question))
    rows = [{k: v for k, v in row.items() if k != "margin"} for row in results]
    click.echo(json.dumps({"looks": rows}) if as_json else _table(rows, question))
    if saved and not as_json:
        click.echo(saved.said)


class _Saved(NamedTuple):
    """What a ModelDeployment brings: its looks, the operator's question and its answer."""

    question: Question
    looks: dict[int, Counted]
    said: str


def _saved(file: Path, check: str | None, question: Question, given: set[str]) -> _Saved | None:
    if not _judge_object.is_object(file):
        if check is not None:
            raise InvalidInputError("--check is for a ModelDeployment; a CSV file has one check.")
        return None
    if question.kind != "counts":
        raise InvalidInputError(f"{file} is a ModelDeployment, which carries counts only.")
    found = _judge_object.judged(file, check)
    need, margin = found.evidence.log10_need, found.check.margin
    asked = replace(
        question,
        margin=question.margin if "margin" in given or margin is None else margin,
        alpha=question.alpha if "alpha" in given or need is None else 10.0**-need,
        planned_starts=found.evidence.planned_starts,
        dispersion=found.check.dispersion or 1.0,
    )
    said = f"{found.check.name}, revision {found.evidence.revision}: the operator says "
    said += f"{_cell(found.check.log10_evidence)}, {found.check.verdict}."
    if found.evidence.summed_looks:
        said += f" {found.evidence.summed_looks} old looks share rows, so numbers differ a little."
    return _Saved(asked, found.looks, said)


def _words(question: Question) -> dict[str, Any]:
    """What the picture says beside its lines."""
    effects = {
        "counts": "odds ratio of events,\ncandidate : stable",
        "means": "difference of means,\ncandidate − stable",
        "srm": "candidate's share\nof units",
    }
    if question.kind == "srm":
        margin = "planned share"
    elif question.two_sided and (question.kind == "counts" or question.margin == 1.0):
        margin = "no difference"
    else:
        margin = f"tolerated: {question.margin:g} × stable"
    return {
        "effect": effects[question.kind],
        "margin": margin,
        "need": question.need,
        "alpha": question.alpha,
        "ratio": question.kind == "counts",
    }


def _table(rows: list[Row], question: Question) -> str:
    effect = EFFECTS[question.kind]
    beside = f"  {'difference':>10} {'[low, high]':<20}" if question.kind == "counts" else ""
    lines = [
        f"{'look':>6} {'log10 evidence':>14} {effect:>11} {'from':>10} {'to':>10}{beside}  verdict"
    ]
    for row in rows:
        estimate, low, high = (_cell(row[name]) for name in ("estimate", "low", "high"))
        lines.append(
            f"{row['look']:>6} {row['log10_evidence']:>7.2f} of {question.need:<3.1f} "
            f"{estimate:>11} {low:>10} {high:>10}{_difference(row)}  {row['verdict']}"
        )
    return "\n".join(lines)


def _difference(row: Row) -> str:
    if "difference" not in row:
        return ""
    middle, low, high = (_points(row[f"difference{end}"]) for end in ("", "_low", "_high"))
    band = f"[{low}, {high}]"
    return f"  {middle:>10} {band:<20}"


def _points(value: float | None) -> str:
    """A difference of rates in percentage points."""
    return "-" if value is None else f"{100.0 * value:+.3g} pp"


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
