"""The kopf process: login, settings, start-up, clean-up, and the feed of ModelDeployments.

Called by ``sluice.cli.operator``.  kopf is a shell here: its handlers only hand events on.  kopf
gives up on some answers of the API server (an error inside a watch stream, for one); then its part
is started again in the same process, with the caches kept.  Nothing but a signal ends the process.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import random
import signal
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from sluice.api import meta
from sluice.controller.engine import Context, Engine, Reconciler, ReconcilerFactory
from sluice.controller.health import Finding, Health, Server, metrics_application
from sluice.controller.metrics import Metrics
from sluice.controller.settings import Settings
from sluice.kube.client import KubeClient, make_session
from sluice.kube.connection import load_connection
from sluice.kube.errors import KubeError


@contextlib.contextmanager
def _unimportable(*names: str) -> Iterator[None]:
    """kopf imports these when it finds them, for 20 MB and half a second; nobody needs it."""
    modules: Mapping[str, Any] = sys.modules
    hidden = [name for name in names if name not in modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


with _unimportable("kubernetes", "kubernetes_asyncio", "pykube"):
    import kopf

log = logging.getLogger(__name__)

_PLURAL = "modeldeployments"


class _Patient:
    """Back-offs without end: kopf waits for an API server that is away, however long that takes."""

    def __iter__(self) -> Iterator[float]:
        for delay in itertools.chain((0.5, 1.0, 2.0, 4.0, 8.0), itertools.repeat(15.0)):
            yield delay * random.uniform(0.7, 1.3)  # noqa: S311


class _NoDiffBase(kopf.DiffBaseStorage):
    """Keeps nothing: no annotation, no copy of each body.  Only for ``on.event`` handlers."""

    def build(self, **_: Any) -> Any:
        return {}

    def fetch(self, **_: Any) -> Any:
        return None

    def store(self, **_: Any) -> None:
        return None


class _NoProgress(kopf.ProgressStorage):
    """Keeps nothing, as above."""

    def fetch(self, **_: Any) -> Any:
        return None

    def store(self, **_: Any) -> None:
        return None

    def purge(self, **_: Any) -> None:
        return None

    def touch(self, **_: Any) -> None:
        return None

    def clear(self, *, essence: Any) -> Any:
        return essence


def kopf_settings(settings: Settings) -> kopf.OperatorSettings:
    """kopf's settings: standalone, quiet, patient, writing nothing anywhere."""
    configured = kopf.OperatorSettings()
    configured.process.ultimate_exiting_timeout = None
    configured.peering.standalone = True
    configured.scanning.disabled = True
    configured.posting.enabled = False
    configured.posting.loggers = False
    configured.queueing.worker_limit = None
    configured.queueing.idle_timeout = 1.0
    configured.watching.server_timeout = random.randint(240, 360)  # noqa: S311
    configured.watching.connect_timeout = 10
    configured.watching.reconnect_backoff = random.uniform(0.5, 1.5)  # noqa: S311
    configured.watching.chunk_size = 500
    configured.networking.request_timeout = 30
    patient: Any = _Patient()
    configured.networking.error_backoffs = patient
    configured.persistence.finalizer = f"{meta.GROUP}/unused"
    configured.persistence.diffbase_storage = _NoDiffBase()
    configured.persistence.progress_storage = _NoProgress()
    selector = settings.deployment_selector()
    configured.watching.label_selectors[meta.GROUP, _PLURAL] = selector
    return configured


def build_registry(engine: Engine, ended: asyncio.Event) -> kopf.OperatorRegistry:
    """The handlers: log in, start, stop, hand events on; ``ended`` tells that kopf has stopped."""
    registry = kopf.OperatorRegistry()

    @kopf.on.login(registry=registry)
    async def login(**_: Any) -> kopf.AiohttpSession:
        # A session of its own: kopf closes it when the server says 401, and asks for a new one.
        connection = engine.client.connection
        session = make_session(connection, limit=8)
        return kopf.AiohttpSession(server=connection.server, aiohttp_session=session)

    @kopf.on.startup(registry=registry)
    async def start(**_: Any) -> None:
        engine.start()

    @kopf.on.cleanup(registry=registry)
    async def stop(**_: Any) -> None:
        await engine.stop()
        ended.set()  # kopf would wait 5 s for its own task that waits for this flag.

    @kopf.on.event(meta.GROUP, meta.VERSION, _PLURAL, registry=registry, id="feed")
    async def feed(event: Any, **_: Any) -> None:
        engine.feed_parent(event["type"], dict(event["object"]))

    return registry


async def operate(
    settings: Settings,
    factory: ReconcilerFactory,
    *,
    stop: asyncio.Event | None = None,
    started: asyncio.Future[tuple[int, int]] | None = None,
) -> None:
    """Runs until ``stop`` or a signal.  ``started`` gets the real ports (health, metrics)."""
    stop = stop or asyncio.Event()
    metrics = Metrics()
    health = Health(metrics)
    connection = load_connection(settings.kubeconfig)
    async with KubeClient(connection, observe=metrics.observe_request) as client:
        engine = Engine(settings, factory, client, metrics)
        servers = [
            Server(health.application(), settings.host, settings.health_port),
            Server(
                metrics_application(metrics, engine.refresh_metrics),
                settings.host,
                settings.metrics_port,
            ),
        ]
        beat = asyncio.create_task(health.beat(), name="heartbeat")
        try:
            for server in servers:
                await server.start()
            if started is not None:
                started.set_result((servers[0].port, servers[1].port))
            _stop_on_signals(stop)
            if await _wait_for_kinds(client, health, stop):
                health.alive, health.ready = engine.live_findings, engine.ready_findings
                await _keep_running(settings, engine, stop)
        finally:
            beat.cancel()
            for server in servers:
                await server.stop()


def _stop_on_signals(stop: asyncio.Event) -> None:
    """Outside kopf's own run, too; kopf replaces these handlers while it runs."""
    loop = asyncio.get_running_loop()
    with contextlib.suppress(ValueError, RuntimeError, NotImplementedError):
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)


async def _wait_for_kinds(client: KubeClient, health: Health, stop: asyncio.Event) -> bool:
    """Whether the API server has our kinds; waits for it and for them until told to stop."""
    said = ""
    while not stop.is_set():
        try:
            if _PLURAL in await client.served(meta.GROUP, meta.VERSION):
                return True
            problem = (
                f"The cluster has no {_PLURAL}.{meta.GROUP} yet. "
                "Install them with: kubectl apply --server-side -f crds/"
            )
        except KubeError as error:
            problem = str(error)
        if problem != said:
            log.warning("Waiting: %s", problem)
        said = problem
        waiting = Finding("api", False, said)
        health.ready = lambda waiting=waiting: [waiting]  # type: ignore[misc]
        await _sleep_unless(stop, 3.0)
    return False


async def _keep_running(settings: Settings, engine: Engine, stop: asyncio.Event) -> None:
    """kopf, again and again: only a signal or ``stop`` ends it."""
    delay = 1.0
    loop = asyncio.get_running_loop()
    while not stop.is_set():
        began = loop.time()
        try:
            await _run_kopf(settings, engine, stop)
            return
        except Exception as error:
            # kopf gave up on an answer of the API server.  Its clean-up has stopped the engine.
            delay = 1.0 if loop.time() - began > 300 else min(60.0, delay * 2)
            log.warning("The kopf part ended (%r) and starts again in %.0f s.", error, delay)
            await engine.stop()
            _stop_on_signals(stop)
            await _sleep_unless(stop, delay * random.uniform(0.7, 1.3))  # noqa: S311


async def _run_kopf(settings: Settings, engine: Engine, stop: asyncio.Event) -> None:
    """One run of kopf, until a signal (it returns) or until it gives up (it raises)."""
    ended = asyncio.Event()

    async def pass_on() -> None:
        await stop.wait()
        ended.set()

    link = asyncio.create_task(pass_on(), name="stop")
    try:
        await kopf.operator(
            registry=build_registry(engine, ended),
            settings=kopf_settings(settings),
            standalone=True,
            clusterwide=not settings.namespaces,
            namespaces=list(settings.namespaces),
            stop_flag=ended,
        )
    finally:
        link.cancel()


async def _sleep_unless(stop: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await stop.wait()


def configure_logging(settings: Settings) -> None:
    """Text for people, JSON lines with stable keys for machines; kopf's chatter only on demand."""
    kopf.configure(
        verbose=settings.verbose,
        log_format=kopf.LogFormat.JSON if settings.log_format == "json" else kopf.LogFormat.FULL,
    )
    quiet = logging.INFO if settings.verbose else logging.WARNING
    for name in ("kopf", "kopf.objects", "kopf.activities", "aiohttp"):
        logging.getLogger(name).setLevel(quiet)


def run_operator(settings: Settings, reconciler_factory: ReconcilerFactory) -> None:
    """The process: returns after SIGTERM or SIGINT, when the work has stopped in order."""
    configure_logging(settings)
    with contextlib.suppress(asyncio.CancelledError):
        asyncio.run(operate(settings, reconciler_factory))


__all__ = ["Context", "Engine", "Reconciler", "ReconcilerFactory", "operate", "run_operator"]
