"""Mirroring: what is copied, how answers compare, and that nobody pays for it on the way."""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.tools.ports import free_port

sys.path.insert(0, str(Path(__file__).parent))

import runtime_support as support
from runtime_support import AIM, DEADLINE, Built, Server, point, serving

from sluice.package.scoring import Answer
from sluice.runtime.aim import Aim, read_aim
from sluice.runtime.counters import Outcome
from sluice.runtime.http import Request
from sluice.runtime.mirror import (
    MAX_BODY,
    MAX_ROWS,
    MAX_WAITING,
    CopyAnswer,
    Mirror,
    chosen,
    compare,
    render_copy_answer,
    request_id,
)

OK = Answer(np.array([0.9]), ["yes"], None)


def aim(**changes: Any) -> Aim:
    found = read_aim(json.dumps({**AIM, **changes}).encode())
    assert found is not None
    return found


def request(body: bytes = b"{}", **headers: str) -> Request:
    named = {k.replace("_", "-").encode(): v.encode() for k, v in headers.items()}
    return Request("POST", "/predict", named, body)


def aimed(**changes: Any) -> Mirror:
    mirror = Mirror()
    mirror.take_aim(aim(**changes))
    return mirror


def balanced(mirror: Mirror) -> bool:
    tally = mirror.tally
    return tally.sampled == tally.dropped + tally.failed + tally.pairs + mirror.waiting


# The file


@pytest.mark.parametrize("data", [b"", b" \n", b"{}", b"{}\n"])
def test_an_empty_file_means_no_mirroring(data: bytes) -> None:
    assert read_aim(data) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"schema": 2},
        {"id": ""},
        {"revision": 7},
        {"revision": "x" * 64},
        {"addresses": []},
        {"addresses": "10.0.0.7:80"},
        {"addresses": ["candidate:80"]},
        {"addresses": ["10.0.0.7"]},
        {"addresses": ["10.0.0.7:0"]},
        {"addresses": ["10.0.0.7:99999"]},
        {"addresses": ["10.0.0.7:80"] * 65},
        {"percent": 0},
        {"percent": 101},
        {"percent": "100"},
        {"percent": True},
        {"tolerance": -0.1},
        {"timeout": 0},
        {"unknown": 1},
    ],
)
def test_a_file_that_cannot_be_right_is_refused_with_a_reason(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        read_aim(json.dumps({**AIM, **changes}).encode())


@given(st.binary(max_size=300))
def test_no_bytes_do_harm(data: bytes) -> None:
    try:
        found = read_aim(data)
    except ValueError:
        return
    assert found is None or isinstance(found, Aim)


def test_a_truncated_file_and_numbers_that_are_none_are_refused() -> None:
    whole = json.dumps(AIM).encode()
    for cut in range(3, len(whole)):
        with pytest.raises(ValueError, match=r"\w"):
            read_aim(whole[:cut])
    with pytest.raises(ValueError, match=r"\w"):
        read_aim(whole.replace(b"100", b"NaN"))


def test_addresses_of_both_kinds_are_understood() -> None:
    assert aim(addresses=["[::1]:8080", "10.0.0.7:80"]).places() == [
        ("::1", 8080),
        ("10.0.0.7", 80),
    ]


# Which requests


def test_the_sample_is_decided_by_the_id_and_grows_with_the_percent() -> None:
    ids = [f"a1b2c3d4-{n:x}" for n in range(20_000)]
    ten = {i for i in ids if chosen(i, 10)}
    assert ten == {i for i in ids if chosen(i, 10)}
    assert ten <= {i for i in ids if chosen(i, 30)}
    assert abs(len(ten) - 2000) < 200
    assert all(chosen(i, 100) for i in ids)


def test_the_senders_own_id_is_used_when_it_can_be_passed_on() -> None:
    assert request_id({b"x-request-id": b"abc"}) == "abc"
    assert request_id({b"x-request-id": b"x" * 129}) is None
    assert request_id({b"x-request-id": b""}) is None
    assert request_id({}) is None


def test_nothing_is_copied_without_an_aim_and_nothing_that_was_shed() -> None:
    mirror = Mirror()
    assert not mirror.offer(request(), "1", Outcome.OK, OK)
    mirror.take_aim(aim())
    assert not mirror.offer(request(), "1", Outcome.SHED, None)
    assert mirror.tally.sampled == 0


def test_what_waits_is_bounded_in_number_and_in_bytes() -> None:
    mirror = aimed()
    for n in range(MAX_WAITING + 50):
        mirror.offer(request(), str(n), Outcome.OK, OK)
    assert (mirror.queued, mirror.tally.dropped) == (MAX_WAITING, 50)
    heavy = aimed()
    for n in range(40):
        heavy.offer(request(b"x" * MAX_BODY), str(n), Outcome.OK, OK)
    assert (heavy.queued, heavy.tally.dropped) == (16, 24)
    assert balanced(mirror)
    assert balanced(heavy)


def test_while_no_room_is_left_requests_are_counted_and_not_prepared() -> None:
    for percent in (100, 50):
        mirror = aimed(percent=percent)
        for n in range(MAX_WAITING):
            mirror.offer(request(), str(n), Outcome.OK, OK)
        before = mirror.tally.sampled
        assert {mirror.chosen_id({}) for _ in range(1000)} == {None}
        more = mirror.tally.sampled - before
        assert more == mirror.tally.dropped
        assert abs(more - 10 * percent) < 100
        assert balanced(mirror)


def test_requests_without_an_id_get_one_of_their_own() -> None:
    mirror = Mirror("boot")
    assert mirror.chosen_id({}) is None
    mirror.take_aim(aim())
    assert [mirror.chosen_id({}) for _ in range(3)] == ["boot-1", "boot-2", "boot-3"]
    assert mirror.chosen_id({b"x-request-id": b"theirs"}) == "theirs"
    mirror.take_aim(aim(percent=30))
    taken = [mirror.chosen_id({}) for _ in range(10_000)]
    assert abs(len([x for x in taken if x]) - 3000) < 250


def test_what_is_too_large_to_compare_is_dropped() -> None:
    mirror = aimed()
    many = Answer(np.zeros(MAX_ROWS + 1), ["no"] * (MAX_ROWS + 1), None)
    assert not mirror.offer(request(), "1", Outcome.OK, many)
    assert not mirror.offer(request(b"x" * (MAX_BODY + 1)), "2", Outcome.OK, OK)
    assert mirror.tally.dropped == 2


def test_a_copy_says_what_it_is_and_keeps_what_the_request_said() -> None:
    mirror = aimed()
    sent = request(
        b'{"x":1}',
        content_type="application/json",
        traceparent="00-1-2-01",
        x_user_id="7",
        x_sluice_bucket="3",
    )
    mirror.offer(sent, "id-1", Outcome.OK, OK)
    copy = mirror.take()
    assert copy is not None
    head, _, body = copy.render().partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    assert lines[0] == b"POST /predict HTTP/1.1"
    assert b"x-sluice-mirror: id-1" in lines
    assert b"x-sluice-revision: new" in lines
    assert b"content-type: application/json" in lines
    assert b"traceparent: 00-1-2-01" in lines
    assert b"content-length: 7" in lines
    assert body == b'{"x":1}'
    assert not any(line.startswith((b"x-user-id", b"x-sluice-bucket")) for line in lines)


# What comes of them


def outcome_of(status: int, body: bytes, *, stable: Outcome = Outcome.OK) -> Mirror:
    mirror = aimed()
    mirror.offer(request(), "id-1", stable, OK if stable is Outcome.OK else None)
    copy = mirror.take()
    assert copy is not None
    mirror.answered(copy, status, body)
    assert balanced(mirror)
    return mirror


def test_an_answer_is_compared() -> None:
    same = outcome_of(200, render_copy_answer("id-1", OK)).tally
    assert (same.pairs, same.compared, same.disagreed) == (1, 1, 0)
    other = Answer(np.array([0.4]), ["no"], None)
    differs = outcome_of(200, render_copy_answer("id-1", other)).tally
    assert (differs.pairs, differs.compared, differs.disagreed) == (1, 1, 1)
    assert differs.absolute_max == pytest.approx(0.5)
    assert differs.relative_max == pytest.approx(0.5 / 0.9)


@pytest.mark.parametrize(
    ("status", "errors", "client"), [(500, 1, 0), (504, 1, 0), (400, 0, 1), (413, 0, 1)]
)
def test_an_error_of_the_candidates_model_is_one(status: int, errors: int, client: int) -> None:
    tally = outcome_of(status, b"{}").tally
    assert (tally.candidate_errors, tally.candidate_client_errors) == (errors, client)
    assert (tally.stable_errors, tally.stable_client_errors) == (0, 0)
    assert (tally.pairs, tally.compared, tally.failed) == (1, 0, 0)


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (503, b"{}"),
        (302, b""),
        (200, b""),
        (200, b"{}"),
        (200, b'{"id":"id-1","scores":[NaN]}'),
        (200, b'{"id":"id-1","scores":["1"]}'),
        (200, b'{"id":"another","scores":[0.9],"labels":["yes"]}'),
        (200, b"[" * 100_000),
    ],
)
def test_what_says_nothing_about_the_model_is_a_failed_copy(status: int, body: bytes) -> None:
    tally = outcome_of(status, body).tally
    assert (tally.pairs, tally.failed) == (0, 1)


def test_what_stable_failed_too_is_counted_on_both_sides() -> None:
    tally = outcome_of(500, b"{}", stable=Outcome.TIMEOUT).tally
    assert (tally.stable_errors, tally.candidate_errors, tally.compared) == (1, 1, 0)
    tally = outcome_of(400, b"{}", stable=Outcome.CLIENT_ERROR).tally
    assert (tally.stable_client_errors, tally.candidate_client_errors) == (1, 1)


def values(*scores: float) -> Answer:
    return Answer(np.array(scores), None, None)


@pytest.mark.parametrize(
    ("stable", "candidate", "disagree"),
    [
        (values(100.0), CopyAnswer("1", [100.9]), False),
        (values(100.0), CopyAnswer("1", [102.0]), True),
        (values(100.0, 1.0), CopyAnswer("1", [100.0, 1.1]), True),
        (values(0.0), CopyAnswer("1", [0.0]), False),
        (values(0.0), CopyAnswer("1", [1e-300]), True),
        (values(1.0), CopyAnswer("1", [1.0, 1.0]), True),
        (values(1.0), CopyAnswer("1", [1.0], ["yes"]), True),
        (OK, CopyAnswer("1", [0.1], ["yes"]), False),
        (OK, CopyAnswer("1", [0.9], ["no"]), True),
        (OK, CopyAnswer("1", [0.9]), True),
        (OK, CopyAnswer("1", [0.9], ["yes", "no"]), True),
        (Answer(np.array([0.9]), [1], None), CopyAnswer("1", [0.9], ["1"]), True),
    ],
)
def test_answers_differ_by_label_or_by_more_than_the_tolerance(
    stable: Answer, candidate: CopyAnswer, disagree: bool
) -> None:
    assert compare(stable, candidate, 0.01).disagree is disagree


def test_another_aim_drops_what_waits_and_counts_anew() -> None:
    mirror = aimed()
    for n in range(5):
        mirror.offer(request(), str(n), Outcome.OK, OK)
    late = mirror.take()
    assert late is not None
    mirror.take_aim(aim(percent=50))
    assert (mirror.tally.sampled, mirror.tally.dropped) == (5, 4)
    mirror.take_aim(aim(id="r2"))
    assert mirror.tally.sampled == 0
    mirror.answered(late, 200, render_copy_answer(late.id, OK))
    assert (mirror.tally.pairs, mirror.waiting) == (0, 0), "it belongs to the rollout before"


def test_no_aim_keeps_the_counts_and_waits_for_what_is_on_its_way() -> None:
    mirror = aimed()
    mirror.offer(request(), "1", Outcome.OK, OK)
    copy = mirror.take()
    assert copy is not None
    mirror.take_aim(None)
    shown = mirror.as_json()
    assert (shown["to"], shown["waiting"], shown["rollout"]) == ("", 1, "r1")
    mirror.answered(copy, 200, render_copy_answer("1", OK))
    shown = mirror.as_json()
    assert (shown["waiting"], shown["pairs"]) == (0, 1)


# Real processes


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Built:
    return support.build_odd(tmp_path_factory.mktemp("odd"))


@pytest.fixture(scope="module")
def iris(tmp_path_factory: pytest.TempPathFactory) -> Built:
    return support.build_iris(tmp_path_factory.mktemp("iris"))


def until(condition: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + DEADLINE
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.02)
    raise AssertionError(f"never happened: {what}")


@contextmanager
def pair(stable: Built, candidate: Built, folder: Path) -> Iterator[tuple[Server, Server, Path]]:
    """Stable, which has been told to mirror, and the candidate."""
    file = folder / "mirror.json"
    both = ("--allow-code", "--deployment", "m", "--mirror-file", str(file))
    with (
        serving(candidate.path, *both, "--revision", "new") as new,
        serving(stable.path, *both, "--revision", "old") as old,
    ):
        point(file, new.port)
        until(lambda: old.counters()["mirror"]["to"] == "new", "stable follows the file")
        yield old, new, file


def settled(server: Server) -> dict[str, Any]:
    """The mirror's counts once nothing waits any more."""
    until(lambda: server.counters()["mirror"]["waiting"] == 0, "no copy waits")
    found: dict[str, Any] = server.counters()["mirror"]
    return found


def test_copies_are_compared_and_are_nobodys_traffic(odd: Built, tmp_path: Path) -> None:
    with pair(odd, odd, tmp_path) as (old, new, _):
        for x in (1.0, -1.0, 2.0):
            status, answer = old.post("/predict", {"x": x})
            assert status == 200
            assert answer["revision"] == "old"
        assert old.post("/v1/models/m:predict", {"instances": [{"x": 1}]})[0] == 200
        infer = {"inputs": [{"name": "x", "datatype": "FP64", "shape": [1], "data": [1.0]}]}
        assert old.post("/v2/models/m/infer", infer)[0] == 200
        counts = settled(old)
        assert (counts["pairs"], counts["compared"], counts["disagreed"]) == (5, 5, 0)
        assert (counts["candidate"], counts["rollout"]) == ("new", "r1")
        seen = new.counters()
        assert (seen["requests"], seen["rows"], seen["latency"]["bins"]) == (0, 0, {})
        assert sum(seen["scores"]["counts"]) == 0
        assert (seen["copies"]["requests"], seen["copies"]["ok"]) == (5, 5)
        assert sum(seen["copies"]["latency"]["bins"].values()) == 5


def test_errors_of_both_are_paired_and_never_the_candidates_user_errors(
    odd: Built, tmp_path: Path
) -> None:
    with pair(odd, odd, tmp_path) as (old, new, _):
        assert old.post("/predict", {"x": 13})[0] == 500
        assert old.post("/predict", {"x": 7})[0] == 500
        assert old.post("/predict", {"x": "one"})[0] == 400
        counts = settled(old)
        assert (counts["stableErrors"], counts["candidateErrors"]) == (2, 2)
        assert (counts["stableClientErrors"], counts["candidateClientErrors"]) == (1, 1)
        seen = new.counters()
        assert (seen["requests"], seen["modelErrors"], seen["nonFinite"]) == (0, 0, 0)
        assert seen["modelErrorsByClass"] == {}
        assert (seen["copies"]["modelErrors"], seen["copies"]["nonFinite"]) == (2, 1)


def test_a_candidate_that_cannot_read_what_stable_answers(
    odd: Built, iris: Built, tmp_path: Path
) -> None:
    with pair(odd, iris, tmp_path) as (old, _, _file):
        assert old.post("/predict", {"x": 1.0})[0] == 200
        counts = settled(old)
        assert (counts["stableClientErrors"], counts["candidateClientErrors"]) == (0, 1)


def test_a_copy_is_never_copied_again(odd: Built, tmp_path: Path) -> None:
    """Both processes have been told to mirror to each other."""
    with pair(odd, odd, tmp_path) as (old, new, _):
        until(lambda: new.counters()["mirror"]["to"] == "new", "the candidate follows the file too")
        assert old.post("/predict", {"x": 1.0})[0] == 200
        settled(old)
        assert settled(new)["sampled"] == 0
        assert new.counters()["copies"]["requests"] == 1


def test_a_pod_of_another_revision_refuses_the_copy(odd: Built, tmp_path: Path) -> None:
    with pair(odd, odd, tmp_path) as (old, new, file):
        point(file, new.port, revision="third", id="r2")
        until(lambda: old.counters()["mirror"]["to"] == "third", "stable follows the file")
        assert old.post("/predict", {"x": 1.0})[0] == 200
        counts = settled(old)
        assert (counts["pairs"], counts["failed"]) == (0, 1)
        assert new.counters()["misdirected"] == 0


def test_an_emptied_file_ends_it_and_a_wrong_one_is_named(odd: Built, tmp_path: Path) -> None:
    with pair(odd, odd, tmp_path) as (old, new, file):
        point(file, 0)
        until(lambda: old.counters()["mirror"]["to"] == "", "stable follows the file")
        assert old.post("/predict", {"x": 1.0})[0] == 200
        assert new.counters()["copies"]["requests"] == 0
        point(file, new.port, percent=1000)
        until(lambda: old.counters()["mirror"]["problem"], "stable says what is wrong")
        assert "percent" in old.counters()["mirror"]["problem"]
        assert old.post("/predict", {"x": 1.0})[0] == 200
        file.unlink()
        until(lambda: not old.counters()["mirror"]["problem"], "no file, no mirroring")


def test_metrics_name_the_candidate(odd: Built, tmp_path: Path) -> None:
    with pair(odd, odd, tmp_path) as (old, new, _):
        old.post("/predict", {"x": 1.0})
        settled(old)
        text = str(old.request("GET", "/metrics", admin=True)[2])
        line = next(x for x in text.splitlines() if x.startswith("sluice_mirror_compared_total"))
        assert 'candidate="new"' in line
        assert line.endswith(" 1")
        other = str(new.request("GET", "/metrics", admin=True)[2])
        ended = [x for x in other.splitlines() if x.startswith("sluice_copies_total{")]
        assert [x.rsplit(" ", 1)[1] for x in ended if 'outcome="ok"' in x] == ["1"]


class Hangs:
    """A candidate that takes connections and says nothing."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = self.listener.getsockname()[1]
        self.taken: list[socket.socket] = []
        threading.Thread(target=self._take, daemon=True).start()

    def _take(self) -> None:
        while True:
            try:
                self.taken.append(self.listener.accept()[0])
            except OSError:
                return

    def close(self) -> None:
        self.listener.close()
        for taken in self.taken:
            taken.close()


def spent(server: Server, requests: int) -> float:
    """CPU seconds a request, with 4 clients at once; every request is answered 200."""
    before = server.counters()

    def ask(_: int) -> None:
        for _n in range(requests // 4):
            assert server.post("/predict", {"x": 1.0})[0] == 200

    with ThreadPoolExecutor(4) as clients:
        list(clients.map(ask, range(4)))
    after = server.counters()
    return float((after["cpuSeconds"] - before["cpuSeconds"]) / requests)


@pytest.mark.parametrize("how", ["hangs", "gone"])
def test_a_candidate_that_does_not_answer_costs_stable_nothing(
    how: str, odd: Built, tmp_path: Path
) -> None:
    """A ratio of measurements of one process, by CPU and not by time.

    They take turns, and the least of each counts: a busy neighbour makes the same work dearer.
    """
    file = tmp_path / "mirror.json"
    hangs = Hangs()
    port = hangs.port if how == "hangs" else free_port()
    with serving(odd.path, "--allow-code", "--mirror-file", str(file)) as old:
        spent(old, 400)
        costs: dict[str, list[float]] = {"": [], "new": []}
        for to in ["", "new"] * 3:
            point(file, port if to else 0, timeout=1.0)
            until(lambda to=to: old.counters()["mirror"]["to"] == to, "stable follows the file")
            before = old.counters()["mirror"]
            costs[to].append(spent(old, 600))
            counts = old.counters()["mirror"]
            sampled, dropped = (counts[n] - before[n] for n in ("sampled", "dropped"))
            assert sampled == (600 if to else 0)
            assert (dropped > 0) == bool(to), "what does not fit is dropped, not kept"
            assert counts["pairs"] == 0
        alone, beside = min(costs[""]), min(costs["new"])
        assert beside < 1.5 * alone, f"{beside * 1e6:.0f} us a request, {alone * 1e6:.0f} alone"
        until(lambda: old.counters()["mirror"]["failed"] > 0, "a copy fails")
        point(file, 0)
        until(lambda: old.counters()["mirror"]["waiting"] == 0, "nothing waits any more")
        total = old.counters()["mirror"]
        assert total["sampled"] == total["dropped"] + total["failed"]
    hangs.close()


def test_a_candidate_that_comes_back_is_asked_again(odd: Built, tmp_path: Path) -> None:
    file = tmp_path / "mirror.json"
    with serving(odd.path, "--allow-code", "--mirror-file", str(file)) as old:
        port = free_port()
        point(file, port)
        until(lambda: old.counters()["mirror"]["to"] == "new", "stable follows the file")
        assert old.post("/predict", {"x": 1.0})[0] == 200
        until(lambda: old.counters()["mirror"]["failed"] == 1, "nobody is there")
        with serving(odd.path, "--allow-code", "--revision", "new") as new:
            point(file, new.port)

            def asked() -> bool:
                assert old.post("/predict", {"x": 1.0})[0] == 200
                return bool(old.counters()["mirror"]["pairs"])

            until(asked, "the candidate is asked")


@pytest.mark.parametrize(
    "junk",
    [
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"\x16\x03\x01\x02\x00" * 40,
        b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n" + b"x" * 2_000_000,
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\nxx",
        b"",
    ],
)
def test_a_candidate_that_speaks_nonsense_is_a_failed_copy(
    junk: bytes, odd: Built, tmp_path: Path
) -> None:
    file = tmp_path / "mirror.json"
    listener = socket.create_server(("127.0.0.1", 0))

    def speak() -> None:
        while True:
            try:
                client = listener.accept()[0]
                with client:
                    client.recv(65536)
                    client.sendall(junk)
            except OSError:
                if listener.fileno() < 0:
                    return

    threading.Thread(target=speak, daemon=True).start()
    with serving(odd.path, "--allow-code", "--mirror-file", str(file)) as old:
        point(file, listener.getsockname()[1])
        until(lambda: old.counters()["mirror"]["to"] == "new", "stable follows the file")
        assert old.post("/predict", {"x": 1.0})[0] == 200
        counts = settled(old)
        assert (counts["failed"], counts["pairs"]) == (1, 0)
        assert old.post("/predict", {"x": 1.0})[0] == 200
    listener.close()


def test_the_answer_to_a_copy_can_be_read_back() -> None:
    body = render_copy_answer("a", OK)
    assert msgspec.json.decode(body) == {"id": "a", "scores": [0.9], "labels": ["yes"]}
