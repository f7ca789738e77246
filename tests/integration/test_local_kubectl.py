"""kubectl's ways into a pod: logs, exec, cp, port-forward; and curl's way in from outside."""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from sluice.local import binaries

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(120)]

SERVER = """
import http.server, sys
print("line 1", "line 2", "line 3", sep="\\n", flush=True)
class H(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        body = b"x" * int(self.path[1:] or 2)
        self.send_response(200); self.send_header("Content-Length", str(len(body)))
        self.end_headers(); self.wfile.write(body)
    def log_message(self, *a): print("asked for", self.path, flush=True)
http.server.ThreadingHTTPServer(("0.0.0.0", 8080), H).serve_forever()
"""


@pytest.fixture
def k(kubectl: Callable[..., str], namespace: str) -> Iterator[Callable[..., str]]:
    """kubectl in a namespace with the pod and Service ``server``."""
    container = {
        "name": "main",
        "image": "python",
        "command": ["python3", "-c", SERVER],
        "ports": [{"name": "http", "containerPort": 8080}],
        "readinessProbe": {"tcpSocket": {"port": "http"}, "periodSeconds": 1},
    }
    server = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "server", "labels": {"app": "server"}},
        "spec": {"terminationGracePeriodSeconds": 0, "containers": [container]},
    }
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "server"},
        "spec": {"selector": {"app": "server"}, "ports": [{"port": 80, "targetPort": "http"}]},
    }

    def run(*args: str, **more: Any) -> str:
        return kubectl("-n", namespace, *args, **more)

    run("create", "-f", "-", stdin=json.dumps(server))
    run("create", "-f", "-", stdin=json.dumps(service))
    run("wait", "--for=condition=Ready", "pod/server", "--timeout=30s")
    yield run


def argv(cluster, namespace: str, *args: str) -> list[str]:
    program = str(binaries.path("kubectl"))
    return [program, f"--kubeconfig={cluster.kubeconfig}", "-n", namespace, *args]


def test_logs_tail_limit_and_follow(cluster, namespace, k) -> None:
    assert k("logs", "server").startswith("line 1\nline 2\nline 3\n")
    assert k("logs", "server", "--tail=0") == ""
    assert k("logs", "server", "--limit-bytes=6") == "line 1"
    follow = subprocess.Popen(
        argv(cluster, namespace, "logs", "-f", "server", "--tail=1"),
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert follow.stdout is not None
        follow.stdout.readline()
        cluster.http(f"http://server.{namespace}.svc.cluster.local/7")
        assert follow.stdout.readline() == "asked for /7\n"
        k("delete", "pod", "server", "--wait=false")
        follow.stdout.read()  # ends with the container
        assert follow.wait(10) == 0
    finally:
        follow.kill()
        follow.wait()


def test_exec_streams_and_exit_codes(cluster, namespace, k) -> None:
    script = "cat; echo to-stderr >&2; exit 3"
    done = subprocess.run(
        argv(cluster, namespace, "exec", "-i", "server", "--", "sh", "-c", script),
        input="x" * 300_000,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.stdout == "x" * 300_000
    assert done.stderr.startswith("to-stderr\n")
    assert done.returncode == 3
    missing = subprocess.run(
        argv(cluster, namespace, "exec", "server", "--", "no-such-program"),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert missing.returncode != 0
    assert "No such file" in missing.stderr


def test_exec_with_a_terminal(cluster, namespace, k) -> None:
    ours, theirs = pty.openpty()
    line = argv(cluster, namespace, "exec", "-it", "server", "--", "sh")
    process = subprocess.Popen(line, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    try:
        os.write(ours, b"test -t 1 && echo is-a-$((1+1))-terminal; exit 5\n")
        seen, deadline = b"", time.monotonic() + 20
        while b"is-a-2-terminal" not in seen and time.monotonic() < deadline:
            if select.select([ours], [], [], 0.2)[0]:
                seen += os.read(ours, 4096)
        assert b"is-a-2-terminal" in seen
        assert process.wait(10) == 5
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def test_exec_ends_with_its_client(cluster, namespace, k, eventually) -> None:
    line = argv(cluster, namespace, "exec", "server", "--", "sleep", "4321")
    client = subprocess.Popen(line)
    running = ("exec", "server", "--", "sh", "-c", "grep -l 4321 /proc/[0-9]*/cmdline || true")
    find = lambda: [f for f in k(*running).split() if "self" not in f]  # noqa: E731
    eventually(lambda: len(find()) > 1, 15)  # the sleep, and grep's own shell
    client.kill()
    client.wait()
    eventually(lambda: len(find()) <= 1, 15)


def test_copy_out_of_a_pod(cluster, namespace, k, tmp_path) -> None:
    k("exec", "server", "--", "sh", "-c", "echo payload > /tmp/file")
    k("cp", f"{namespace}/server:/tmp/file", str(tmp_path / "file"))
    assert (tmp_path / "file").read_text() == "payload\n"


def test_port_forward(cluster, namespace, k) -> None:
    line = argv(cluster, namespace, "port-forward", "service/server", ":80")
    forward = subprocess.Popen(line, stdout=subprocess.PIPE, text=True)
    try:
        assert forward.stdout is not None
        port = forward.stdout.readline().split("127.0.0.1:")[1].split()[0]
        for size in (2, 100_000, 3_000_000, *[10] * 20):
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/{size}", timeout=10) as answer:
                assert len(answer.read()) == size
    finally:
        forward.kill()
        forward.wait()


def test_exposed_service_answers_on_loopback(cluster, namespace, k) -> None:
    address = cluster.forward(namespace, "server")
    assert cluster.forward(namespace, "server", 80) == address
    for size in (2, 3_000_000):
        with urllib.request.urlopen(f"http://{address}/{size}", timeout=10) as answer:
            assert len(answer.read()) == size
    assert cluster.unexpose(namespace, "server") == f"{namespace}/server:80"
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(f"http://{address}/2", timeout=2)


def test_pods_are_apart_from_the_host(cluster, namespace, k) -> None:
    look = (
        "ls /proc | grep -c '^[0-9]'; touch /usr/x 2>&1; env; echo $HOME; touch $HOME/ok && echo ok"
    )
    text = k("exec", "server", "--", "sh", "-c", look)
    assert int(text.split()[0]) < 10
    assert "Read-only" in text
    assert text.rstrip().endswith("ok")
    allowed = {"PATH", "HOME", "HOSTNAME", "PWD", "OLDPWD", "SHLVL", "_", "TERM", "LC_CTYPE"}
    names = {line.split("=")[0] for line in text.splitlines() if "=" in line}
    assert {n for n in names - allowed if not n.startswith("KUBERNETES_")} == set()


def test_entered_command_gets_signals_and_returns_its_code(cluster, tmp_path, eventually) -> None:
    code = (
        "import signal, sys, time; signal.signal(15, lambda *_: sys.exit(7));"
        "print('on', flush=True); time.sleep(600)"
    )
    line = cluster.enter([sys.executable, "-c", code])
    process = subprocess.Popen(line, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "on\n"
    process.terminate()
    assert process.wait(10) == 7
    absent = cluster.enter(["/no/such"])
    missing = subprocess.run(absent, capture_output=True, text=True, check=False)
    assert missing.returncode == 127
    assert "No such file" in missing.stderr
    marked = subprocess.Popen(cluster.enter(["sleep", "98765"]))
    look = ["pgrep", "-fx", "sleep 98765"]
    eventually(lambda: subprocess.run(look, capture_output=True, check=False).returncode == 0)
    marked.kill()
    marked.wait()
    eventually(lambda: subprocess.run(look, capture_output=True, check=False).returncode == 1)
