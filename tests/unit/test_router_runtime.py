"""The real runtime behind the real router: both count the same requests, and marks are obeyed."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import aiohttp
from tests.unit.router_lab import Lab, router_lab

from sluice.evidence.counters import PodCounters, ServingPod, read_counters
from sluice.evidence.snapshot import Arm, build_look
from sluice.objects.router_plan import SlotTarget, Weights

sys.path.insert(0, str(Path(__file__).parent))

import runtime_support as support

HOST = "iris-rev-abc-pods.shop.svc.cluster.local"
WEIGHTS = Weights("a")


async def post(lab: Lab, body: object, user: str) -> int:
    async with (
        aiohttp.ClientSession() as session,
        session.post(lab.url + "/predict", json=body, headers={"X-User-Id": user}) as answer,
    ):
        return answer.status


async def counters(server: support.Server) -> PodCounters:
    pod = ServingPod("p1", "p1", "abc", "127.0.0.1", server.admin_port)
    async with aiohttp.ClientSession() as session:
        (reading,) = await read_counters(session, [pod])
    assert reading.counters is not None, reading.error
    return reading.counters


def test_router_and_runtime_count_the_same_requests(tmp_path: Path) -> None:
    built = support.build_iris(tmp_path / "package")

    async def run(server: support.Server) -> None:
        async with router_lab(tmp_path, serving_port=server.port) as lab:
            lab.dns.names[HOST] = ["127.0.0.1"]
            await lab.start("a", SlotTarget("abc", HOST))
            pod = ServingPod("p1", "p1", "abc", "127.0.0.1", server.admin_port)

            async def look(previous: dict | None, now: float):
                async with aiohttp.ClientSession() as session:
                    readings = await read_counters(session, [pod])
                arms = {"stable": Arm("c", "none"), "candidate": Arm("a", "abc")}
                seen = await lab.read()
                return build_look(
                    previous, seen, readings, weights=WEIGHTS, look_id=1, now=now, warmup=0, **arms
                )

            before = (await look(None, 0.0)).snapshot
            fine = [await post(lab, built.rows[0], f"user-{i}") for i in range(12)]
            bad = [await post(lab, {"nonsense": 1}, "user-0") for _ in range(3)]
            assert set(fine) == {200}
            assert all(400 <= status < 500 for status in bad)
            arm = (await look(before, 10.0)).look.candidate
            assert (arm.n, arm.client_errors, arm.model_errors) == (15, 3, 0)
            assert sum(cell[0] for cell in arm.buckets.values()) == 15
            assert max(cell[1] for cell in arm.buckets.values()) == 3
            assert sum(arm.latency.values()) == 12
            await refuses_what_is_meant_for_another(lab, server, built)

    with support.serving(built.path, "--revision", "abc") as server:
        asyncio.run(run(server))


async def refuses_what_is_meant_for_another(
    lab: Lab, server: support.Server, built: support.Built
) -> None:
    """A slot that lists pods of another revision answers nobody with the wrong model."""
    before = await counters(server)
    lab.dns.names["other"] = ["127.0.0.1"]
    assert (await lab.client().point_slot([lab.pod], "b", SlotTarget("xyz", "other"))).ok
    await lab.until(lambda seen: bool(seen.pods[0].slots["b"].up))
    result = await lab.client().set_weights([lab.pod], Weights("a", "b", 100), check=False)
    assert result.ok
    assert await post(lab, built.rows[0], "user-1") == 503
    after = await counters(server)
    assert after.misdirected > before.misdirected
    assert (after.requests, after.model_errors) == (before.requests, before.model_errors)
