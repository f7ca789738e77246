"""Rows with labels from a parquet or CSV file, told apart by content, read in bounded pieces.

Called by the quality gate.  Values become what a client would send as JSON, so that the schema
judges them exactly as it judges traffic; a missing value stays missing.
"""

from __future__ import annotations

import datetime
import decimal
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sluice.jobs.gates.bench import CannotJudgeError, Row
from sluice.package.manifest import Input

BATCH = 4096
_MISSING = ["", "NA", "N/A", "NaN", "nan", "null", "NULL", "None"]

Columns = dict[str, list[Any]]


@dataclass(frozen=True)
class Batch:
    """Some rows and their truth."""

    rows: list[Row]
    truth: list[Any]


class Dataset:
    """A file of rows; iterating gives those that have a label, ``max_rows`` at most."""

    def __init__(self, path: Path, inputs: Sequence[Input], label: str, max_rows: int) -> None:
        self._file = _one_file(path)
        self._kinds = {spec.name: spec.type for spec in reversed(inputs) if spec.name != label}
        self._label, self._max_rows = label, max_rows
        self.unlabelled = 0
        """Rows that were left out because their label is missing."""
        self.more = False
        """Whether the file goes on after the last row that was read."""

    def __iter__(self) -> Iterator[Batch]:
        try:
            yield from self._bounded(self._open())
        except CannotJudgeError:
            raise
        except Exception as error:  # pyarrow raises its own tree and plain ValueErrors alike
            raise CannotJudgeError(
                f"The dataset cannot be read: {_first_line(error)}.",
                hint="It must be a parquet file, or a CSV file with a header.",
                reason="DatasetUnreadable",
            ) from error

    def _open(self) -> Iterator[Columns]:
        with self._file.open("rb") as stream:
            magic = stream.read(4)
        return self._parquet() if magic == b"PAR1" else self._csv()

    def _parquet(self) -> Iterator[Columns]:
        import pyarrow.parquet as pq

        parquet = pq.ParquetFile(self._file)
        wanted = self._wanted(parquet.schema_arrow.names)
        for batch in parquet.iter_batches(batch_size=BATCH, columns=wanted):
            yield batch.to_pydict()

    def _csv(self) -> Iterator[Columns]:
        import pyarrow as pa
        from pyarrow import csv

        with csv.open_csv(self._file) as opened:
            wanted = self._wanted(opened.schema.names)
        # Types come from the schema, not from a guess at the first block: an id of digits is a
        # string, and a column of whole numbers may go on with fractions.
        arrow = {"string": pa.string(), "float": pa.float64(), "int": pa.float64()}
        options = csv.ConvertOptions(
            column_types={n: arrow[k] for n, k in self._kinds.items() if k in arrow},
            include_columns=wanted,
            null_values=_MISSING,
            strings_can_be_null=True,
        )
        for batch in csv.open_csv(self._file, convert_options=options):
            yield batch.to_pydict()

    def _wanted(self, present: list[str]) -> list[str]:
        if self._label not in present:
            raise CannotJudgeError(
                f"The dataset has no column {self._label!r} (it has {', '.join(present[:12])}).",
                hint="Name the column that holds the truth in quality.dataset.label.",
                reason="DatasetUnreadable",
            )
        return [name for name in present if name in self._kinds or name == self._label]

    def _bounded(self, batches: Iterator[Columns]) -> Iterator[Batch]:
        left = self._max_rows
        for batch in batches:
            truth = batch.pop(self._label)
            if not left and truth:
                self.more = True
                return
            if len(truth) > left:
                self.more = True
            yield self._labelled(batch, truth[:left])
            if self.more:
                return
            left -= len(truth)

    def _labelled(self, batch: Columns, truth: list[Any]) -> Batch:
        names = list(batch)
        columns = [[_plain(v, self._kinds[name]) for v in batch[name]] for name in names]
        values = zip(*columns, strict=True) if columns else itertools.repeat(())
        kept = Batch([], [])
        for label, row in zip(truth, values):  # noqa: B905 - repeat() has no end
            if label is None or label != label:
                self.unlabelled += 1
                continue
            kept.rows.append(dict(zip(names, row, strict=True)))
            kept.truth.append(label)
        return kept


def _one_file(path: Path) -> Path:
    """The file itself, or the only file of a directory that something was fetched into."""
    if path.is_file():
        return path
    files = [e for e in path.iterdir() if not e.name.startswith(".")] if path.is_dir() else []
    if len(files) == 1 and files[0].is_file():
        return files[0]
    raise CannotJudgeError(
        f"There is no dataset at {path}.",
        hint="Give a parquet or CSV file with --dataset.",
        reason="DatasetUnreadable",
    )


def _plain(value: Any, kind: str) -> Any:
    """A value as a client's JSON would hold it."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if kind == "bool" and value in (0, 1):
        return bool(value)
    if isinstance(value, decimal.Decimal):
        return float(value)
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return value


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200].rstrip(".")
