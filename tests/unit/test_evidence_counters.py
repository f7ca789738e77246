"""Reading /counters from real sockets, and refusing what cannot be true."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from sluice.evidence.counters import (
    MAX_BYTES,
    EvidenceError,
    PodCounters,
    PodReading,
    ServingPod,
    parse_counters,
    read_counters,
)
from sluice.runtime.counters import Counters, Outcome

POD = ServingPod("uid-1", "iris-rev-abc-1", "abc", "127.0.0.1")


def document(**changes: Any) -> dict[str, Any]:
    """What the runtime itself would print after ten requests."""
    counters = Counters(revision="abc", package_digest="sha256:0", deployment="iris")
    for i in range(7):
        counters.finished(Outcome.OK, i, 0.002 * (i + 1), rows=1)
    counters.finished(Outcome.CLIENT_ERROR, 3, None)
    counters.finished(Outcome.MODEL_ERROR, 3, None)
    counters.finished(Outcome.TIMEOUT, 4, None)
    return counters.as_json() | changes


def parse(value: Any) -> PodCounters:
    return parse_counters(json.dumps(value).encode(), POD)


def test_the_runtimes_own_document_is_understood() -> None:
    counters = parse(document())
    assert (counters.requests, counters.client_errors) == (10, 1)
    assert (counters.model_errors, counters.timeouts) == (1, 1)
    assert sum(counters.latency.values()) == 7
    assert counters.buckets[3] == (3, 1, 1)
    assert counters.age >= 0


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"schema": 2}, "schema 2 is not 1"),
        ({"requests": -1}, "requests is -1, not a count"),
        ({"requests": 1.5}, "requests is 1.5, not a count"),
        ({"requests": True}, "requests is True"),
        ({"requests": 1 << 60}, "not a count"),
        ({"requests": 1}, "3 errors of only 1 requests"),
        ({"boot": ""}, "boot is not a short text"),
        ({"now": float("nan")}, "now is nan"),
        ({"revision": "other"}, "serves revision 'other', not 'abc'"),
        ({"latency": {"base": 1e-3, "ratio": 1.02, "bins": {}}}, "latency bins are"),
        ({"latency": {"base": 1e-4, "ratio": 1.02, "bins": {"900": 1}}}, "outside 0..699"),
        ({"latency": []}, "cannot be right"),
        ({"buckets": {"500": [1, 0, 0]}}, "unit bucket 500"),
        ({"buckets": {"1": [1, 1, 1]}}, "unit bucket 1 holds"),
        ({"buckets": {"x": [1, 0, 0]}}, "cannot be right"),
        ({"scores": {"edges": [], "counts": [1] * 300, "reference": []}}, "at most 200"),
        ({"scores": {"edges": [1.0], "counts": [1, 2], "reference": [1]}}, "in the reference"),
    ],
)
def test_numbers_that_cannot_be_true_name_the_field(change: dict[str, Any], says: str) -> None:
    with pytest.raises(EvidenceError, match="iris-rev-abc-1") as caught:
        parse(document(**change))
    assert says in caught.value.message


@pytest.mark.parametrize("body", [b"", b"[]", b"null", b"{", b"\xff\xfe", b"[" * 100_000])
def test_anything_else_is_an_error_and_never_a_crash(body: bytes) -> None:
    with pytest.raises(EvidenceError):
        parse_counters(body, POD)


def test_a_missing_field_is_named() -> None:
    broken = document()
    del broken["timeouts"]
    with pytest.raises(EvidenceError, match="lacks 'timeouts'"):
        parse(broken)


async def _serve(answer: Callable[[], Any]) -> tuple[web.AppRunner, int]:
    async def handler(_: web.Request) -> web.StreamResponse:
        made = answer()
        return await made if asyncio.iscoroutine(made) else made

    app = web.Application()
    app.router.add_get("/counters", handler)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    return runner, runner.addresses[0][1]


def read_from(*answers: Callable[[], Any], deadline: float = 10.0) -> list[PodReading]:
    async def run() -> list[PodReading]:
        servers = [await _serve(answer) for answer in answers]
        pods = [
            ServingPod(f"uid-{i}", f"pod-{i}", "abc", "127.0.0.1", port)
            for i, (_, port) in enumerate(servers)
        ]
        pods.append(ServingPod("uid-gone", "pod-gone", "abc", "127.0.0.1", 1))
        async with aiohttp.ClientSession() as session:
            readings = await read_counters(session, pods, deadline=deadline)
        for runner, _ in servers:
            await runner.cleanup()
        return readings

    return asyncio.run(run())


def test_all_pods_are_asked_at_once_and_each_failure_is_its_own() -> None:
    fine, error, large, moved, gone = read_from(
        lambda: web.json_response(document()),
        lambda: web.Response(status=500),
        lambda: web.Response(body=b" " * (MAX_BYTES + 1)),
        lambda: web.Response(status=302, headers={"Location": "http://127.0.0.1:1/counters"}),
    )
    assert fine.counters is not None and fine.error is None
    says = [str(r.error) for r in (error, large, moved, gone)]
    for text, words in zip(
        says, ("answered 500", "more than", "answered 302", "cannot be reached"), strict=True
    ):
        assert words in text


def test_a_pod_that_hangs_costs_no_more_than_the_deadline() -> None:
    async def hang() -> web.Response:
        await asyncio.sleep(1.0)
        return web.Response()

    slow, _ = read_from(hang, deadline=0.2)
    assert "did not answer within 0.2 s" in str(slow.error)
