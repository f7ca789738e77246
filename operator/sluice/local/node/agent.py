"""The node process: registers the node, follows its pods, answers DNS and the kubelet's API.

Started by the supervisor as ``python -m sluice.local.node STATE``, inside the namespace.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import ipaddress
import itertools
import logging
import os
import platform
import resource
import signal
import uuid
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from sluice.local.node import dns, kubelet_api
from sluice.local.node.client import MERGE, ApiError, Client, Object
from sluice.local.node.context import Machine
from sluice.local.node.images import Images
from sluice.local.node.launch import Launcher
from sluice.local.node.pod import Pod
from sluice.local.node.status import now
from sluice.local.settings import KUBERNETES_VERSION, NODE_NAME, Settings

log = logging.getLogger(__name__)
_HEARTBEAT = 10
_TELL_AGAIN = 60.0  # seconds before the same event is written again
_ENDED = ("Succeeded", "Failed")
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_LEASES = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"


class Agent:
    """Everything that outlives a pod."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.stopped = asyncio.Event()
        self._pods: dict[str, Pod] = {}
        self._listed = False
        self._tasks: set[asyncio.Task[Any]] = set()
        network = ipaddress.ip_network(settings.pod_network)
        # The first addresses are the node's; going round keeps a freed address unused for long.
        self._addresses = itertools.cycle(str(network[i]) for i in range(16, 65000))
        self._zone = dns.Zone({}, self._endpoints, virtual_ips=settings.mode == "net")
        url = f"https://{settings.host_ip}:{settings.secure_port}"
        self._client = Client(url, settings.pki_dir)
        self._told: dict[tuple[str, str, str], float] = {}
        self._boot = str(uuid.uuid4())
        self._ready_since = now()
        launcher = Launcher(isolated=settings.mode == "net", on_death=self.stopped.set)
        self._machine = Machine(
            settings, self._client, launcher, Images(settings), _capacity(), self.event
        )

    def spawn(self, work: Coroutine[Any, Any, Any]) -> None:
        """Run in the background, and say so when it fails."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            log.error("background work failed", exc_info=error)

    # -- pods

    def _endpoints(self) -> list[dns.Endpoint]:
        return [p.endpoint for p in self._pods.values()]

    def find(self, namespace_name: str, name: str) -> Pod | None:
        """A pod by name."""
        for pod in self._pods.values():
            if (pod.context.namespace, pod.context.name) == (namespace_name, name):
                return pod
        return None

    def _on_pods(self, pods: list[Object]) -> None:
        known = {p.get("status", {}).get("podIP") for p in pods}
        live = {p["metadata"]["uid"] for p in pods}
        if not self._listed:
            self._drop_leftovers(live)
        for pod in pods:
            self._see(pod, known, after_restart=not self._listed)
        self._listed = True
        for uid in set(self._pods) - live:
            self.spawn(self._pods[uid].terminate(1, gone=True))

    def _on_pod(self, kind: str, pod: Object) -> None:
        if kind == "DELETED":
            if found := self._pods.get(pod["metadata"]["uid"]):
                self.spawn(found.terminate(1, gone=True))
            return
        self._see(pod, set(), after_restart=False)

    def _see(self, pod: Object, taken: set[str | None], *, after_restart: bool) -> None:
        meta, status = pod["metadata"], pod.get("status", {})
        found = self._pods.get(meta["uid"])
        if found is None:
            found = Pod(self._machine, pod, self._address(pod, taken), self._forget)
            self._pods[found.uid] = found
            if status.get("phase") in _ENDED:
                found.show_ended()
            elif "deletionTimestamp" not in meta:
                found.start(after_restart=after_restart and bool(status.get("startTime")))
        else:
            found.update(pod)
        if "deletionTimestamp" in meta:
            self.spawn(found.terminate(float(meta.get("deletionGracePeriodSeconds") or 0)))

    def _address(self, pod: Object, taken: set[str | None]) -> str:
        if ip := pod.get("status", {}).get("podIP"):
            return str(ip)
        if pod["spec"].get("hostNetwork"):
            return self.settings.host_ip
        used = {p.context.ip for p in self._pods.values()} | taken
        return next(a for a in self._addresses if a not in used)

    def _forget(self, pod: Pod) -> None:
        self._pods.pop(pod.uid, None)

    def _drop_leftovers(self, live: set[str]) -> None:
        """Directories of pods that went away while the node was down."""
        import shutil

        for directory in self.settings.pods_dir.iterdir():
            if directory.name not in live:
                shutil.rmtree(directory, ignore_errors=True)

    # -- other objects

    def _on_services(self, services: list[Object]) -> None:
        self._zone.services.clear()
        for service in services:
            self._on_service("ADDED", service)

    def _on_service(self, kind: str, service: Object) -> None:
        key = (service["metadata"]["namespace"], service["metadata"]["name"])
        if kind == "DELETED":
            self._zone.services.pop(key, None)
        else:
            self._zone.services[key] = service

    def _source_changed(self, kind: str, found: Object) -> None:
        meta = found["metadata"]
        for pod in self._pods.values():
            if pod.context.namespace == meta["namespace"]:
                pod.source_changed(kind, meta["name"])

    def event(self, pod: Object, kind: str, reason: str, message: str) -> None:
        """Tell about a pod, as ``kubectl describe`` and ``kubectl events`` show it."""
        meta = pod["metadata"]
        key, clock = (meta["uid"], reason, message), asyncio.get_running_loop().time()
        self._told = {k: t for k, t in self._told.items() if clock - t < _TELL_AGAIN}
        if key in self._told:
            return
        self._told[key] = clock
        body = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"generateName": f"{meta['name']}.", "namespace": meta["namespace"]},
            "involvedObject": {
                "apiVersion": "v1",
                "kind": "Pod",
                "name": meta["name"],
                "namespace": meta["namespace"],
                "uid": meta["uid"],
            },
            "type": kind,
            "reason": reason,
            "message": message[:1000],
            "firstTimestamp": now(),
            "lastTimestamp": now(),
            "count": 1,
            "source": {"component": "kubelet", "host": NODE_NAME},
        }
        self.spawn(self._post_event(f"/api/v1/namespaces/{meta['namespace']}/events", body))

    async def _post_event(self, path: str, body: Object) -> None:
        try:
            await self._client.post(path, body)
        except (ApiError, OSError, TimeoutError) as error:
            log.info("event: %s", error)

    # -- the node object

    async def _register(self) -> None:
        labels = {
            "kubernetes.io/hostname": NODE_NAME,
            "kubernetes.io/os": "linux",
            "kubernetes.io/arch": _ARCHITECTURES.get(platform.machine(), "amd64"),
        }
        node = {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": NODE_NAME, "labels": labels},
            "spec": {},
        }
        try:
            await self._client.post("/api/v1/nodes", node)
        except ApiError as error:
            if error.status != 409:
                raise

    async def _heartbeat(self) -> None:
        registered, announced = False, self.settings.run_dir / "node-ready"
        while True:
            try:
                if not registered:
                    await self._register()
                    registered = True
                await self._client.patch(f"/api/v1/nodes/{NODE_NAME}/status", self._node_status())
                await self._renew_lease()
                if not announced.exists() and self._listed:
                    await self._first_reports()
                    announced.touch()
                await asyncio.sleep(_HEARTBEAT)
            except (ApiError, OSError, TimeoutError) as error:
                log.info("node: %r", error)
                await asyncio.sleep(0.5)

    async def _first_reports(self) -> None:
        """After a restart, nobody may take an earlier run's Ready for today's."""
        async with asyncio.timeout(20):
            await asyncio.gather(*(p.reported.wait() for p in self._pods.values()))

    def _node_status(self) -> Object:
        ready = {
            "type": "Ready",
            "status": "True",
            "reason": "AgentReady",
            "message": "the process node is ready",
            "lastHeartbeatTime": now(),
            "lastTransitionTime": self._ready_since,
        }
        info = {
            "kubeletVersion": f"v{KUBERNETES_VERSION}",
            "kubeProxyVersion": "",
            "architecture": _ARCHITECTURES.get(platform.machine(), "amd64"),
            "operatingSystem": "linux",
            "osImage": f"sluice local (mode {self.settings.mode})",
            "kernelVersion": platform.release(),
            "containerRuntimeVersion": "process://1",
            "bootID": self._boot,
            "machineID": "",
            "systemUUID": "",
        }
        host = self.settings.host_ip
        return {
            "status": {
                "capacity": self._machine.capacity,
                "allocatable": self._machine.capacity,
                "declaredFeatures": ["ExtendWebSocketsToKubelet"],
                "addresses": [
                    {"type": "InternalIP", "address": host},
                    {"type": "Hostname", "address": NODE_NAME},
                ],
                "daemonEndpoints": {"kubeletEndpoint": {"Port": self.settings.kubelet_port}},
                "nodeInfo": info,
                "conditions": [ready],
            }
        }

    async def _renew_lease(self) -> None:
        stamp = dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        spec = {"holderIdentity": NODE_NAME, "leaseDurationSeconds": 40, "renewTime": stamp}
        body: Object = {"metadata": {"name": NODE_NAME}, "spec": spec}
        try:
            await self._client.patch(f"{_LEASES}/{NODE_NAME}", body, MERGE)
        except ApiError as error:
            if error.status != 404:
                raise
            lease = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", **body}
            await self._client.post(_LEASES, lease)

    # -- the process

    async def run(self) -> None:
        """Until told to stop, or until the launcher is gone."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stopped.set)
        self.settings.pods_dir.mkdir(exist_ok=True)
        self._machine.launcher.start()
        api = await kubelet_api.serve(self.settings, self.find)
        await dns.serve(self._zone, self.settings.host_ip, self.settings.dns_port)
        follow = self._client.follow
        selector = f"fieldSelector=spec.nodeName%3D{NODE_NAME}"
        self.spawn(self._heartbeat())
        self.spawn(follow("/api/v1/services", self._on_services, self._on_service))
        self.spawn(follow("/api/v1/pods", self._on_pods, self._on_pod, selector))
        for kind, path in (("ConfigMap", "configmaps"), ("Secret", "secrets")):
            self.spawn(self._follow_sources(kind, f"/api/v1/{path}"))
        await self.stopped.wait()
        for task in list(self._tasks):
            task.cancel()
        self._machine.launcher.close()
        await api.cleanup()
        await self._client.close()

    async def _follow_sources(self, kind: str, path: str) -> None:
        def on_list(items: list[Object]) -> None:
            for item in items:
                self._source_changed(kind, item)

        def on_event(_: str, item: Object) -> None:
            self._source_changed(kind, item)

        await self._client.follow(path, on_list, on_event)


def _capacity() -> dict[str, str]:
    """More than the machine has: requests are for the scheduler, nothing is reserved."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": str(max(64, 8 * (os.cpu_count() or 1))),
        "memory": f"{max(64 << 30, 4 * memory) >> 10}Ki",
        "pods": "500",
        "ephemeral-storage": "100Gi",
    }


def main(state: Path) -> None:
    """Entry point."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

    async def start() -> None:
        await Agent(Settings.load(state)).run()

    asyncio.run(start())
