"""One container of a pod: started, probed, restarted with back-off, ended.

Called by ``pod``.  Everything it reports is in ``self.status``; ``context.changed()`` says so.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from sluice.local.node import memory, probes
from sluice.local.node.client import Object
from sluice.local.node.context import PodContext
from sluice.local.node.environment import ConfigError, Environment, expand, quantity
from sluice.local.node.launch import LaunchError, Process
from sluice.local.node.rootfs import Mount
from sluice.local.node.status import ContainerState, now

Kind = Literal["init", "sidecar", "main"]
_FIRST_BACKOFF, _LONGEST_BACKOFF, _HEALTHY_AFTER = 1.0, 20.0, 60.0
_LOG_PERIOD, _LONGEST_LOG = 30.0, 64 << 20
_MESSAGE_LIMIT, _LOG_MESSAGE_LIMIT, _LOG_LINES = 4096, 2048, 80


class Container:
    """Runs the program; knows no other container."""

    def __init__(self, context: PodContext, spec: Object, kind: Kind, policy: str) -> None:
        self.context = context
        self.spec = spec
        self.kind = kind
        self.name: str = spec["name"]
        self.status = ContainerState(self.name, spec["image"])
        self.process: Process | None = None
        self.begun = asyncio.Event()  # started (its startup probe passed)
        self._policy = "Always" if kind == "sidecar" else policy
        self._stop_asked = asyncio.Event()
        self._oom = False
        self._directory: Path = context.directory / "containers" / self.name
        self._env: dict[str, str] = {}
        self.mounts: list[Mount] = []
        self._run_tasks: list[asyncio.Task[None]] = []
        self._image = context.machine.images.find(spec["image"])
        self._prober = probes.Prober(spec, context.ip, self._probe_exec)

    # -- files

    def log_path(self, *, previous: bool = False) -> Path:
        """The log of this run, or of the one before."""
        number = self.status.restarts - (1 if previous else 0)
        return self._directory / f"{number}.log"

    @property
    def _message_path(self) -> Path:
        return self._directory / f"{self.status.restarts}.message"

    def _prepare_files(self) -> None:
        self._directory.mkdir(parents=True, exist_ok=True)
        for old in self._directory.iterdir():
            if int(old.stem) < self.status.restarts - 1:
                old.unlink()
        self._message_path.write_bytes(b"")
        self._message_path.chmod(0o666)

    # -- life

    async def run(self) -> int:
        """Run, and run again as the policy says; the last exit code."""
        backoff = 0.0
        while True:
            loop = asyncio.get_running_loop()
            begin = loop.time()
            code = await self._run_once()
            if self._stop_asked.is_set() or self._is_final(code):
                return code
            if loop.time() - begin > _HEALTHY_AFTER:
                backoff = 0.0
            await self._back_off(backoff)
            backoff = min(_LONGEST_BACKOFF, backoff * 2) or _FIRST_BACKOFF
            if self._stop_asked.is_set():
                return code
            self.status.restarts += 1

    def _is_final(self, code: int) -> bool:
        if self.kind == "init":
            return code == 0 or self._policy == "Never"
        return self._policy == "Never" or (self._policy == "OnFailure" and code == 0)

    async def _back_off(self, seconds: float) -> None:
        self.status.last = self.status.state
        if not seconds:
            return
        where = f"{self.name} pod={self.context.name}_{self.context.namespace}"
        text = f"back-off {seconds:g}s restarting failed container={where}"
        self.status.state = {"waiting": {"reason": "CrashLoopBackOff", "message": text}}
        self.context.machine.event(self.context.current(), "Warning", "BackOff", text)
        self.context.changed()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stop_asked.wait()

    async def _run_once(self) -> int:
        process = await self._start()
        if process is None:
            return 1
        started_at = now()
        self.status.state = {"running": {"startedAt": started_at}}
        self.status.container_id = f"process://{process.pid}"
        text = f"Started container {self.name}"
        self.context.machine.event(self.context.current(), "Normal", "Started", text)
        self._watch(process)
        self.context.changed()
        if self._stop_asked.is_set():  # asked to end while it was being started
            await process.kill()
        code = await process.wait()
        for task in self._run_tasks:
            task.cancel()
        if not self.context.machine.isolated:
            await self.context.machine.launcher.request(
                {"op": "kill", "pid": process.pid, "signal": signal.SIGKILL, "group": True}
            )
        code = 128 - code if code < 0 else code
        self.status.ready = self.status.started = False
        self.begun.clear()
        reason = "OOMKilled" if self._oom else "Completed" if code == 0 else "Error"
        self.status.state = {
            "terminated": {
                "exitCode": code,
                "reason": reason,
                "startedAt": started_at,
                "finishedAt": now(),
                "containerID": self.status.container_id,
                **self._message(code),
            }
        }
        self.context.changed()
        return code

    async def _start(self) -> Process | None:
        """Start the program; keeps trying while its configuration is missing."""
        while not self._stop_asked.is_set():
            reason = "CreateContainerConfigError"
            try:
                self._oom = False
                self._prepare_files()
                argv = await self._compose()
                reason = "RunContainerError"
                with self.log_path().open("ab") as log:
                    return await self._launch("start", argv, [-1, log.fileno(), log.fileno()])
            except (ConfigError, LaunchError, ValueError) as error:
                text = str(error)
                self.status.state = {"waiting": {"reason": reason, "message": text}}
                self.context.machine.event(self.context.current(), "Warning", "Failed", text)
                self.context.changed()
                if reason == "RunContainerError":
                    self._could_not_run(text)
                    return None
                await asyncio.sleep(1)
        return None

    def _could_not_run(self, text: str) -> None:
        """As containerd reports a program that cannot be executed."""
        self.status.state = {
            "terminated": {
                "exitCode": 128,
                "reason": "StartError",
                "message": text,
                "startedAt": now(),
                "finishedAt": now(),
            }
        }
        self.context.changed()

    async def _compose(self) -> list[str]:
        """The environment, the mounts and the command line."""
        context, spec = self.context, self.spec
        environment = Environment(context.machine.client, context.namespace)

        def value_of(source: Object) -> str:
            return context.value_of(source, self.name)

        base = context.base_environment() | self._image.env
        env = await environment.build(spec, base, value_of)
        entry = spec.get("command") or list(self._image.argv)
        argv = [expand(a, env) for a in [*entry, *spec.get("args", [])]]
        if not argv:
            raise ConfigError(
                f"image {spec['image']} has no entrypoint here; give the container a command, "
                f"or the image one with: sluice local images add {spec['image']}=PROGRAM"
            )
        self.mounts = self._volume_mounts(env)
        if not context.machine.isolated:
            argv, env = rewrite(argv, env, self.mounts)
            env = context.account_kubeconfig(self.mounts) | env
        self._env = env
        return argv

    def _volume_mounts(self, env: dict[str, str]) -> list[Mount]:
        mounts: list[Mount] = [
            {"source": str(p), "target": t, "read_only": False}
            for p, t in self.context.network_files()
        ]
        message = self.spec.get("terminationMessagePath", "/dev/termination-log")
        volumes = self.context.volumes
        for mount in self.spec.get("volumeMounts", []):
            source = volumes.path(mount["name"])
            inner = mount.get("subPath") or expand(mount.get("subPathExpr", ""), env)
            if inner:
                source = source / inner
                if not source.exists():
                    source.mkdir(parents=True)
            read_only = bool(mount.get("readOnly")) or volumes.is_read_only(mount["name"])
            target = mount["mountPath"].rstrip("/") or "/"
            mounts.append({"source": str(source), "target": target, "read_only": read_only})
        mounts.append({"source": str(self._message_path), "target": message, "read_only": False})
        return mounts

    async def _launch(
        self, op: str, argv: Sequence[str], fds: list[int], *, tty: bool = False
    ) -> Process:
        """Start (or exec) with the given descriptors; -1 stands for /dev/null."""
        machine, security = self.context.machine, self.spec.get("securityContext", {})
        root = {
            "base": str(machine.base),
            "mounts": self.mounts,
            "visible": machine.visible,
            "read_only": bool(security.get("readOnlyRootFilesystem")),
        }
        default = "/" if machine.isolated else str(self.context.directory)
        body: Object = {
            "op": op,
            "argv": list(argv),
            "env": self._env,
            "cwd": self.spec.get("workingDir") or default,
            "uid": self.context.uid,
            "hostname": self.context.hostname,
            "root": root if machine.isolated and op == "start" else None,
            "isolated": machine.isolated,
            "tty": tty,
        }
        if op == "exec":
            body["pid"] = self.process.pid if self.process else 0
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        try:
            process = await machine.launcher.spawn(body, [null if f < 0 else f for f in fds])
        finally:
            os.close(null)
        if op == "start":
            self.process = process
        return process

    def _message(self, code: int) -> Object:
        try:
            text = self._message_path.read_bytes()[-_MESSAGE_LIMIT:].decode(errors="replace")
        except OSError:
            text = ""
        policy = self.spec.get("terminationMessagePolicy", "File")
        if not text and code and policy == "FallbackToLogsOnError":
            text = _tail(self.log_path(), _LOG_MESSAGE_LIMIT, _LOG_LINES)
        return {"message": text} if text else {}

    # -- what happens beside the program

    def _watch(self, process: Process) -> None:
        self._run_tasks = [asyncio.create_task(self._limit_log())]
        if (hook := self.spec.get("lifecycle", {}).get("postStart")) is not None:
            self._run_tasks.append(asyncio.create_task(self._post_start(hook)))
        if "startupProbe" in self.spec:
            self._probe("startupProbe", self._on_startup)
        else:
            self._on_startup(True, "")
        if limit := self.spec.get("resources", {}).get("limits", {}).get("memory"):
            self._run_tasks.append(
                asyncio.create_task(memory.guard(process.pid, quantity(limit), self._out_of_memory))
            )

    async def _limit_log(self) -> None:
        """A log that nobody rotates would fill the disk: begin anew when it is too long."""
        while True:
            await asyncio.sleep(_LOG_PERIOD)
            if self.log_path().stat().st_size > _LONGEST_LOG:
                os.truncate(self.log_path(), 0)

    def _probe(self, key: str, act: probes.Act) -> None:
        task = asyncio.create_task(probes.run(self.spec[key], self._prober, act))
        self._run_tasks.append(task)

    def _on_startup(self, ok: bool, seen: str) -> bool:
        if not ok:
            self._unhealthy("Startup", seen, self.spec["startupProbe"])
            return True
        self.status.started = True
        self.begun.set()
        if "readinessProbe" in self.spec:
            self._probe("readinessProbe", self._on_readiness)
        else:
            self.status.ready = True
        if "livenessProbe" in self.spec:
            self._probe("livenessProbe", self._on_liveness)
        self.context.changed()
        return True

    def _on_readiness(self, ok: bool, seen: str) -> bool:
        if self._stop_asked.is_set():
            return False
        if not ok:
            text = f"Readiness probe failed: {seen}"
            self.context.machine.event(self.context.current(), "Warning", "Unhealthy", text)
        if ok != self.status.ready:
            self.status.ready = ok
            self.context.changed()
        return False

    def _on_liveness(self, ok: bool, seen: str) -> bool:
        if not ok:
            self._unhealthy("Liveness", seen, self.spec["livenessProbe"])
        return not ok

    def _unhealthy(self, which: str, seen: str, probe: Object) -> None:
        text = f"{which} probe failed: {seen}; container {self.name} will be restarted"
        self.context.machine.event(self.context.current(), "Warning", "Unhealthy", text)
        pod_grace = self.context.current()["spec"].get("terminationGracePeriodSeconds", 30)
        grace = probe.get("terminationGracePeriodSeconds", pod_grace)
        # Not among the run's tasks: it ends the run, and the run's end cancels those.
        self._killer = asyncio.create_task(self._end_process(grace))

    async def _post_start(self, hook: Object) -> None:
        ok, seen = await self._prober.check({**hook, "timeoutSeconds": 600})
        if not ok:
            text = f"PostStartHook failed: {seen}"
            event = self.context.machine.event
            event(self.context.current(), "Warning", "FailedPostStartHook", text)
            self._killer = asyncio.create_task(self._end_process(2))

    async def _out_of_memory(self) -> None:
        self._oom = True
        if self.process is not None:
            await self.process.kill()

    # -- commands in the running container

    async def exec(self, argv: Sequence[str], fds: list[int], *, tty: bool = False) -> Process:
        """Another process beside the program."""
        if self.process is None or not self.process.running:
            raise LaunchError(f"container {self.name} is not running")
        return await self._launch("exec", argv, fds, tty=tty)

    async def _probe_exec(self, command: list[str], limit: float) -> tuple[int, str]:
        if not self.context.machine.isolated:
            command, _ = rewrite(command, {}, self.mounts)
        with tempfile.TemporaryFile() as out:
            try:
                process = await self.exec(command, [-1, out.fileno(), out.fileno()])
            except LaunchError as error:
                return 126, str(error)
            try:
                code = await process.wait()
            finally:
                await asyncio.shield(process.kill())
            out.seek(0)
            return code, out.read(1024).decode(errors="replace").strip()

    # -- the end

    async def stop(self, grace: float) -> None:
        """preStop, the stop signal, and after the grace period SIGKILL; no restart."""
        self._stop_asked.set()
        self.status.ready = False
        await self._end_process(grace)

    async def _end_process(self, grace: float) -> None:
        process = self.process
        if process is None or not process.running:
            return
        loop = asyncio.get_running_loop()
        deadline = loop.time() + max(grace, 0.2)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(deadline):
                await self._pre_stop()
        await process.kill(self._image.stop_signal)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(deadline - loop.time(), 0.2)):
                await process.wait()
        await process.kill(signal.SIGKILL)
        await process.wait()

    async def _pre_stop(self) -> None:
        hook = self.spec.get("lifecycle", {}).get("preStop")
        if not hook:
            return
        if sleep := hook.get("sleep"):
            await asyncio.sleep(sleep["seconds"])
            return
        ok, seen = await self._prober.check({**hook, "timeoutSeconds": 600})
        if not ok:
            text = f"PreStopHook failed: {seen}"
            event = self.context.machine.event
            event(self.context.current(), "Warning", "FailedPreStopHook", text)


def rewrite(
    argv: list[str], env: dict[str, str], mounts: list[Mount]
) -> tuple[list[str], dict[str, str]]:
    """Where nothing can be mounted: replace mountPaths by the real directories, in text."""
    for mount in sorted(mounts, key=lambda m: -len(m["target"])):
        pattern = re.compile(rf"(?<![\w./-]){re.escape(mount['target'])}(?=/|$|[\s:;,'\"])")
        argv = [_replace(pattern, mount, a) for a in argv]
        env = {k: v if k == "PATH" else _replace(pattern, mount, v) for k, v in env.items()}
    return argv, env


def _replace(pattern: re.Pattern[str], mount: Mount, text: str) -> str:
    return pattern.sub(lambda _: mount["source"], text)


def _tail(path: Path, limit: int, lines: int) -> str:
    try:
        with path.open("rb") as log:
            size = log.seek(0, os.SEEK_END)
            log.seek(max(0, size - limit))
            text = log.read().decode(errors="replace")
    except OSError:
        return ""
    return "\n".join(text.splitlines()[-lines:])
