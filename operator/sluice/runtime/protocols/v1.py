"""V1, as TensorFlow Serving and KServe speak it: ``POST /v1/models/NAME:predict``.

Called by the endpoints.  ``{"instances": [...]}`` or ``{"inputs": [...]}``; rows are lists in
schema order or objects by feature name.  The answer is ``{"predictions": [...]}``: labels for a
classification, values for a regression.  Errors are ``{"error": "one sentence"}``.
"""

from __future__ import annotations

from typing import Any

import msgspec

from sluice.package.scoring import Answer
from sluice.runtime.inputs import RowReader, Rows, check_count, decode_any
from sluice.runtime.problems import Problem, bad, describe


class V1Protocol:
    """The decoder and encoder of one model."""

    def __init__(self, name: str, reader: RowReader) -> None:
        self.name = name
        self._reader = reader
        rows = list[reader.tuple_type]  # type: ignore[name-defined]
        body = msgspec.defstruct("V1Body", [("instances", rows)], gc=False)
        self._decoder = msgspec.json.Decoder(body)

    def parse(self, body: bytes) -> Rows:
        """Rows of a body; raises Problem."""
        try:
            rows = self._decoder.decode(body).instances  # type: ignore[attr-defined]
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return self._parse_any(body)
        check_count(len(rows))
        return Rows(len(rows), tuples=rows)

    def _parse_any(self, body: bytes) -> Rows:
        document = decode_any(body)
        if not isinstance(document, dict):
            raise bad("WrongShape", f'expected {{"instances": [...]}}, got {describe(document)}')
        key = "instances" if "instances" in document else "inputs"
        if key not in document:
            raise bad(
                "MissingField",
                'field "instances": expected a list of rows, got nothing (the field is missing)',
                field="instances",
            )
        rows = document[key]
        if not isinstance(rows, list):
            raise bad(
                "WrongShape",
                f'field "{key}": expected a list of rows, got {describe(rows)}',
                field=key,
            )
        return self._reader.from_documents(rows)

    def render(self, answer: Answer) -> bytes:
        """The body of a 200."""
        values: list[Any] = answer.scores.tolist() if answer.labels is None else answer.labels
        return msgspec.json.encode({"predictions": values})

    def metadata(self, *, ready: bool) -> bytes:
        """``GET /v1/models/NAME``."""
        return msgspec.json.encode({"name": self.name, "ready": ready})

    def models(self) -> bytes:
        """``GET /v1/models``."""
        return msgspec.json.encode({"models": [self.name]})

    @staticmethod
    def error(problem: Problem) -> bytes:
        """The body of an error."""
        return msgspec.json.encode({"error": problem.message})
