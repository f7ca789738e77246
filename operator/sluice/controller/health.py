"""``/livez``, ``/readyz`` and ``/metrics``.

Alive: the event loop turns and no feed is stuck.  A feed that tries and fails is not stuck, so an
API server that is away never gets this process killed.  Ready: every cache is filled.
Served by the shell, before anything else starts and after everything else has stopped.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from aiohttp import web

from sluice.controller.metrics import Metrics

MAX_LAG_SECONDS = 30.0
_BEAT_SECONDS = 1.0


@dataclass(slots=True)
class Finding:
    """One line of a probe's answer."""

    name: str
    ok: bool
    detail: str = ""

    def __str__(self) -> str:
        return f"[{'+' if self.ok else '-'}] {self.name}{': ' if self.detail else ''}{self.detail}"


Probe = Callable[[], list[Finding]]


def _nothing() -> list[Finding]:
    return []


@dataclass(slots=True)
class Health:
    """What the probes ask; the shell fills in what it runs."""

    metrics: Metrics
    alive: Probe = _nothing
    ready: Probe = field(default=lambda: [Finding("shell", False, "starting")])
    _beat_at: float = field(default_factory=time.monotonic)

    async def beat(self) -> None:
        """Measures how late the event loop is, for ever."""
        while True:
            due = time.monotonic() + _BEAT_SECONDS
            await asyncio.sleep(_BEAT_SECONDS)
            self._beat_at = time.monotonic()
            self.metrics.loop_lag.set(max(0.0, self._beat_at - due))

    def live_findings(self) -> list[Finding]:
        """What ``/livez`` answers."""
        late = time.monotonic() - self._beat_at - _BEAT_SECONDS
        loop = Finding("loop", late < MAX_LAG_SECONDS, f"{max(0.0, late):.1f} s late")
        return [loop, *self.alive()]

    def application(self) -> web.Application:
        """The two probes; the path's answer is one line per finding."""
        app = web.Application()
        app.router.add_get("/livez", self._handler(self.live_findings))
        app.router.add_get("/healthz", self._handler(self.live_findings))
        app.router.add_get("/readyz", self._handler(lambda: self.ready()))
        return app

    @staticmethod
    def _handler(probe: Probe) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def answer(_: web.Request) -> web.Response:
            findings = probe()
            ok = all(finding.ok for finding in findings)
            return web.Response(
                text="".join(f"{finding}\n" for finding in findings), status=200 if ok else 503
            )

        return answer


def metrics_application(metrics: Metrics, refresh: Callable[[], None]) -> web.Application:
    """``/metrics``; ``refresh`` sets the gauges that are only known at scrape time."""

    async def answer(_: web.Request) -> web.Response:
        refresh()
        return web.Response(
            body=metrics.render().encode(),
            headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"},
        )

    app = web.Application()
    app.router.add_get("/metrics", answer)
    return app


class Server:
    """One listening socket; ``port`` is the real one when 0 was asked for."""

    def __init__(self, app: web.Application, host: str, port: int) -> None:
        self._runner = web.AppRunner(app, access_log=None)
        self._host = host
        self.port = port

    async def start(self) -> None:
        """Listens."""
        await self._runner.setup()
        site = web.TCPSite(self._runner, self._host, self.port, reuse_address=True)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Closes the socket and its connections."""
        await self._runner.cleanup()
