"""Reading values and totals from a real Prometheus, and refusing what is not one number."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import prometheus_client
import pytest
from tests.tools.pausing import paused
from tests.tools.prometheus import PrometheusProcess, prometheus_server
from tests.tools.webserver import Request, self_signed, web_server

from sluice.errors import InvalidInputError
from sluice.evidence.metric import (
    INVALID,
    REFUSED,
    UNREACHABLE,
    MetricError,
    Pair,
    Subject,
    begin,
    count,
)
from sluice.evidence.prometheus import (
    MAX_BYTES,
    PrometheusServer,
    read_totals,
    read_value,
    read_values,
)

SUBJECT = Subject("prod", "iris", Pair("iris-aaa", "iris-bbb"))
TOKEN = "t0ken-s3cr3t"
EVENTS = 'sum(increase(refunds_total{revision="{{revision}}"}[{{interval}}]))'
TOTAL = 'sum(increase(orders_total{revision="{{revision}}"}[{{interval}}]))'
GAUGE = 'max(delay_seconds{revision="{{revision}}"})'


class Shop:
    """A small real exporter."""

    def __init__(self) -> None:
        registry = prometheus_client.CollectorRegistry()
        labels = ["revision", "pod"]
        self.orders = prometheus_client.Counter("orders", "Orders.", labels, registry=registry)
        self.refunds = prometheus_client.Counter("refunds", "Refunds.", labels, registry=registry)
        self.delay = prometheus_client.Gauge("delay_seconds", "p95.", labels, registry=registry)
        self.took = prometheus_client.Histogram("took", "Time.", registry=registry)
        for revision in ("iris-aaa", "iris-bbb"):
            for pod in ("0", "1"):
                self.orders.labels(revision, pod)
                self.refunds.labels(revision, pod)
        self.delay.labels("iris-aaa", "0").set(0.25)
        self.delay.labels("iris-bbb", "0").set(1e-7)
        self.server, self.thread = prometheus_client.start_http_server(
            0, "127.0.0.1", registry=registry
        )


@pytest.fixture(scope="module")
def shop() -> Iterator[Shop]:
    running = Shop()
    yield running
    running.server.shutdown()
    running.server.server_close()
    running.thread.join()


@pytest.fixture(scope="module")
def prometheus(shop: Shop) -> Iterator[PrometheusProcess]:
    with prometheus_server([f"127.0.0.1:{shop.server.server_port}"]) as running:
        running.wait_for("count_over_time(orders_total[1h]) > 1")
        yield running


def run(ask: Callable[[aiohttp.ClientSession], Any]) -> Any:
    async def asked() -> Any:
        async with aiohttp.ClientSession() as session:
            return await ask(session)

    return asyncio.run(asked())


def value(server: PrometheusServer | str, query: str, deadline: float = 5.0) -> float | None:
    where = PrometheusServer(server) if isinstance(server, str) else server
    answer: float | None = run(
        lambda session: read_value(session, where, query, at=time.time(), deadline=deadline)
    )
    return answer


def refused(
    server: PrometheusServer | str, query: str = "vector(1)", deadline: float = 5.0
) -> MetricError:
    with pytest.raises(MetricError) as caught:
        value(server, query, deadline)
    error = caught.value
    assert len(error.message) < 512 and error.message.isprintable() and error.hint
    assert TOKEN not in f"{error} {error!r} {server!r}"
    return error


def test_a_gauge_of_each_arm(prometheus: PrometheusProcess) -> None:
    where = PrometheusServer(prometheus.url)
    got = run(lambda s: read_values(s, where, GAUGE, SUBJECT, interval=10, at=time.time()))
    assert got == Pair(0.25, 1e-7)


def test_every_order_is_counted_once_over_many_looks(
    prometheus: PrometheusProcess, shop: Shop
) -> None:
    """What the looks add up to is what was sold, and at most one scrape interval more."""
    since = time.time() - 1.0
    state, where = begin(since), PrometheusServer(prometheus.url)
    for look in range(1, 6):
        for pod in ("0", "1"):
            shop.orders.labels("iris-aaa", pod).inc(400)
            shop.orders.labels("iris-bbb", pod).inc(100)
            shop.refunds.labels("iris-bbb", pod).inc(50)
        scraped = shop.orders.labels("iris-bbb", "1")._value.get()
        prometheus.wait_for(f'orders_total{{revision="iris-bbb",pod="1"}} >= {scraped}')
        at = time.time()
        totals = run(
            lambda s, at=at: read_totals(
                s, where, EVENTS, TOTAL, SUBJECT, interval=at - since + 1, at=at
            )
        )
        counted = count(state, totals)
        assert counted.counts.candidate.n > 0, look
        state = counted.state
    assert 3999 <= state["stable"][0] <= 4000 * 1.4
    assert 999 <= state["candidate"][0] <= 1000 * 1.4
    assert state["stable"][1] == 0
    assert state["candidate"][1] == pytest.approx(state["candidate"][0] / 2, abs=2)


def test_no_series_and_nothing_by_nothing_are_no_data(prometheus: PrometheusProcess) -> None:
    assert value(prometheus.url, "no_such_metric") is None
    assert value(prometheus.url, "vector(0) / 0") is None
    where = PrometheusServer(prometheus.url)
    absent = TOTAL.replace("orders", "absent")
    got = run(lambda s: read_totals(s, where, EVENTS, absent, SUBJECT, interval=9, at=time.time()))
    assert got == Pair(None, None)


def test_scalars_and_extremes_are_numbers(prometheus: PrometheusProcess) -> None:
    assert value(prometheus.url, "scalar(vector(-2.5))") == -2.5
    assert value(prometheus.url + "/", "vector(1e308)") == 1e308
    assert value(prometheus.url, "vector(4.9e-324)") == 5e-324


@pytest.mark.parametrize(
    ("query", "reason", "says"),
    [
        ("delay_seconds", INVALID, "answered 2 series, among them {"),
        ('"text"', INVALID, "it is a string"),
        ("delay_seconds[1m]", INVALID, "it is a matrix"),
        ("vector(1) / 0", INVALID, "its value is +Inf"),
        ("vector(-1) / 0", INVALID, "its value is -Inf"),
        ("sum(", REFUSED, "answered bad_data: "),
        ("vector(1) + on() (delay_seconds)", REFUSED, "answered execution: "),
    ],
)
def test_a_real_answer_that_is_not_one_number(
    prometheus: PrometheusProcess, query: str, reason: str, says: str
) -> None:
    error = refused(prometheus.url, query)
    assert says in error.message
    assert error.message.startswith(f"Prometheus {prometheus.url} ")
    assert error.reason == reason


def test_two_series_say_how_to_make_one(prometheus: PrometheusProcess) -> None:
    error = refused(prometheus.url, "delay_seconds")
    assert 'revision="iris-aaa"' in error.message and 'revision="iris-bbb"' in error.message
    assert "sum(...)" in error.hint


def test_a_negative_total_is_no_count(prometheus: PrometheusProcess) -> None:
    where = PrometheusServer(prometheus.url)
    with pytest.raises(MetricError, match=r"answered -1 to vector\(-1\), not a count"):
        run(
            lambda s: read_totals(
                s, where, EVENTS, "vector(-1)", SUBJECT, interval=9, at=time.time()
            )
        )


def test_an_unknown_placeholder_asks_nobody() -> None:
    where = PrometheusServer("http://127.0.0.1:1")
    with pytest.raises(InvalidInputError, match="not a placeholder"):
        run(lambda s: read_values(s, where, "{{pod}}", SUBJECT, interval=9, at=0.0))


def test_a_server_that_stops_or_hangs_is_named(shop: Shop) -> None:
    with prometheus_server([]) as stopped, paused(stopped.pid):
        hanging = refused(stopped.url, deadline=0.3)
    assert "did not answer within 0.3 s" in hanging.message
    gone = refused(stopped.url)
    assert "cannot be reached" in gone.message
    assert (hanging.reason, gone.reason) == (UNREACHABLE, UNREACHABLE)


def test_a_user_that_prometheus_does_not_know_is_refused() -> None:
    # bcrypt of "test", cost 4.
    users = (
        'basic_auth_users: {reader: "$2a$04$AAAAAAAAAAAAAAAAAAAAAeGdYHnnmaZvW0fwlhQxBAkTf/j4vCtMW"}'
    )
    with prometheus_server([], web_config=users) as guarded:
        for headers in ({}, {"Authorization": f"Basic {TOKEN}"}):
            error = refused(PrometheusServer(guarded.url, headers=headers))
            assert (error.reason, "status 401" in error.message) == (REFUSED, True)
        bearer = refused(PrometheusServer(guarded.url, token=TOKEN))
        assert "Check the token" in bearer.hint


def vector(*samples: Any) -> dict[str, Any]:
    return {"resultType": "vector", "result": list(samples)}


def sample(value: Any) -> dict[str, Any]:
    return {"metric": {"job": "x"}, "value": value}


HOSTILE: list[tuple[Any, str]] = [
    (b"", "not a Prometheus answer"),
    (b"<html>hello</html>", "not a Prometheus answer"),
    (b"[" * 100_000, "not a Prometheus answer"),
    (b"\xff\xfe", "not a Prometheus answer"),
    (b"null", "not a Prometheus answer"),
    ({"status": "maybe"}, "not a Prometheus answer"),
    ({"status": "error"}, "not a Prometheus answer"),
    ({"status": "success"}, "lacks 'data'"),
    ({"status": "success", "data": []}, "cannot be used"),
    ({"status": "success", "data": {"resultType": "vector"}}, "lacks 'result'"),
    (vector(sample([1, 5])), "[1, 5] is not a sample"),
    (vector(sample([1, "five"])), "its value is five, not a number"),
    (vector(sample([1, "1_000"])), "not a number"),
    (vector(sample([1, "9" * 400])), "not a number"),
    (vector(sample([1, "9" * 100_000])), "not a number"),
    (vector(sample([1, "1e999"])), "not a number"),
    (vector(sample([1, " 5"])), "not a number"),
    (vector(sample([1, "0x10"])), "not a number"),
    (vector(sample([1])), "is not a sample"),
    (vector(sample(None)), "None is not a sample"),
    (vector({"metric": {}}), "lacks 'value'"),
    (vector({"metric": {}, "histogram": [1, {}]}), "it is a histogram"),
    (vector(5), "cannot be used"),
    (vector({"metric": 5}, {"metric": 6}), "cannot be used"),
    (vector(*[{"metric": {"a": "x\n" * 500}}] * 2), "answered 2 series"),
    ({"resultType": "vector", "result": {}}, "is not a list"),
    ({"resultType": ["vector"], "result": []}, "it is a ['vector']"),
    (
        {"status": "success", "warnings": ["store b is down"], "data": vector(sample([1, "1"]))},
        "it warns: ['store b is down']",
    ),
]


@pytest.mark.parametrize(("answer", "says"), HOSTILE)
def test_a_hostile_answer_is_an_error_that_names_the_source(answer: Any, says: str) -> None:
    if isinstance(answer, dict) and "resultType" in answer:
        answer = {"status": "success", "data": answer}
    body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
    with web_server(lambda request: request.reply(body)) as server:
        error = refused(server.url)
    assert says in error.message
    assert error.message.startswith(f"Prometheus {server.url} ")
    assert error.reason == INVALID


def test_ten_megabytes_are_not_read() -> None:
    with web_server(lambda request: request.reply(b" " * (10 << 20))) as server:
        error = refused(server.url)
    assert f"sent more than {MAX_BYTES} bytes" in error.message


def test_a_redirect_is_not_followed_and_nobody_else_gets_the_token() -> None:
    with web_server(lambda request: request.reply(b"{}")) as other:
        target = {"Location": other.url + "/api/v1/query"}
        for status in (301, 302, 307, 308):
            with web_server(lambda r, status=status: r.reply(b"", status, target)) as server:
                error = refused(PrometheusServer(server.url, token=TOKEN))
            assert f"redirects to {other.url}" in error.message
    assert other.requests == []


@pytest.mark.parametrize("status", [404, 500, 502])
def test_a_page_of_something_before_prometheus_shows_its_status(status: int) -> None:
    with web_server(lambda request: request.reply(b"<html>", status)) as server:
        error = refused(server.url)
    assert f"answered {status} with something" in error.message
    assert error.reason == UNREACHABLE


def test_an_answer_that_breaks_off_is_an_error() -> None:
    with web_server(lambda request: request.reply(b'{"status"', length=500)) as server:
        assert refused(server.url).reason == UNREACHABLE


def good(request: Request) -> None:
    data = vector(sample([1, "7"]))
    request.reply(json.dumps({"status": "success", "data": data}).encode())


def test_the_token_and_headers_are_sent_as_one_line_each() -> None:
    with web_server(good) as server:
        where = PrometheusServer(server.url, token=f"{TOKEN}\n", headers={"X-Scope-OrgID": "ml"})
        assert value(where, "x") == 7
    path, sent = server.requests[0]
    assert path == "/api/v1/query"
    assert (sent["Authorization"], sent["X-Scope-OrgID"]) == (f"Bearer {TOKEN}", "ml")


def test_tls_is_checked_against_the_given_authority(tmp_path: Path) -> None:
    file = self_signed(tmp_path / "server.pem")
    ca = file.read_text().partition("-----BEGIN PRIVATE KEY")[0]
    with web_server(good, file) as server:
        assert value(PrometheusServer(server.url, ca=ca), "x") == 7
        assert "cannot be reached" in refused(server.url).message
        localhost = server.url.replace("127.0.0.1", "localhost")
        assert "cannot be reached" in refused(PrometheusServer(localhost, ca=ca)).message
        assert "are not PEM" in refused(PrometheusServer(server.url, ca="no")).message


@pytest.mark.parametrize(
    "where",
    [
        PrometheusServer(""),
        PrometheusServer("prometheus:9090"),
        PrometheusServer("file:///etc/passwd"),
        PrometheusServer("http://user:password@prometheus:9090"),
        PrometheusServer("http://prometheus:port"),
        PrometheusServer("http://[prometheus"),
        PrometheusServer("http://prometheus?x=1"),
        PrometheusServer("http://prometheus/\r\nX: y"),
        PrometheusServer("http://prometheus", token=f"{TOKEN}\r\nX: y"),
        PrometheusServer("http://prometheus", token=f"{TOKEN}ä"),
        PrometheusServer("http://prometheus", headers={"X y": "z"}),
    ],
    ids=str,
)
def test_a_setting_that_cannot_be_used_asks_nobody(where: PrometheusServer) -> None:
    error = refused(where)
    assert (error.reason, "password" in str(error)) == (REFUSED, False)
