"""What a router tells pods of an experiment, and who may post feedback: on a real HAProxy."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from tests.unit.router_lab import Lab, ask, router_lab
from tests.unit.test_traffic_router import USERS, lab_test, put, two_arms

from sluice.objects.router_plan import Weights
from sluice.runtime import journal

TOKEN = "a-token-of-many-letters"
PLAN = Weights("a", "b", 50, salt="s1", experiment="exp-1")
UNIT = "x-sluice-unit"


def units(lab: Lab) -> list[str]:
    return [h[UNIT] for server in lab.servers for h in server.headers if UNIT in h]


@lab_test
async def test_units_are_named_only_while_an_experiment_runs(lab: Lab) -> None:
    await two_arms(lab)
    await put(lab, Weights("a", "b", 50, salt="s1"))
    await ask(lab, USERS[:20])
    assert units(lab) == []
    await put(lab, PLAN)
    await ask(lab, USERS[:50] * 3)
    assert {journal.parse(u.encode())[0] for u in units(lab)} == {"exp-1"}  # type: ignore[index]
    assert Counter(units(lab)).most_common() == [(u, 3) for u in dict.fromkeys(units(lab))]
    assert len(set(units(lab))) == 50


@lab_test
async def test_each_experiment_has_other_hashes_and_no_ids(lab: Lab) -> None:
    await two_arms(lab)
    seen: dict[str, set[str]] = defaultdict(set)
    for name in ("exp-1", "exp-2"):
        await put(lab, Weights("a", "b", 50, salt="s1", experiment=name))
        await ask(lab, USERS)
    for unit in units(lab):
        name, _, number = unit.partition(":")
        seen[name].add(number)
    assert [len(numbers) for numbers in seen.values()] == [400, 400]
    assert not seen["exp-1"] & seen["exp-2"]
    assert not any("user" in unit for unit in units(lab))


@lab_test
async def test_a_request_without_a_unit_is_of_no_experiment(lab: Lab) -> None:
    await two_arms(lab)
    await put(lab, PLAN)
    await ask(lab, [None, "", "known"])
    assert len(units(lab)) == 1


@lab_test
async def test_nobody_names_a_unit_from_outside(lab: Lab) -> None:
    await two_arms(lab)
    async with aiohttp.ClientSession() as session:
        await session.post(lab.url + "/predict", data=b"{}", headers={UNIT: "exp-1:7"})
    assert units(lab) == []


@lab_test
async def test_a_restarted_router_studies_nobody(lab: Lab) -> None:
    await two_arms(lab)
    await put(lab, PLAN)
    assert lab.process is not None
    await lab.kill()
    await lab.start("a", lab.stable)
    await ask(lab, USERS[:20])
    assert units(lab) == []


@lab_test
async def test_without_a_secret_there_is_no_feedback(lab: Lab) -> None:
    await two_arms(lab)
    assert await post(lab, "u", token=TOKEN) == 404


async def post(lab: Lab, user: str, token: str | None, **more: Any) -> int:
    headers = {"X-User-Id": user}
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    async with aiohttp.ClientSession() as session:
        url = lab.url + "/feedback"
        async with session.post(url, data=b'{"value": 1}', headers=headers, **more) as response:
            return response.status


def test_feedback_goes_to_the_units_own_arm_and_leaves_the_token_behind(tmp_path: Path) -> None:
    async def run() -> None:
        async with router_lab(tmp_path, feedback=("secret", "token")) as lab:
            lab.env["SLUICE_FEEDBACK_TOKEN"] = TOKEN
            await two_arms(lab)
            await put(lab, PLAN)
            assert (await lab.read()).pods[0].feedback
            arms = {user: revision for user, _, revision in await ask(lab, USERS[:40])}
            for server in lab.servers:
                server.headers.clear()
            for user in USERS[:40]:
                assert await post(lab, user, TOKEN) == 200
            for server in lab.servers:
                got = {h["x-user-id"] for h in server.headers}
                assert got == {u for u, revision in arms.items() if revision == server.revision}
                assert not any("authorization" in h for h in server.headers)
                assert all(UNIT in h for h in server.headers)

    asyncio.run(run())


@pytest.mark.parametrize("wrong", [None, "", "another-token-of-letters", TOKEN + "x", TOKEN[:-1]])
def test_without_the_token_feedback_is_refused(tmp_path: Path, wrong: str | None) -> None:
    async def run() -> None:
        async with router_lab(tmp_path, feedback=("secret", "token")) as lab:
            lab.env["SLUICE_FEEDBACK_TOKEN"] = TOKEN
            await two_arms(lab)
            assert await post(lab, "u", wrong) == 401
            assert not any(server.paths["/feedback"] for server in lab.servers)

    asyncio.run(run())


@pytest.mark.parametrize("token", [None, "", "short"])
def test_a_missing_or_short_secret_opens_nothing_and_serves_users(
    tmp_path: Path, token: str | None
) -> None:
    async def run() -> None:
        async with router_lab(tmp_path, feedback=("secret", "token")) as lab:
            if token is not None:
                lab.env["SLUICE_FEEDBACK_TOKEN"] = token
            await two_arms(lab)
            assert await post(lab, "u", token or "") == 401
            assert not (await lab.read()).pods[0].feedback
            assert [status for _, status, _ in await ask(lab, ["u"])] == [200]

    asyncio.run(run())
