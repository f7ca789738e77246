"""What ``sluice local status`` says: the instance's processes as the host's /proc shows them."""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass
from pathlib import Path

from sluice.local.cluster import LocalCluster
from sluice.local.errors import LocalError
from sluice.local.settings import KUBERNETES_VERSION

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_MODULES = {"sluice.local.supervisor": "supervisor", "sluice.local.node": "node"}


@dataclass(frozen=True)
class Usage:
    """One component's process."""

    name: str
    pid: int
    cpu_seconds: float
    memory: int


def usage(cluster: LocalCluster) -> list[Usage]:
    """The supervisor and the components, with what they used so far; pods are not in it."""
    pid = cluster.pid()
    if pid is None:
        return []
    found = [_usage("supervisor", pid)]
    for child in _children(pid):
        with contextlib.suppress(OSError, IndexError):
            words = Path(f"/proc/{child}/cmdline").read_bytes().decode().split("\0")
            module = words[2] if words[1] == "-m" else ""
            found.append(_usage(_MODULES.get(module) or Path(words[0]).name, child))
    return [u for u in found if u is not None]


def _children(pid: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if int(_stat(int(entry.name))[1]) == pid:
                    found.append(int(entry.name))
    return sorted(found)


def _stat(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def _usage(name: str, pid: int) -> Usage | None:
    try:
        fields = _stat(pid)
    except OSError:
        return None
    cpu = (int(fields[11]) + int(fields[12])) / _TICKS
    return Usage(name, pid, cpu, int(fields[21]) * _PAGE)


def describe(cluster: LocalCluster) -> tuple[list[str], bool]:
    """(lines, runs)."""
    try:
        settings = cluster.settings
    except LocalError as error:
        return [f"{error.message} {error.hint}"], False
    rows = usage(cluster)
    head = f"local cluster {cluster.name!r}: Kubernetes {KUBERNETES_VERSION}, mode {settings.mode}"
    if not rows:
        return [f"{head}, not running", f"state: {cluster.state}", *_last_words(cluster)], False
    age = time.time() - Path(f"/proc/{rows[0].pid}").stat().st_mtime
    lines = [f"{head}, running for {age:.0f} s", f"state: {cluster.state}"]
    lines.append(f"API server: https://127.0.0.1:{settings.api_port}")
    lines.append(f"export KUBECONFIG={cluster.kubeconfig}")
    lines.append(f"{'COMPONENT':26}{'PID':>8}{'CPU s':>9}{'MiB':>7}")
    lines += [f"{r.name:26}{r.pid:>8}{r.cpu_seconds:>9.1f}{r.memory >> 20:>7}" for r in rows]
    total_cpu, total_memory = sum(r.cpu_seconds for r in rows), sum(r.memory for r in rows)
    lines.append(f"{'together':26}{'':>8}{total_cpu:>9.1f}{total_memory >> 20:>7}")
    lines += [f"http://127.0.0.1:{e.port} leads to {e.label}" for e in settings.exposures]
    return lines, True


def _last_words(cluster: LocalCluster) -> list[str]:
    """Why it ended, if it ended by itself."""
    log = cluster.state / "log" / "supervisor.log"
    said = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
    return [f"last message: {said[-1]}"] if said else []
