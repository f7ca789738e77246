"""A local cluster from outside: up, down, and ways in.

Called by the CLI, the tests and the demo.  ``LocalCluster`` holds no state of its own: what is
true is in the instance's directory and in its supervisor process, so two commands, or a command
that was interrupted and its successor, see the same.
"""

from __future__ import annotations

import contextlib
import fcntl
import http.client
import importlib.util
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sluice.local import binaries, namespace, relay
from sluice.local.errors import LocalError
from sluice.local.settings import (
    KUBERNETES_VERSION,
    Exposure,
    Settings,
    python_path,
    state_dir,
    state_home,
)

Say = Callable[[str], None]
_START_SECONDS = 420
_STOP_SECONDS = 15


@dataclass
class Response:
    """An HTTP answer from inside the cluster."""

    status: int
    headers: dict[str, str]  # names in lower case
    body: bytes

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body.decode(errors="replace")

    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


class LocalCluster:
    """One instance, by its directory."""

    def __init__(self, state: Path | None = None, name: str = "default") -> None:
        self.name = name
        self.state = Path(os.path.realpath(state if state is not None else state_dir(name)))
        self._lifeline: int | None = None

    # -- what is

    @property
    def settings(self) -> Settings:
        """As decided by the last ``up``."""
        return Settings.load(self.state)

    @property
    def kubeconfig(self) -> Path:
        """Valid outside the namespace and inside."""
        return self.state / "kubeconfig"

    def pid(self) -> int | None:
        """The supervisor, as seen from here; None when it does not run."""
        try:
            pid = int((self.state / "run" / "supervisor").read_text())
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except (OSError, ValueError):
            return None
        # Not somebody else who got the number since.
        mine = str(self.state).encode() in words and b"sluice.local.supervisor" in words
        return pid if mine else None

    # -- up

    def up(
        self, *, mode: str = "auto", say: Say = lambda _: None, tied: bool = False, port: int = 0
    ) -> str:
        """Start it (or find it running); one line that says which mode and why.

        ``tied``: it ends with this process, however this process ends.
        """
        if sys.platform != "linux":
            raise LocalError(
                "The local cluster runs on Linux only: its pods are local processes.",
                hint="Use a Linux machine or a virtual machine (on Windows: WSL 2).",
            )
        for module in ("cryptography", "dnslib"):
            if importlib.util.find_spec(module) is None:
                raise LocalError(
                    f"The local cluster needs the Python package {module}.",
                    hint="Install it with: pip install 'sluice-operator[local]'",
                )
        self.state.mkdir(parents=True, exist_ok=True)
        self.state.chmod(0o700)
        with self._locked():
            if self.pid() is not None:
                return f"{self._title()} is already running"
            return self._start(mode, say, tied, port)

    def _start(self, mode: str, say: Say, tied: bool, port: int) -> str:
        programs = binaries.ensure(binaries.COMPONENTS, say)
        for name in binaries.SYSTEM:
            with contextlib.suppress(LocalError):
                programs |= binaries.ensure((name,), say)
        chosen, user_namespace, why = namespace.decide(mode, programs.get("nft"))
        if mode == "net" and chosen != "net":
            raise LocalError(
                f"Mode net is not possible here: {why}.",
                hint="Without --mode it falls back to mode rewrite (no Services, no cluster DNS).",
            )
        settings = self._settings(chosen, user_namespace, programs, tied, port)
        begin = time.monotonic()
        self._launch(settings, say)
        took = time.monotonic() - begin
        return f"{self._title()} is up after {took:.1f} s in mode {chosen}: {why}"

    def _title(self) -> str:
        return f"local cluster {self.name!r} (Kubernetes {KUBERNETES_VERSION})"

    def _settings(
        self, mode: Any, user_namespace: bool, programs: dict[str, str], tied: bool, port: int
    ) -> Settings:
        """New ones; an earlier run's port and exposed ports are kept while they are free."""
        before = None
        with contextlib.suppress(LocalError):
            before = self.settings
        api_port = port or (before.api_port if before and _free(before.api_port) else 0)
        settings = Settings(
            name=self.name,
            state=self.state,
            mode=mode,
            user_namespace=user_namespace,
            api_port=api_port or _free_port(),
            programs=programs,
            exposures=before.exposures if before else [],
            tied=tied,
            home=str(Path.cwd()),
        )
        if mode == "rewrite":
            # Everything shares the host's loopback address, so every port is looked for.
            settings.etcd_port, settings.etcd_peer_port = _free_port(), _free_port()
            settings.kubelet_port, settings.dns_port = _free_port(), _free_port()
        if before and before.mode != mode and (self.state / "pki").exists():
            raise LocalError(
                f"{self.state} was made in mode {before.mode}, now it would be mode {mode}.",
                hint="Ask for the old mode with --mode, or begin anew: sluice local down --purge",
            )
        return settings

    def _launch(self, settings: Settings, say: Say) -> None:
        shutil.rmtree(settings.run_dir, ignore_errors=True)
        for directory in (settings.run_dir, settings.log_dir):
            directory.mkdir(exist_ok=True)
        settings.save()
        # Here and not above: without the extra, `up` says what is missing.
        from sluice.local import certificates

        certificates.ensure(settings)
        config = certificates.kubeconfig(
            settings.pki_dir,
            "admin",
            f"https://127.0.0.1:{settings.api_port}",
            f"sluice-{self.name}",
        )
        self.kubeconfig.touch(mode=0o600)
        self.kubeconfig.write_bytes(config)
        with _no_interrupt():
            process = self._spawn(settings)
        try:
            self._wait(process, settings, say)
        except BaseException:
            # Also Ctrl-C: what was begun here is taken back, even if Ctrl-C comes twice.
            with _no_interrupt():
                self._end(process)
            raise

    def _spawn(self, settings: Settings) -> subprocess.Popen[bytes]:
        argv = [sys.executable, "-m", "sluice.local.supervisor", str(self.state)]
        env = {**os.environ, "PYTHONPATH": python_path()}
        stdin: int = subprocess.DEVNULL
        if settings.tied:
            stdin, self._lifeline = os.pipe()
        with (settings.log_dir / "supervisor.log").open("ab") as log:
            process = subprocess.Popen(
                argv, stdin=stdin, stdout=log, stderr=log, env=env, start_new_session=True, cwd="/"
            )
        if settings.tied:
            os.close(stdin)
        return process

    def _wait(self, process: subprocess.Popen[bytes], settings: Settings, say: Say) -> None:
        deadline = time.monotonic() + _START_SECONDS
        progress, seen = settings.run_dir / "progress", 0
        while time.monotonic() < deadline:
            lines = progress.read_text().splitlines() if progress.exists() else []
            for line in lines[seen:]:
                event = json.loads(line)
                if "failed" in event:
                    raise LocalError(
                        f"The local cluster did not start: {event['failed']}.",
                        hint=f"The logs are in {settings.log_dir}.",
                    )
                if "ready" in event:
                    return
                say(f"{event['step']} ({event['seconds']} s)")
            seen = len(lines)
            ended = process.poll()
            if ended is not None and (ended or self.pid() is None):
                # It may have said why in the last moment.
                if progress.exists() and len(progress.read_text().splitlines()) > seen:
                    continue
                tail = (settings.log_dir / "supervisor.log").read_text().strip().splitlines()[-1:]
                raise LocalError(
                    f"The local cluster's supervisor ended: {(tail or ['no output'])[0]}",
                    hint=f"The logs are in {settings.log_dir}.",
                )
            time.sleep(0.05)
        raise LocalError(
            f"The local cluster was not ready within {_START_SECONDS} s.",
            hint=f"The logs are in {settings.log_dir}.",
        )

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        """It is on its way: in mode net it forks and leaves, else it says that it is there."""
        deadline = time.monotonic() + 10
        while process.poll() is None and self.pid() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        self._stop()
        if process.poll() is None:
            process.kill()
            process.wait()

    # -- down

    def down(self, *, purge: bool = False) -> bool:
        """Stop it; with ``purge`` forget it.  True when it was running."""
        if not self.state.exists():
            return False
        with self._locked():
            was_running = self._stop()
        if purge:
            self._purge()
        return was_running

    def _stop(self) -> bool:
        pid = self.pid()
        if pid is None:
            return False
        begin = time.monotonic()
        # Again and again: PID 1 of a namespace does not notice what comes before it listens.
        while self._alive(pid):
            patient = time.monotonic() - begin < _STOP_SECONDS
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM if patient else signal.SIGKILL)
            pause = time.monotonic() + 0.5
            while self._alive(pid) and time.monotonic() < pause:
                time.sleep(0.02)
        (self.state / "run" / "supervisor").unlink(missing_ok=True)
        if self._lifeline is not None:
            os.close(self._lifeline)
            self._lifeline = None
        return True

    @staticmethod
    def _alive(pid: int) -> bool:
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            return False
        return stat.rpartition(")")[2].split()[0] != "Z"

    def _purge(self) -> None:
        def writable(remove: Any, path: str, error: Any) -> None:
            # A pod may have made a directory that its owner cannot write.
            Path(path).parent.chmod(0o700)
            with contextlib.suppress(OSError):
                Path(path).chmod(0o700)
            remove(path)

        shutil.rmtree(self.state, onerror=writable)
        home = state_home()
        for empty in (home, home.parent):
            if self.state.parent == home:
                with contextlib.suppress(OSError):
                    empty.rmdir()

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """One ``up`` or ``down`` at a time; the kernel frees the lock of one that died."""
        with (self.state / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    # -- ways in

    def enter(self, argv: Sequence[str]) -> list[str]:
        """The command line that runs ``argv`` inside the namespace."""
        settings, pid = self.settings, self.pid()
        if pid is None:
            raise LocalError(
                f"The local cluster {self.name!r} is not running.",
                hint="Start it with: sluice local up",
            )
        env = ["env", f"KUBECONFIG={self.kubeconfig}"]
        if settings.mode == "rewrite":
            return [*env, *argv]
        script = str(Path(__file__).with_name("enter.py"))
        kinds = "user,ipc,net,pid,mnt" if settings.user_namespace else "ipc,net,pid,mnt"
        python = [sys.executable, "-I", "-S", script]
        return [*python, str(pid), kinds, str(Path.cwd()), *env, *argv]

    def exec_python(self, *args: str, timeout: float = 60) -> str:
        """Run this Python inside with ``args``; what it printed."""
        env = {**os.environ, "PYTHONPATH": python_path()}
        done = subprocess.run(
            self.enter([sys.executable, *args]),
            capture_output=True,
            text=True,
            timeout=timeout,
            env=env,
            check=False,
        )
        if done.returncode:
            raise LocalError(f"python {args[0]} inside the cluster failed: {done.stderr[-2000:]}")
        return done.stdout

    def connect(self, host: str, port: int) -> socket.socket:
        """A TCP connection to an address or name inside the cluster."""
        request = {"op": "connect", "host": host, "port": port}
        connection = relay.call(self.state / "run", request)
        assert connection is not None
        return connection

    def http(
        self,
        url: str,
        *,
        method: str = "GET",
        body: bytes | str | None = None,
        json_body: Any = None,
        headers: dict[str, str] | None = None,
        timeout: float = 10,
        context: ssl.SSLContext | None = None,
    ) -> Response:
        """One HTTP request to an address or name inside the cluster."""
        parts = urllib.parse.urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        host = parts.hostname or ""
        connection = http.client.HTTPConnection(host, port, timeout=timeout)
        raw = self.connect(host, port)
        raw.settimeout(timeout)
        if parts.scheme == "https":
            context = context or ssl._create_unverified_context()  # noqa: S323
            raw = context.wrap_socket(raw, server_hostname=host)
        connection.sock = raw
        sent = dict(headers or {})
        if json_body is not None:
            body = json.dumps(json_body)
            sent.setdefault("Content-Type", "application/json")
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        try:
            connection.request(method, target, body=body, headers=sent)
            answer = connection.getresponse()
            found = {k.lower(): v for k, v in answer.getheaders()}
            return Response(answer.status, found, answer.read())
        finally:
            connection.close()

    def api(self, path: str) -> Any:
        """GET from the API server as admin."""
        settings = self.settings
        context = ssl.create_default_context(cafile=str(settings.pki_dir / "ca.crt"))
        context.load_cert_chain(settings.pki_dir / "admin.crt", settings.pki_dir / "admin.key")
        connection = http.client.HTTPSConnection(
            "127.0.0.1", settings.api_port, context=context, timeout=10
        )
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            body = json.loads(answer.read())
        except OSError as error:
            raise LocalError(
                f"The local cluster {self.name!r} does not answer ({error}).",
                hint="See: sluice local status",
            ) from None
        finally:
            connection.close()
        if answer.status >= 300:
            raise LocalError(f"The API server answers: {body.get('message', answer.status)}")
        return body

    def expose(self, namespace_name: str, service: str, port: int = 0, local: int = 0) -> Exposure:
        """Open a loopback port of this machine that leads to a Service; it survives a restart."""
        found = self.api(f"/api/v1/namespaces/{namespace_name}/services/{service}")
        ports = found["spec"].get("ports", [])
        chosen = next((p for p in ports if port in (0, p["port"])), None)
        if chosen is None:
            have = ", ".join(str(p["port"]) for p in ports) or "none"
            raise LocalError(
                f"The Service {namespace_name}/{service} has no port {port}.",
                hint=f"It has: {have}",
            )
        label = f"{namespace_name}/{service}:{chosen['port']}"
        for known in self.settings.exposures:
            if known.label == label and local in (0, known.port):
                return known
        target_port = self._target_port(found, chosen)
        host = f"{service}.{namespace_name}.svc.cluster.local"
        with socket.create_server(("127.0.0.1", local), backlog=128) as listener:
            exposure = Exposure(listener.getsockname()[1], host, target_port, label)
            request = {"op": "listen", "exposure": vars(exposure)}
            relay.call(self.state / "run", request, listener)
        return exposure

    def _target_port(self, service: Any, port: Any) -> int:
        """The Service's own port where a ClusterIP answers, else the pods'."""
        headless = service["spec"].get("clusterIP") in (None, "None", "")
        if self.settings.mode == "net" and not headless:
            return int(port["port"])
        wanted = port.get("targetPort", port["port"])
        if isinstance(wanted, int):
            return wanted
        meta, selector = service["metadata"], service["spec"].get("selector") or {}
        labels = urllib.parse.quote(",".join(f"{k}={v}" for k, v in selector.items()))
        pods = self.api(f"/api/v1/namespaces/{meta['namespace']}/pods?labelSelector={labels}")
        for pod in pods["items"]:
            for container in pod["spec"]["containers"]:
                for declared in container.get("ports", []):
                    if declared.get("name") == wanted:
                        return int(declared["containerPort"])
        raise LocalError(f"No pod behind {meta['namespace']}/{meta['name']} names a port {wanted}.")

    def forward(self, namespace_name: str, service: str, port: int = 0) -> str:
        """``127.0.0.1:PORT`` that leads to a Service."""
        return f"127.0.0.1:{self.expose(namespace_name, service, port).port}"

    def unexpose(self, namespace_name: str, service: str, port: int = 0) -> str:
        """Close what ``expose`` opened; what was closed."""
        begin = f"{namespace_name}/{service}:"
        for known in self.settings.exposures:
            if known.label.startswith(begin) and port in (0, int(known.label[len(begin) :])):
                relay.call(self.state / "run", {"op": "close", "port": known.port})
                return known.label
        raise LocalError(f"{namespace_name}/{service} is not exposed.", hint="sluice local status")


@contextlib.contextmanager
def _no_interrupt() -> Iterator[None]:
    """Ctrl-C waits until the block is done; then it counts."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    asked: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: asked.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if asked:
        raise KeyboardInterrupt


def _free(port: int) -> bool:
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
