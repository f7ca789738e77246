"""One pod from its first sight to its removal.

Called by ``agent``: ``start`` once, ``update`` with every newer object, ``terminate`` when it is
being deleted.  The order is the kubelet's: network, volumes, init containers and sidecars one
after the other, then the containers together; at the end the containers, then the sidecars.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import shutil
import time
from collections.abc import Callable
from typing import Any

from sluice.local.node import status
from sluice.local.node.client import ApiError, Object
from sluice.local.node.container import Container, Kind
from sluice.local.node.context import Machine, PodContext
from sluice.local.node.dns import Endpoint
from sluice.local.node.launch import LaunchError
from sluice.local.node.volumes import VolumeError, Volumes

log = logging.getLogger(__name__)


def version(pod: Object) -> int:
    """The resourceVersion as a number (comparable since Kubernetes 1.35)."""
    return int(pod["metadata"]["resourceVersion"])


class Pod:
    """Everything the node does for one pod."""

    def __init__(self, machine: Machine, pod: Object, ip: str, forget: Callable[[Pod], None]):
        meta = pod["metadata"]
        self.object = pod
        self.uid: str = meta["uid"]
        self.machine = machine
        self.ready = False
        self._forget = forget
        self._dirty = asyncio.Event()
        self.reported = asyncio.Event()  # once the API server knows what this process knows
        directory = machine.settings.pods_dir / self.uid
        directory.mkdir(parents=True, exist_ok=True)
        volumes = Volumes(machine.client, directory, self._value_of)
        self.context: PodContext = PodContext(
            machine=machine,
            current=lambda: self.object,
            uid=self.uid,
            namespace=meta["namespace"],
            name=meta["name"],
            ip=ip,
            directory=directory,
            volumes=volumes,
            changed=self._dirty.set,
        )
        self._policy: str = pod["spec"].get("restartPolicy", "Always")
        self.inits = [self._container(c, "init") for c in pod["spec"].get("initContainers", [])]
        self.mains = [self._container(c, "main") for c in pod["spec"]["containers"]]
        self._refresh = asyncio.Event()
        self._deleting = False
        self._initialized = self._init_failed = self._sandbox = self._mounted = False
        self._sandbox_asked = False
        self._failure: Object = {}
        self._ended = False
        self._started_at = pod.get("status", {}).get("startTime") or status.now()
        self._sent = ""
        self._tasks: list[asyncio.Task[Any]] = []
        self._sidecar_tasks: list[asyncio.Task[int]] = []

    def _value_of(self, source: Object) -> str:
        return self.context.value_of(source)

    def _container(self, spec: Object, kind: Kind) -> Container:
        if kind == "init" and spec.get("restartPolicy") == "Always":
            kind = "sidecar"
        return Container(self.context, spec, kind, self._policy)

    @property
    def containers(self) -> list[Container]:
        """All of them."""
        return [*self.inits, *self.mains]

    @property
    def endpoint(self) -> Endpoint:
        """As DNS sees it."""
        meta, spec = self.object["metadata"], self.object["spec"]
        ports = {
            p["name"]: p["containerPort"]
            for c in spec["containers"]
            for p in c.get("ports", [])
            if "name" in p
        }
        return Endpoint(
            self.context.namespace,
            self.context.name,
            "" if self._ended or self._deleting else self.context.ip,
            self.ready,
            meta.get("labels", {}),
            spec.get("hostname", ""),
            spec.get("subdomain", ""),
            ports,
        )

    # -- what the agent calls

    def start(self, *, after_restart: bool) -> None:
        """Begin; ``after_restart`` when an earlier node process already ran this pod."""
        if after_restart:
            self._recall()
            self._dirty.set()
        for work in (self._live(), self._report_loop(), self._refresh_loop(), self._deadline()):
            self._tasks.append(asyncio.create_task(work))

    def show_ended(self) -> None:
        """A pod that had ended before this process: nothing to run, its logs can be read."""
        self._recall()
        self._initialized = self._ended = True
        self.reported.set()

    def update(self, pod: Object) -> None:
        """A newer object."""
        if version(pod) <= version(self.object):
            return
        old, self.object = self.object["metadata"], pod
        new = pod["metadata"]
        if any(old.get(k) != new.get(k) for k in ("labels", "annotations")):
            self._refresh.set()
        self._dirty.set()

    def source_changed(self, kind: str, name: str) -> None:
        """A ConfigMap or Secret of the pod's namespace changed."""
        if self.context.volumes.depends_on(kind, name):
            self._refresh.set()

    async def terminate(self, grace: float, *, gone: bool = False) -> None:
        """End the pod; ``gone`` when its object no longer exists."""
        if self._deleting:
            return
        self._deleting = True
        self.reported.set()
        self._dirty.set()
        live, reporter = self._tasks[:2] if self._tasks else (None, None)
        for task in self._tasks[2:]:
            task.cancel()
        if live is not None and not self._mounted:
            live.cancel()
        await self._stop_containers(grace)
        if live is not None:
            # A container that was just being started ends by itself; cancelling would lose it.
            await asyncio.wait([live], timeout=5)
            live.cancel()
        for container in self.containers:
            if container.process is not None:
                await container.process.kill()
                await container.process.wait()
        if reporter is not None:
            reporter.cancel()
        if not gone:
            await self._last_report(report=live is not None)
        await self._drop_sandbox()
        await asyncio.to_thread(shutil.rmtree, self.context.directory, ignore_errors=True)
        self._forget(self)

    # -- life

    def _recall(self) -> None:
        """The node restarted: what ran is lost, what had ended for good stays ended."""
        known = self.object.get("status", {})
        every = known.get("containerStatuses", []) + known.get("initContainerStatuses", [])
        before = {c["name"]: c for c in every}
        for container in self.containers:
            if (old := before.get(container.name)) is None:
                continue
            state = container.status
            state.restarts = old["restartCount"]
            state.last = old.get("lastState", {})
            ended = old["state"].get("terminated")
            if "running" in old["state"]:
                ended = {
                    "exitCode": 137,
                    "reason": "ContainerStatusUnknown",
                    "message": "the local node was restarted",
                    "startedAt": old["state"]["running"]["startedAt"],
                    "finishedAt": status.now(),
                }
            if ended and (self._policy == "Never" or not ended["exitCode"]):
                state.state = {"terminated": ended}
            elif ended:
                state.last = {"terminated": ended}
                state.restarts += 1

    async def _live(self) -> None:
        try:
            await self._set_up()
            if await self._run_inits():
                self._initialized = True
                self._dirty.set()
                await asyncio.gather(*(self._run_main(c) for c in self.mains))
            if not self._deleting:
                await self._finish()
        except asyncio.CancelledError:
            raise
        except Exception:
            log.exception("pod %s/%s", self.context.namespace, self.context.name)

    async def _run_main(self, container: Container) -> None:
        ended = container.status.terminated
        done = ended and (self._policy == "Never" or not ended["exitCode"])
        if not done or self._policy == "Always":
            await container.run()

    async def _set_up(self) -> None:
        for container in self.mains:
            if not container.status.terminated:
                container.status.state = {"waiting": {"reason": "ContainerCreating"}}
        self._dirty.set()
        delay = 0.2
        while True:
            try:
                if not self._sandbox:
                    await self._make_sandbox()
                await self.context.volumes.set_up(self.object)
                self._mounted = True
                return
            except (VolumeError, LaunchError, ApiError, OSError) as error:
                reason = (
                    "FailedMount" if isinstance(error, VolumeError) else "FailedCreatePodSandBox"
                )
                self.machine.event(self.object, "Warning", reason, str(error))
                await asyncio.sleep(delay)
                delay = min(delay * 1.5, 5)

    async def _make_sandbox(self) -> None:
        settings = self.machine.settings
        if self.machine.isolated and not self.object["spec"].get("hostNetwork"):
            self._sandbox_asked = True
            await self.machine.launcher.request(
                {
                    "op": "sandbox",
                    "uid": self.uid,
                    "ip": self.context.ip,
                    "gateway": settings.host_ip,
                    "link": "v" + self.context.ip.removeprefix("198.18."),
                }
            )
        self._sandbox = True

    async def _drop_sandbox(self) -> None:
        # Asked for is enough: a pod that ends early may not have seen the answer.
        if self._sandbox_asked:
            with contextlib.suppress(LaunchError):
                await self.machine.launcher.request({"op": "drop", "uid": self.uid})
        self._sandbox = False

    async def _run_inits(self) -> bool:
        for container in self.inits:
            if container.kind == "sidecar":
                self._sidecar_tasks.append(asyncio.create_task(container.run()))
                await container.begun.wait()
            else:
                code = await container.run()
                if code:
                    self._init_failed = True
                    return False
                container.status.ready = True
        return True

    async def _finish(self) -> None:
        """All containers ended for good: end the sidecars, give the network back."""
        await self._stop_sidecars(self._grace())
        self._ended = True
        await self._drop_sandbox()
        self._dirty.set()

    def _grace(self) -> float:
        return float(self.object["spec"].get("terminationGracePeriodSeconds", 30))

    async def _stop_containers(self, grace: float) -> None:
        deadline = time.monotonic() + grace
        init = [c for c in self.inits if c.kind == "init"]
        await asyncio.gather(*(c.stop(grace) for c in [*self.mains, *init]))
        await self._stop_sidecars(max(deadline - time.monotonic(), 0))

    async def _stop_sidecars(self, grace: float) -> None:
        for container in reversed(self.inits):
            if container.kind == "sidecar":
                await container.stop(grace)

    async def _deadline(self) -> None:
        seconds = self.object["spec"].get("activeDeadlineSeconds")
        if seconds is None:
            return
        await asyncio.sleep(seconds)
        self._failure = {
            "reason": "DeadlineExceeded",
            "message": "Pod was active on the node longer than the specified deadline",
        }
        await self._stop_containers(self._grace())
        self._ended = True
        self._dirty.set()

    async def _refresh_loop(self) -> None:
        while True:
            wait = max(1.0, min(3600.0, self.context.volumes.refresh_at - time.time()))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._refresh.wait()
            self._refresh.clear()
            # A handful of changes in a row is one new version of the files.
            await asyncio.sleep(0.1)
            try:
                self.context.volumes.refresh_at = float("inf")
                await self.context.volumes.refresh(self.object)
            except (VolumeError, ApiError, OSError, TimeoutError) as error:
                log.info("volumes of %s: %s", self.context.name, error)
                self.context.volumes.refresh_at = time.time() + 2

    # -- status

    def report(self) -> Object:
        """The status patch."""
        phase = status.phase(
            [c.status for c in self.mains],
            initialized=self._initialized,
            init_failed=self._init_failed,
            policy=self._policy,
        )
        if self._failure:
            phase = "Failed"
        sidecars = [c for c in self.inits if c.kind == "sidecar"]
        containers_ready = (
            phase == "Running"
            and not self._deleting
            and all(c.status.ready for c in [*self.mains, *sidecars])
        )
        conditions = status.conditions(
            self.object,
            phase=phase,
            initialized=self._initialized,
            sandbox=self._sandbox,
            containers_ready=containers_ready,
        )
        self.ready = status.is_ready(conditions)
        host = self.machine.settings.host_ip
        body: Object = {
            "phase": phase,
            "podIP": self.context.ip,
            "podIPs": [{"ip": self.context.ip}, {"$patch": "replace"}],
            "hostIP": host,
            "hostIPs": [{"ip": host}],
            "startTime": self._started_at,
            "observedGeneration": self.object["metadata"].get("generation", 1),
            "conditions": conditions,
            "containerStatuses": [c.status.report() for c in self.mains],
            **self._failure,
        }
        if self.inits:
            body["initContainerStatuses"] = [c.status.report() for c in self.inits]
        return {"metadata": {"uid": self.uid}, "status": body}

    async def _send(self) -> None:
        body = self.report()
        key = json.dumps(body, sort_keys=True)
        if key == self._sent:
            return
        path = f"/api/v1/namespaces/{self.context.namespace}/pods/{self.context.name}"
        try:
            answer = await self.machine.client.patch(f"{path}/status", body)
        except ApiError as error:
            # Gone, or another pod has the name by now: nobody to report to.
            if error.status not in (404, 409):
                raise
            self.reported.set()
            return
        self._sent = key
        self.reported.set()
        if version(answer) > version(self.object):
            self.object = answer

    async def _report_loop(self) -> None:
        while True:
            await self._dirty.wait()
            self._dirty.clear()
            try:
                await self._send()
            except (ApiError, OSError, TimeoutError) as error:
                log.info("status of %s: %r", self.context.name, error)
                await asyncio.sleep(0.5)
                self._dirty.set()
            await asyncio.sleep(0.01)

    async def _last_report(self, *, report: bool) -> None:
        """The end of every container, then the removal that the API server waits for."""
        path = f"/api/v1/namespaces/{self.context.namespace}/pods/{self.context.name}"
        body = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "gracePeriodSeconds": 0,
            "preconditions": {"uid": self.uid},
        }
        for attempt in range(20):
            try:
                if report:
                    await self._send()
                await self.machine.client.call("DELETE", path, body)
                return
            except ApiError as error:
                if error.status in (404, 409):
                    return
            except (OSError, TimeoutError):
                pass
            await asyncio.sleep(min(0.2 * 2**attempt, 5))
