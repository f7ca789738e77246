"""What the parts of a pod share: the machine around it, and the pod itself.

Made by ``agent`` (Machine) and ``pod`` (PodContext); read by ``container`` and ``kubelet_api``.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sluice.local import namespace
from sluice.local.node.client import Client, Object
from sluice.local.node.environment import field_value, resource_value
from sluice.local.node.images import Images
from sluice.local.node.launch import Launcher
from sluice.local.node.rootfs import Mount
from sluice.local.node.volumes import Volumes
from sluice.local.settings import Settings, python_path

_STANDARD_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass
class Machine:
    """The node's own parts."""

    settings: Settings
    client: Client
    launcher: Launcher
    images: Images
    capacity: dict[str, str]
    event: Callable[[Object, str, str, str], None]
    base: Path = field(init=False)
    visible: list[str] = field(init=False)
    path: str = field(init=False)

    def __post_init__(self) -> None:
        self.base = self.settings.run_dir / "base"
        self.base.mkdir(exist_ok=True)
        programs = sorted({str(Path(p).parent) for p in self.settings.programs.values()})
        home = [self.settings.home] if self.settings.home else []
        own = [*home, sys.prefix, sys.base_prefix, *python_path().split(":")]
        self.visible = [os.path.realpath(p) for p in own] + own + programs
        self.path = ":".join([str(Path(sys.prefix) / "bin"), *programs, _STANDARD_PATH])

    @property
    def isolated(self) -> bool:
        """Whether pods have namespaces of their own."""
        return self.settings.mode == "net"

    def api_address(self) -> tuple[str, int]:
        """Where pods find the API server."""
        if self.isolated:
            network = self.settings.service_network.split("/")[0]
            return network.rpartition(".")[0] + ".1", 443
        return self.settings.host_ip, self.settings.secure_port


@dataclass
class PodContext:
    """One pod, as its containers see it."""

    machine: Machine
    current: Callable[[], Object]
    uid: str
    namespace: str
    name: str
    ip: str
    directory: Path
    volumes: Volumes
    changed: Callable[[], None]

    @property
    def hostname(self) -> str:
        """What ``hostname`` prints in the pod."""
        spec = self.current()["spec"]
        return str(spec.get("hostname") or self.name)

    def value_of(self, source: dict[str, Any], container: str = "") -> str:
        """A ``fieldRef`` or ``resourceFieldRef``."""
        pod = self.current()
        if ref := source.get("fieldRef"):
            return field_value(pod, self.ip, self.machine.settings.host_ip, ref["fieldPath"])
        every = pod["spec"]["containers"] + pod["spec"].get("initContainers", [])
        return resource_value(every, container, source["resourceFieldRef"], self.machine.capacity)

    def base_environment(self) -> dict[str, str]:
        """What every container gets before its own ``env``."""
        host, port = self.machine.api_address()
        env = {
            "PATH": self.machine.path,
            "HOME": "/tmp",  # noqa: S108 - inside the container, where it is private
            "HOSTNAME": self.hostname,
            "KUBERNETES_SERVICE_HOST": host,
            "KUBERNETES_SERVICE_PORT": str(port),
            "KUBERNETES_SERVICE_PORT_HTTPS": str(port),
        }
        if not self.machine.isolated:
            settings = self.machine.settings
            env["HOME"] = str(self.directory)
            env["POD_IP"] = self.ip
            env["SLUICE_DNS"] = f"{settings.host_ip}:{settings.dns_port}"
            # The mark by which `down` finds processes that left their group.
            env["SLUICE_LOCAL_STATE"] = str(settings.state)
        return env

    def account_kubeconfig(self, mounts: list[Mount]) -> dict[str, str]:
        """Mode rewrite: the in-cluster account cannot be where clients look, so KUBECONFIG is."""
        place = "/var/run/secrets/kubernetes.io/serviceaccount"
        source = next((m["source"] for m in mounts if m["target"] == place), None)
        if self.machine.isolated or source is None:
            return {}
        host, port = self.machine.api_address()
        cluster = {"server": f"https://{host}:{port}", "certificate-authority": f"{source}/ca.crt"}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "pod",
            "clusters": [{"name": "pod", "cluster": cluster}],
            "users": [{"name": "pod", "user": {"tokenFile": f"{source}/token"}}],
            "contexts": [
                {
                    "name": "pod",
                    "context": {"cluster": "pod", "user": "pod", "namespace": self.namespace},
                }
            ],
        }
        path = self.directory / "kubeconfig"
        path.write_text(json.dumps(config))
        return {"KUBECONFIG": str(path)}

    def network_files(self) -> list[tuple[Path, str]]:
        """(file, mountPath) of what the kubelet writes for every container."""
        if not self.machine.isolated:
            return []
        settings = self.machine.settings
        resolver = self.directory / "resolv.conf"
        resolver.write_text(namespace.resolv_conf(settings.host_ip, self.namespace))
        hosts = self.directory / "hosts"
        aliases = "".join(
            f"{a['ip']}\t{' '.join(a['hostnames'])}\n"
            for a in self.current()["spec"].get("hostAliases", [])
        )
        hosts.write_text(
            f"127.0.0.1\tlocalhost\n::1\tlocalhost\n{self.ip}\t{self.hostname}\n{aliases}"
        )
        return [(resolver, "/etc/resolv.conf"), (hosts, "/etc/hosts")]
