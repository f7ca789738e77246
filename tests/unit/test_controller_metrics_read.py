"""Reading the sources of metric checks: real servers, a Secret by its one name, bounded time."""

from __future__ import annotations

import asyncio
import base64
import json
import socket
import time
from collections.abc import Coroutine, Iterator
from typing import Any

import asyncpg
import prometheus_client
import pytest
from aiohttp import web
from tests.tools.pausing import paused
from tests.tools.postgres import PostgresServer, postgres_server
from tests.tools.prometheus import PrometheusProcess, prometheus_server
from tests.unit.looks import plan_of
from tests.unit.test_kube_client import against

from sluice.controller.metrics_read import MetricReader, MetricsRead, begin
from sluice.evidence.metric import Pair, Subject
from sluice.kube.client import KubeClient
from sluice.rollout.plan import Plan
from sluice.stats.counts import Counts
from sluice.stats.look import Means, MetricLook, Values

ERRORS = {"name": "errors", "type": "ErrorRate"}
SUBJECT = Subject("shop", "iris", Pair("aaa", "bbb"))
RATE = """
SELECT revision, count(*) AS n, count(*) FILTER (WHERE refunded) AS events
FROM orders WHERE closed >= :start AND closed < :end GROUP BY revision
"""
MEAN = """
SELECT revision, count(*) AS n, sum(amount) AS sum, sum(amount * amount) AS sumsq
FROM orders WHERE closed >= :start AND closed < :end GROUP BY revision
"""
SLOW = "SELECT 'stable' AS arm, 1 AS n, 0 AS events, pg_sleep(60), :start < :end"
TOKEN = "t0ken-s3cr3t"


@pytest.fixture(scope="module")
def shop() -> Iterator[tuple[PrometheusProcess, prometheus_client.Counter]]:
    registry = prometheus_client.CollectorRegistry()
    orders = prometheus_client.Counter("orders", "Orders.", ["revision"], registry=registry)
    refunds = prometheus_client.Counter("refunds", "Refunds.", ["revision"], registry=registry)
    delay = prometheus_client.Gauge("delay", "Mean.", ["revision"], registry=registry)
    for revision, value in (("aaa", 0.25), ("bbb", 0.5)):
        delay.labels(revision).set(value)
        orders.labels(revision)
        refunds.labels(revision)
    exporter, thread = prometheus_client.start_http_server(0, "127.0.0.1", registry=registry)
    with prometheus_server([f"127.0.0.1:{exporter.server_port}"]) as running:
        running.wait_for("count_over_time(orders_total[1h]) > 1")
        yield running, orders
    exporter.shutdown()
    exporter.server_close()
    thread.join()


@pytest.fixture(scope="module")
def database() -> Iterator[PostgresServer]:
    with postgres_server() as running:
        made = (
            "CREATE TABLE orders (revision text, closed timestamptz, refunded boolean, amount int)"
        )
        asyncio.run(_execute(running, made))
        yield running


async def _execute(server: PostgresServer, text: str, *values: Any) -> None:
    connection = await asyncpg.connect(server.url())
    try:
        await connection.execute(text, *values)
    finally:
        await connection.close()


def sold(server: PostgresServer, revision: str, at: float, amount: int = 10) -> None:
    row = "INSERT INTO orders VALUES ($1, to_timestamp($2), false, $3)"
    asyncio.run(_execute(server, row, revision, at, amount))


def prometheus_check(url: str, **changes: Any) -> dict[str, Any]:
    source = {"url": url, "query": 'delay{revision="{{revision}}"}', **changes}
    return {"name": "m", "type": "Metric", "direction": "Lower", "prometheus": source}


def counting_check(url: str) -> dict[str, Any]:
    return {
        "name": "c",
        "type": "Metric",
        "direction": "Lower",
        "prometheus": {
            "url": url,
            "events": 'increase(refunds_total{revision="{{revision}}"}[{{interval}}])',
            "total": 'increase(orders_total{revision="{{revision}}"}[{{interval}}])',
        },
    }


def sql_check(query: str, **changes: Any) -> dict[str, Any]:
    source = {"secretRef": {"key": "dwh"}, "query": query, "delay": "30s", **changes}
    return {"name": "s", "type": "Metric", "direction": "Lower", "sql": source}


def plan(*checks: dict[str, Any], interval: str = "10s") -> Plan:
    return plan_of(analysis={"interval": interval, "checks": [ERRORS, *checks]})


class Api:
    """The one Secret, as the API server gives it after ``seconds``; counts the questions."""

    def __init__(
        self, values: dict[str, str] | None = None, status: int = 200, *, seconds: float = 0.0
    ) -> None:
        self.values, self.status, self.asked, self.seconds = values, status, 0, seconds

    async def answer(self, request: web.Request) -> web.Response:
        self.asked += 1
        await asyncio.sleep(self.seconds)
        assert request.path == "/api/v1/namespaces/shop/secrets/sluice-metrics"
        if self.values is None:
            status = 404 if self.status == 200 else self.status
            return web.json_response({"kind": "Status", "message": "no"}, status=status)
        data = {k: base64.b64encode(v.encode()).decode() for k, v in self.values.items()}
        return web.json_response({"kind": "Secret", "metadata": {}, "data": data})


def reading(api: Api, use: Any) -> None:
    """Runs ``use`` with a reader whose API server is ``api``."""

    async def scenario(client: KubeClient) -> None:
        reader = MetricReader(client)
        try:
            await use(reader)
        finally:
            await reader.close()

    against(api.answer, scenario)


def once(
    made: Plan, api: Api | None = None, states: dict[str, Any] | None = None,
    now: float | None = None,
) -> MetricsRead:  # fmt: skip
    """One read, from where reading began a minute ago."""
    at = time.time() if now is None else now
    out: list[MetricsRead] = []

    async def use(reader: MetricReader) -> None:
        out.append(await reader.read(made, SUBJECT, states or begin(made, at - 60.0), at))

    reading(api or Api(), use)
    return out[0]


def problem(read: MetricsRead, name: str) -> str:
    look = read.looks[name]
    assert look.data is None and look.error
    return look.problem


def test_a_value_of_each_arm(shop: Any) -> None:
    read = once(plan(prometheus_check(shop[0].url)))
    assert read.looks == {"m": MetricLook(Values(0.25, 0.5))}
    assert read.states == {"m": {}}


def test_no_series_is_no_data_and_no_error(shop: Any) -> None:
    read = once(plan(prometheus_check(shop[0].url, query='gone{revision="{{revision}}"}')))
    assert read.looks == {"m": MetricLook(problem="No data for either arm.")}


def test_counts_add_up_over_looks_and_the_state_is_json(shop: Any) -> None:
    server, orders = shop
    made, since = plan(counting_check(server.url)), time.time() - 2.0
    states, total = begin(made, since), 0
    for _ in range(3):
        orders.labels("aaa").inc(500)
        orders.labels("bbb").inc(100)
        time.sleep(1.0)
        read = once(made, states=json.loads(json.dumps(states)))
        data = read.looks["c"].data
        assert isinstance(data, Counts) and data.candidate_x == 0
        total += data.stable_n
        states = read.states
    assert 1000 <= total <= 2000
    assert states["c"]["since"] == since and states["c"]["stable"][0] == total


def test_the_first_scrapes_are_waited_for_and_then_it_is_silence(shop: Any) -> None:
    check = counting_check(shop[0].url)
    check["prometheus"]["total"] = 'increase(gone{revision="{{revision}}"}[{{interval}}])'
    made, now = plan(check), time.time()
    states = begin(made, now - 149.0)
    assert once(made, states=states, now=now) == MetricsRead({}, states)
    counted = {"c": {**states["c"], "stable": [5, 1]}}
    assert once(made, states=counted, now=now).looks["c"].problem == "No data for either arm."
    late = once(made, states=begin(made, now - 151.0), now=now)
    assert late.looks["c"].problem == "No data for either arm." and not late.looks["c"].error


def test_windows_of_sql_touch_and_wait_for_late_rows(database: PostgresServer) -> None:
    api = Api({"dwh": database.url()})
    made, start = plan(sql_check(RATE)), 1_800_000_000.0
    states = begin(made, start)
    for second in range(0, 60, 10):
        sold(database, "aaa", start + second)
        sold(database, "bbb", start + second + 5)
    waiting = once(made, api, states, now=start + 30.0)
    assert waiting.looks == {} and waiting.states == states
    first = once(made, api, states, now=start + 60.0)
    assert first.looks["s"] == MetricLook(Counts(3, 0, 3, 0))
    second_one = once(made, api, first.states, now=start + 90.0)
    assert second_one.looks["s"] == MetricLook(Counts(3, 0, 3, 0))
    empty = once(made, api, second_one.states, now=start + 120.0)
    assert empty.looks["s"].problem == "No data for either arm." and not empty.looks["s"].error
    assert empty.states == {"s": {"version": 1, "until": start + 90.0}}


def test_means_of_sql(database: PostgresServer) -> None:
    start = 1_900_000_000.0
    sold(database, "aaa", start, 10)
    sold(database, "aaa", start, 20)
    sold(database, "bbb", start, 30)
    made = plan(sql_check(MEAN))
    read = once(made, Api({"dwh": database.url()}), begin(made, start), now=start + 60.0)
    data = read.looks["s"].data
    assert isinstance(data, Means)
    assert (data.stable.n, data.stable.total, data.stable.squares) == (2, 30.0, 500.0)
    assert (data.candidate.n, data.candidate.total) == (1, 30.0)


def test_what_one_source_does_is_no_other_check_s_trouble(
    shop: Any, database: PostgresServer
) -> None:
    dead = {**prometheus_check("http://127.0.0.1:1"), "name": "dead"}
    made = plan(prometheus_check(shop[0].url), dead, sql_check("SELECT 1 -- :start :end"))
    read = once(made, Api({"dwh": database.url()}))
    assert read.looks["m"] == MetricLook(Values(0.25, 0.5))
    assert "cannot be reached" in problem(read, "dead")
    assert "does not use both :start and :end" in problem(read, "s")
    assert read.states["s"]["until"] < time.time() - 50, "the window is read again"


@pytest.mark.parametrize(
    ("api", "said"),
    [
        (Api(), "The Secret sluice-metrics does not exist."),
        (Api(status=403), "may not be read by the operator"),
        (Api({"other": "x"}), "has no key dwh"),
        (Api({"dwh": ""}), "has no key dwh"),
        (Api({"dwh": "mysql://a:b@c/d"}), "has the scheme mysql"),
    ],
)
def test_a_secret_that_does_not_help_is_named(api: Api, said: str) -> None:
    read = once(plan(sql_check(RATE)), api)
    assert said in problem(read, "s")


def test_a_secret_that_is_not_text_is_named() -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.json_response({"data": {"dwh": "//8="}})

    out: list[MetricsRead] = []
    made = plan(sql_check(RATE))

    async def use(client: KubeClient) -> None:
        out.append(await MetricReader(client).read(made, SUBJECT, begin(made, 0.0), 60.0))

    against(answer, use)
    assert "holds something that is not text" in problem(out[0], "s")


def test_a_token_is_sent_and_never_shown() -> None:
    seen: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        if request.path.endswith("/api/v1/query"):
            seen.append(request.headers["Authorization"])
            seen.append(request.headers["X-Scope-OrgID"])
            return web.json_response(
                {"status": "error", "errorType": "x", "error": "y"}, status=401
            )
        return web.json_response({"data": {"t": base64.b64encode(TOKEN.encode()).decode()}})

    out: list[MetricsRead] = []

    async def use(client: KubeClient) -> None:
        check = prometheus_check(
            client.connection.server, tokenSecretRef={"key": "t"}, tenant="team-a"
        )
        made = plan(check)
        reader = MetricReader(client)
        out.append(await reader.read(made, SUBJECT, begin(made, 0.0), 60.0))
        await reader.close()

    against(answer, use)
    assert set(seen) == {f"Bearer {TOKEN}", "team-a"}
    said = problem(out[0], "m")
    assert "does not accept who asks" in said and TOKEN not in said


def test_the_secret_is_asked_for_once_in_half_a_minute(database: PostgresServer) -> None:
    api = Api({"dwh": database.url()})
    made = plan(sql_check(RATE), {**sql_check(MEAN), "name": "other"})

    async def use(reader: MetricReader) -> None:
        for _ in range(3):
            read = await reader.read(made, SUBJECT, begin(made, 0.0), time.time())
            assert set(read.looks) == {"s", "other"}

    reading(api, use)
    assert api.asked == 1


def test_without_a_key_the_secret_is_not_asked_for(shop: Any) -> None:
    api = Api()
    once(plan(prometheus_check(shop[0].url)), api)
    assert api.asked == 0


def test_slow_sources_are_given_up_together(database: PostgresServer) -> None:
    """A hanging API server, a query that sleeps: the look goes on after a part of its interval."""
    made = plan(sql_check(SLOW), {**sql_check(SLOW), "name": "other"}, interval="6s")
    read = once(made, Api({"dwh": database.url()}))
    for name in ("s", "other"):
        assert "did not answer within 1.8 s" in problem(read, name)

    async def hang(_: web.Request) -> web.Response:
        await asyncio.sleep(30)
        return web.json_response({})

    out: list[MetricsRead] = []

    async def use(client: KubeClient) -> None:
        out.append(await MetricReader(client).read(made, SUBJECT, begin(made, 0.0), 60.0))

    against(hang, use)
    assert "could not be read (TimeoutError)" in problem(out[0], "s")


def test_a_source_is_named_also_when_the_secret_took_its_time(database: PostgresServer) -> None:
    """Then the look's end comes before the deadline of the source itself."""
    api = Api({"dwh": database.url()}, seconds=0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        read = once(plan(sql_check(SLOW), prometheus_check(url), interval="2s"), api)
    assert problem(read, "s").startswith(f"PostgreSQL 127.0.0.1:{database.port}/")
    assert problem(read, "m").startswith(f"Prometheus {url} ")
    for name in ("s", "m"):
        assert "did not answer within 0.6 s" in problem(read, name)


def test_a_stopped_server_is_given_up_and_read_again_when_it_goes_on(shop: Any) -> None:
    server, _ = shop
    made = plan(prometheus_check(server.url), interval="2s")
    with paused(server.pid):
        said = problem(once(made), "m")
    assert "did not answer within 0.6 s" in said
    patient = plan(prometheus_check(server.url))
    assert once(patient).looks["m"].data == Values(0.25, 0.5)


def test_a_check_that_was_not_begun_begins_now(shop: Any) -> None:
    made = plan(prometheus_check(shop[0].url), counting_check(shop[0].url))
    read = once(made, states={"m": {}}, now=100.0)
    assert set(read.looks) == {"m"}
    assert read.states["c"]["since"] == 100.0


@pytest.mark.parametrize(
    "state",
    [
        *(None, {}, [], 3, {"since": "x"}, {"since": 1, "version": 9}, {"until": float("nan")}),
        {"version": 1, "since": 1, "stable": [0, -1], "candidate": [0, 0]},
    ],
)
def test_a_state_that_is_not_ours_is_begun_anew(state: Any) -> None:
    made = plan(counting_check("http://127.0.0.1:1"), sql_check(RATE))
    read = once(made, states={"c": state, "s": state}, now=100.0)
    assert read.looks == {}
    assert read.states == begin(made, 100.0)


def test_nothing_is_asked_for_a_plan_without_sources() -> None:
    read = once(plan())
    assert (read.looks, read.states) == ({}, {})


def test_an_unforeseen_failure_is_the_check_s_problem(
    monkeypatch: pytest.MonkeyPatch, shop: Any
) -> None:
    def broken(*_: object, **__: object) -> Coroutine[Any, Any, None]:
        raise ZeroDivisionError

    monkeypatch.setattr("sluice.evidence.prometheus.read_values", broken)
    read = once(plan(prometheus_check(shop[0].url)))
    assert problem(read, "m") == "Reading failed: ZeroDivisionError."
