"""Counts and moments of each arm from one SQL query over a closed window of time.

Called by the controller once a look; calls asyncpg.  PostgreSQL, and what speaks its protocol.
The query is the user's and its values are bound, never written into it.  It runs in a READ ONLY
transaction, in UTC, with a time limit of its own; the columns are known before
anything runs, and at most three rows of short values ever leave the server.

The query gives a row per arm: ``arm`` (``stable`` or ``candidate``) or ``revision`` (its name),
``n``, and either ``events`` (for a rate) or ``sum`` and ``sumsq`` (for a mean).  An arm without a
row has no data.  Windows of successive looks touch and never overlap, so that a row is counted
once; rows that arrive after their window has closed are not counted, so the caller lets a window
end long enough ago.

A connection belongs to one reading: a look is rare, and a database that was restarted or a
password that was changed is then nobody's special case.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import re
import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from sluice.api.query import Bound, bind
from sluice.evidence.counters import MAX_COUNT
from sluice.evidence.metric import (
    INVALID,
    REFUSED,
    UNREACHABLE,
    Counts,
    MetricError,
    Pair,
)
from sluice.stats.means import Moments

SCHEMES = ("postgresql", "postgres")
TLS_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
_NUMBERS = frozenset({"int2", "int4", "int8", "float4", "float8", "numeric"})
_NAMES = frozenset({"text", "varchar", "bpchar", "name", "char", "unknown"})
_RATE, _MEAN = ("n", "events"), ("n", "sum", "sumsq")
_LONGEST_NAME = 254
_EXAMPLE = "Give one row per arm with the columns arm or revision, n, and events or sum and sumsq."


@dataclass(frozen=True)
class Database:
    """Where to ask: ``postgresql://USER:PASSWORD@HOST[:PORT]/DATABASE[?sslmode=MODE]``.

    ``url`` comes from a Secret and is never shown.  ``ca`` are certificates (PEM) to trust instead
    of the system's; with them, ``sslmode`` is ``verify-full`` when it is not said.
    """

    url: str = field(repr=False)
    ca: str = field(default="", repr=False)


@dataclass(frozen=True)
class _Target:
    host: str
    port: int
    user: str
    password: str = field(repr=False)
    database: str
    tls: ssl.SSLContext | str = field(repr=False)

    @property
    def label(self) -> str:
        return f"PostgreSQL {self.host}:{self.port}/{self.database}"


async def read_arms(
    database: Database,
    query: str,
    revisions: Pair[str],
    *,
    start: datetime,
    end: datetime,
    deadline: float = 5.0,
) -> Pair[Counts] | Pair[Moments]:
    """What ``query`` says of each arm from ``start`` (included) to ``end`` (not included).

    InvalidInputError as ``api.query.bind`` raises it; MetricError when the database does not
    answer within ``deadline`` seconds, refuses the query, or gives what cannot be counted.
    """
    bound = bind(query)
    target = _target(database)
    values = {
        "start": start,
        "end": end,
        "stable": revisions.stable,
        "candidate": revisions.candidate,
    }
    answer = await _ask(target, bound, [values[name] for name in bound.parameters], deadline)
    rows = _by_arm(target, answer.rows, revisions)
    stable, candidate = rows.get("stable"), rows.get("candidate")
    if "events" in answer.columns:
        return Pair(_counts(target, "stable", stable), _counts(target, "candidate", candidate))
    return Pair(_moments(target, "stable", stable), _moments(target, "candidate", candidate))


def late(database: Database, deadline: float) -> MetricError:
    """What is said when ``database`` gave no answer within ``deadline`` seconds."""
    return _late(_target(database), deadline)


# -- where


def _target(database: Database) -> _Target:
    parts = _split(database.url.strip())
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    mode = options.pop("sslmode", "verify-full" if database.ca else "prefer")
    if options or mode not in TLS_MODES:
        raise _bad_url("has options other than sslmode, or an sslmode that does not exist")
    user = unquote(parts.username or "")
    return _Target(
        host=parts.hostname or "",
        port=parts.port or 5432,
        user=user,
        password=unquote(parts.password or ""),
        database=unquote(parts.path.removeprefix("/")) or user,
        tls=_tls(mode, database.ca),
    )


def _split(url: str) -> SplitResult:
    scheme = url.partition("://")[0] if "://" in url else ""
    if scheme not in SCHEMES:
        shown = f" {scheme}" if re.fullmatch(r"[a-z][a-z0-9+]{1,15}", scheme) else ""
        raise _bad_url(f"has the scheme{shown}, which cannot be read" if shown else "has no scheme")
    try:
        parts = urlsplit(url)
        port_is_good = parts.port != 0
    except ValueError:
        raise _bad_url("cannot be taken apart") from None
    known = bool(parts.hostname) and bool(parts.username) and port_is_good
    if not known or "," in parts.netloc or parts.fragment or not url.isprintable():
        raise _bad_url("does not have one host and a user")
    return parts


def _bad_url(what: str) -> MetricError:
    return MetricError(
        f"The database address in the Secret {what}.",
        hint="It must be postgresql://USER:PASSWORD@HOST:PORT/DATABASE; in the password, "
        "characters such as / ? # @ are written as %2F %3F %23 %40.",
        reason=REFUSED,
    )


def _tls(mode: str, ca: str) -> ssl.SSLContext | str:
    if not mode.startswith("verify"):
        return mode
    try:
        context = ssl.create_default_context(cadata=ca or None)
    except (ssl.SSLError, ValueError):
        raise MetricError(
            "The certificates to trust the database by are not PEM.",
            hint="Put the authority's certificate, -----BEGIN CERTIFICATE----- and all, in the "
            "Secret.",
            reason=REFUSED,
        ) from None
    context.check_hostname = mode == "verify-full"
    return context


# -- asking


class _Answer(NamedTuple):
    columns: tuple[str, ...]
    rows: Sequence[Mapping[str, Any]]


async def _ask(target: _Target, bound: Bound, values: Sequence[Any], deadline: float) -> _Answer:
    asyncpg = _driver()
    try:
        async with asyncio.timeout(deadline), _connected(asyncpg, target) as connection:
            # Ended by the connection's end: a server that hangs would not answer a ROLLBACK either.
            await connection.transaction(readonly=True).start()
            await _limit(connection, deadline)
            columns = await _columns(connection, target, bound)
            rows = await connection.fetch(_bounded(bound.text, columns), *values)
            return _Answer(columns, rows)
    except MetricError:
        raise
    except (TimeoutError, asyncpg.QueryCanceledError):
        raise _late(target, deadline) from None
    except (asyncpg.InvalidAuthorizationSpecificationError, asyncpg.InvalidCatalogNameError) as e:
        raise _error(target, f"refuses the connection: {e}", REFUSED, "See the Secret.") from None
    except (
        asyncpg.PostgresConnectionError,
        asyncpg.OperatorInterventionError,
        asyncpg.InsufficientResourcesError,
    ) as e:
        raise _error(target, f"does not serve now: {e}", UNREACHABLE) from None
    except (asyncpg.PostgresError, asyncpg.InterfaceError) as e:
        raise _error(target, f"refuses the query: {e}", REFUSED, _EXAMPLE) from None
    except (OSError, EOFError, asyncpg.InternalClientError) as e:
        raise _error(target, f"cannot be reached ({e})", UNREACHABLE) from None


def _driver() -> Any:
    try:
        import asyncpg
    except ImportError:
        raise MetricError(
            "The operator was installed without its database driver.",
            hint="Install sluice-operator[sql].",
            reason=UNREACHABLE,
        ) from None
    return asyncpg


@contextlib.asynccontextmanager
async def _connected(asyncpg: Any, target: _Target) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(
        host=target.host,
        port=target.port,
        user=target.user,
        password=target.password,
        database=target.database,
        ssl=target.tls,
        # Connection poolers hand a session on: what is prepared there must not stay.
        statement_cache_size=0,
    )
    try:
        yield connection
        await connection.close()
    finally:
        connection.terminate()


async def _limit(connection: Any, deadline: float) -> None:
    """For this transaction only: the server gives up by itself, and a day is the same everywhere.

    Not as connection options: connection poolers refuse those.
    """
    await connection.execute(
        "SELECT set_config('statement_timeout', $1, true), set_config('TimeZone', 'UTC', true)",
        f"{deadline * 1000:.0f}",
    )


async def _columns(connection: Any, target: _Target, bound: Bound) -> tuple[str, ...]:
    """The columns to read, from the query's description; nothing has run yet."""
    described = (await connection.prepare(bound.text)).get_attributes()
    types = {column.name: column.type.name for column in described}
    arm = next((name for name in ("arm", "revision") if name in types), "")
    numbers = _RATE if "events" in types else _MEAN
    missing = [name for name in (arm or "arm", *numbers) if name not in types]
    if missing:
        raise _error(target, f"gives no column {missing[0]}", INVALID, _EXAMPLE)
    if len(types) < len(described):
        raise _error(target, "gives two columns of one name", INVALID, _EXAMPLE)
    for name in (arm, *numbers):
        if types[name] not in (_NAMES if name == arm else _NUMBERS):
            what = f"gives the column {name} as {types[name]}"
            raise _error(target, what, INVALID, "A name is text; the rest are numbers.")
    return (arm, *numbers)


def _bounded(text: str, columns: tuple[str, ...]) -> str:
    """``text`` as a subquery: it cannot be anything but a query there, and little comes back.

    Three rows are enough to show that there is one too many.  The column names are ours.
    """
    arm, *numbers = columns
    shown = [f'left(q."{arm}"::text, {_LONGEST_NAME}) AS "{arm}"']
    shown += [f'q."{name}"::float8 AS "{name}"' for name in numbers]
    return f"SELECT {', '.join(shown)} FROM (\n{text}\n) AS q LIMIT 3"  # noqa: S608


# -- understanding the answer


def _by_arm(
    target: _Target, rows: Sequence[Mapping[str, Any]], revisions: Pair[str]
) -> dict[str, Mapping[str, Any]]:
    found: dict[str, Mapping[str, Any]] = {}
    for row in rows:
        arm = _arm(target, row, revisions)
        if arm in found:
            what = f"gives more than one row for {arm}"
            raise _error(target, what, INVALID, "Add GROUP BY arm (or revision).")
        found[arm] = row
    return found


def _arm(target: _Target, row: Mapping[str, Any], revisions: Pair[str]) -> str:
    if "arm" in row:
        known = {"stable": "stable", "candidate": "candidate"}
        given = row["arm"]
    else:
        known = {revisions.stable: "stable", revisions.candidate: "candidate"}
        given = row["revision"]
    if given not in known:
        raise _error(
            target,
            f"gives a row for {str(given)[:60]!r}, which is neither {' nor '.join(known)}",
            INVALID,
            "Add, for example: WHERE revision IN (:stable, :candidate)",
        )
    return known[given]


def _counts(target: _Target, arm: str, row: Mapping[str, Any] | None) -> Counts:
    n = _count(target, arm, row, "n")
    events = _count(target, arm, row, "events") if n else 0
    if events > n:
        raise _error(target, f"gives {events} events of only {n} for {arm}", INVALID)
    return Counts(n, events)


def _moments(target: _Target, arm: str, row: Mapping[str, Any] | None) -> Moments:
    n = _count(target, arm, row, "n")
    if not n:
        # sum(...) of nothing is NULL in SQL.
        return Moments()
    total, squares = _number(target, arm, row, "sum"), _number(target, arm, row, "sumsq")
    if squares * n < total * total * (1 - 1e-9):
        raise _error(
            target,
            f"gives sum {total:g} and sumsq {squares:g} of {n} for {arm}, which no values have",
            INVALID,
            "sumsq is sum(x * x) of the same rows.",
        )
    return Moments(n, total, squares)


def _count(target: _Target, arm: str, row: Mapping[str, Any] | None, column: str) -> int:
    if row is None:
        return 0
    value = _number(target, arm, row, column)
    if not value.is_integer() or not 0 <= value <= MAX_COUNT:
        raise _error(target, f"gives {column} {value:g} for {arm}, which is not a count", INVALID)
    return int(value)


def _number(target: _Target, arm: str, row: Mapping[str, Any] | None, column: str) -> float:
    value = row[column] if row is not None else None
    if not isinstance(value, float) or not math.isfinite(value):
        shown = "NULL" if value is None else str(value)
        raise _error(target, f"gives {column} {shown} for {arm}, which is not a number", INVALID)
    return value


def _late(target: _Target, deadline: float) -> MetricError:
    return _error(
        target,
        f"did not answer within {deadline:g} s",
        UNREACHABLE,
        "Give the query an index on its time column, or less to read.",
    )


def _error(target: _Target, what: str, reason: str, hint: str = "") -> MetricError:
    """The message in one line, and without the password wherever it came from."""
    said = "".join(c if c.isprintable() else " " for c in what)
    if target.password:
        said = said.replace(target.password, "***")
    said = said if len(said) <= 400 else f"{said[:397]}..."
    return MetricError(
        f"{target.label} {said}.",
        hint=hint or "The metric is asked for again at the next look.",
        reason=reason,
    )
