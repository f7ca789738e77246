"""The files of ``sluice judge``: one CSV row per look, arm and pod, checked line by line.

Called by sluice.cli._judge_kinds and sluice.cli._judge_object.  Rows of one look and arm are added
up.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, TypeVar

from sluice.errors import InvalidInputError

ARMS = ("stable", "candidate")
LARGEST_COUNT = 10**12
Cells = dict[str, str]
Part = TypeVar("Part")


class Row(NamedTuple):
    """A line of the file and where it stands."""

    cells: Cells
    where: str


class Counted(NamedTuple):
    """(requests, events) of each arm in one look, and how many starts had begun before it."""

    stable: tuple[int, int]
    candidate: tuple[int, int]
    starts: int = 1


def counts(file: Path) -> dict[int, Counted]:
    """What was counted in each look of ``file``."""
    return _counted(_rows(file, ("look", "arm", "n", "events")), str(file))


def counted(text: str, where: str, check: str) -> dict[int, Counted]:
    """What one check counted in each look of ``text``, which has columns check and starts."""
    found = rows(text, where, ("look", "arm", "n", "events", "check", "starts"))
    return _counted((row for row in found if row.cells["check"] == check), where)


def _counted(found: Iterable[Row], where: str) -> dict[int, Counted]:
    def parse(row: Row) -> tuple[int, int, int]:
        n, events = (_count(row, column) for column in ("n", "events"))
        if events > n:
            raise InvalidInputError(f"{row.where}: {events} events of {n} requests cannot be.")
        return n, events, _count(row, "starts") if "starts" in row.cells else 1

    result = {}
    for look, arms in _looks(found, where, parse).items():
        stable, candidate = (
            (sum(n for n, _, _ in arms[arm]), sum(x for _, x, _ in arms[arm])) for arm in ARMS
        )
        result[look] = Counted(stable, candidate, max(s for a in ARMS for _, _, s in arms[a]))
    return result


def moments(file: Path) -> dict[int, list[tuple[int, float, float]]]:
    """(units, sum, sum of squares) of stable and of the candidate in each look."""
    from sluice.stats.means import Moments

    def parse(row: Row) -> Moments:
        part = Moments(_count(row, "n"), _number(row, "sum"), _number(row, "sumsq"))
        try:
            part.check(row.cells["arm"])
        except ValueError as error:
            raise InvalidInputError(f"{row.where}: {error}.") from error
        return part

    result: dict[int, list[tuple[int, float, float]]] = {}
    found = _rows(file, ("look", "arm", "n", "sum", "sumsq"))
    for look, arms in _looks(found, str(file), parse).items():
        wholes = [sum(arms[arm], Moments(0, 0.0, 0.0)) for arm in ARMS]
        result[look] = [(whole.n, whole.total, whole.squares) for whole in wholes]
    return result


def units(file: Path, weight: float | None) -> dict[int, tuple[int, int, float]]:
    """(stable units, candidate units, weight) in each look.

    A column ``weight`` may give the weight of each look, ``weight`` is that of a file without.
    """

    def parse(row: Row) -> tuple[int, float]:
        own = _number(row, "weight") if "weight" in row.cells else weight
        if own is None:
            raise InvalidInputError(
                f"{file} has no column weight.", hint="Add it, or give --weight for all looks."
            )
        if not 1e-6 <= own <= 1 - 1e-6:
            raise InvalidInputError(f"{row.where}: weight {own} must be above 0 and below 1.")
        return _count(row, "units"), own

    result = {}
    found = _rows(file, ("look", "arm", "units"))
    for look, arms in _looks(found, str(file), parse).items():
        weights = {own for arm in ARMS for _, own in arms[arm]}
        # An absent arm would be taken for a mismatch; an arm without units is a row with 0.
        absent = [arm for arm in ARMS if not arms[arm]]
        if absent or len(weights) > 1:
            wrong = f"no row of {absent[0]}" if absent else f"weights {sorted(weights)}"
            raise InvalidInputError(
                f"{file}, look {look}: {wrong}.", hint="A look has both arms and one weight."
            )
        stable, candidate = (sum(n for n, _ in arms[arm]) for arm in ARMS)
        result[look] = (stable, candidate, weights.pop())
    return result


def _looks(
    found: Iterable[Row], where: str, parse: Callable[[Row], Part]
) -> dict[int, dict[str, list[Part]]]:
    looks: dict[int, dict[str, list[Part]]] = {}
    for row in found:
        number = _whole(row, "look")
        if row.cells["arm"] not in ARMS:
            raise InvalidInputError(
                f"{row.where}: arm {row.cells['arm']!r} is neither stable nor candidate."
            )
        looks.setdefault(number, {arm: [] for arm in ARMS})[row.cells["arm"]].append(parse(row))
    if not looks:
        raise InvalidInputError(f"{where} has no rows.", hint="Write one row per look and arm.")
    return dict(sorted(looks.items()))


def _rows(file: Path, columns: tuple[str, ...]) -> Iterator[Row]:
    try:
        # Spreadsheets begin UTF-8 files with a byte-order mark.
        with file.open(newline="", encoding="utf-8-sig") as lines:
            yield from _parsed(lines, str(file), columns)
    except UnicodeDecodeError as error:
        raise _no_csv(str(file), error) from error
    except OSError as error:
        raise InvalidInputError(f"{file} cannot be read: {error.strerror}.") from error


def rows(text: str, where: str, columns: tuple[str, ...]) -> Iterator[Row]:
    """The rows of a CSV text whose header has at least ``columns``."""
    return _parsed(text.splitlines(keepends=True), where, columns)


def _parsed(lines: Iterable[str], name: str, columns: tuple[str, ...]) -> Iterator[Row]:
    reader = csv.reader(lines, strict=True)
    try:
        header = [cell.strip() for cell in next(reader, [])]
        _check_header(name, header, columns)
        for cells in reader:
            where = f"{name}, line {reader.line_num}"
            if not cells:
                continue
            if len(cells) != len(header):
                raise InvalidInputError(
                    f"{where}: {len(cells)} cells under {len(header)} columns.",
                    hint="Each row needs one cell per column.",
                )
            yield Row(dict(zip(header, (c.strip() for c in cells), strict=True)), where)
    except csv.Error as error:
        raise _no_csv(name, error) from error


def _no_csv(name: str, error: Exception) -> InvalidInputError:
    return InvalidInputError(
        f"{name} is not a CSV file in UTF-8: {error}.", hint="Save it as plain CSV."
    )


def _check_header(file: str, header: list[str], columns: tuple[str, ...]) -> None:
    needs = f"It needs a header with {', '.join(columns)}."
    absent = [c for c in columns if c not in header]
    if absent:
        raise InvalidInputError(f"{file} has no column {', '.join(absent)}.", hint=needs)
    twice = sorted({c for c in header if header.count(c) > 1})
    if twice:
        raise InvalidInputError(f"{file} has more than one column {twice[0]!r}.", hint=needs)


def _whole(row: Row, column: str) -> int:
    text = row.cells[column]
    try:
        value = int(text)
    except ValueError as error:
        raise InvalidInputError(
            f"{row.where}: {column} must be one of the whole numbers, not {text[:40]!r}."
        ) from error
    if abs(value) > LARGEST_COUNT:
        raise InvalidInputError(f"{row.where}: {column} is beyond {LARGEST_COUNT:.0e}.")
    return value


def _count(row: Row, column: str) -> int:
    value = _whole(row, column)
    if value < 0:
        raise InvalidInputError(f"{row.where}: {column} {value} is negative.")
    return value


def _number(row: Row, column: str) -> float:
    text = row.cells[column]
    try:
        value = float(text)
    except ValueError as error:
        raise InvalidInputError(
            f"{row.where}: {column} must be a number, not {text[:40]!r}."
        ) from error
    if not math.isfinite(value):
        raise InvalidInputError(f"{row.where}: {column} {text!r} is not a finite number.")
    return value
