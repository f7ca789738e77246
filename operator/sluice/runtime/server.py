"""The process of ``sluice serve``: sockets, loading, signals, drain.

Called by ``cli/serve.py``; calls everything else in this room.  Order of events: listen, so that
liveness answers at once; close the sandbox; verify and load on a thread; answer the golden
examples; be ready.
SIGTERM drains in two parts: first ``/readyz`` says 503 while requests are still answered, until
those who route have noticed and none comes any more; then the listeners close, what is in flight is
finished and the process exits 0.  Nothing is ever written to the disk but the termination message.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import os
import resource
import signal
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sluice.errors import SluiceError
from sluice.package.load import Package, open_package
from sluice.package.trust import requires_trust
from sluice.runtime import describe, openapi
from sluice.runtime.batching import Batcher
from sluice.runtime.connection import App, Port, Timeouts
from sluice.runtime.counters import Counters
from sluice.runtime.dial import Dialler
from sluice.runtime.endpoints import AdminApp, ServingApp
from sluice.runtime.inputs import RowReader
from sluice.runtime.mirror_sender import MirrorFile, Sender
from sluice.runtime.options import Options
from sluice.runtime.predictions import Predictions
from sluice.runtime.predictor import Predictor, WarmUp, check_golden, load_predictor, warm_up
from sluice.runtime.protocols.predict import PredictProtocol
from sluice.runtime.protocols.v1 import V1Protocol
from sluice.runtime.protocols.v2 import V2Protocol
from sluice.runtime.sandbox.confine import Sandbox
from sluice.runtime.served import Model, Settings, Status
from sluice.runtime.verdict import VerdictFile

if TYPE_CHECKING:
    from sluice.runtime.grpc_port import GrpcPort

SLOW_CALL = 0.001
"""A model whose one-row call takes longer runs off the event loop."""


ADMIN_CONNECTIONS = 64
OTHER_FILES = 192
"""Descriptors that are kept for the admin port, files and libraries."""

LAST_SECONDS = 5.0
"""What a drain keeps of its grace for requests in flight, however long a reader takes."""


class StartError(SluiceError):
    """This process cannot serve; its message is the last word of the container."""

    reason = "StartFailed"


@dataclass(frozen=True, slots=True)
class Loaded:
    """What loading gave."""

    package: Package
    predictor: Predictor
    warm: WarmUp | None


def load(options: Options, sandbox: Sandbox) -> Loaded:
    """Verify, load and try the package; raises SluiceError with the reason."""
    package = open_package(options.package, options.digest)
    if options.allow_code and requires_trust(package.manifest):
        sandbox.admit_code()
    predictor = load_predictor(
        package,
        allow_code=options.allow_code,
        namespace=options.namespace,
        unpacked=[options.unpacked] if options.unpacked else [],
    )
    mismatch = check_golden(predictor, package)
    if mismatch is not None:
        raise StartError(
            f"The model does not answer as when it was packaged: {mismatch}.",
            hint="Package it again with the versions that this server has.",
            reason="GoldenMismatch",
        )
    package.release()
    return Loaded(package, predictor, _warm_up(predictor, package))


def load_behind_walls(options: Options, sandbox: Sandbox) -> Loaded:
    """Close the sandbox and load.  All sockets are open by now."""
    sandbox.prepare_libraries()
    sandbox.close()
    return load(options, sandbox)


def model_of(loaded: Loaded, settings: Settings) -> Model:
    """What answers for a loaded package."""
    package, manifest = loaded.package, loaded.package.manifest
    reader = RowReader(manifest.inputs)
    off_loop = loaded.warm is None or loaded.warm.one_row > SLOW_CALL
    return Model(
        batcher=Batcher(loaded.predictor, reader, off_loop=off_loop),
        predict=PredictProtocol(manifest, reader, settings.revision),
        v1=V1Protocol(settings.deployment, reader),
        v2=V2Protocol(settings.deployment, settings.revision, manifest, reader),
        docs=describe.page(manifest, settings, package),
        openapi=openapi.document(manifest, settings, package),
    )


def _warm_up(predictor: Predictor, package: Package) -> WarmUp | None:
    """Time the golden rows; without any, a made-up row, which the model need not like."""
    golden = [example.row for example in package.golden()]
    if golden:
        return warm_up(predictor, golden)
    with contextlib.suppress(Exception):
        return warm_up(predictor, [describe.example_row(package.manifest, package)])
    return None


def run(options: Options, sandbox: Sandbox, started: Callable[[Loaded, int, int], None]) -> None:
    """Serve until a signal; raises SluiceError when serving cannot start.

    ``sandbox`` has begun.  ``started`` is told the ports once the process is loaded.
    """
    loop_factory: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
    with contextlib.suppress(ImportError):
        import uvloop

        loop_factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(Server(options, sandbox).run(started))


class Server:
    """One process."""

    def __init__(self, options: Options, sandbox: Sandbox) -> None:
        self._options = options
        self._sandbox = sandbox
        self._status = Status()
        if options.verdict_file is not None:
            self._status.verdict_missing = VerdictFile(options.verdict_file).missing
        self._counters = Counters(
            revision=options.revision or "", deployment=options.deployment or ""
        )
        self._stop = asyncio.Event()
        self._hurry = False
        self._ports: list[Port] = []
        self._listeners: list[asyncio.Server] = []
        self._grpc: GrpcPort | None = None

    async def run(self, started: Callable[[Loaded, int, int], None]) -> None:
        """Listen, load, serve, drain."""
        options = self._options
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signalled, number)
        sockets = [_listen(options.host, port) for port in (options.port, options.admin_port)]
        # Names are known when the package is; until then answers carry what the command line says.
        settings = Settings(
            deployment=options.deployment or "",
            revision=options.revision or "",
            timeout=options.timeout,
            max_in_flight=options.max_in_flight,
        )
        predictions = Predictions(settings, self._status, self._counters)
        timeouts = Timeouts(read=options.read_timeout)
        apps: tuple[App, ...] = (
            ServingApp(predictions, self._status, self._options.cors_origin),
            AdminApp(predictions, self._status),
        )
        rooms = (_room(options.max_connections), ADMIN_CONNECTIONS)
        self._ports = [
            Port(app, _constant(settings.revision), timeouts=timeouts, max_connections=room)
            for app, room in zip(apps, rooms, strict=True)
        ]
        for port, sock in zip(self._ports, sockets, strict=True):
            self._listeners.append(await loop.create_server(port.protocol, sock=sock, backlog=1024))
        if options.grpc_port is not None:
            self._grpc = await _grpc(options.host, options.grpc_port, predictions, self._status)
        connector = self._sandbox.connector
        dial = Dialler(connector).connect if connector is not None else None
        sender = Sender(predictions.mirror, dial)
        predictions.copies_wait = sender.wake
        sweeper = asyncio.create_task(self._sweep(predictions, sender))
        try:
            # A pool of its own: the loop waits for the threads of its default one when it ends.
            pool = ThreadPoolExecutor(1)
            loading = loop.run_in_executor(pool, load_behind_walls, options, self._sandbox)
            stopped = asyncio.create_task(self._stop.wait())
            waited: list[asyncio.Future[Any]] = [loading, stopped]
            limit = options.load_timeout
            await asyncio.wait(waited, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
            if not loading.done() and not self._stop.is_set():
                raise StartError(
                    f"The package is not loaded after {limit:g} s.",
                    hint="Look at what its code does when it is loaded, or raise --load-timeout.",
                    reason="LoadTimeout",
                )
            if not loading.done():
                os._exit(0)  # told to stop while loading: a thread in a C library cannot be ended
            pool.shutdown()
            loaded = self._begin(loading, predictions)
            started(loaded, *(sock.getsockname()[1] for sock in sockets))
            await stopped
            await self._drain(predictions)
        finally:
            sweeper.cancel()
            sender.close()
            if self._grpc is not None:
                await self._grpc.stop(1.0)

    def _begin(self, loading: asyncio.Future[Loaded], predictions: Predictions) -> Loaded:
        """Serve what was loaded; whatever goes wrong here is a start that failed, with a reason."""
        try:
            loaded = loading.result()
            self._serve(loaded, predictions)
        except SluiceError:
            raise
        except (Exception, SystemExit) as error:
            raise StartError(
                f"The package cannot be served: {type(error).__name__}: {str(error)[:300]}.",
                hint="Package the model again with `sluice package`.",
                reason="LoadFailed",
            ) from error
        return loaded

    def _serve(self, loaded: Loaded, predictions: Predictions) -> None:
        """From here on predictions are answered."""
        package, manifest = loaded.package, loaded.package.manifest
        options = self._options
        settings = Settings(
            deployment=options.deployment or manifest.name,
            revision=options.revision or package.digest.removeprefix("sha256:")[:10],
            timeout=options.timeout,
            max_in_flight=options.max_in_flight,
        )
        counters = self._counters
        counters.deployment, counters.revision = settings.deployment, settings.revision
        counters.package_digest = package.digest
        counters.use_profile(manifest, package.profile())
        for port in self._ports:
            port.constant = _constant(settings.revision)
        predictions.use(settings, model_of(loaded, settings))
        self._status.loaded = True
        # What was made while loading stays for ever: the collector need not look at it again.
        gc.collect()
        gc.freeze()

    def _signalled(self, number: int) -> None:
        if self._stop.is_set() or number == signal.SIGINT:
            self._hurry = True  # a person at a keyboard, or somebody who asks twice
        self._status.draining = True
        self._stop.set()

    async def _drain(self, predictions: Predictions) -> None:
        options, serving = self._options, self._ports[0]
        began = time.monotonic()
        serving.closing = True
        while not self._hurry and time.monotonic() - began < options.drain:
            if time.monotonic() - max(predictions.last_request, began) > options.quiet:
                break
            await asyncio.sleep(0.05)
        # An experiment's records go with this process: whoever reads them is waited for.
        while not self._hurry and predictions.journal.awaited:
            if time.monotonic() - began > options.grace - LAST_SECONDS:
                break
            await asyncio.sleep(0.05)
        self._status.refusing = True
        for listener in self._listeners:
            listener.close()
        while self._counters.in_flight and time.monotonic() - began < options.grace:
            serving.close_idle()
            await asyncio.sleep(0.02)
        for port in self._ports:
            port.close_idle()
        # One more turn lets the last answers leave before the sockets go.
        limit = time.monotonic() + 1.0
        while serving.connections and time.monotonic() < limit:
            await asyncio.sleep(0.02)
            serving.close_idle()
        for port in self._ports:
            port.abort_all()
        batcher = predictions.model.batcher if predictions.model is not None else None
        if batcher is not None and batcher.stuck_for():
            if self._grpc is not None:
                await self._grpc.stop(1.0)
            os._exit(0)  # everyone has been answered, and a call that hangs cannot be ended
        if batcher is not None:
            batcher.close()

    async def _sweep(self, predictions: Predictions, sender: Sender) -> None:
        path = self._options.mirror_file
        file = MirrorFile(path, predictions.mirror) if path is not None else None
        while True:
            if file is not None:
                file.follow()
            sender.sweep(time.monotonic())
            await asyncio.sleep(1.0)
            for port in self._ports:
                port.sweep()


def _room(wanted: int) -> int:
    """How many clients may be connected: ``wanted``, or what the process may have open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        return max(1, soft - OTHER_FILES)
    return wanted


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=1024)
    except OSError as error:
        raise StartError(
            f"Cannot listen on {host}:{port}: {error.strerror or error}.",
            hint="Choose another --host, --port or --admin-port.",
            reason="AddressInUse",
        ) from None


async def _grpc(host: str, port: int, predictions: Predictions, status: Status) -> GrpcPort:
    try:
        from sluice.runtime.grpc_port import GrpcPort
    except ImportError as error:
        raise StartError(
            f"gRPC needs a library that is not installed: {error.name}.",
            hint="Install sluice-operator[grpc], or leave --grpc-port away.",
            reason="GrpcMissing",
        ) from None
    serving = GrpcPort(predictions, status)
    if not await serving.start(host, port):
        raise StartError(
            f"Cannot listen on {host}:{port} for gRPC.",
            hint="Choose another --host or --grpc-port.",
            reason="AddressInUse",
        )
    return serving


@functools.cache
def _constant(revision: str) -> bytes:
    """The header line that every answer carries."""
    return b"x-sluice-revision: %s\r\n" % revision.encode() if revision else b""
