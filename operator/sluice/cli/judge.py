"""``sluice judge``: the engine of the canary on a file, so that a person can check a verdict.

Calls sluice.stats only.
"""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import click

from sluice.errors import InvalidInputError

COLUMNS = ("look", "arm", "n", "events")
ARMS = ("stable", "candidate")
Sums = dict[int, dict[str, list[int]]]


@click.command()
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--kind", type=click.Choice(["counts"]), default="counts", show_default=True)
@click.option(
    "--margin",
    type=click.FloatRange(0.01, 100.0),
    default=1.0,
    show_default=True,
    help="Odds ratio that is still tolerated.",
)
@click.option(
    "--alpha",
    type=click.FloatRange(1e-6, 0.5),
    default=0.05,
    show_default=True,
    help="Chance of a false alarm over all looks.",
)
@click.option(
    "--sided",
    type=click.Choice(["one", "two"]),
    default="one",
    show_default=True,
    help="one: is the candidate worse? two: do the arms differ?",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def command(file: Path, kind: str, margin: float, alpha: float, sided: str, as_json: bool) -> None:
    """Judge the counts in FILE (CSV) look by look.

    FILE has the columns look, arm (stable or candidate), n and events, and optionally pod; rows of
    one look and arm are added up. The odds ratio comes with its confidence sequence, which may be
    looked at any time.
    """
    rows = _judged(_read(file), margin, alpha, two_sided=sided == "two")
    if as_json:
        click.echo(json.dumps({"looks": rows}))
        return
    need = math.log10(1.0 / alpha)
    click.echo(f"{'look':>6} {'evidence':>12} {'odds ratio':>11} {'from':>8} {'to':>8}  verdict")
    for row in rows:
        click.echo(
            f"{row['look']:>6} {row['log10_evidence']:>5.2f} of {need:.1f} "
            f"{_cell(row['estimate']):>12} {_cell(row['low']):>8} {_cell(row['high']):>8}  "
            f"{row['verdict']}"
        )


def _judged(looks: Sums, margin: float, alpha: float, *, two_sided: bool) -> list[dict[str, Any]]:
    from sluice.stats import counts

    state = counts.start(counts.new(margin, planned_starts=1))
    need, rows, verdict = math.log(1.0 / alpha), [], "Inconclusive"
    for number, arms in sorted(looks.items()):
        stable, candidate = arms["stable"], arms["candidate"]
        state = counts.absorb(state, counts.Counts(*stable, *candidate))
        evidence = counts.log_e_difference(state) if two_sided else counts.log_e(state)
        low, high = counts.confidence(state, alpha)
        if evidence >= need:
            # What has been proven once stays proven: that is what "anytime" means.
            verdict = "Fail"
        rows.append(
            {
                "look": number,
                "log10_evidence": evidence / math.log(10.0),
                "estimate": counts.odds_ratio(state),
                "low": low,
                "high": high,
                "verdict": verdict,
            }
        )
    return rows


def _read(file: Path) -> Sums:
    """Requests and events of both arms in each look."""
    looks: Sums = {}
    with file.open(newline="", encoding="utf-8") as lines:
        reader = csv.DictReader(lines)
        absent = [c for c in COLUMNS if c not in (reader.fieldnames or [])]
        if absent:
            raise InvalidInputError(
                f"{file} has no column {', '.join(absent)}.",
                hint="It needs a header with look, arm, n and events.",
            )
        for row in reader:
            _add(looks, row, f"{file}, line {reader.line_num}")
    if not looks:
        raise InvalidInputError(f"{file} has no rows.", hint="Write one row per look and arm.")
    return looks


def _add(looks: Sums, row: dict[str, str], where: str) -> None:
    try:
        number, n, events = (int(row[c]) for c in ("look", "n", "events"))
    except (TypeError, ValueError) as error:
        raise InvalidInputError(
            f"{where}: look, n and events must be whole numbers.", hint=str(row)
        ) from error
    if row["arm"] not in ARMS:
        raise InvalidInputError(f"{where}: arm {row['arm']!r} is neither stable nor candidate.")
    if n < 0 or not 0 <= events <= n:
        raise InvalidInputError(f"{where}: {events} events of {n} requests cannot be.")
    sums = looks.setdefault(number, {arm: [0, 0] for arm in ARMS})[row["arm"]]
    sums[0] += n
    sums[1] += events


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
