"""What may stand in the query of a Metric check: placeholders of PromQL, parameters of SQL.

Pure; called when a query is admitted and each time it is sent.  PromQL has no parameters, so names
are put into its text, and only names that cannot end a string.  SQL has them, so a value never
becomes part of the text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from sluice.errors import InvalidInputError

PLACEHOLDERS = ("revision", "namespace", "name", "interval")
PARAMETERS = {"start": "timestamptz", "end": "timestamptz", "stable": "text", "candidate": "text"}
MAX_QUERY = 8192

_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
_INTERVAL = re.compile(r"[1-9][0-9]{0,8}s")
_PLACEHOLDER = re.compile(r"\{\{([^{}]*)(\}\})?")
_SQL = re.compile(
    r"""(?P<opaque>[eE]'(?:[^'\\]|\\.|'')*'|'(?:[^']|'')*'|"(?:[^"]|"")*"
         |\$(?P<tag>(?:[A-Za-z_]\w*)?)\$.*?\$(?P=tag)\$|--[^\n]*|/\*.*?\*/|::|[^\W\d][\w$]*)
       |:(?P<name>[A-Za-z_]\w*)|(?P<number>\$\d+)|(?P<braces>\{\{)""",
    re.VERBOSE | re.DOTALL,
)


class Bound(NamedTuple):
    """SQL with numbered parameters, and what the numbers 1, 2, ... stand for."""

    text: str
    parameters: tuple[str, ...]


def placeholders(query: str) -> frozenset[str]:
    """The placeholders of a PromQL query.  InvalidInputError for one that is not known."""
    return frozenset(_placeholder(found) for found in _PLACEHOLDER.finditer(_bounded(query)))


def render(query: str, values: Mapping[str, str]) -> str:
    """``query`` with every ``{{placeholder}}`` replaced, once; what is put in is not read again.

    ``values`` are Kubernetes names, and for ``interval`` a duration of whole seconds (``90s``).
    InvalidInputError for an unknown placeholder, for one without a value, and for any other value.
    """

    def value_of(found: re.Match[str]) -> str:
        name = _placeholder(found)
        value = values.get(name, "")
        if not (_INTERVAL if name == "interval" else _NAME).fullmatch(value):
            raise InvalidInputError(
                f"The value {value[:60]!r} cannot be put into a query as {{{{{name}}}}}.",
                hint="Names are lower-case letters, digits, '-' and '.'; an interval is like 90s.",
            )
        return value

    return _PLACEHOLDER.sub(value_of, _bounded(query))


def bind(query: str) -> Bound:
    """An SQL query's ``:parameters`` as PostgreSQL numbers them, each with its type.

    Text, quoted names and comments stay as they are.  InvalidInputError for an unknown parameter,
    for ``$1`` and ``{{...}}``, and for a query that does not keep to the window.
    """
    used: list[str] = []

    def numbered(found: re.Match[str]) -> str:
        if found["opaque"]:
            return found[0]
        name = found["name"]
        if name not in PARAMETERS:
            raise InvalidInputError(
                f"The SQL query contains {found[0][:60]!r}, which is not a parameter.",
                hint="Parameters are :start, :end, :stable and :candidate; "
                "an array slice is written with spaces: a[1 : 2].",
            )
        if name not in used:
            used.append(name)
        return f"${used.index(name) + 1}::{PARAMETERS[name]}"

    text = _SQL.sub(numbered, _bounded(query).strip().rstrip(";"))
    if not {"start", "end"} <= {*used}:
        raise InvalidInputError(
            "The SQL query does not use both :start and :end, so rows would be counted twice.",
            hint="Add, for example: WHERE closed_at >= :start AND closed_at < :end",
        )
    return Bound(text, tuple(used))


def _bounded(query: str) -> str:
    if not query.strip() or len(query) > MAX_QUERY or "\0" in query:
        raise InvalidInputError(
            f"A query must be text of 1 to {MAX_QUERY} characters; this one has {len(query)}.",
            hint="Keep long expressions as a recording rule or a view, and query that.",
        )
    return query


def _placeholder(found: re.Match[str]) -> str:
    name = found[1].strip()
    if found[2] is None or name not in PLACEHOLDERS:
        known = ", ".join(f"{{{{{p}}}}}" for p in PLACEHOLDERS)
        raise InvalidInputError(
            f"The query contains {found[0][:60]!r}, which is not a placeholder.",
            hint=f"Placeholders are {known}.",
        )
    return name
