"""Startup, readiness and liveness probes of one container.

``Verdict`` (pure) applies thresholds; ``run`` is the loop.  Called by ``container``.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp

Object = dict[str, Any]
Exec = Callable[[list[str], float], Awaitable[tuple[int, str]]]
Act = Callable[[bool, str], bool]


class Verdict:
    """Counts results in a row until a threshold is met."""

    def __init__(self, probe: Object) -> None:
        self._success = probe.get("successThreshold", 1)
        self._failure = probe.get("failureThreshold", 3)
        self._run = 0

    def see(self, ok: bool) -> bool | None:
        """True or False when that many in a row agree, else None."""
        same = (self._run > 0) == ok and self._run != 0
        self._run = (self._run if same else 0) + (1 if ok else -1)
        if self._run >= self._success:
            return True
        return False if -self._run >= self._failure else None


def port_number(container: Object, port: int | str) -> int:
    """A port by number or by its name in the container."""
    if isinstance(port, int) or str(port).isdigit():
        return int(port)
    for declared in container.get("ports", []):
        if declared.get("name") == port:
            return int(declared["containerPort"])
    raise ValueError(f"the container has no port named {port}")


class Prober:
    """Runs the actions of probes and of lifecycle hooks."""

    def __init__(self, container: Object, ip: str, run_exec: Exec) -> None:
        self._container = container
        self._ip = ip
        self._exec = run_exec

    async def check(self, probe: Object) -> tuple[bool, str]:
        """(ok, what was seen)."""
        limit = float(probe.get("timeoutSeconds", 1))
        try:
            async with asyncio.timeout(limit):
                if http := probe.get("httpGet"):
                    return await self._http(http)
                if tcp := probe.get("tcpSocket"):
                    return await self._tcp(tcp)
                if command := probe.get("exec"):
                    code, output = await self._exec(command["command"], limit)
                    return code == 0, f"exit code {code}: {output}".strip()
        except TimeoutError:
            return False, f"no answer within {limit:g} s"
        except (OSError, aiohttp.ClientError, ValueError) as error:
            return False, str(error) or repr(error)
        return False, "the node knows probes of kind httpGet, tcpSocket and exec"

    async def _tcp(self, action: Object) -> tuple[bool, str]:
        port = port_number(self._container, action["port"])
        _, writer = await asyncio.open_connection(action.get("host") or self._ip, port)
        writer.close()
        return True, ""

    async def _http(self, action: Object) -> tuple[bool, str]:
        port = port_number(self._container, action["port"])
        host = action.get("host") or self._ip
        scheme = action.get("scheme", "HTTP").lower()
        headers = {"User-Agent": "kube-probe/1.37", "Connection": "close"}
        headers |= {h["name"]: h["value"] for h in action.get("httpHeaders", [])}
        path = "/" + action.get("path", "/").lstrip("/")
        url = f"{scheme}://{host}:{port}{path}"
        if scheme == "http":
            status = await _plain_get(host, port, path, headers)
        else:
            async with aiohttp.ClientSession() as session:
                context = ssl.create_default_context()
                context.check_hostname = False
                context.verify_mode = ssl.CERT_NONE
                async with session.get(url, headers=headers, ssl=context) as answer:
                    status = answer.status
        return 200 <= status < 400, f"HTTP probe failed with statuscode: {status}"


async def _plain_get(host: str, port: int, path: str, headers: dict[str, str]) -> int:
    """One GET with almost no cost: probes are most of what an idle node does."""
    reader, writer = await asyncio.open_connection(host, port)
    try:
        head = {"Host": f"{host}:{port}", **headers}
        lines = "".join(f"{k}: {v}\r\n" for k, v in head.items())
        writer.write(f"GET {path} HTTP/1.1\r\n{lines}\r\n".encode())
        first = await reader.readline()
        return int(first.split()[1])
    except IndexError:
        raise ConnectionError("the server closed without an answer") from None
    finally:
        writer.close()


async def run(probe: Object, prober: Prober, act: Act) -> None:
    """Probe until ``act`` (told of every verdict) returns True, or until cancelled."""
    verdict = Verdict(probe)
    await asyncio.sleep(probe.get("initialDelaySeconds", 0))
    period = probe.get("periodSeconds", 10)
    while True:
        ok, seen = await prober.check(probe)
        decided = verdict.see(ok)
        if decided is not None and act(decided, seen):
            return
        await asyncio.sleep(period)
