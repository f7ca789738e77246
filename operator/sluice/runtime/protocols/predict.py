"""``POST /predict``: one object, a list of objects, or an object of columns; by feature name.

Called by the endpoints.  Answers ``{"predictions": [{"label", "score", "scores"?, "eventId"}],
"revision"}`` and, when something is wrong, ``{"error": {"code", "message", "field"?}}``.
"""

from __future__ import annotations

from typing import Any

import msgspec

from sluice.package.manifest import Manifest
from sluice.package.scoring import Answer
from sluice.runtime.inputs import RowReader, Rows, check_count, decode_any
from sluice.runtime.problems import Problem, bad, describe


class PredictProtocol:
    """The decoder and encoder of one model."""

    def __init__(self, manifest: Manifest, reader: RowReader, revision: str) -> None:
        self._reader = reader
        self._revision = revision
        self._labels = [_key(label) for label in manifest.output.labels or ()]
        row = reader.row_type
        self._decoder = None if row is None else msgspec.json.Decoder(row | list[row])  # type: ignore[valid-type]

    def parse(self, body: bytes) -> Rows:
        """Rows of a body; raises Problem."""
        if self._decoder is not None:
            try:
                found = self._decoder.decode(body)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                return self._parse_any(body)
            rows = found if isinstance(found, list) else [found]
            check_count(len(rows))
            return Rows(len(rows), tuples=[msgspec.structs.astuple(row) for row in rows])
        return self._parse_any(body)

    def _parse_any(self, body: bytes) -> Rows:
        document = decode_any(body)
        if isinstance(document, list):
            return self._reader.from_documents(document)
        if isinstance(document, dict):
            if any(isinstance(document.get(name), list) for name in self._reader.names):
                return self._from_columns(document)
            return self._reader.from_documents([document])
        raise bad(
            "WrongShape",
            f"expected an object, a list of objects or an object of columns, "
            f"got {describe(document)}",
        )

    def _from_columns(self, document: dict[str, Any]) -> Rows:
        known = {n: document[n] for n in self._reader.names if n in document}
        count: int | None = None
        for name, values in known.items():
            if not isinstance(values, list):
                raise bad(
                    "WrongShape",
                    f"field {name!r}: expected a list as in the other fields, "
                    f"got {describe(values)}",
                    field=name,
                )
            if count is not None and len(values) != count:
                raise bad(
                    "WrongShape",
                    f"field {name!r}: expected {count} values as in the other fields, "
                    f"got {len(values)}",
                    field=name,
                )
            count = len(values)
            check_count(count)
        rows = [dict(zip(known, row, strict=True)) for row in zip(*known.values(), strict=True)]
        return self._reader.from_named(rows, unknown=len(document) - len(known))

    def render(self, answer: Answer, event_ids: list[str]) -> bytes:
        """The body of a 200."""
        scores = answer.scores.tolist()
        answers: list[dict[str, Any]]
        if answer.labels is None:
            answers = [
                {"score": score, "eventId": event}
                for score, event in zip(scores, event_ids, strict=True)
            ]
        else:
            answers = [
                {"label": label, "score": score, "eventId": event}
                for label, score, event in zip(answer.labels, scores, event_ids, strict=True)
            ]
        if answer.matrix is not None:
            for one, values in zip(answers, answer.matrix.tolist(), strict=True):
                one["scores"] = dict(zip(self._labels, values, strict=True))
        return msgspec.json.encode({"predictions": answers, "revision": self._revision})

    @staticmethod
    def error(problem: Problem) -> bytes:
        """The body of an error."""
        error: dict[str, Any] = {"code": problem.code, "message": problem.message}
        if problem.field is not None:
            error["field"] = problem.field
        return msgspec.json.encode({"error": error})


def _key(label: str | int | bool) -> str:
    """A label as a JSON key."""
    if isinstance(label, bool):
        return "true" if label else "false"
    return str(label)
