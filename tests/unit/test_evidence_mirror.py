"""From what stable's pods count to looks at copies: nothing lost, nothing twice, nobody else's."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from sluice.evidence.counters import (
    EvidenceError,
    MirrorCounters,
    PodCounters,
    PodReading,
    ServingPod,
    parse_counters,
)
from sluice.evidence.mirror import MirrorReading, build_mirror_look
from sluice.runtime.aim import read_aim
from sluice.runtime.counters import Counters, Outcome
from sluice.runtime.http import Request
from sluice.runtime.mirror import Mirror

POD = ServingPod("uid-1", "iris-rev-old-1", "old", "10.0.0.1")
OURS: dict[str, Any] = {"to": "new", "rollout": "r1", "candidate": "new"}


def said(**changes: Any) -> dict[str, Any]:
    """What the runtime prints after two copies: one that failed, one that the candidate failed."""
    mirror = Mirror()
    aim = {"schema": 1, "id": "r1", "revision": "new", "addresses": ["10.0.0.7:80"], "percent": 100}
    mirror.take_aim(read_aim(json.dumps(aim).encode()))
    for number in range(2):
        mirror.offer(Request("POST", "/predict", {}, b"{}"), str(number), Outcome.OK, None)
        sent = mirror.take()
        assert sent is not None
        mirror.answered(sent, 500 if number else 503, b"")
    return mirror.as_json() | changes


def parsed(mirror: Any) -> PodCounters:
    counters = Counters(revision="old", package_digest="sha256:0", deployment="iris")
    return parse_counters(json.dumps(counters.as_json() | {"mirror": mirror}).encode(), POD)


def test_the_runtimes_own_document_is_understood() -> None:
    mirror = parsed(said()).mirror
    assert (mirror.to, mirror.rollout, mirror.candidate) == ("new", "r1", "new")
    assert (mirror.pairs, mirror.failed, mirror.compared) == (1, 1, 0)
    assert (mirror.candidate_errors, mirror.stable_errors) == (1, 0)


def test_a_runtime_that_says_nothing_mirrors_to_nobody() -> None:
    assert parsed(None).mirror == MirrorCounters()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"pairs": -1}, "mirror.pairs is -1"),
        ({"pairs": 0}, "errors of 0 pairs"),
        ({"pairs": True}, "mirror.pairs is True"),
        ({"pairs": 1 << 60}, "not a count"),
        ({"compared": 5}, "5 compared"),
        ({"compared": 1, "disagreed": 2}, "2 disagreed"),
        ({"stableErrors": 2}, "2 errors of 1 pairs"),
        ({"to": None}, "mirror.to"),
        ({"to": "x" * 300}, "mirror.to"),
        ({"absolute": {"max": float("nan")}}, "mirror.absolute"),
        ({"relative": {"max": -1}}, "mirror.relative is -1"),
        ({"absolute": {}}, "max"),
        ({"problem": 7}, "mirror.problem"),
    ],
)
def test_what_cannot_be_true_is_refused_by_name(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(EvidenceError, match=says):
        parsed(said(**changes))


@pytest.mark.parametrize("name", sorted(said().keys() - {"percent", "sampled"}))
def test_what_is_missing_is_named(name: str) -> None:
    told = said()
    del told[name]
    with pytest.raises(EvidenceError, match=name):
        parsed(told)


@pytest.mark.parametrize("junk", [[], "mirror", 7, True])
def test_what_is_no_object_is_refused(junk: Any) -> None:
    with pytest.raises(EvidenceError, match="cannot be right"):
        parsed(junk)


# Looks


def pod(number: int = 1, boot: str = "b", **mirror: Any) -> PodReading:
    place = ServingPod(f"uid-{number}", f"pod-{number}", "old", f"10.0.0.{number}")
    counts = MirrorCounters(**{**OURS, **mirror})
    return PodReading(place, PodCounters(boot=boot, age=100.0, revision="old", mirror=counts))


def silent(number: int = 1) -> PodReading:
    place = ServingPod(f"uid-{number}", f"pod-{number}", "old", f"10.0.0.{number}")
    return PodReading(place, error=EvidenceError(f"Pod pod-{number} did not answer."))


def look(
    previous: dict[str, Any] | None, *readings: PodReading, at: float = 110.0, number: int = 1
) -> MirrorReading:
    read = build_mirror_look(
        previous, readings, candidate="new", rollout="r1", look_id=number, now=at
    )
    json.dumps(read.snapshot)
    return read


def first(*readings: PodReading) -> dict[str, Any]:
    read = look(None, *readings, at=100.0)
    assert read.look is None
    return read.snapshot


def test_a_look_is_the_difference_over_all_pods() -> None:
    before = first(pod(1, pairs=10, compared=10), pod(2, pairs=5, compared=5))
    found = look(
        before,
        pod(1, pairs=30, compared=28, disagreed=2, candidate_errors=2, failed=1, absolute=0.5),
        pod(2, pairs=15, compared=14, stable_client_errors=1, dropped=4, absolute=0.7),
    ).look
    assert found is not None
    assert (found.seconds, found.weight) == (10.0, 0)
    assert (found.stable.n, found.stable.client_errors, found.stable.model_errors) == (30, 1, 0)
    assert (found.candidate.n, found.candidate.model_errors) == (30, 2)
    assert found.candidate.pods == ((20, 0, 2), (10, 0, 0))
    assert found.mirror is not None
    assert (found.mirror.compared, found.mirror.disagreed) == (27, 2)
    assert (found.mirror.failed, found.mirror.dropped, found.mirror.apart) == (1, 4, (0.7, 0.0))


def test_the_same_look_twice_is_the_same() -> None:
    before = first(pod(pairs=10))
    kept = copy.deepcopy(before)
    one, two = look(before, pod(pairs=20)), look(before, pod(pairs=20))
    assert one == two
    assert before == kept


def test_a_restarted_pod_counts_from_zero_and_a_new_one_too() -> None:
    before = first(pod(1, pairs=1000))
    found = look(before, pod(1, "another", pairs=7), pod(2, pairs=3)).look
    assert found is not None
    assert found.candidate.n == 10


def test_what_was_copied_to_another_candidate_or_in_another_rollout_is_not_ours() -> None:
    for other in ({"candidate": "older"}, {"rollout": "r0"}):
        before = first(pod(pairs=50, **other))
        assert look(before, pod(pairs=90, **other), pod(2, pairs=1)).look.candidate.n == 1  # type: ignore[union-attr]
        found = look(before, pod(pairs=20)).look
        assert found is not None
        assert found.candidate.n == 20, "counts begin anew with the rollout"


def test_a_snapshot_of_anything_else_is_no_base() -> None:
    before = first(pod(pairs=10))
    for wrong in ({}, {"version": 1, "pods": {}}, {**before, "key": ["r0", "new"]}):
        assert look(wrong, pod(pairs=20)).look is None


def test_a_pod_that_does_not_answer_is_counted_later() -> None:
    before = first(pod(1, pairs=10), pod(2, pairs=10))
    partial = look(before, pod(1, pairs=20), silent(2))
    assert partial.look is not None
    assert partial.look.candidate.n == 10
    assert "pod-2" in partial.message
    whole = look(partial.snapshot, pod(1, pairs=20), pod(2, pairs=40), at=120.0)
    assert whole.look is not None
    assert (whole.look.candidate.n, whole.message) == (30, "")


def test_a_counter_that_goes_backwards_is_an_error_that_names_it() -> None:
    before = first(pod(pairs=10, compared=9))
    with pytest.raises(EvidenceError, match="compared counter of pod pod-1 went from 9 to 8"):
        look(before, pod(pairs=10, compared=8))


def test_a_pod_that_is_gone_is_forgotten() -> None:
    before = first(pod(1), pod(2))
    assert set(look(before, pod(2)).snapshot["pods"]) == {"uid-2"}


def test_time_in_which_nobody_mirrors_is_no_look() -> None:
    quiet = {"to": "", "rollout": "", "candidate": ""}
    before = first(pod(**quiet))
    read = look(before, pod(**quiet))
    assert read.look is None
    assert look(read.snapshot, pod(), at=120.0).look is not None


def test_who_follows_and_who_is_quiet() -> None:
    read = look(None, pod(1), pod(2, to=""), pod(3, to="", waiting=1), silent(4), pod(5, to="x"))
    followed = read.followed
    assert (followed.pods, followed.answered, followed.mirroring, followed.quiet) == (5, 4, 1, 1)
    assert look(None, pod(to="", problem="no such file")).followed.problem == "no such file"
