"""One real control plane per test run, one namespace per test.

``cluster`` is a ``sluice.local.cluster.LocalCluster``: ``cluster.http(url)``, ``cluster.connect``,
``cluster.forward(namespace, service, port)``, ``cluster.enter(argv)`` and ``cluster.exec_python``
reach addresses and names inside it.  It ends with the test run, however that ends; set
SLUICE_LOCAL_STATE to use (and keep) an instance that is running already.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
from tests.integration.crd_rules import Server, path_of
from tests.integration.kube_api_server import ApiServer

from sluice.api.crd import crd
from sluice.api.kinds import KINDS
from sluice.local import binaries
from sluice.local.cluster import LocalCluster

# A shell that runs tests in its background has them, and what they start, ignore Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)

T = TypeVar("T")
Kubectl = Callable[..., str]


@pytest.fixture(scope="session")
def cluster() -> Iterator[LocalCluster]:
    """The control plane and its node."""
    if state := os.environ.get("SLUICE_LOCAL_STATE"):
        shared = LocalCluster(Path(state), "shared")
        if shared.pid() is None:
            shared.up(say=_say)
        yield shared
        return
    with tempfile.TemporaryDirectory(prefix=f"sluice-test-{os.getpid()}-") as directory:
        own = LocalCluster(Path(directory) / "cluster", f"test-{os.getpid()}")
        _say(own.up(say=_say, tied=True))
        try:
            yield own
        finally:
            own.down(purge=True)


def _say(text: str) -> None:
    print(f"local cluster: {text}", file=sys.stderr, flush=True)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """A bare API server that tests may stop and start: no controller, no node."""
    running = ApiServer(Path(tmp_path_factory.mktemp("api")))
    try:
        running.start()
        yield running
    finally:
        running.stop()


@pytest.fixture
def namespace(cluster: LocalCluster) -> Iterator[str]:
    """A fresh namespace; its deletion is asked for at the end and not waited for."""
    name = f"t-{uuid.uuid4().hex[:8]}"
    run = kubectl_for(cluster)
    run("create", "namespace", name)
    # A pod created before this account exists would be refused.
    eventually(lambda: run("get", "serviceaccount", "default", "-n", name, check=False), 20)
    yield name
    run("delete", "namespace", name, "--wait=false")


@pytest.fixture(scope="module")
def crd_server(cluster: LocalCluster) -> Iterator[Server]:
    """A server that knows our kinds."""
    server = Server(Path(cluster.kubeconfig))
    for kind in KINDS:
        name = f"{kind.plural}.sluice.dev"
        path = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}"
        status, answer = server.call(
            "PATCH",
            f"{path}?fieldManager=test&force=true",
            crd(kind),
            "application/apply-patch+yaml",
        )
        assert status in (200, 201), answer
    deadline = time.monotonic() + 30
    for kind in KINDS:
        while server.call("GET", path_of(kind, "default"))[0] != 200:
            assert time.monotonic() < deadline, f"{kind.plural} is not served"
            time.sleep(0.05)
    yield server


@pytest.fixture
def kubectl(cluster: LocalCluster) -> Kubectl:
    """``kubectl("get", "pods", "-n", namespace, stdin=yaml, check=True, timeout=60) -> stdout``."""
    return kubectl_for(cluster)


def kubectl_for(cluster: LocalCluster) -> Kubectl:
    """The same, for a cluster of one's own."""
    program = str(binaries.path("kubectl"))
    env = {"PATH": os.environ["PATH"], "HOME": str(cluster.state)}

    def run(*args: str, stdin: str | None = None, check: bool = True, timeout: float = 60) -> str:
        done = subprocess.run(
            [program, f"--kubeconfig={cluster.kubeconfig}", *args],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout,
            env=env,
            check=False,
        )
        if check and done.returncode:
            raise AssertionError(
                f"kubectl {' '.join(args)} exited with {done.returncode}:\n"
                f"{done.stdout[-4000:]}{done.stderr[-4000:]}"
            )
        return done.stdout

    return run


def eventually(fn: Callable[[], T], timeout: float = 30, interval: float = 0.1) -> T:
    """Call until the result is true (and no AssertionError is raised); the last failure else."""
    deadline = time.monotonic() + timeout
    while True:
        problem: Any = None
        try:
            if result := fn():
                return result
            problem = f"last result: {result!r}"
        except (AssertionError, OSError, KeyError, IndexError) as error:
            problem = error
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout:g} s: {problem}")
        time.sleep(interval)


@pytest.fixture(name="eventually")
def eventually_fixture() -> Callable[..., Any]:
    """``eventually(fn, timeout=30)``: poll until it is true."""
    return eventually


@pytest.fixture
def kubectl_of() -> Callable[[LocalCluster], Kubectl]:
    """``kubectl_of(cluster)``: kubectl for a cluster that the test made itself."""
    return kubectl_for
