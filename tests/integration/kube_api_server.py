"""A real etcd and kube-apiserver on loopback, nothing else: seconds to start, made to be restarted.

For the tests of ``sluice.kube``, which need an API server that goes away and comes back, users with
other rights, and no controllers that clean up after them.
"""

from __future__ import annotations

import json
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from tests.tools.ports import free_port

from sluice.local import binaries

CRDS = Path(__file__).parents[2] / "crds"
ADMIN = "admin-token"
TENANT = "tenant-token"
"""A user who may do everything in namespaces and nothing cluster-wide."""


class ApiServer:
    """``start`` and ``stop`` the pair; ``stop_api`` and ``start_api`` for an outage."""

    def __init__(self, state: Path) -> None:
        self.state = state
        self.port, self._etcd_port, self._peer_port = free_port(), free_port(), free_port()
        self.url = f"https://127.0.0.1:{self.port}"
        self._programs = binaries.ensure(("etcd", "kube-apiserver"), print)
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._tls = ssl._create_unverified_context()

    def start(self) -> None:
        self._write_files()
        self._spawn(
            "etcd",
            f"--data-dir={self.state}/etcd",
            "--unsafe-no-fsync",
            f"--listen-client-urls=http://127.0.0.1:{self._etcd_port}",
            f"--advertise-client-urls=http://127.0.0.1:{self._etcd_port}",
            f"--listen-peer-urls=http://127.0.0.1:{self._peer_port}",
            f"--initial-advertise-peer-urls=http://127.0.0.1:{self._peer_port}",
            f"--initial-cluster=default=http://127.0.0.1:{self._peer_port}",
            "--log-level=error",
        )
        self.start_api()
        for file in sorted(CRDS.glob("*.yaml")):
            self._install(yaml.safe_load(file.read_text()))
        self._allow_tenant()

    def start_api(self) -> None:
        self._spawn(
            "kube-apiserver",
            f"--etcd-servers=http://127.0.0.1:{self._etcd_port}",
            "--bind-address=127.0.0.1",
            f"--secure-port={self.port}",
            f"--cert-dir={self.state}/certs",
            f"--token-auth-file={self.state}/tokens.csv",
            "--authorization-mode=RBAC",
            "--service-cluster-ip-range=10.96.0.0/16",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={self.state}/sa.key",
            f"--service-account-signing-key-file={self.state}/sa.key",
            "--endpoint-reconciler-type=none",
            "--disable-admission-plugins=ServiceAccount",
            "--profiling=false",
        )
        deadline = time.monotonic() + 120
        while self._status("/readyz") != 200:
            process = self._processes["kube-apiserver"]
            assert process.poll() is None, f"kube-apiserver ended; see {self.state}"
            assert time.monotonic() < deadline, f"kube-apiserver not ready; see {self.state}"
            time.sleep(0.1)

    def stop_api(self) -> None:
        self._end("kube-apiserver")

    def stop(self) -> None:
        for name in ("kube-apiserver", "etcd"):
            self._end(name)

    def kubeconfig(self, token: str = ADMIN, *, url: str = "", namespace: str = "default") -> str:
        """A kubeconfig file for a user, optionally through a proxy."""
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "contexts": [
                {"name": "test", "context": {"cluster": "c", "user": "u", "namespace": namespace}}
            ],
            "clusters": [
                {
                    "name": "c",
                    "cluster": {"server": url or self.url, "insecure-skip-tls-verify": True},
                }
            ],
            "users": [{"name": "u", "user": {"token": token}}],
        }
        path = self.state / f"{token}-{abs(hash(url)) % 10**8}.kubeconfig"
        path.write_text(yaml.safe_dump(config))
        return str(path)

    def call(self, method: str, path: str, body: Any = None) -> tuple[int, dict[str, Any]]:
        """As the administrator, beside the client under test."""
        request = urllib.request.Request(
            self.url + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json", "Authorization": f"Bearer {ADMIN}"},
        )
        try:
            with urllib.request.urlopen(request, context=self._tls, timeout=10) as answer:
                raw, status = answer.read(), answer.status
        except urllib.error.HTTPError as error:
            raw, status = error.read(), error.code
        try:
            return status, json.loads(raw)
        except ValueError:
            return status, {"text": raw.decode()}

    def namespace(self, name: str) -> str:
        self.call("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
        return name

    def _write_files(self) -> None:
        self.state.mkdir(parents=True, exist_ok=True)
        key = ec.generate_private_key(ec.SECP256R1())
        (self.state / "sa.key").write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.TraditionalOpenSSL,
                serialization.NoEncryption(),
            )
        )
        tokens = self.state / "tokens.csv"
        tokens.write_text(f'{ADMIN},admin,1,"system:masters"\n{TENANT},tenant,2,"tenants"\n')
        tokens.chmod(0o600)

    def _install(self, crd: dict[str, Any]) -> None:
        path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
        status, answer = self.call("POST", path, crd)
        assert status in (201, 409), answer
        deadline = time.monotonic() + 30
        served = f"/apis/{crd['spec']['group']}/v1alpha1/{crd['spec']['names']['plural']}"
        while self._status(served) != 200:
            assert time.monotonic() < deadline, f"{served} is not served"
            time.sleep(0.1)

    def _allow_tenant(self) -> None:
        """Roles in two namespaces: what an install with --namespace has."""
        rules = [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]
        api = "/apis/rbac.authorization.k8s.io/v1/namespaces"
        for space in ("tenant-a", "tenant-b"):
            self.namespace(space)
            self.call("POST", f"{api}/{space}/roles", {"metadata": {"name": "all"}, "rules": rules})
            self.call(
                "POST",
                f"{api}/{space}/rolebindings",
                {
                    "metadata": {"name": "all"},
                    "roleRef": {
                        "apiGroup": "rbac.authorization.k8s.io",
                        "kind": "Role",
                        "name": "all",
                    },
                    "subjects": [
                        {
                            "apiGroup": "rbac.authorization.k8s.io",
                            "kind": "Group",
                            "name": "tenants",
                        }
                    ],
                },
            )

    def _status(self, path: str) -> int:
        try:
            return self.call("GET", path)[0]
        except OSError:
            return 0

    def _spawn(self, name: str, *arguments: str) -> None:
        with (self.state / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                [self._programs[name], *arguments],
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )

    def _end(self, name: str) -> None:
        process = self._processes.pop(name, None)
        if process is None:
            return
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
