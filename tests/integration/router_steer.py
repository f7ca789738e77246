"""Runs inside the cluster's network: steers routers and sends load, as the operator and users do.

``python router_steer.py REQUEST.json`` prints a JSON answer.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import sys
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import aiohttp

from sluice.objects.router_plan import SlotTarget, Weights
from sluice.traffic import pki
from sluice.traffic.router import RouterClient, RouterPod


def context(request: dict[str, Any]) -> ssl.SSLContext:
    return pki.client_context(request["ca"], pki.KeyPair(*request["client"]))


async def read(request: dict[str, Any]) -> Any:
    seen = await RouterClient(context(request)).read(_pods(request))
    return {
        "errors": [str(e) for e in seen.errors.values()],
        "pods": {
            p.pod.name: {
                "weights": asdict(p.weights),
                "slots": {
                    s: {"revision": x.revision, "up": sorted(x.up), "vip": x.vip}
                    for s, x in p.slots.items()
                },
                "mounted": p.mounted_weights.stable if p.mounted_weights else None,
                "failed": {s: c.failed for s, c in p.counters.items()},
            }
            for p in seen.pods
        },
    }


async def point(request: dict[str, Any]) -> Any:
    target = SlotTarget(**request["target"])
    result = await RouterClient(context(request)).point_slot(
        _pods(request), request["slot"], target
    )
    return {"ok": result.ok, "message": result.message}


async def weigh(request: dict[str, Any]) -> Any:
    result = await RouterClient(context(request)).set_weights(
        _pods(request), Weights(**request["weights"]), listed=request.get("listed")
    )
    return {"ok": result.ok, "message": result.message}


async def load(request: dict[str, Any]) -> Any:
    """Eight keep-alive clients; answers by status and text."""
    seen: Counter[str] = Counter()
    end = asyncio.get_running_loop().time() + request["seconds"]

    async def client(number: int) -> None:
        async with aiohttp.ClientSession() as session:
            turn = 0
            while asyncio.get_running_loop().time() < end:
                turn += 1
                headers = {"X-User-Id": f"{number}-{turn}"}
                try:
                    async with session.post(request["url"], data=b"{}", headers=headers) as got:
                        seen[f"{got.status} {await got.text()}"] += 1
                except aiohttp.ClientError as error:
                    seen[f"{type(error).__name__}: {error}"] += 1
                await asyncio.sleep(0.01)

    await asyncio.gather(*(client(n) for n in range(8)))
    return dict(seen)


def _pods(request: dict[str, Any]) -> list[RouterPod]:
    return [RouterPod(**pod) for pod in request["pods"]]


if __name__ == "__main__":
    asked = json.loads(Path(sys.argv[1]).read_text())
    work = {"read": read, "point": point, "weigh": weigh, "load": load}[asked["op"]]
    print(json.dumps(asyncio.run(work(asked))))
