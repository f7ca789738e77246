"""What the router adds to a request: `make bench ONLY=router`."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

from tests.bench.rows import Row, use
from tests.unit.router_lab import Lab, ask, router_lab

from sluice.objects.router_plan import Weights

WHAT = "router: CPU of HAProxy a request, two arms, unit hashed"


async def _measure(lab: Lab, requests: int) -> float:
    old, new = await lab.revision("old"), await lab.revision("new")
    await lab.start("a", old)
    await lab.point("b", new)
    result = await lab.client().set_weights([lab.pod], Weights("a", "b", 50))
    assert result.ok, result.message
    users = [f"u{n % 500}" for n in range(requests)]
    await ask(lab, users[:200])
    assert lab.process is not None
    before = use(lab.process.pid).cpu
    answers = await ask(lab, users)
    spent = use(lab.process.pid).cpu - before
    assert all(status == 200 for _, status, _ in answers)
    return 1e6 * spent / requests


def run(quick: bool) -> list[Row]:
    """Requests to small servers, through a real HAProxy with the real configuration."""
    requests = 5_000 if quick else 20_000

    async def measured() -> float:
        with tempfile.TemporaryDirectory() as folder:
            async with router_lab(Path(folder)) as lab:
                return await _measure(lab, requests)

    spent = asyncio.run(measured())
    return [Row(WHAT, "", f"{spent:.0f} us of {requests:,} requests, none failed")]
