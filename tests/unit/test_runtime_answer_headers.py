"""`traceparent` comes back; nothing is said of origins unless it was asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from click.testing import CliRunner

from sluice.cli.serve import command
from sluice.runtime.counters import Counters
from sluice.runtime.endpoints import ServingApp
from sluice.runtime.http import Request, Response
from sluice.runtime.predictions import Predictions
from sluice.runtime.served import Settings, Status

TRACE = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
PAGE = b"https://app.example.com"
ASKS_FIRST = {b"origin": PAGE, b"access-control-request-method": b"POST"}


class Waiting:
    """An exchange that remembers its answer."""

    def __init__(self) -> None:
        self.started = 0.0
        self.on_gone: Callable[[], None] | None = None
        self.response: Response | None = None

    def answer(self, response: Response) -> None:
        self.response = response


def asked(method: str, path: str, headers: dict[bytes, bytes], *allowed: str) -> Any:
    """The status and headers of an answer of a server that is still loading."""
    status = Status()
    predictions = Predictions(Settings("churn", "v2"), status, Counters())
    exchange = Waiting()
    ServingApp(predictions, status, allowed).handle(Request(method, path, headers), exchange)
    assert exchange.response is not None
    return exchange.response.status, dict(exchange.response.headers)


@pytest.mark.parametrize("path", ["/predict", "/v2/models/churn/infer", "/readyz", "/nothing"])
def test_traceparent_comes_back_on_every_answer(path: str) -> None:
    method = "GET" if path in ("/readyz", "/nothing") else "POST"
    assert asked(method, path, {b"traceparent": TRACE})[1][b"traceparent"] == TRACE
    assert b"traceparent" not in asked(method, path, {b"traceparent": b"0" * 129})[1]


def test_nothing_is_said_of_origins_by_default() -> None:
    status, headers = asked("OPTIONS", "/predict", ASKS_FIRST)
    assert status == 405 and headers == {b"allow": b"POST"}
    assert not any(b"access-control" in name for name in asked("GET", "/", {b"origin": PAGE})[1])


@pytest.mark.parametrize("path", ["/predict", "/v1/models/churn:predict", "/feedback", "/docs"])
@pytest.mark.parametrize("allowed", [PAGE.decode(), "*"])
def test_an_allowed_origin_may_ask(path: str, allowed: str) -> None:
    status, headers = asked("OPTIONS", path, ASKS_FIRST, "https://other.example.com", allowed)
    assert status == 200
    assert headers[b"access-control-allow-origin"] == PAGE and headers[b"vary"] == b"origin"
    assert b"POST" in headers[b"access-control-allow-methods"]
    status, headers = asked("POST", path, {b"origin": PAGE}, allowed)
    assert headers[b"access-control-allow-origin"] == PAGE


def test_another_origin_may_not() -> None:
    status, headers = asked("OPTIONS", "/predict", ASKS_FIRST, "https://other.example.com")
    assert status == 403 and not any(b"access-control" in name for name in headers)
    _, headers = asked("POST", "/predict", {b"origin": PAGE}, "https://other.example.com")
    assert not any(b"access-control" in name for name in headers)
    status, _ = asked("OPTIONS", "/predict", {}, "https://other.example.com")
    assert status == 405


@pytest.mark.parametrize(
    "origin",
    ["app.example.com", "https://a/b", "https://a,https://b", "", "null", "https://a\r\nb"],
)
def test_what_is_no_origin_is_refused_by_the_command(origin: str) -> None:
    done = CliRunner().invoke(command, ["nowhere", "--cors-origin", origin])
    assert done.exit_code == 2 and "is no origin" in done.output
