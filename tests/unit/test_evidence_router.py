"""Whose failure is it, and how often does it count: a real HAProxy before servers that fail."""

from __future__ import annotations

import asyncio
from pathlib import Path

import aiohttp
import pytest
from tests.unit.router_lab import Lab, ask, router_lab

from sluice.evidence.counters import ServingPod, read_counters
from sluice.evidence.snapshot import Arm, Reading, build_look
from sluice.objects.router_plan import Weights
from sluice.stats.look import Look

PLAN = Weights("a", "b", 50, salt="s1")


async def take(lab: Lab, previous: dict | None, now: float) -> Reading:
    """One look, as the controller takes it: pods first, then routers."""
    pods = [ServingPod(s.address, s.address, s.revision, s.address, s.port) for s in lab.servers]
    async with aiohttp.ClientSession() as session:
        readings = await read_counters(session, pods)
    return build_look(
        previous,
        await lab.read(),
        readings,
        stable=Arm("a", "old"),
        candidate=Arm("b", "new"),
        weights=PLAN,
        look_id=1,
        now=now,
    )


async def canary(lab: Lab) -> dict:
    """Two servers an arm, half of the users each; the snapshot before the first request."""
    await lab.start("a", await lab.revision("old", 2))
    await lab.point("b", await lab.revision("new", 2))
    assert (await lab.client().set_weights([lab.pod], PLAN)).ok
    return (await take(lab, None, 0.0)).snapshot


def look_after(tmp_path: Path, mode: str, *, bad: int) -> tuple[Look, list]:
    """The look over 60 requests while ``bad`` of the candidate's two servers misbehave."""

    async def run() -> tuple[Look, list]:
        # Slow probes: a server that refuses must meet requests before it meets a probe.
        async with router_lab(tmp_path, check_interval_ms=60_000) as lab:
            before = await canary(lab)
            for server in lab.of("new")[:bad]:
                server.mode = mode
                if mode == "refused":
                    await server.stop()
            answers = await ask(lab, [f"user-{i}" for i in range(60)], parallel=12)
            for server in lab.of("new")[:bad]:
                if mode == "refused":
                    await server.start()
            reading = await take(lab, before, 10.0)
            assert reading.look is not None, reading.message
            return reading.look, answers

    return asyncio.run(run())


def test_a_healthy_canary_has_no_errors_and_every_request_in_one_arm(tmp_path: Path) -> None:
    look, answers = look_after(tmp_path, "ok", bad=2)
    assert look.stable.n + look.candidate.n == len(answers) == 60
    assert look.candidate.n == sum(revision == "new" for _, _, revision in answers)
    assert look.candidate.model_errors == look.stable.model_errors == 0
    assert sum(cell[0] for cell in look.candidate.buckets.values()) == look.candidate.n
    assert look.weight == 50


@pytest.mark.parametrize("mode", ["503", "reset", "hang", "refused"])
def test_failures_that_users_never_saw_are_the_candidates(tmp_path: Path, mode: str) -> None:
    look, answers = look_after(tmp_path, mode, bad=1)
    assert {status for _, status, _ in answers} == {200}
    assert look.stable.model_errors == 0
    # Every request that met the bad server first was saved by one retry.
    assert 0.15 < look.candidate.model_errors / look.candidate.n <= 1
    assert look.candidate.client_errors == 0


@pytest.mark.parametrize("mode", ["500", "504", "503", "reset"])
def test_a_request_that_fails_for_good_is_one_failure(tmp_path: Path, mode: str) -> None:
    look, answers = look_after(tmp_path, mode, bad=2)
    failed = sum(status >= 500 for _, status, _ in answers)
    assert failed == look.candidate.model_errors == look.candidate.n > 10
    assert look.stable.model_errors == 0


def test_client_errors_are_counted_by_the_pods(tmp_path: Path) -> None:
    look, answers = look_after(tmp_path, "422", bad=2)
    refused = sum(status == 422 for _, status, _ in answers)
    assert refused == look.candidate.client_errors == look.candidate.n
    assert look.candidate.model_errors == look.stable.client_errors == 0
