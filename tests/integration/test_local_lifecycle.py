"""``sluice local`` comes up, goes down and leaves nothing behind, whatever happens to it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.tools.pausing import paused

import sluice
from sluice.local import inspect
from sluice.local.cluster import LocalCluster

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(180)]

ROOT = str(Path(sluice.__file__).parents[1])
IP = {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}
POD = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "p", "labels": {"run": "p"}},
    "spec": {
        "terminationGracePeriodSeconds": 1,
        "containers": [
            {
                "name": "c",
                "image": "python",
                "command": ["python3", "-u", "-m", "http.server", "8080", "--bind", "$(POD_IP)"],
                "env": [IP],
                "readinessProbe": {"httpGet": {"port": 8080, "path": "/"}, "periodSeconds": 1},
            }
        ],
    },
}


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Callable[[str], LocalCluster]]:
    """Clusters of this test alone; whatever is left of them at the end is removed."""
    made: list[LocalCluster] = []

    def make(name: str) -> LocalCluster:
        made.append(LocalCluster(tmp_path / name, name))
        return made[-1]

    yield make
    for cluster in made:
        cluster.down(purge=True)


def family(cluster: LocalCluster) -> set[int]:
    """The supervisor and everything below it, pods included."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                stat = (entry / "stat").read_text().rpartition(")")[2].split()
                if stat[0] != "Z":
                    parents[int(entry.name)] = int(stat[1])
    found = {cluster.pid() or -1}
    while True:
        more = {p for p, parent in parents.items() if parent in found} - found
        if not more:
            return found - {-1}
        found |= more


def alive(pids: set[int]) -> set[int]:
    left = set()
    for pid in pids:
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
                left.add(pid)
    return left


def named(cluster: LocalCluster) -> set[Path]:
    """Processes that have the cluster's directory among their arguments."""
    mark, found = str(cluster.state).encode(), set()
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if mark in (entry / "cmdline").read_bytes().split(b"\0"):
                found.add(entry)
    return found


def ready_pod(cluster: LocalCluster, kubectl: Callable[..., str]) -> None:
    kubectl("apply", "-f", "-", stdin=json.dumps(POD))
    kubectl("wait", "--for=condition=Ready", "pod/p", "--timeout=60s")


def cli(*args: str, **env: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "sluice.cli", "local", *args],
        env={**os.environ, "PYTHONPATH": ROOT, **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def test_two_instances_restart_and_purge(own, kubectl_of, eventually) -> None:
    first, second = own("one"), own("two")
    assert "is up after" in first.up()
    assert "is up after" in second.up()
    assert "already running" in first.up()
    ready_pod(first, kubectl_of(first))
    assert "p" not in kubectl_of(second)("get", "pods", "-o", "name")

    kubectl_of(first)("expose", "pod", "p", "--port=80", "--target-port=8080")
    port = first.expose("default", "p").port
    pids = family(first)
    assert first.down()
    eventually(lambda: not alive(pids), 10)
    assert second.http("https://kubernetes.default.svc.cluster.local/healthz").status in (200, 401)

    first.up()
    # What an earlier run reported is not shown as today's state.
    status = json.loads(kubectl_of(first)("get", "pod", "p", "-o", "json"))["status"]
    assert status["containerStatuses"][0]["restartCount"] == 1
    kubectl_of(first)("wait", "--for=condition=Ready", "pod/p", "--timeout=60s")
    assert "GET /" in kubectl_of(first)("logs", "p", "--previous")
    assert any(e.port == port for e in first.settings.exposures)

    for cluster in (first, second):
        pids = family(cluster)
        cluster.down(purge=True)
        eventually(lambda gone=pids: not alive(gone), 10)
        assert not cluster.state.exists()


def test_killing_one_process_ends_everything(own, kubectl_of, eventually) -> None:
    cluster = own("killed")
    cluster.up()
    ready_pod(cluster, kubectl_of(cluster))
    pids = family(cluster)
    assert len(pids) > 8
    os.kill(cluster.pid(), signal.SIGKILL)
    eventually(lambda: not alive(pids), 60)
    cluster.up()  # the data survive
    assert kubectl_of(cluster)("get", "pod", "p", "-o", "name") == "pod/p\n"
    pids = family(cluster)
    scheduler = next(u.pid for u in inspect.usage(cluster) if u.name == "kube-scheduler")
    os.kill(scheduler, signal.SIGKILL)
    eventually(lambda: not alive(pids), 60)
    lines, running = inspect.describe(cluster)
    assert not running
    assert "kube-scheduler was killed by signal 9" in "\n".join(lines)


@pytest.mark.parametrize("after", [0.15, 0.5, 0.9, 1.5, 2.5])
def test_interrupted_start_leaves_nothing_running(own, after: float, eventually) -> None:
    cluster = own("interrupted")
    process = cli("up", "--name", "interrupted", "--state", str(cluster.state))
    time.sleep(after)  # the moment is the test's subject
    pids = family(cluster)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode != 0, output
    eventually(lambda: not alive(pids), 10)
    assert cluster.pid() is None
    eventually(lambda: not named(cluster), 10)


def test_tied_cluster_ends_with_its_owner(tmp_path: Path, eventually) -> None:
    state = tmp_path / "tied"
    code = (
        "import sys, time; from pathlib import Path; from sluice.local.cluster import LocalCluster;"
        "LocalCluster(Path(sys.argv[1]), 'tied').up(tied=True); print('up', flush=True);"
        "time.sleep(600)"
    )
    owner = subprocess.Popen(
        [sys.executable, "-c", code, str(state)],
        env={**os.environ, "PYTHONPATH": ROOT},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert owner.stdout is not None
    assert owner.stdout.readline() == "up\n"
    cluster = LocalCluster(state, "tied")
    pids = family(cluster)
    owner.kill()
    owner.wait()
    eventually(lambda: not alive(pids) and not state.exists(), 60)


def test_fallback_without_namespaces(own, kubectl_of, eventually) -> None:
    cluster = own("fallback")
    assert "in mode rewrite" in cluster.up(mode="rewrite")
    ready_pod(cluster, kubectl_of(cluster))
    kubectl = kubectl_of(cluster)
    ip = kubectl("get", "pod", "p", "-o", "jsonpath={.status.podIP}")
    assert ip.startswith("127.")
    assert cluster.http(f"http://{ip}:8080/").status == 200
    assert kubectl("exec", "p", "--", "echo", "hello") == "hello\n"
    pids = family(cluster)
    cluster.down(purge=True)
    eventually(lambda: not alive(pids), 10)


def test_ordinary_user(tmp_path: Path) -> None:
    """The whole life as nobody, when the tests run as root (else every other test shows it)."""
    if os.geteuid() != 0:
        pytest.skip("the tests run as an ordinary user already: the other tests show this")
    python = shutil.which("python3", path="/usr/bin:/usr/local/bin")
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    if python is None or version not in subprocess.getoutput(f"{python} --version"):
        pytest.skip(f"no Python {version} here that the user nobody may run")
    home = Path("/tmp") / f"sluice-nobody-{os.getpid()}"
    try:
        _life_of_nobody(home, python)
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _life_of_nobody(home: Path, python: str) -> None:
    from sluice.local import binaries

    programs = home / "bin"
    programs.mkdir(parents=True)
    for name in binaries.COMPONENTS:
        shutil.copy(binaries.path(name), programs / name)
    shutil.chown(home, 65534, 65534)
    paths = [ROOT, *(p for p in sys.path if "site-packages" in p)]
    env = {
        "PATH": f"{programs}:/usr/local/bin:/usr/bin:/bin",
        "HOME": str(home),
        "PYTHONPATH": ":".join(paths),
    }
    user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]

    def run(*args: str) -> str:
        argv = [*user, python, "-m", "sluice.cli", "local", *args]
        done = subprocess.run(
            argv, env=env, cwd="/", capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert "in mode net" in run("up")
    try:
        assert "mode net, running" in run("status")
        url = "https://kubernetes.default.svc.cluster.local/livez"
        assert run("enter", "curl", "-ks", url) == "ok"
    finally:
        run("down", "--purge")
    assert not (home / ".local/state/sluice").exists()


def test_fallback_is_taken_and_explained_where_namespaces_are_refused() -> None:
    """Inside a user namespace that forbids more of them, as container engines do."""
    code = (
        "from sluice.local import binaries, namespace;"
        "print(*namespace.decide('auto', str(binaries.path('nft'))), sep='|')"
    )
    forbid = (
        "echo 0 > /proc/sys/user/max_user_namespaces; echo 0 > /proc/sys/user/max_net_namespaces"
    )
    done = subprocess.run(
        ["unshare", "-Ur", "sh", "-c", f'{forbid}; exec "$@"', "sh", sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": ROOT},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    mode, _, why = done.stdout.strip().split("|")
    assert mode == "rewrite"
    assert "user namespaces are refused here" in why


def test_in_cluster_account_works_in_the_fallback(own, kubectl_of, eventually) -> None:
    """Where nothing can be mounted, KUBECONFIG leads the pod to its account."""
    cluster = own("account")
    cluster.up(mode="rewrite")
    kubectl = kubectl_of(cluster)
    command = ["kubectl", "auth", "whoami", "-o", "jsonpath={.status.userInfo.username}"]
    container = {"name": "c", "image": "busybox", "command": command}
    spec = {"restartPolicy": "Never", "containers": [container]}
    body = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "me"}, "spec": spec}
    kubectl("create", "-f", "-", stdin=json.dumps(body))
    phase = ("get", "pod", "me", "-o", "jsonpath={.status.phase}")
    eventually(lambda: kubectl(*phase) == "Succeeded", 30)
    assert kubectl("logs", "me") == "system:serviceaccount:default:default"


def test_pods_serve_on_while_the_api_server_is_away(own, kubectl_of, eventually) -> None:
    """Stopped, not killed: a component that ends takes the cluster along."""
    cluster = own("away")
    cluster.up()
    kubectl = kubectl_of(cluster)
    ready_pod(cluster, kubectl)
    kubectl("expose", "pod", "p", "--port=80", "--target-port=8080")
    url = "http://p.default.svc.cluster.local/"
    eventually(lambda: cluster.http(url).status == 200)
    server = next(u.pid for u in inspect.usage(cluster) if u.name == "kube-apiserver")
    with paused(server):
        deadline = time.monotonic() + 8
        while time.monotonic() < deadline:
            assert cluster.http(url).status == 200
    kubectl("delete", "pod", "p", "--wait=true")
    kubectl("run", "again", "--image=busybox", "--restart=Never", "--command", "--", "true")
    phase = ("get", "pod", "again", "-o", "jsonpath={.status.phase}")
    eventually(lambda: kubectl(*phase) == "Succeeded", 60)
