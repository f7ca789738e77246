"""Mirroring in a real cluster: a candidate answers copies, and users meet only one that is good."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest
from tests.integration.loop import CHECKS, Loop, Obj, Users, loop_in, not_by_the_model, rows

from sluice.local.cluster import LocalCluster

pytestmark = [pytest.mark.cluster, pytest.mark.load, pytest.mark.timeout(400)]

MIRRORED: Obj = {
    "steps": [
        {"mirror": 100, "minRequests": 200, "minDuration": "3s", "maxDuration": "10m"},
        {"weight": 50, "minRequests": 50, "minDuration": "2s"},
    ]
}
COMPARED: Obj = {"checks": [*CHECKS, {"name": "differs", "type": "Disagreement", "max": 0.1}]}


@pytest.fixture
def loop(cluster: LocalCluster, namespace: str, kubectl: Callable[..., str]) -> Iterator[Loop]:
    with loop_in(cluster, namespace, kubectl) as made:
        yield made


def ask_for(loop: Loop, uri: str) -> None:
    loop.apply(uri, rollout=MIRRORED, analysis=COMPARED)


def settings(loop: Loop, revision: str) -> str:
    """What the file of a revision's pods says."""
    name = f"iris-rev-{revision}-settings"
    found = [o for o in loop.list("ConfigMap") if o["metadata"]["name"] == name]
    return str(found[0]["data"]["mirror.json"]) if found else "{}"


def quarantined(loop: Loop) -> bool:
    return loop.condition("Stalled").get("reason") == "RevisionQuarantined"


def test_users_meet_only_a_candidate_that_answered_their_copies_well(loop: Loop) -> None:
    first = loop.package("v1", bias=0.1)
    other = loop.package("other", weights={"a": -1.0, "b": 2.0})
    # Right as long as nothing is missing.
    broken = loop.package("broken", bias=0.2, impute=False)
    good = loop.package("good", bias=0.11)
    loop.start()
    ask_for(loop, first)
    loop.until(lambda: loop.serves("v1"), 60, "v1 serves")
    stable = loop.revision("v1")
    users = loop.users(rows(0.05), rate=100)

    _one_that_disagrees_is_held(loop, users, other, stable)
    _one_that_fails_is_taken_back(loop, users, broken, stable)
    _a_good_one_goes_on(loop, users, good)

    totals = users.stop()
    assert not_by_the_model(totals) == {}
    assert totals["causes"].keys() == {"ok"}, totals


def _one_that_disagrees_is_held(loop: Loop, users: Users, uri: str, stable: str) -> None:
    ask_for(loop, uri)
    loop.until(lambda: loop.condition("Ready").get("reason") == "Held", 90, "it is held")
    assert loop.phase() == "Mirroring"
    candidate = loop.revision("other")
    assert candidate in settings(loop, stable)
    status = loop.status()
    shown = {c["name"]: c for c in status["checks"]}["differs"]
    assert shown["verdict"] == "Fail"
    # 191 of its 200 rows; it is held after a few dozen of them, wherever in the round they stand.
    assert shown["candidate"]["value"] > 0.5
    assert shown["candidate"]["count"] > 0
    assert status["candidate"]["weight"] == {"desired": 0, "observed": 0}
    loop.stays(
        lambda: loop.phase() == "Mirroring" and users.got(candidate) == 0, 3, "nobody meets it"
    )


def _one_that_fails_is_taken_back(loop: Loop, users: Users, uri: str, stable: str) -> None:
    ask_for(loop, uri)
    loop.until(lambda: quarantined(loop), 90, "it is quarantined")
    assert loop.status()["lastRollback"]["check"] == "errors"
    assert loop.status()["lastRollback"]["from"] == loop.revision("broken")
    assert users.got(loop.revision("broken")) == 0
    assert users.got(loop.revision("other")) == 0
    loop.until(lambda: settings(loop, stable) == "{}", 30, "nobody is mirrored to")


def _a_good_one_goes_on(loop: Loop, users: Users, uri: str) -> None:
    ask_for(loop, uri)
    loop.until(lambda: loop.phase() == "Mirroring", 60, "it is mirrored to")
    candidate = loop.revision("good")
    loop.kill()
    loop.start()
    while loop.phase() == "Mirroring":
        met = users.got(candidate)
        # Counted before the phase is read again, so that a step that begins is no failure.
        if loop.phase() == "Mirroring":
            assert met == 0
        time.sleep(0.3)
    loop.until(lambda: users.got(candidate) > 20, 60, "users meet it")
    loop.until(lambda: loop.serves("good"), 90, "it serves")
