"""Rows with labels from a parquet or CSV file, told apart by content, read in bounded pieces.

Called by the quality gate.  Values become what a client would send as JSON, so that the schema
judges them exactly as it judges traffic; a missing value stays missing.
"""

from __future__ import annotations

import datetime
import decimal
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sluice.jobs.gates.bench import CannotJudgeError, Row
from sluice.package.manifest import Manifest

BATCH = 8192
_MISSING = ["", "NA", "N/A", "NaN", "nan", "null", "NULL", "None"]


@dataclass(frozen=True)
class Rows:
    """What was read."""

    rows: list[Row]
    truth: list[Any]
    unlabelled: int
    more: bool
    """Whether the file goes on after the last row that was read."""


def read(path: Path, manifest: Manifest, label: str, max_rows: int) -> Rows:
    """At most ``max_rows`` rows in file order.  Raises CannotJudgeError."""
    file = _one_file(path)
    names = [spec.name for spec in manifest.inputs]
    try:
        batches, columns = _open(file, manifest)
        if label not in columns:
            raise CannotJudgeError(
                f"The dataset has no column {label!r} (it has {', '.join(columns[:12])}).",
                hint="Name the column that holds the truth in quality.dataset.label.",
                reason="DatasetUnreadable",
            )
        kinds: dict[str, str] = {spec.name: spec.type for spec in manifest.inputs}
        wanted = [name for name in names if name in columns and name != label]
        return _collect(batches, wanted, kinds, label, max_rows)
    except CannotJudgeError:
        raise
    except Exception as error:  # pyarrow raises its own tree and plain ValueErrors alike
        raise CannotJudgeError(
            f"The dataset cannot be read: {str(error).splitlines()[0][:200]}.",
            hint="It must be a parquet file, or a CSV file with a header.",
            reason="DatasetUnreadable",
        ) from error


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


def _open(file: Path, manifest: Manifest) -> tuple[Iterator[dict[str, list[Any]]], list[str]]:
    with file.open("rb") as stream:
        magic = stream.read(4)
    return _parquet(file) if magic == b"PAR1" else _csv(file, manifest)


def _parquet(file: Path) -> tuple[Iterator[dict[str, list[Any]]], list[str]]:
    import pyarrow.parquet as pq

    parquet = pq.ParquetFile(file)
    batches = (batch.to_pydict() for batch in parquet.iter_batches(batch_size=BATCH))
    return batches, list(parquet.schema_arrow.names)


def _csv(file: Path, manifest: Manifest) -> tuple[Iterator[dict[str, list[Any]]], list[str]]:
    import pyarrow as pa
    from pyarrow import csv

    # Types come from the schema, not from a guess at the first block: an id of digits is a string.
    types = {spec.name: pa.string() for spec in manifest.inputs if spec.type == "string"}
    types |= {s.name: pa.float64() for s in manifest.inputs if s.type in ("float", "int")}
    options = csv.ConvertOptions(column_types=types, null_values=_MISSING, strings_can_be_null=True)
    reader = csv.open_csv(file, convert_options=options)
    return (batch.to_pydict() for batch in reader), list(reader.schema.names)


def _collect(
    batches: Iterator[dict[str, list[Any]]],
    wanted: list[str],
    kinds: dict[str, str],
    label: str,
    max_rows: int,
) -> Rows:
    rows: list[Row] = []
    truth: list[Any] = []
    unlabelled, seen = 0, 0
    for batch in batches:
        columns = [[_plain(v, kinds[name]) for v in batch[name]] for name in wanted]
        values = zip(*columns, strict=True) if columns else itertools.repeat(())
        for label_value, row in zip(batch[label], values):  # noqa: B905 - repeat() has no end
            if seen == max_rows:
                return Rows(rows, truth, unlabelled, more=True)
            seen += 1
            if label_value is None or label_value != label_value:
                unlabelled += 1
                continue
            rows.append(dict(zip(wanted, row, strict=True)))
            truth.append(label_value)
    return Rows(rows, truth, unlabelled, more=False)


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
