"""Where an instance keeps its things, and what was decided for it; read by every process of it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import sluice
from sluice.local.errors import LocalError

KUBERNETES_VERSION = "1.37.2"
ETCD_VERSION = "3.6.15"
NODE_NAME = "local"
CLUSTER_DOMAIN = "cluster.local"

Mode = Literal["net", "rewrite"]


def state_home() -> Path:
    """Where instances are kept unless a directory is named."""
    base = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(base).expanduser() / "sluice" / "local"


def cache_home() -> Path:
    """Where fetched and built programs are kept, shared by all instances."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "sluice"


def python_path() -> str:
    """PYTHONPATH with which a child process finds this package and what it needs."""
    own = str(Path(sluice.__file__).parents[1])
    given = [p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p]
    return os.pathsep.join(dict.fromkeys([own, *(os.path.abspath(p) for p in given)]))  # noqa: PTH100


def state_dir(name: str) -> Path:
    """The directory of a named instance."""
    if not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?", name):
        raise LocalError(
            f"{name!r} cannot name a local cluster.",
            hint="Use up to 40 lower-case letters, digits and dashes.",
        )
    return state_home() / name


@dataclass
class Exposure:
    """A loopback port of the host that leads to an address inside the cluster."""

    port: int
    host: str
    target_port: int
    label: str


@dataclass
class Settings:
    """Decided once by ``up`` and written to ``instance.json``."""

    name: str
    state: Path
    mode: Mode
    user_namespace: bool
    api_port: int
    kubelet_port: int = 10250
    etcd_port: int = 2379
    etcd_peer_port: int = 2380
    dns_port: int = 53
    programs: dict[str, str] = field(default_factory=dict)
    exposures: list[Exposure] = field(default_factory=list)
    tied: bool = False
    home: str = ""
    """Where ``up`` was typed: seen by pods even below /tmp, so that its files can be served."""

    @property
    def host_ip(self) -> str:
        """The node's address."""
        return "198.18.0.1" if self.mode == "net" else "127.0.0.1"

    @property
    def secure_port(self) -> int:
        """The port on which the API server listens at ``host_ip``."""
        return 6443 if self.mode == "net" else self.api_port

    @property
    def pod_network(self) -> str:
        """Pods' addresses; in mode rewrite every instance has its own part of 127/8."""
        return "198.18.0.0/16" if self.mode == "net" else f"127.{self._octet}.0.0/16"

    @property
    def service_network(self) -> str:
        """Services' addresses (in mode rewrite nothing answers there)."""
        return "198.19.0.0/16" if self.mode == "net" else f"127.{self._octet + 1}.0.0/16"

    @property
    def _octet(self) -> int:
        digest = hashlib.sha256(str(self.state).encode()).digest()
        return 10 + 2 * (int.from_bytes(digest[:4], "big") % 110)

    @property
    def run_dir(self) -> Path:
        """Sockets, process ids, progress: meaningful only while it runs."""
        return self.state / "run"

    @property
    def log_dir(self) -> Path:
        """One file per component."""
        return self.state / "log"

    @property
    def pki_dir(self) -> Path:
        """Keys, certificates and the kubeconfigs of the components."""
        return self.state / "pki"

    @property
    def pods_dir(self) -> Path:
        """Logs and volumes of pods."""
        return self.state / "pods"

    @property
    def kubeconfig(self) -> Path:
        """For people: valid outside the namespace and, unchanged, inside."""
        return self.state / "kubeconfig"

    def save(self) -> None:
        """Write ``instance.json`` so that no reader ever sees half of it."""
        data = dataclasses.asdict(self)
        data["state"] = str(self.state)
        target = self.state / "instance.json"
        fresh = target.with_suffix(".new")
        fresh.write_text(json.dumps(data, indent=1))
        fresh.replace(target)

    @classmethod
    def load(cls, state: Path) -> Settings:
        """Read what ``up`` decided."""
        try:
            data: dict[str, Any] = json.loads((state / "instance.json").read_text())
        except FileNotFoundError:
            raise LocalError(
                f"There is no local cluster in {state}.", hint="Start one with: sluice local up"
            ) from None
        data["state"] = state
        data["exposures"] = [Exposure(**e) for e in data["exposures"]]
        return cls(**data)
