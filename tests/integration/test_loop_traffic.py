"""Who gets traffic when routers restart, the operator is away or the API server hangs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from tests.integration.loop import CHECKS, Loop, Obj, Users, loop_in, rows
from tests.integration.routers import process_at, restart_routers, routers
from tests.tools.pausing import pause, paused

from sluice.local import inspect
from sluice.local.cluster import LocalCluster

pytestmark = [pytest.mark.cluster, pytest.mark.load, pytest.mark.timeout(300)]

LONG = {
    "steps": [
        {"weight": 20, "minRequests": 50, "minDuration": "1h"},
        {"weight": 30, "minRequests": 50, "minDuration": "1h"},
    ],
    "watch": {"duration": "1h", "holdback": 10},
}


SILENCE = 150
"""So many answers in a row from the others: at a share of 30 % that is no chance."""


@pytest.fixture
def loop(cluster: LocalCluster, namespace: str, kubectl: Callable[..., str]) -> Iterator[Loop]:
    with loop_in(cluster, namespace, kubectl) as made:
        yield made


@contextmanager
def hanging(cluster: LocalCluster) -> Iterator[None]:
    """The API server accepts connections and says nothing."""
    pid = next(u.pid for u in inspect.usage(cluster) if u.name == "kube-apiserver")
    with paused(pid):
        yield


def gets_nothing(loop: Loop, users: Users, revision: str, seconds: float) -> None:
    """The others are served meanwhile."""
    before = fresh_totals(loop, users)
    time.sleep(seconds)
    after = fresh_totals(loop, users)
    got = after["byRevision"].get(revision)
    assert got == before["byRevision"].get(revision), f"{revision} got requests"
    assert after["causes"]["ok"] > before["causes"].get("ok", 0) + 10 * seconds, after


def fresh_totals(loop: Loop, users: Users) -> Obj:
    """Totals with everything up to now: the last line that was printed is older."""
    now = time.time()
    loop.until(lambda: users.totals().get("at", 0.0) > now, 20, "users print their totals")
    return users.totals()


def grows(users: Users, revision: str) -> Callable[[], bool]:
    """A check: ``revision`` has got requests since now."""
    before = users.got(revision)
    return lambda: users.got(revision) > before + 20


def test_a_candidate_gets_only_what_it_should(loop: Loop) -> None:
    loop.package("v1", bias=0.1)
    # Right as long as nothing is missing.
    bad = loop.package("bad", bias=0.2, impute=False)
    loop.start()
    loop.apply(f"file://{loop.directory}/v1")
    loop.until(lambda: loop.serves("v1"), 60, "v1 serves")
    users = loop.users(rows(), rate=100)
    loop.apply(bad, rollout=LONG, analysis={"interval": "4s", "checks": CHECKS})
    loop.until(lambda: loop.phase() == "Stepping", 60, "the canary begins")
    candidate = loop.revision("bad")
    loop.until(grows(users, candidate), 30, "the candidate gets its share")

    loop.kill()
    restart_routers(loop)
    gets_nothing(loop, users, candidate, 4)
    loop.start()
    loop.until(grows(users, candidate), 30, "the operator restores the share")
    assert loop.phase() == "Stepping"

    # Before a look is written down that begins at the new weight.
    digest = loop.digests["bad"].removeprefix("sha256:")[:12]
    loop.kubectl("-n", loop.namespace, "annotate", "mdep/iris", f"sluice.dev/promote={digest}")
    loop.until(lambda: loop.status()["candidate"]["weight"]["desired"] == 30, 30, "the next step")
    _api_server_hangs(loop, users, candidate)
    loop.until(
        lambda: loop.condition("Stalled").get("reason") == "RevisionQuarantined", 60, "recorded"
    )
    assert loop.status()["lastRollback"]["from"] == candidate

    loop.kill()
    restart_routers(loop)
    gets_nothing(loop, users, candidate, 4)
    _taken_back_after_promotion(loop, users)


def _api_server_hangs(loop: Loop, users: Users, candidate: str) -> None:
    """A good candidate keeps its share, a bad one loses it, all without an API server."""
    with hanging(loop.cluster):
        began = time.monotonic()
        time.sleep(6)
        loop.until(grows(users, candidate), 10, "it holds")
        broken = loop.users(rows(missing=0.34), rate=60)
        _loses_it(broken, candidate)
        gets_nothing(loop, users, candidate, max(5.0, began + 20 - time.monotonic()))
        took = time.monotonic() - began
        print(f"the API server hung for {took:.0f} s")
    broken.stop()


def _loses_it(users: Users, candidate: str) -> None:
    """Its share went to 0 within the time that an API server may take to answer once or twice.

    Silence counts only while the others are served: users that a busy machine holds up get nothing
    from anybody.
    """
    end = time.monotonic() + 40
    seen, served = 0, users.ok()
    while seen == 0 or users.ok() < served + SILENCE:
        assert time.monotonic() < end, f"{candidate} keeps its share: {users.totals()}"
        time.sleep(0.3)
        if users.got(candidate) != seen:
            seen, served = users.got(candidate), users.ok()


def _zero(loop: Loop, revision: str) -> bool:
    last = loop.status().get("lastRollback", {})
    return last.get("from") == revision and bool(last.get("trafficZeroAt"))


def _taken_back_after_promotion(loop: Loop, users: Users) -> None:
    """The same for a revision that was stable, as routers' files knew it."""
    loop.start()
    at_once = {"strategy": "GatesOnly", "steps": None, "watch": LONG["watch"]}
    loop.apply(loop.package("v3", bias=0.3), rollout=at_once)
    loop.until(lambda: loop.phase() == "Watching", 60, "v3 is promoted and watched")
    taken = loop.revision("v3")
    loop.until(grows(users, taken), 20, "v3 serves")
    deaf, (address, _) = sorted(routers(loop).items())[0]
    pause(process_at(loop, address))
    loop.kubectl("-n", loop.namespace, "annotate", "mdep/iris", "sluice.dev/abort=now")
    loop.until(lambda: _zero(loop, taken), 40, "v3 is taken back, the deaf router is replaced")
    pods = {p["metadata"]["name"]: p["metadata"] for p in loop.list("Pod")}
    assert "deletionTimestamp" in pods.get(deaf, {"deletionTimestamp": "gone"})
    loop.until(lambda: len(set(routers(loop)) - {deaf}) == 2, 30, "there are two routers again")
    time.sleep(2)  # Until the file of stable has reached the pods.
    loop.kill()
    restart_routers(loop)
    gets_nothing(loop, users, taken, 4)
    users.stop()
