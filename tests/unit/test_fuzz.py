"""A slice of ``make fuzz``, and that it sees what it is there to see."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path
from typing import Any

import pytest
from tests.fuzz.failure import read, shorten, write
from tests.fuzz.memory import Memory
from tests.fuzz.replies import Malformed, replies
from tests.fuzz.run import fuzz
from tests.fuzz.strings import KINDS, Sent, Strings
from tests.fuzz.target import Failure, Target, build_package

from sluice.package.features import RowError
from sluice.runtime.inputs import RowReader
from sluice.runtime.protocols.predict import PredictProtocol

SLICE = 20_000
GOOD = b'POST /predict HTTP/1.1\r\nContent-Length: 54\r\n\r\n' \
    b'{"age":44,"income":5.1e4,"plan":"pro","active":false}\n'  # fmt: skip


@pytest.fixture(scope="module")
def rows_and_target(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[list[dict[str, Any]], Target]:
    place = tmp_path_factory.mktemp("fuzz") / "package"
    return build_package(place), Target(place)


def sent(rows_and_target: tuple[Any, Target], count: int, kinds: list[str]) -> dict[str, int]:
    """Send some strings; how often each status came."""
    rows, target = rows_and_target

    async def scenario() -> list[str]:
        with target.watching():
            strings = Strings(rows, 7)
            return [s async for _, found in fuzz(target, strings, kinds, count) for s in found]

    found = asyncio.run(scenario())
    return {status: found.count(status) for status in set(found)}


def test_no_string_hurts(rows_and_target: tuple[Any, Target]) -> None:
    statuses = sent(rows_and_target, SLICE, list(KINDS))
    rows_and_target[1].check_counters()
    # The strings reach what lies behind every check, not only the first of them.
    assert {"200", "202", "400", "404", "405", "413", "415", "417", "431"} <= statuses.keys()
    assert statuses["200"] > SLICE / 10


def test_the_same_seed_gives_the_same_strings(rows_and_target: tuple[Any, Target]) -> None:
    one, two = (Strings(rows_and_target[0], 3).block(list(KINDS), 500) for _ in range(2))
    assert one == two
    assert one != Strings(rows_and_target[0], 4).block(list(KINDS), 500)


def test_an_exception_is_found_and_its_string_shortened(
    rows_and_target: tuple[Any, Target], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    whole = RowReader.from_documents

    def faulty(self: RowReader, rows: Any, **rest: Any) -> Any:
        if "1e308" in str(rows) or "1e+308" in str(rows):
            raise RowError("age", "a number", "a bug")
        return whole(self, rows, **rest)

    monkeypatch.setattr(RowReader, "from_documents", faulty)
    with pytest.raises(Failure, match="status 500") as raised:
        sent(rows_and_target, SLICE, ["predict", "v1"])
    target = rows_and_target[1]
    shortest = asyncio.run(shorten(target, raised.value))
    assert b"1e308" in shortest.data and len(shortest.data) <= len(raised.value.sent.data)
    write(tmp_path / "x.bin", shortest)
    assert read(tmp_path / "x.bin") == shortest


def test_an_answer_that_is_no_json_is_found(
    rows_and_target: tuple[Any, Target], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PredictProtocol, "render", lambda *_: b'{"score":NaN}')
    with pytest.raises(Failure, match="malformed"):
        sent(rows_and_target, 1000, ["predict"])


OK = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"
LAST = OK.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n")


def test_whole_replies_are_read_in_order() -> None:
    head = OK.replace(b"{}", b"")
    assert [
        r.status for r in replies(b"HTTP/1.1 100 Continue\r\n\r\n" + OK + LAST, ["GET"] * 2)
    ] == [200] * 2
    assert [r.body for r in replies(head + OK, ["HEAD", "GET"])] == [b"", b"{}"]


@pytest.mark.parametrize(
    "data",
    [
        OK[:-1],
        OK + b"x",
        LAST + OK,
        OK.replace(b"{}", b"NaN").replace(b": 2", b": 3"),
        OK.replace(b"200 OK", b"400 Bad Request"),
        OK.replace(b"json\r\n", b"json\n"),
        OK.replace(b"HTTP/1.1", b"HTTP/1.0"),
        OK.replace(b"content-length", b"content length"),
    ],
)
def test_what_is_no_reply_is_named(data: bytes) -> None:
    with pytest.raises(Malformed):
        replies(data, ["GET"])


@pytest.mark.parametrize("leak", [False, True])
def test_memory_that_grows_is_seen(leak: bool) -> None:
    memory, kept = Memory(), []
    for step in range(1, 101):
        if leak:
            kept.append([[] for _ in itertools.repeat(None, 100)])
        memory.sample(step / 100)
    assert (memory.grown() is not None) is leak


def test_a_good_string_is_answered_whatever_its_pieces(rows_and_target: tuple[Any, Target]) -> None:
    target = rows_and_target[1]
    every = Sent("predict", GOOD, tuple(range(1, len(GOOD))))
    for found in asyncio.run(target.answer([Sent("predict", GOOD), every])):
        assert [reply.status for reply in found] == [200]
