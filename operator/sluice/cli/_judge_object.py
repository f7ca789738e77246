"""The looks that a saved ModelDeployment carries in its status, for ``sluice judge``.

Called by sluice.cli.judge.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from sluice.api.status import CheckStatus, EvidenceStatus
from sluice.cli import _judge_files as files
from sluice.errors import InvalidInputError

LARGEST = 4 << 20
SAVE = "Save one object: kubectl get mdep NAME -o yaml > FILE"


@dataclass(frozen=True)
class Judged:
    """One check of the object: its looks, and what the operator made of them."""

    check: CheckStatus
    evidence: EvidenceStatus
    looks: dict[int, files.Counted]


def is_object(file: Path) -> bool:
    """Whether ``file`` looks like a Kubernetes object in YAML or JSON, and not like a CSV file."""
    try:
        with file.open("rb") as lines:
            start = lines.read(4096).lstrip(b"\xef\xbb\xbf \r\n")
    except OSError as error:
        raise InvalidInputError(f"{file} cannot be read: {error.strerror}.") from error
    return start.startswith((b"{", b"---", b"#", b"apiVersion:", b"kind:"))


def judged(file: Path, check: str | None) -> Judged:
    """The looks of ``check`` (default: that with most evidence) in the saved object."""
    status = _status(file)
    try:
        evidence = EvidenceStatus.model_validate(status.get("evidence"))
        rows = [CheckStatus.model_validate(row) for row in status.get("checks") or []]
    except (ValidationError, TypeError) as error:
        raise InvalidInputError(
            f"{file}: status is not what the operator writes: {_first(error)}.", hint=SAVE
        ) from error
    where = f"{file}: looks"
    names = {cells["check"] for cells, _ in files.rows(evidence.looks, where, ("check",))}
    known = [row for row in rows if row.name in names]
    if not known:
        raise InvalidInputError(f"{file}: no check of status.checks has looks.", hint=SAVE)
    found = [row for row in known if check in (None, row.name)]
    if not found:
        raise InvalidInputError(
            f"{file} has no looks of check {check!r}.",
            hint=f"It has those of {', '.join(row.name for row in known)}.",
        )
    worst = max(found, key=lambda row: row.log10_evidence or 0.0)
    return Judged(worst, evidence, files.counted(evidence.looks, where, check=worst.name))


def _status(file: Path) -> dict[str, Any]:
    try:
        if file.stat().st_size > LARGEST:
            raise InvalidInputError(f"{file} is larger than {LARGEST >> 20} MiB.", hint=SAVE)
        found = yaml.safe_load(file.read_text(encoding="utf-8-sig"))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise InvalidInputError(f"{file} is neither YAML nor CSV: {error}.", hint=SAVE) from error
    items = found.get("items") if isinstance(found, dict) and "items" in found else [found]
    if not isinstance(items, list) or len(items) != 1:
        raise InvalidInputError(f"{file} does not hold one object.", hint=SAVE)
    item = items[0]
    if not isinstance(item, dict) or item.get("kind") != "ModelDeployment":
        raise InvalidInputError(f"{file} is not a ModelDeployment.", hint=SAVE)
    status = item.get("status")
    if not isinstance(status, dict) or not status.get("evidence"):
        raise InvalidInputError(
            f"{file}: status.evidence is empty: nothing has been compared.",
            hint="It is there from a rollout's first look on, and stays after a rollback.",
        )
    return status


def _first(error: ValidationError | TypeError) -> str:
    if isinstance(error, TypeError):
        return str(error)
    row = error.errors()[0]
    return f"{'.'.join(str(part) for part in row['loc']) or 'evidence'}: {row['msg']}"
