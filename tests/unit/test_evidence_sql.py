"""Reading arms from a real PostgreSQL, and refusing what cannot be counted."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import sys
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from tests.tools.postgres import PostgresServer, postgres_server
from tests.tools.webserver import self_signed

from sluice.errors import InvalidInputError
from sluice.evidence.metric import (
    INVALID,
    REFUSED,
    UNREACHABLE,
    Counts,
    MetricError,
    Pair,
)
from sluice.evidence.sql import Database, read_arms
from sluice.stats.means import Moments

REVISIONS = Pair("iris-aaa", "iris-bbb")
START = datetime(2026, 3, 1, 12, tzinfo=UTC)
END = START + timedelta(minutes=1)
READER = "reader-s3cr3t"

RATE = """
SELECT revision, count(*) AS n, count(*) FILTER (WHERE refunded) AS events
FROM orders WHERE closed >= :start AND closed < :end GROUP BY revision
"""
MEAN = """
SELECT CASE revision WHEN :stable THEN 'stable' WHEN :candidate THEN 'candidate' END AS arm,
  count(*) AS n, sum(amount) AS sum, sum(amount * amount) AS sumsq
FROM orders WHERE closed >= :start AND closed < :end GROUP BY revision;
"""
SETUP = f"""
CREATE TABLE orders (
  revision text, closed timestamptz, local timestamp, refunded boolean, amount numeric(12, 2));
INSERT INTO orders SELECT 'iris-aaa', t, t AT TIME ZONE 'UTC', i % 4 = 0, i FROM (
  SELECT i, '2026-03-01T12:00:00Z'::timestamptz + i * interval '1 second' AS t
  FROM generate_series(-60, 119) AS i) AS made;
INSERT INTO orders VALUES
  ('iris-bbb', '2026-03-01T12:00:00Z', '2026-03-01T12:00:00', true, 1.5),
  ('iris-bbb', '2026-03-01T12:00:59Z', '2026-03-01T12:00:59', false, 2.5),
  ('iris-bbb', '2026-03-01T12:01:00Z', '2026-03-01T12:01:00', true, 99);
CREATE ROLE reader LOGIN PASSWORD '{READER}';
GRANT SELECT ON orders TO reader;
CREATE TABLE kept_away (n int);
CREATE FUNCTION write_behind() RETURNS int LANGUAGE sql AS
  'INSERT INTO orders(revision) VALUES (''x'') RETURNING 1';
ALTER ROLE reader SET timezone = 'Asia/Tokyo';
"""


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with postgres_server() as running:
        asyncio.run(_execute(running, SETUP))
        yield running


async def _execute(server: PostgresServer, text: str) -> list[Any]:
    connection = await asyncpg.connect(server.url())
    try:
        if text is SETUP:
            await connection.execute(text)
            return []
        return list(await connection.fetch(text))
    finally:
        await connection.close()


def database(server: PostgresServer, **changes: Any) -> Database:
    return Database(server.url(**{"user": "reader", "password": READER} | changes))


def read(where: Database, query: str, **changes: Any) -> Pair[Counts] | Pair[Moments]:
    window: dict[str, Any] = {"start": START, "end": END} | changes
    return asyncio.run(read_arms(where, query, REVISIONS, **window))


def refused(where: Database, query: str = RATE, **changes: Any) -> MetricError:
    with pytest.raises(MetricError) as caught:
        read(where, query, **changes)
    error = caught.value
    assert error.message.count("\n") == 0 and len(error.message) < 512 and error.hint
    for text in (str(error), repr(error), repr(where)):
        assert READER not in text
    return error


def rows(*selects: str) -> str:
    """A query that gives these rows."""
    body = " UNION ALL ".join(f"SELECT {select}" for select in selects)
    return f"SELECT * FROM ({body}) AS made WHERE :start::timestamptz < :end"


def test_a_rate_counts_the_rows_of_the_window_once(server: PostgresServer) -> None:
    assert read(database(server), RATE) == Pair(Counts(60, 15), Counts(2, 1))
    later = read(database(server), RATE, start=END, end=END + timedelta(hours=1))
    assert later == Pair(Counts(60, 15), Counts(1, 1))


def test_a_mean_has_its_moments(server: PostgresServer) -> None:
    squares = float(sum(i * i for i in range(60)))
    assert read(database(server), MEAN) == Pair(
        Moments(60, 1770.0, squares), Moments(2, 4.0, 1.5**2 + 2.5**2)
    )


def test_times_without_a_zone_are_utc_whatever_the_role_says(server: PostgresServer) -> None:
    assert read(database(server), RATE.replace("closed", "local")) == Pair(
        Counts(60, 15), Counts(2, 1)
    )


def test_an_arm_without_rows_has_no_data(server: PostgresServer) -> None:
    day = timedelta(days=1)
    assert read(database(server), RATE, start=START - day, end=END - day) == Pair(
        Counts(), Counts()
    )
    assert read(database(server), MEAN, start=START - day, end=END - day) == Pair(
        Moments(), Moments()
    )
    empty = rows("'stable' AS arm, 0 AS n, NULL::int AS sum, NULL::int AS sumsq")
    assert read(database(server), empty) == Pair(Moments(), Moments())


@pytest.mark.parametrize("kind", ["int2", "int4", "int8", "float4", "float8", "numeric"])
def test_any_type_of_number_will_do(server: PostgresServer, kind: str) -> None:
    one = rows(f"'candidate'::varchar AS arm, 5::{kind} AS n, 2::{kind} AS events")
    assert read(database(server), one) == Pair(Counts(), Counts(5, 2))


BAD_ANSWERS: list[tuple[str, str, str]] = [
    (rows("'stable' AS arm, 5 AS n"), INVALID, "gives no column sum"),
    (rows("'stable' AS arm, 5 AS n, 1 AS sum"), INVALID, "gives no column sumsq"),
    (rows("5 AS n, 1 AS events"), INVALID, "gives no column arm"),
    (rows("'stable' AS arm, '5' AS n, 1 AS events"), INVALID, "column n as text"),
    (rows("'stable' AS arm, true AS n, 1 AS events"), INVALID, "column n as bool"),
    (rows("1 AS arm, 5 AS n, 1 AS events"), INVALID, "column arm as int4"),
    (rows("'stable' AS arm, NULL::int AS n, 1 AS events"), INVALID, "n NULL for stable"),
    (rows("'stable' AS arm, 5 AS n, NULL::int AS events"), INVALID, "events NULL for stable"),
    (rows("'stable' AS arm, 'NaN'::numeric AS n, 1 AS events"), INVALID, "n nan for stable"),
    (rows("'stable' AS arm, 'inf'::float8 AS n, 1 AS events"), INVALID, "n inf for stable"),
    (
        rows("'stable' AS arm, 1e300::numeric * 1e300 AS n, 1 AS events"),
        REFUSED,
        'refuses the query: "1000',
    ),
    (rows("'stable' AS arm, 1e20 AS n, 1 AS events"), INVALID, "not a count"),
    (rows("'stable' AS arm, 2.5 AS n, 1 AS events"), INVALID, "n 2.5 for stable"),
    (rows("'stable' AS arm, -1 AS n, 1 AS events"), INVALID, "n -1 for stable"),
    (rows("'stable' AS arm, 1 AS n, 2 AS events"), INVALID, "2 events of only 1 for stable"),
    (rows("'stable' AS arm, 2 AS n, 9 AS sum, 3 AS sumsq"), INVALID, "which no values have"),
    (rows("'stable' AS arm, 2 AS n, 'NaN'::real AS sum, 3 AS sumsq"), INVALID, "sum nan"),
    (rows("'other' AS arm, 1 AS n, 1 AS events"), INVALID, "neither stable nor candidate"),
    (rows("NULL::text AS arm, 1 AS n, 1 AS events"), INVALID, "row for 'None'"),
    (rows("'iris-ccc' AS revision, 1 AS n, 1 AS events"), INVALID, "nor iris-bbb"),
    (rows(*["'stable' AS arm, 1 AS n, 1 AS events"] * 2), INVALID, "more than one row"),
    (
        RATE.replace("GROUP BY revision", "GROUP BY revision, closed"),
        INVALID,
        "more than one row for stable",
    ),
    (
        "SELECT 'stable' AS arm, 1 AS n, 1 AS n, 1 AS events WHERE :start < :end",
        INVALID,
        "two columns of one name",
    ),
    (RATE.replace("orders", "no_such_table"), REFUSED, 'relation "no_such_table" does not'),
    (RATE.replace("orders", "kept_away"), REFUSED, "does not exist"),
    ("SELECT 'a' AS arm, n, n AS events FROM kept_away WHERE :start < :end", REFUSED, "denied"),
    ("SELEKT :start, :end", REFUSED, "syntax error"),
    ("SELECT 1; SELECT :start, :end", REFUSED, "multiple commands"),
    ("SELECT 'it is :start, :end WHERE :start < :end", REFUSED, "unterminated quoted string"),
]


@pytest.mark.parametrize(("query", "reason", "says"), BAD_ANSWERS, ids=[b[2] for b in BAD_ANSWERS])
def test_what_cannot_be_counted_is_named(
    server: PostgresServer, query: str, reason: str, says: str
) -> None:
    error = refused(database(server), query)
    assert says in error.message
    assert (error.reason, error.message.split()[0]) == (reason, "PostgreSQL")


@pytest.mark.parametrize(
    "query",
    [
        "DELETE FROM orders WHERE closed > :start OR closed < :end",
        "DELETE FROM orders WHERE :start < :end RETURNING 'stable' AS arm, 1 AS n, 1 AS events",
        "WITH gone AS (DELETE FROM orders RETURNING 1) "
        "SELECT 'stable' AS arm, 1 AS n, 1 AS events FROM gone WHERE :start < :end",
        rows("'stable' AS arm, write_behind() AS n, 1 AS events"),
        rows(
            "set_config('transaction_read_only', 'off', false) AS arm, "
            "write_behind() AS n, 1 AS events"
        ),
        "TRUNCATE orders -- :start :end",
    ],
)
def test_nothing_can_be_written_even_by_the_owner(server: PostgresServer, query: str) -> None:
    counted = "SELECT count(*) FROM orders"
    before = asyncio.run(_execute(server, counted))
    with pytest.raises((MetricError, InvalidInputError)):
        read(Database(server.url()), query)
    assert asyncio.run(_execute(server, counted)) == before


def test_a_huge_answer_stays_at_the_server(server: PostgresServer) -> None:
    many = (
        "SELECT repeat('x', 10000000) AS arm, i AS n, i AS events "
        "FROM generate_series(1, 10000) AS i WHERE :start < :end"
    )
    error = refused(database(server), many)
    assert "row for 'xxxx" in error.message


def test_a_slow_query_is_ended_here_and_at_the_server(server: PostgresServer) -> None:
    slow = rows("'stable' AS arm, 1 AS n, 1 AS events, pg_sleep(600) AS slept")
    error = refused(database(server), slow, deadline=0.3)
    assert (error.reason, "did not answer within 0.3 s" in error.message) == (UNREACHABLE, True)
    for _ in range(100):
        left = "SELECT 1 FROM pg_stat_activity WHERE usename = 'reader' AND state <> 'idle'"
        if not asyncio.run(_execute(server, left)):
            return
    raise AssertionError("the server still sleeps")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"password": "wrong-pa55word"}, "password authentication failed"),
        ({"password": ""}, "password"),
        ({"user": "nobody-here"}, "password authentication failed"),
    ],
)
def test_a_refused_login_says_so_and_not_the_password(
    server: PostgresServer, changes: dict[str, str], says: str
) -> None:
    error = refused(database(server, **changes))
    assert says in error.message
    assert "wrong-pa55word" not in str(error)
    assert error.reason == REFUSED


def test_an_unknown_database_is_named(server: PostgresServer) -> None:
    url = database(server).url.removesuffix("/sluice") + "/elsewhere"
    error = refused(Database(url))
    assert (error.reason, 'database "elsewhere" does not exist' in error.message) == (REFUSED, True)


def test_what_a_query_repeats_of_the_password_is_hidden(server: PostgresServer) -> None:
    error = refused(database(server), rows(f"'{READER}' AS arm, 1 AS n, 1 AS events"))
    assert "'***'" in error.message


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("", "has no scheme"),
        (READER, "has no scheme"),
        ("host=db user=x password=" + READER, "has no scheme"),
        (f"mysql://x:{READER}@db/x", "has the scheme mysql"),
        (f"{READER.upper()}://db", "has no scheme"),
        (f"postgresql://x:{READER}/@db:5432/x", "cannot be taken apart"),
        (f"postgresql://x:{READER}@db:port/x", "cannot be taken apart"),
        (f"postgresql://x:{READER}@db:0/x", "does not have one host"),
        (f"postgresql://x:{READER}@[db/x", "cannot be taken apart"),
        (f"postgresql://x:{READER}@a,b/x", "does not have one host"),
        (f"postgresql://x:{READER}@/x", "does not have one host"),
        ("postgresql://db/x", "does not have one host and a user"),
        (f"postgresql://x:{READER}@db/x?passfile=/etc/passwd", "options other than sslmode"),
        (f"postgresql://x:{READER}@db/x?sslmode=maybe", "options other than sslmode"),
        (f"postgresql://x:{READER}@db/x\nb", "does not have one host"),
    ],
)
def test_an_address_that_is_none_is_explained_without_being_shown(url: str, says: str) -> None:
    error = refused(Database(url))
    assert says in error.message
    assert "postgresql://USER:PASSWORD@HOST:PORT/DATABASE" in error.hint


Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def _read_through(serve: Serve, options: str, ca: str = "", deadline: float = 5.0) -> Any:
    """A reading whose connection is ``serve``'s; the error when it is one."""
    listener = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    url = f"postgresql://reader:{READER}@127.0.0.1:{port}/sluice?{options}"
    if options.endswith("localhost"):
        url = url.replace("127.0.0.1", "localhost").removesuffix("&localhost")
    window: dict[str, Any] = {"start": START, "end": END, "deadline": deadline}
    try:
        return await read_arms(Database(url, ca), RATE, REVISIONS, **window)
    except MetricError as error:
        return error
    finally:
        listener.close()


def read_through(serve: Serve, deadline: float = 0.5) -> MetricError:
    error = asyncio.run(_read_through(serve, "sslmode=disable", deadline=deadline))
    assert isinstance(error, MetricError)
    return error


def test_a_server_that_hangs_does_not_hold_us() -> None:
    async def never(_: asyncio.StreamReader, __: asyncio.StreamWriter) -> None:
        await asyncio.sleep(60)

    error = read_through(never)
    assert (error.reason, "did not answer within 0.5 s" in error.message) == (UNREACHABLE, True)


def test_a_network_that_stops_in_the_middle_does_not_hold_us(server: PostgresServer) -> None:
    async def forward(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        while chunk := await source.read(1 << 16):
            if b"FROM orders" in chunk:
                await asyncio.sleep(60)
            target.write(chunk)

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(server.host, server.port)
        await asyncio.gather(forward(reader, far_writer), forward(far_reader, writer))

    error = read_through(relay)
    assert (error.reason, "did not answer within 0.5 s" in error.message) == (UNREACHABLE, True)


def test_tls_is_checked_when_it_is_asked_for(server: PostgresServer, tmp_path: Path) -> None:
    file = self_signed(tmp_path / "server.pem")
    ca, stranger = certificate(file), certificate(self_signed(tmp_path / "other.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)

    async def pipe(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        while chunk := await source.read(1 << 16):
            target.write(chunk)
        target.close()

    async def terminate(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """What stands before many a PostgreSQL: it speaks TLS outside, and plain inside."""
        if (await reader.readexactly(8))[4:] != b"\x04\xd2\x16\x2f":
            writer.close()
            return
        writer.write(b"S")
        with contextlib.suppress(ssl.SSLError, ConnectionError):
            await writer.start_tls(context)
            inside, to_inside = await asyncio.open_connection(server.host, server.port)
            await asyncio.gather(pipe(reader, to_inside), pipe(inside, writer))

    def through(options: str, authority: str = "") -> Any:
        return asyncio.run(_read_through(terminate, options, authority))

    counted = Pair(Counts(60, 15), Counts(2, 1))
    for mode in ("prefer", "require"):
        assert through(f"sslmode={mode}") == counted
    for options in ("", "sslmode=verify-full", "sslmode=verify-ca", "sslmode=verify-ca&localhost"):
        assert through(options, ca) == counted
    for options, authority in (
        ("sslmode=verify-full", ""),
        ("", stranger),
        ("sslmode=verify-full&localhost", ca),
        ("sslmode=disable", ""),
    ):
        error = through(options, authority)
        assert isinstance(error, MetricError) and error.reason == UNREACHABLE, options
    assert "are not PEM" in through("", "no certificate").message


def certificate(file: Path) -> str:
    return file.read_text().partition("-----BEGIN PRIVATE KEY")[0]


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"R\xff\xff\xff\xff"])
def test_what_does_not_speak_the_protocol_is_an_error(said: bytes) -> None:
    async def babble(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(said)
        await writer.drain()
        writer.close()

    assert read_through(babble, deadline=5.0).reason == UNREACHABLE


def test_a_stopped_server_is_named() -> None:
    with postgres_server() as stopped:
        where = Database(stopped.url())
    error = refused(where)
    assert f"PostgreSQL 127.0.0.1:{stopped.port}/sluice cannot be reached" in error.message
    assert (error.reason, stopped.password in str(error)) == (UNREACHABLE, False)


def test_without_the_driver_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "asyncpg", None)
    assert "sluice-operator[sql]" in refused(Database("postgresql://x@127.0.0.1/x")).hint
