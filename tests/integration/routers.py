"""Router pods of a loop, and the processes in them: to be killed, or to be stopped for a while."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.integration.loop import Loop
from tests.tools.pausing import paused

from sluice.controller.pods import is_ready


def routers(loop: Loop, name: str = "iris") -> dict[str, tuple[str, int]]:
    """Router pods that are ready: name to address and restarts of the container."""
    found = {}
    for pod in loop.list("Pod"):
        labels, status = pod["metadata"]["labels"], pod["status"]
        router = labels.get("sluice.dev/component") == "router"
        if router and labels["sluice.dev/deployment"] == name and is_ready(pod):
            restarts = status["containerStatuses"][0]["restartCount"]
            found[pod["metadata"]["name"]] = (status["podIP"], restarts)
    return found


def restart_routers(loop: Loop) -> None:
    """Kill the process in every router, one after the other; wait until each is ready again."""
    for name, (address, restarts) in sorted(routers(loop).items()):
        os.kill(process_at(loop, address), signal.SIGKILL)
        loop.until(
            lambda n=name, r=restarts: routers(loop).get(n, ("", 0))[1] > r,  # type: ignore[misc]
            60,
            f"{name} runs again",
        )


@contextmanager
def deaf(loop: Loop, *addresses: str) -> Iterator[None]:
    """Routers at these addresses accept connections and neither do nor say anything."""
    with paused(*(process_at(loop, address) for address in addresses)):
        yield


def process_at(loop: Loop, address: str) -> int:
    """The router process with this pod address; other clusters use the same addresses."""
    root = loop.cluster.pid()
    assert root is not None
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes()
                mine = f"POD_IP={address}".encode() in (entry / "environ").read_bytes().split(b"\0")
                if mine and b"haproxy.cfg" in command and descends(int(entry.name), root):
                    return int(entry.name)
            except OSError:
                continue
    raise AssertionError(f"no router process at {address}")


def descends(pid: int, ancestor: int) -> bool:
    """Whether ``ancestor`` started ``pid`` or one of those who did."""
    while pid > 1 and pid != ancestor:
        pid = int((Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[1])
    return pid == ancestor
