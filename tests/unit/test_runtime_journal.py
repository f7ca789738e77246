"""The journal of a real server process, and what the operator makes of it."""

from __future__ import annotations

import asyncio
import base64
import json
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from tests.tools.ports import free_port

sys.path.insert(0, str(Path(__file__).parent))

import runtime_support as support
from runtime_support import Server, serving

from sluice.evidence import journals
from sluice.evidence.counters import EvidenceError, ServingPod
from sluice.evidence.journals import PodJournal, parse_page, read_journals, taken
from sluice.runtime import journal as runtime
from sluice.runtime.journal import Journal

POD = ServingPod("uid-1", "pod-1", "rev1", "127.0.0.1")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    built = support.build_iris(tmp_path_factory.mktemp("iris"))
    with serving(built.path, "--revision", "rev1", "--deployment", "flowers") as running:
        running.row = built.rows[0]  # type: ignore[attr-defined]
        yield running


def predict(server: Server, unit: str, row: Any = None) -> int:
    row = row or server.row  # type: ignore[attr-defined]
    return server.post("/predict", row, X_Sluice_Unit=unit)[0]


def feedback(server: Server, unit: str | None, body: Any) -> tuple[int, Any]:
    headers = {"X_Sluice_Unit": unit} if unit is not None else {}
    return server.post("/feedback", body, **headers)


def read(server: Server, experiment: str, cursors: Any = None, **how: Any) -> journals.Journals:
    pod = ServingPod("uid-1", "pod-1", "rev1", "127.0.0.1", server.admin_port)

    async def run() -> journals.Journals:
        async with aiohttp.ClientSession() as session:
            return await read_journals(
                session, {"rev1": 1}, [pod], experiment, cursors or {},
                now=how.get("now", time.time() + 5), since=1.0,
            )  # fmt: skip

    return asyncio.run(run())


def test_a_unit_is_written_down_once_and_its_outcomes_each_time(server: Server) -> None:
    before = time.time()
    for unit in ("one:7", "one:-8", "one:7"):
        assert predict(server, unit) == 200
    assert feedback(server, "one:7", {"value": 2.5, "eventId": "a"}) == (202, {"accepted": 1})
    assert feedback(server, "one:7", [{"value": 1}, {"value": 0, "denominator": 3}])[0] == 202
    seen = read(server, "one")
    assert [(e.unit, e.arm) for e in seen.exposures] == [(7, 1), (2**64 - 8, 1)]
    assert all(before <= e.at <= time.time() for e in seen.exposures)
    values = [(o.unit, o.value, o.size, o.event != 0) for o in seen.outcomes]
    assert values == [(7, 2.5, 0.0, True), (7, 1.0, 0.0, False), (7, 0.0, 3.0, False)]
    assert (seen.lost, seen.message) == (0, "")


def test_what_was_taken_is_not_taken_again(server: Server) -> None:
    predict(server, "two:1")
    first = read(server, "two")
    predict(server, "two:2")
    second = read(server, "two", first.cursors)
    assert [e.unit for e in second.exposures] == [2]
    assert read(server, "two", second.cursors).exposures == []
    assert [e.unit for e in read(server, "two", first.cursors).exposures] == [2]


def test_records_after_the_cut_wait_for_the_next_look(server: Server) -> None:
    predict(server, "cut:1")
    early = read(server, "cut", now=time.time() - 60)
    assert early.exposures == []
    assert early.cursors["uid-1"]["seq"] == 0
    assert [e.unit for e in read(server, "cut", early.cursors).exposures] == [1]


def test_a_failed_request_is_an_exposure_too(server: Server) -> None:
    assert predict(server, "failed:1", {"nonsense": 1}) == 400
    assert [e.unit for e in read(server, "failed").exposures] == [1]


@pytest.mark.parametrize("unit", [None, "", "x", "x:", ":5", "x:1.5", "x:" + "9" * 30, "y" * 99])
def test_without_a_unit_nothing_is_kept(server: Server, unit: str | None) -> None:
    assert feedback(server, unit, {"value": 1}) == (202, {"accepted": 0})


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"[]", b"null", b"[1]", b'"x"', b"{}", b'{"value":null}', b'{"value":"1"}',
        b'{"value":true}', b'{"value":1e999}', b'{"value":NaN}', b'{"value":1e13}',
        b'{"value":1,"denominator":-1}', b'{"value":1,"eventId":7}', b'{"value":1,"unit":"u"}',
        b'{"value":1,"eventId":"' + b"x" * 129 + b'"}', b"[" * 100_000,
        b"[" + b'{"value":1},' * 1000 + b'{"value":1}]', b"\xff\xfe", b'{"value":1' + b"0" * 400,
    ],
)  # fmt: skip
def test_bad_feedback_is_refused_with_what_is_wrong(server: Server, body: bytes) -> None:
    status, answer = feedback(server, "bad:1", body)
    assert status == 400
    assert answer["error"]["code"] in ("InvalidFeedback", "OutOfRange")
    assert answer["error"]["message"]
    assert read(server, "bad").outcomes == []


def test_feedback_larger_than_its_limit_is_refused(server: Server) -> None:
    assert feedback(server, "big:1", b" " * ((1 << 20) + 1))[0] == 413


def test_feedback_is_posted_and_the_journal_is_got_on_the_admin_port_only(server: Server) -> None:
    assert server.request("GET", "/feedback")[0] == 405
    assert server.request("GET", "/journal")[0] == 404
    assert server.request("POST", "/journal", {}, admin=True)[0] == 405
    assert server.request("GET", "/journal?since=-1", admin=True)[0] == 400
    assert server.request("GET", "/journal?since=" + "9" * 19, admin=True)[0] == 400


def test_a_process_that_ends_waits_until_its_records_have_been_read(
    tmp_path: Path,
) -> None:
    built = support.build_iris(tmp_path)
    with serving(built.path, "--revision", "rev1") as going:
        going.row = built.rows[0]  # type: ignore[attr-defined]
        predict(going, "end:1")
        first = read(going, "end")
        predict(going, "end:2")
        going.process.send_signal(signal.SIGTERM)
        going.wait_status("/readyz", 503)
        time.sleep(3.0)
        assert going.process.poll() is None
        assert [e.unit for e in read(going, "end", first.cursors).exposures] == [2]
        assert going.process.wait(support.DEADLINE) == 0


def test_only_what_somebody_reads_is_waited_for() -> None:
    journal = Journal("boot", lambda: 5.0)
    assert not journal.awaited
    journal.exposed(b"e:1")
    assert not journal.awaited, "nobody has ever asked"
    journal.page("e", 0)
    assert not journal.awaited
    journal.exposed(b"e:2")
    assert journal.awaited
    journal.page("e", 0)
    assert not journal.awaited
    journal.exposed(b"newer:1")
    assert not journal.awaited, "nobody asks for an experiment that is over"


# Bounds


def test_beyond_the_most_records_the_oldest_go_and_the_reader_sees_how_many() -> None:
    journal = Journal("boot", lambda: 5.0, most_records=8)
    for n in range(20):
        journal.exposed(f"e:{n}".encode())
    page = parse_page(json.dumps(journal.page("e", 2)).encode(), POD, "e")
    assert (page.last, len(page.rows)) == (20, page.last - page.first + 1)
    before = PodJournal(POD, {"boot": "boot", "seq": 2, "until": 0.0})
    after, whole = taken(before, page, cut=10.0)
    assert whole
    assert after.lost == page.first - 3
    assert after.cursor == {"boot": "boot", "seq": 20, "until": 10.0, "dropped": 0}


def test_beyond_the_most_units_exposures_are_counted() -> None:
    journal = Journal("boot", lambda: 5.0, most_units=2)
    for n in range(5):
        journal.exposed(f"e:{n}".encode())
    assert (journal.page("e", 0)["dropped"], journal.page("e", 0)["last"]) == (3, 2)


def test_many_records_are_read_page_by_page() -> None:
    journal = Journal("boot", lambda: 5.0)
    for n in range(runtime.PAGE + 10):
        journal.exposed(f"e:{n}".encode())
    so_far, whole = PodJournal(POD, {"boot": "", "seq": 0, "until": 0.0}), False
    pages = 0
    while not whole:
        document = json.dumps(journal.page("e", so_far.cursor["seq"])).encode()
        so_far, whole = taken(so_far, parse_page(document, POD, "e"), cut=10.0)
        pages += 1
    assert (pages, len(so_far.exposed)) == (2, runtime.PAGE + 10)


def test_an_old_experiment_makes_room_for_a_new_one() -> None:
    journal = Journal("boot", lambda: 5.0)
    for name in ("a", "b", "c"):
        journal.exposed(f"{name}:1".encode())
    assert [journal.page(name, 0)["last"] for name in "abc"] == [0, 1, 1]


def test_a_process_that_started_anew_is_read_from_its_beginning() -> None:
    journal = Journal("new", lambda: 5.0)
    journal.exposed(b"e:1")
    before = PodJournal(POD, {"boot": "old", "seq": 900, "until": 3.0})
    page = parse_page(json.dumps(journal.page("e", 900)).encode(), POD, "e")
    middle, whole = taken(before, page, cut=10.0)
    assert not whole
    assert middle.cursor == {"boot": "new", "seq": 0, "until": 3.0}
    page = parse_page(json.dumps(journal.page("e", 0)).encode(), POD, "e")
    assert taken(middle, page, cut=10.0)[0].exposed == ((1, 5.0),)


def good() -> dict[str, Any]:
    journal = Journal("boot", lambda: 5.0)
    journal.exposed(b"e:1")
    journal.outcome(b"e:1", 1.0, 0.0, "")
    return journal.page("e", 0)


def packed(*values: Any) -> str:
    return base64.b64encode(runtime.RECORD.pack(*values)).decode()


@pytest.mark.parametrize(
    "change",
    [
        {"schema": 2}, {"experiment": "other"}, {"records": "!"}, {"records": "AAAA"},
        {"records": 7}, {"boot": ""}, {"boot": "x" * 65}, {"boot": 1}, {"first": -1},
        {"first": True}, {"last": 1}, {"last": "2"}, {"dropped": None}, {"now": "soon"},
        {"records": packed(2, 1, 5.0, 0.0, 0.0, 0)},
        {"records": packed(0, 1, float("nan"), 0.0, 0.0, 0)},
        {"records": packed(1, 1, 5.0, float("inf"), 0.0, 0)},
        {"records": packed(1, 1, 5.0, 1e13, 0.0, 0)},
        {"records": packed(1, 1, 5.0, 1.0, -1.0, 0)},
    ],
)  # fmt: skip
def test_a_journal_that_cannot_be_true_names_the_pod(change: dict[str, Any]) -> None:
    with pytest.raises(EvidenceError, match="Pod pod-1"):
        parse_page(json.dumps({**good(), **change}).encode(), POD, "e")


@pytest.mark.parametrize("body", [b"", b"[]", b"7", b"{}", b"\xff", b"[" * 100_000])
def test_what_is_no_journal_names_the_pod(body: bytes) -> None:
    with pytest.raises(EvidenceError, match="Pod pod-1"):
        parse_page(body, POD, "e")


def test_a_pod_that_does_not_answer_stops_the_clock_of_what_is_known(server: Server) -> None:
    pods = [
        ServingPod("uid-1", "pod-1", "rev1", "127.0.0.1", server.admin_port),
        ServingPod("uid-2", "pod-2", "rev1", "127.0.0.1", free_port()),
    ]

    async def run() -> journals.Journals:
        async with aiohttp.ClientSession() as session:
            cursors = {"uid-2": {"boot": "b", "seq": 4, "until": 42.0}}
            now = time.time()
            return await read_journals(
                session, {"rev1": 0}, pods, "x", cursors, now=now, since=1.0
            )  # fmt: skip

    seen = asyncio.run(run())
    assert seen.until == 42.0
    assert seen.cursors["uid-2"]["seq"] == 4
    assert "pod-2" in seen.message
