"""Steering a real HAProxy: splits, slots, read-back, restarts."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest
from dnslib import RCODE
from tests.unit.router_lab import (
    NAMESPACE,
    Lab,
    arm_of,
    ask,
    authority,
    operator_client,
    router_lab,
)

from sluice.objects.haproxy_config import map_path
from sluice.objects.router_plan import Weights
from sluice.traffic import pki
from sluice.traffic.router import AdminPool, RouterPod

USERS = [f"user-{i}" for i in range(400)]


def lab_test(body: Callable[[Lab], Awaitable[None]]) -> Callable[[Path], None]:
    """A test that is a coroutine over a fresh lab."""

    def test(tmp_path: Path) -> None:
        async def run() -> None:
            async with router_lab(tmp_path) as lab:
                await body(lab)

        asyncio.run(run())

    test.__name__, test.__doc__ = body.__name__, body.__doc__
    return test


async def two_arms(lab: Lab, count: int = 1) -> None:
    """old on slot a with all traffic, new on slot b with none."""
    await lab.start("a", await lab.revision("old", count))
    await lab.point("b", await lab.revision("new", count))


async def put(lab: Lab, plan: Weights) -> None:
    result = await lab.client().set_weights([lab.pod], plan)
    assert result.ok, result.message


class Seen(Counter[tuple[int, str]]):
    """Answers by status and revision."""

    def __init__(self) -> None:
        super().__init__()
        self.begun: Counter[int] = Counter()
        """Requests by client, which begins one when the one before is over."""


async def happens(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while True:
            if condition():
                return
            await asyncio.sleep(0.01)


async def answers(seen: Seen, more: int) -> None:
    """Wait for this many more answers."""
    wanted = seen.total() + more
    await happens(lambda: seen.total() >= wanted)


@asynccontextmanager
async def load(lab: Lab, *, clients: int = 4):
    """Keep-alive clients that count every answer."""
    seen = Seen()
    stop = asyncio.Event()

    async def client(number: int) -> None:
        async with aiohttp.ClientSession() as session:
            turn = 0
            while not stop.is_set():
                turn += 1
                seen.begun[number] = turn
                headers = {"X-User-Id": f"{number}-{turn}"}
                try:
                    async with session.post(
                        lab.url + "/predict", data=b"{}", headers=headers
                    ) as got:
                        seen[got.status, await got.text()] += 1
                except aiohttp.ClientError as error:
                    seen[0, type(error).__name__] += 1
                await asyncio.sleep(0.002)

    tasks = [asyncio.create_task(client(n)) for n in range(clients)]
    try:
        yield seen
    finally:
        stop.set()
        await asyncio.gather(*tasks)


@lab_test
async def test_the_split_is_sticky_and_nobody_goes_back_as_the_weight_grows(lab: Lab) -> None:
    await two_arms(lab, 2)
    reached: set[str | None] = set()
    for weight in (5, 10, 50, 90):
        plan = Weights("a", "b", weight, salt="5f3a")
        await put(lab, plan)
        assert (await lab.read()).weights == plan
        arms = arm_of(await ask(lab, USERS))
        now = {user for user, arm in arms.items() if arm == "new"}
        assert reached <= now
        assert abs(len(now) / 4 - weight) < 8
        assert arm_of(await ask(lab, USERS[:100])) == {u: arms[u] for u in USERS[:100]}
        reached = now
    served = [s.predictions for s in lab.of("new")]
    assert min(served) > 0.6 * max(served)


@lab_test
async def test_another_salt_chooses_other_users(lab: Lab) -> None:
    await two_arms(lab)
    chosen = []
    for salt in ("one", "two"):
        await put(lab, Weights("a", "b", 20, salt=salt))
        arms = arm_of(await ask(lab, USERS))
        chosen.append({user for user, arm in arms.items() if arm == "new"})
    assert len(chosen[0] & chosen[1]) < 0.6 * min(map(len, chosen))


@lab_test
async def test_requests_without_a_unit_are_split_at_random(lab: Lab) -> None:
    await two_arms(lab)
    await put(lab, Weights("a", "b", 50))
    for unit in ("", None):
        answers = await ask(lab, [unit] * 60)
        assert 10 < Counter(arm for _, _, arm in answers)["new"] < 50


def test_a_cookie_names_the_unit(tmp_path: Path) -> None:
    async def run() -> None:
        async with router_lab(tmp_path, unit_header=None, unit_cookie="session") as lab:
            await two_arms(lab)
            await put(lab, Weights("a", "b", 50))
            arms: dict[str, set[str]] = {}
            async with aiohttp.ClientSession() as session:
                for name in [f"u{i}" for i in range(20)] * 3:
                    headers = {"Cookie": f"theme=dark; session={name}"}
                    async with session.post(lab.url + "/predict", headers=headers) as answer:
                        arms.setdefault(name, set()).add(await answer.text())
            assert all(len(seen) == 1 for seen in arms.values())
            assert {"old", "new"} == set().union(*arms.values())

    asyncio.run(run())


@lab_test
async def test_pods_stay_known_while_dns_is_away(lab: Lab) -> None:
    await two_arms(lab)
    known = set(lab.addresses("old"))
    for trouble in (RCODE.SERVFAIL, RCODE.REFUSED, None):
        lab.dns.trouble = trouble
        await asyncio.sleep(1.2)
        assert (await lab.read()).pods[0].slots["a"].up == known, trouble
        assert set(arm_of(await ask(lab, USERS[:20])).values()) == {"old"}


@lab_test
async def test_promotion_moves_nobody_and_holds_back_who_never_had_the_candidate(
    lab: Lab,
) -> None:
    await two_arms(lab)
    await put(lab, Weights("a", "b", 90, salt="s1"))
    canary = arm_of(await ask(lab, USERS))
    promoted = Weights("b", None, 0, "a", 10, salt="s2", holdback_salt="s1")
    async with load(lab) as seen:
        await put(lab, promoted)
    assert {status for status, _ in seen} == {200}
    assert arm_of(await ask(lab, USERS)) == canary
    # A canary beside the watch takes from the promoted revision, never from the holdback.
    await lab.point("c", await lab.revision("newer"))
    await put(lab, replace(promoted, candidate="c", weight=50))
    third = arm_of(await ask(lab, USERS))
    assert Counter(third.values())["newer"] > 100
    assert all(third[user] == "old" for user, arm in canary.items() if arm == "old")


@lab_test
async def test_a_rollback_under_load_fails_nobody_and_is_complete_when_confirmed(
    lab: Lab,
) -> None:
    await two_arms(lab, 2)
    await put(lab, Weights("a", "b", 50))
    async with load(lab) as seen:
        await happens(lambda: any(revision == "new" for _, revision in seen))
        await put(lab, Weights("a"))
        under_way = seen.begun.copy()
        await happens(lambda: all(seen.begun[n] > turn for n, turn in under_way.items()))
        after = sum(s.predictions for s in lab.of("new"))
        await answers(seen, 100)
    assert {status for status, _ in seen} == {200}
    assert sum(s.predictions for s in lab.of("new")) == after


@lab_test
async def test_a_slot_is_repointed_under_load_without_a_failed_request(lab: Lab) -> None:
    await two_arms(lab)
    async with load(lab) as seen:
        await lab.point("b", await lab.revision("newer", 2))
        listed = {"b": lab.addresses("newer")}
        result = await lab.client().set_weights([lab.pod], Weights("a", "b", 50), listed=listed)
        assert result.ok, result.message
        await answers(seen, 100)
    assert {status for status, _ in seen} == {200}
    assert {revision for _, revision in seen} == {"old", "newer"}


@lab_test
async def test_no_connection_to_the_pods_before_is_used_after_a_slot_was_repointed(
    lab: Lab,
) -> None:
    await two_arms(lab, 2)
    await put(lab, Weights("a", "b", 50))
    assert "new" in arm_of(await ask(lab, USERS)).values()
    await put(lab, Weights("a"))
    await lab.point("b", await lab.revision("newer", 2))
    await put(lab, Weights("a", "b", 50))
    assert set(arm_of(await ask(lab, USERS)).values()) == {"old", "newer"}


@lab_test
async def test_a_slot_that_carries_traffic_is_not_repointed(lab: Lab) -> None:
    await two_arms(lab)
    await put(lab, Weights("a", "b", 5))
    result = await lab.client().point_slot([lab.pod], "b", await lab.revision("newer"))
    assert not result.ok
    assert result.results[0].error is not None
    assert result.results[0].error.reason == "SlotCarriesTraffic"
    assert (await lab.read()).pods[0].slots["b"].revision == "new"


@lab_test
async def test_no_weight_before_the_slot_lists_the_revisions_own_pods(lab: Lab) -> None:
    await two_arms(lab)
    # The new name answers without addresses: HAProxy keeps the old revision's pods.
    target = await lab.revision("newer", listed=False)
    lab.dns.names[target.host] = []
    client = lab.client()
    assert (await client.point_slot([lab.pod], "b", target)).ok
    plan, listed = Weights("a", "b", 5), {"b": lab.addresses("newer")}
    refused = await client.set_weights([lab.pod], plan, listed=listed)
    assert refused.results[0].error is not None
    assert refused.results[0].error.reason == "SlotNotReady"
    assert "not a pod of the revision" in refused.message
    assert (await lab.read()).weights == Weights("a")
    lab.dns.names[target.host] = lab.addresses("newer")
    await lab.until(lambda s: s.pods[0].slots["b"].up == set(lab.addresses("newer")))
    assert (await client.set_weights([lab.pod], plan, listed=listed)).ok


@lab_test
async def test_a_slot_without_pods_gets_nothing_but_stable_takes_back_always(lab: Lab) -> None:
    await two_arms(lab)
    refused = await lab.client().set_weights([lab.pod], Weights("a", "c", 5))
    assert "lists no pod that passes its checks" in refused.message
    await put(lab, Weights("a", "b", 50))
    back = await lab.client().set_weights([lab.pod], Weights("a"), listed={"a": [], "b": []})
    assert back.ok, back.message


@lab_test
async def test_an_emergency_overwrites_even_a_plan_that_nobody_understands(lab: Lab) -> None:
    await two_arms(lab)
    path = map_path(lab.shape, "weights")
    pool = AdminPool(pki.client_context(authority().certificate, operator_client()))
    async with pool.new(lab.pod, pki.router_server_name(NAMESPACE)) as session:
        await session.run([f"set map {path} plan nonsense"])
    # The default is the file's stable slot: users are served.
    assert set(arm_of(await ask(lab, USERS[:20])).values()) == {"old"}
    refused = await lab.client().set_weights([lab.pod], Weights("a"))
    assert refused.results[0].error is not None
    assert refused.results[0].error.reason == "RouterAnswer"
    assert (await lab.client().set_weights([lab.pod], Weights("a"), check=False)).ok
    assert (await lab.read()).weights == Weights("a")


@lab_test
async def test_a_restarted_router_serves_stable_only(lab: Lab) -> None:
    await two_arms(lab)
    await put(lab, Weights("a", "b", 90))
    before = await lab.read()
    await lab.kill()
    await lab.start("a", lab.stable)
    after = await lab.read()
    assert after.weights == Weights("a")
    assert after.pods[0].boot != before.pods[0].boot
    assert set(arm_of(await ask(lab, USERS[:100])).values()) == {"old"}
    assert after.pods[0].slots["b"].revision == "-"


@lab_test
async def test_a_new_file_changes_a_running_router_in_nothing_but_what_a_restart_reads(
    lab: Lab,
) -> None:
    await two_arms(lab)
    await put(lab, Weights("a", "b", 90, salt="s1"))
    promoted = Weights("b", None, 0, "a", 10, holdback_salt="s1")
    assert not (await lab.read()).mounted_on(promoted)
    lab.write_files("b", replace(lab.stable, revision="new"))
    seen = await lab.read()
    assert seen.weights == Weights("a", "b", 90, salt="s1")
    assert seen.mounted_on(promoted)
    assert seen.pods[0].mounted_roles == {"stable": "b"}


@lab_test
async def test_our_headers_are_never_taken_from_outside(lab: Lab) -> None:
    await two_arms(lab)
    forged = {
        "X-User-Id": "u1",
        "X-Sluice-Revision": "forged",
        "x-sluice-bucket": "7777",
        "X-Sluice-Anything": "forged",
    }
    async with aiohttp.ClientSession() as session:
        for user in ("u1", "u1", "u2"):
            await session.post(lab.url + "/predict", headers={**forged, "X-User-Id": user})
    one, again, other = lab.of("old")[0].headers
    ours = [k for k in one if k.startswith("x-sluice-")]
    assert sorted(ours) == ["x-sluice-bucket", "x-sluice-revision"]
    assert one["x-sluice-revision"] == "old"
    assert one["x-sluice-bucket"] == again["x-sluice-bucket"] != other["x-sluice-bucket"]
    assert 0 <= int(one["x-sluice-bucket"]) < 500


@lab_test
async def test_only_the_public_paths_reach_a_model_server(lab: Lab) -> None:
    await two_arms(lab)
    through = ["/docs", "/openapi.json", "/v1/models", "/v1/models/iris", "/v2", "/v2/models/iris"]
    stopped = ["/metrics", "/counters", "/", "/startupz", "/feedback", "/v1/models/../../metrics"]
    async with aiohttp.ClientSession() as session:
        for path in through:
            assert (await session.get(lab.url + path)).status == 200, path
        for path in stopped:
            assert (await session.get(lab.url + path)).status == 404, path
        for path in ("/livez", "/readyz", "/v2/health/live", "/v2/health/ready"):
            assert (await session.get(lab.url + path)).status == 200, path
        for path in ("/v1/models/iris:predict", "/v2/models/iris/infer", "/predict"):
            assert (await session.post(lab.url + path, data=b"{}")).status == 200, path
    reached = lab.of("old")[0].paths
    assert set(reached) <= {
        *through,
        "/v1/models/iris:predict",
        "/v2/models/iris/infer",
        "/predict",
    }
    # Docs and listings are requests, but not predictions.
    counters = (await lab.read()).pods[0].counters["a"]
    assert (counters.predictions, counters.requests) == (3, 3 + len(through))


@lab_test
async def test_a_body_that_is_too_large_is_refused_with_a_reason(lab: Lab) -> None:
    await lab.start("a", await lab.revision("old"))
    async with aiohttp.ClientSession() as session:
        url, limit = lab.url + "/predict", lab.shape.max_body_bytes
        # Larger than HAProxy's buffer, smaller than the limit: passes.
        async with session.post(url, data=b"x" * 200_000) as fine:
            assert fine.status == 200
        headers = {"Content-Length": str(limit + 1)}
        async with session.post(url, data=b"x", headers=headers) as refused:
            assert refused.status == 413
            assert str(limit) in await refused.text()


@lab_test
async def test_the_cluster_ip_answers_while_dns_knows_no_pod(lab: Lab) -> None:
    await lab.start("a", await lab.revision("old"))
    target = await lab.revision("new", listed=False)
    lab.servers[-1].port = lab.shape.service_port
    await lab.servers[-1].stop()
    await lab.servers[-1].start()
    target = replace(target, cluster_ip=lab.servers[-1].address)
    pointed = await lab.client().point_slot([lab.pod], "b", target)
    assert pointed.ok, pointed.message
    assert (await lab.read()).pods[0].slots["b"].vip == target.cluster_ip
    emergency = await lab.client().set_weights([lab.pod], Weights("a", "b", 100), check=False)
    assert emergency.ok
    assert set(arm_of(await ask(lab, USERS[:20])).values()) == {"new"}
    assert (await lab.client().set_weights([lab.pod], Weights("a"))).ok
    gone = replace(target, cluster_ip=None)
    assert (await lab.client().point_slot([lab.pod], "b", gone)).ok
    assert (await lab.read()).pods[0].slots["b"].vip is None


@lab_test
async def test_the_pod_is_ready_when_stable_can_answer(lab: Lab) -> None:
    await lab.start("a", await lab.revision("old"))
    url = f"http://127.0.0.1:{lab.shape.health_port}/healthz"
    async with aiohttp.ClientSession() as session:
        assert (await session.get(url)).status == 200
        lab.of("old")[0].ready = False
        await lab.until(lambda s: not s.pods[0].slots["a"].up)
        assert (await session.get(url)).status == 503
        async with session.post(lab.url + "/predict") as answer:
            assert answer.status == 503
            assert answer.headers["Retry-After"] == "1"
            assert "No model server is ready" in await answer.text()


@pytest.mark.parametrize("mode", ["503", "reset", "hang", "refused"])
def test_a_failure_that_a_retry_repairs_is_counted_for_the_arm(tmp_path: Path, mode: str) -> None:
    async def run() -> None:
        # Slow probes: a server that refuses must meet requests before it meets a probe.
        async with router_lab(tmp_path, check_interval_ms=60_000) as lab:
            await two_arms(lab, 2)
            await put(lab, Weights("a", "b", 100))
            bad = lab.of("new")[0]
            bad.mode = mode
            if mode == "refused":
                await bad.stop()
            answers = await ask(lab, USERS[:10], parallel=2)
            assert {status for _, status, _ in answers} == {200}
            assert {revision for _, _, revision in answers} == {"new"}
            counters = (await lab.read()).pods[0].counters
            assert counters["b"].s5xx == 0
            assert 0 < counters["b"].retried <= 10
            assert counters["b"].predictions == 10
            assert counters["a"].retried == counters["a"].predictions == 0

    asyncio.run(run())


@lab_test
async def test_a_body_that_comes_slowly_is_retried_too(lab: Lab) -> None:
    await lab.start("a", await lab.revision("old", 2))
    lab.of("old")[0].mode = "503"
    for _ in range(4):
        reader, writer = await asyncio.open_connection("127.0.0.1", lab.shape.port)
        writer.write(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 8000\r\n\r\n")
        for _ in range(4):
            await asyncio.sleep(0.02)
            writer.write(b"x" * 2000)
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        writer.close()


@lab_test
async def test_a_total_failure_stays_in_its_arm_and_is_never_answered_by_the_other(
    lab: Lab,
) -> None:
    await two_arms(lab, 2)
    await put(lab, Weights("a", "b", 50))
    for server in lab.of("new"):
        server.mode = "503"
    answers = await ask(lab, USERS[:40])
    bad = [user for user, status, _ in answers if status == 503]
    assert 8 < len(bad) < 32
    assert all(revision == "old" for _, status, revision in answers if status == 200)
    counters = (await lab.read()).pods[0].counters["b"]
    assert (counters.s5xx, counters.retried) == (len(bad), 3 * len(bad))


@lab_test
async def test_a_router_that_does_not_answer_is_an_error_and_the_others_go_on(lab: Lab) -> None:
    await two_arms(lab)
    gone = RouterPod("shop", "router-1", "uid-1", "127.0.0.1", 1)
    deaf = await asyncio.start_server(lambda r, w: None, "127.0.0.1", 0)
    port = deaf.sockets[0].getsockname()[1]
    silent = RouterPod("shop", "router-2", "uid-2", "127.0.0.1", port)
    pods = [lab.pod, gone, silent]
    seen = await lab.client(timeout=1.0).read(pods)
    assert [p.pod.uid for p in seen.pods] == ["uid-0"]
    assert set(seen.errors) == {"uid-1", "uid-2"}
    assert not seen.complete
    result = await lab.client(timeout=1.0).set_weights(pods, Weights("a", "b", 5))
    assert [r.ok for r in result.results] == [True, False, False]
    assert not result.ok
    assert "router-1" in result.message
    deaf.close()


def test_no_router_is_not_success() -> None:
    from sluice.traffic.observation import PushResult, RouterObservation

    assert not PushResult(()).ok
    assert not RouterObservation().complete
    assert RouterObservation().carrying == frozenset()
