"""The one process that owns an instance: parent of every component, PID 1 of its namespace.

Started by ``cluster.LocalCluster.up`` as ``python -m sluice.local.supervisor STATE``; kill it and
the kernel ends everything.  It starts the components in order, restarts nothing, and takes all
down when one of them ends: a cluster that lost a component is not a cluster to test against.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from sluice.local import certificates, controlplane, linux, namespace, relay
from sluice.local.node.dns import lookup
from sluice.local.settings import NODE_NAME, Exposure, Settings

STOP_ORDER = ("node", "kube-proxy", "kube-scheduler", "kube-controller-manager")


class _StopError(Exception):
    """Somebody asked for the end."""


class Supervisor:
    """Starts, watches and stops the components."""

    def __init__(self, settings: Settings, listeners: Mapping[int, socket.socket]) -> None:
        self.settings = settings
        self._listeners = listeners
        self._pids: dict[int, str] = {}
        self._ended: dict[str, int] = {}
        self._changed = asyncio.Event()
        self._stop = asyncio.Event()
        self._failure = ""
        self._orphaned = False
        self._tasks: list[asyncio.Task[None]] = []
        self._relay = relay.Relay(self._resolve, self._remember)

    # -- progress, read by `up`

    def say(self, **event: object) -> None:
        """One line for whoever waits outside."""
        with (self.settings.run_dir / "progress").open("a") as out:
            out.write(json.dumps(event) + "\n")

    # -- processes

    def start(self, name: str, argv: list[str], extra: Mapping[str, str] | None = None) -> None:
        """A component with its log file; it dies when we do."""
        keep = ("PATH", "HOME", "LANG", "TMPDIR", "LD_LIBRARY_PATH", "PYTHONPATH", "GOGC")
        env = {k: os.environ[k] for k in keep if k in os.environ}
        env |= {"SLUICE_LOCAL_STATE": str(self.settings.state), **(extra or {})}
        with (self.settings.log_dir / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=env,
                start_new_session=True,
                preexec_fn=lambda: linux.die_with_parent(signal.SIGKILL),
            )
        self._pids[process.pid] = name
        process.returncode = 0  # reaped by us, with everybody else's orphans

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if name := self._pids.pop(pid, None):
                self._ended[name] = os.waitstatus_to_exitcode(status)
                self._changed.set()

    async def _until(self, what: str, seconds: float, ready: Callable[[], bool]) -> None:
        deadline = time.monotonic() + seconds
        while not await asyncio.to_thread(ready):
            if self._stop.is_set():
                raise _StopError
            if self._ended:
                self._fail_for_ended()
            if time.monotonic() > deadline:
                raise RuntimeError(f"{what} was not ready within {seconds:g} s")
            await asyncio.sleep(0.05)

    def _fail_for_ended(self) -> None:
        name, code = next(iter(self._ended.items()))
        how = f"was killed by signal {-code}" if code < 0 else f"exited with code {code}"
        log = self.settings.log_dir / f"{name}.log"
        tail = log.read_text(errors="replace").strip().splitlines()[-1:] or ["(empty log)"]
        raise RuntimeError(f"{name} {how}; the last line of {log} is: {tail[0][:400]}")

    # -- the start

    async def _bring_up(self) -> None:
        s, begin = self.settings, time.monotonic()
        self.start("etcd", controlplane.etcd(s))
        health = f"http://{s.host_ip}:{s.etcd_port}/health"
        await self._until("etcd", 60, lambda: _answers(health, None))
        self.start("kube-apiserver", controlplane.apiserver(s))
        context = ssl.create_default_context(cafile=str(s.pki_dir / "ca.crt"))
        context.load_cert_chain(s.pki_dir / "admin.crt", s.pki_dir / "admin.key")
        url = f"https://{s.host_ip}:{s.secure_port}"
        await self._until("kube-apiserver", 180, lambda: _answers(f"{url}/readyz", context))
        self.say(step="the API server answers", seconds=round(time.monotonic() - begin, 1))
        self.start("kube-controller-manager", controlplane.controller_manager(s))
        self.start("kube-scheduler", controlplane.scheduler(s))
        if s.mode == "net":
            (s.run_dir / "kube-proxy.yaml").write_text(controlplane.proxy_config(s))
            path = f"{Path(s.programs['nft']).parent}:{os.environ.get('PATH', '')}"
            self.start("kube-proxy", controlplane.proxy(s), {"PATH": path})
        self.start("node", [sys.executable, "-m", "sluice.local.node", str(s.state)])
        account = f"{url}/api/v1/namespaces/default/serviceaccounts/default"
        await self._until("the default ServiceAccount", 120, lambda: _answers(account, context))
        node = f"{url}/api/v1/nodes/{NODE_NAME}"
        announced = s.run_dir / "node-ready"  # of this start; the object may be an earlier one's
        await self._until("the node", 120, lambda: announced.exists() and _ready(node, context))
        self.say(step="the node is ready", seconds=round(time.monotonic() - begin, 1))

    async def _resolve(self, host: str) -> str:
        if host.replace(".", "").isdigit():
            return host
        server = (self.settings.host_ip, self.settings.dns_port)
        return await lookup(host, server)

    def _remember(self, exposures: list[Exposure]) -> None:
        self.settings.exposures = exposures
        self.settings.save()

    async def _open_relay(self, control: socket.socket) -> None:
        s = self.settings
        self._tasks.append(asyncio.create_task(self._relay.control(control)))
        for exposure in s.exposures:
            if exposure.port in self._listeners:
                await self._relay.serve(self._listeners[exposure.port], exposure)
        if s.mode == "net":
            api = Exposure(s.api_port, s.host_ip, s.secure_port, "")
            await self._relay.serve(self._listeners[s.api_port], api)
            # The same port inside, so that one kubeconfig is valid on both sides.
            inner = socket.create_server(("127.0.0.1", s.api_port))
            await self._relay.serve(inner, Exposure(-1, s.host_ip, s.secure_port, ""))

    async def _lifeline(self) -> None:
        """Tied to a test run: end when standard input does."""
        reader = asyncio.StreamReader()
        protocol = asyncio.StreamReaderProtocol(reader)
        await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, sys.stdin)
        await reader.read()
        self._orphaned = True
        self._stop.set()

    async def run(self, control: socket.socket) -> int:
        """Until told to stop or a component ends."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        loop.add_signal_handler(signal.SIGCHLD, self._reap)
        if self.settings.tied:
            self._tasks.append(asyncio.create_task(self._lifeline()))
        try:
            await self._open_relay(control)
            await self._bring_up()
            self.say(ready=True)
            await self._watch()
        except _StopError:
            pass
        except Exception as error:
            self._failure = str(error) or repr(error)
            print(f"supervisor: {self._failure}", flush=True)
            self.say(failed=self._failure)
        await self._take_down()
        for file in ("control.sock", "supervisor"):
            (self.settings.run_dir / file).unlink(missing_ok=True)
        if self._orphaned:  # nobody is left who would remove it
            shutil.rmtree(self.settings.state, ignore_errors=True)
        return 1 if self._failure else 0

    async def _watch(self) -> None:
        stop = asyncio.create_task(self._stop.wait())
        while not self._stop.is_set():
            self._changed.clear()
            if self._ended:
                self._fail_for_ended()
            changed = asyncio.create_task(self._changed.wait())
            await asyncio.wait([stop, changed], return_when=asyncio.FIRST_COMPLETED)
            changed.cancel()

    # -- the end

    async def _take_down(self) -> None:
        """Clients first, then the API server (which may hang on its clients), then the store."""
        await self._end(STOP_ORDER, 3)
        await self._end(("kube-apiserver",), 2)
        await self._end(("etcd",), 5)
        if self.settings.mode == "rewrite":
            _sweep(self.settings.state)

    async def _until_gone(self, names: tuple[str, ...]) -> None:
        while set(names) & set(self._pids.values()):
            self._changed.clear()
            await self._changed.wait()

    async def _end(self, names: tuple[str, ...], patience: float) -> None:
        for number, seconds in ((signal.SIGTERM, patience), (signal.SIGKILL, 5.0)):
            for pid, name in list(self._pids.items()):
                if name in names:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, number)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._until_gone(names)


def _answers(url: str, context: ssl.SSLContext | None) -> bool:
    return _get(url, context) is not None


def _get(url: str, context: ssl.SSLContext | None) -> bytes | None:
    import urllib.request

    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
    )
    try:
        with opener.open(url, timeout=5) as answer:
            body: bytes = answer.read()
            return body
    except OSError:
        return None


def _ready(url: str, context: ssl.SSLContext) -> bool:
    body = _get(url, context)
    if body is None:
        return False
    node = json.loads(body)
    ready = any(
        c["type"] == "Ready" and c["status"] == "True"
        for c in node.get("status", {}).get("conditions", [])
    )
    return ready and not node["spec"].get("taints")


def _sweep(state: Path) -> None:
    """Mode rewrite: processes of pods that left their group still carry the instance's mark."""
    mark = f"SLUICE_LOCAL_STATE={state}".encode()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                if mark in (entry / "environ").read_bytes().split(b"\0"):
                    os.kill(int(entry.name), signal.SIGKILL)


def _listeners(settings: Settings) -> dict[int, socket.socket]:
    """Loopback ports of the host, opened before leaving its network namespace."""
    found = {}
    ports = [settings.api_port] if settings.mode == "net" else []
    for port in [*ports, *(e.port for e in settings.exposures)]:
        try:
            found[port] = socket.create_server(("127.0.0.1", port), backlog=128)
        except OSError as error:
            if port == settings.api_port:
                raise
            print(f"supervisor: port {port} is taken, not exposed: {error}", flush=True)
    return found


def main() -> int:
    """Entry point of the detached process."""
    settings = Settings.load(Path(sys.argv[1]))
    listeners = _listeners(settings)
    control = relay.open_control(settings.run_dir)
    if settings.mode == "net":
        child = namespace.isolate(user_namespace=settings.user_namespace)
        if child:
            (settings.run_dir / "supervisor").write_text(str(child))
            # No clean-up here: sockets and files belong to the child from now on.
            os._exit(0)
        namespace.configure_network(settings)
        namespace.use_cluster_dns(settings)
    else:
        (settings.run_dir / "supervisor").write_text(str(os.getpid()))
        linux.adopt_orphans()
    certificates.ensure(settings)
    return asyncio.run(_run(settings, listeners, control))


async def _run(
    settings: Settings, listeners: Mapping[int, socket.socket], control: socket.socket
) -> int:
    return await Supervisor(settings, listeners).run(control)


if __name__ == "__main__":
    sys.exit(main())
