"""Steering a real HAProxy: splits, slots, read-back, restarts."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

from tests.unit.router_lab import arm_of, ask, router_lab

from sluice.objects.router_plan import Weights

USERS = [f"user-{i}" for i in range(400)]


def test_the_split_is_sticky_and_nobody_goes_back_as_the_weight_grows(tmp_path: Path) -> None:
    async def run() -> None:
        async with router_lab(tmp_path) as lab:
            await lab.start("a", await lab.revision("old", 2))
            await lab.point("b", await lab.revision("new", 2))
            reached: set[str | None] = set()
            for weight in (5, 10, 50, 90):
                plan = Weights("a", "b", weight, salt="5f3a")
                result = await lab.client().set_weights([lab.pod], plan)
                assert result.ok, result.message
                seen = await lab.read()
                assert seen.weights == plan
                arms = arm_of(await ask(lab, USERS))
                now = {user for user, arm in arms.items() if arm == "new"}
                assert reached <= now
                assert abs(len(now) / 4 - weight) < 8
                assert arm_of(await ask(lab, USERS[:100])) == {u: arms[u] for u in USERS[:100]}
                reached = now

    asyncio.run(run())


def test_requests_without_a_unit_are_split_at_random(tmp_path: Path) -> None:
    async def run() -> None:
        async with router_lab(tmp_path) as lab:
            await lab.start("a", await lab.revision("old"))
            await lab.point("b", await lab.revision("new"))
            await lab.client().set_weights([lab.pod], Weights("a", "b", 50))
            for unit in ("", None):
                answers = await ask(lab, [unit] * 60)
                assert 10 < Counter(arm for _, _, arm in answers)["new"] < 50

    asyncio.run(run())
