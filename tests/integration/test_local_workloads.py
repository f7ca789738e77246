"""What runs on the process node behaves as on a kubelet."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from sluice.local.cluster import LocalCluster

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(180)]

WEB = """
apiVersion: v1
kind: ConfigMap
metadata: {name: page}
data: {page.txt: one}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      initContainers:
      - name: first
        image: busybox
        command: [sh, -c, "echo prepared > /data/first.txt"]
        volumeMounts: [{name: data, mountPath: /data}]
      containers:
      - name: web
        image: python:3.11
        command: [python3, -m, http.server, "8080", --directory, /etc/page]
        ports: [{name: http, containerPort: 8080}]
        readinessProbe: {httpGet: {path: /page.txt, port: http}, periodSeconds: 1}
        volumeMounts:
        - {name: page, mountPath: /etc/page}
        - {name: data, mountPath: /models/current}
      volumes: [{name: page, configMap: {name: page}}, {name: data, emptyDir: {}}]
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: http}]}
"""


@pytest.fixture
def k(kubectl: Callable[..., str], namespace: str) -> Callable[..., str]:
    """kubectl in the test's namespace."""

    def run(*args: str, **more: Any) -> str:
        return kubectl("-n", namespace, *args, **more)

    return run


def pod(k: Callable[..., str], name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(k("get", "pod", name, "-o", "json"))
    return found


def run_pod(k: Callable[..., str], name: str, command: str, **spec: Any) -> None:
    """A pod with one container that runs a shell command."""
    container = {"name": "main", "image": "busybox", "command": ["sh", "-c", command]}
    container |= spec.pop("container", {})
    body = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"terminationGracePeriodSeconds": 1, "containers": [container], **spec},
    }
    k("create", "-f", "-", stdin=json.dumps(body))


def phase(k: Callable[..., str], name: str) -> str:
    return str(pod(k, name)["status"]["phase"])


def test_deployment_service_and_dns(cluster, k, namespace, eventually) -> None:
    k("apply", "-f", "-", stdin=WEB)
    k("rollout", "status", "deployment/web", "--timeout=60s")
    url = f"http://web.{namespace}.svc.cluster.local/page.txt"
    eventually(lambda: cluster.http(url).text == "one")
    name = k("get", "pods", "-l", "app=web", "-o", "name").split()[0]
    assert k("exec", name, "-c", "web", "--", "cat", "/models/current/first.txt") == "prepared\n"
    inside = "import urllib.request as u; print(u.urlopen('http://web/page.txt').read().decode())"
    assert k("exec", name, "-c", "web", "--", "python3", "-c", inside).strip() == "one"


def test_config_map_change_reaches_running_pods(cluster, k, eventually) -> None:
    k("apply", "-f", "-", stdin=WEB.replace("replicas: 2", "replicas: 1"))
    k("rollout", "status", "deployment/web", "--timeout=60s")
    k("patch", "configmap", "page", "-p", '{"data": {"page.txt": "two", "more.txt": "x"}}')
    name = k("get", "pods", "-l", "app=web", "-o", "name").split()[0]
    show = (
        "exec",
        name,
        "-c",
        "web",
        "--",
        "sh",
        "-c",
        "cat /etc/page/page.txt /etc/page/more.txt",
    )
    eventually(lambda: k(*show, check=False) == "twox")


def test_rollout_restart_and_wait(cluster, k) -> None:
    k("apply", "-f", "-", stdin=WEB)
    k("wait", "--for=condition=Available", "deployment/web", "--timeout=60s")
    k("rollout", "restart", "deployment/web")
    k("rollout", "status", "deployment/web", "--timeout=60s")


def test_termination_message_and_reasons(k, eventually) -> None:
    container = {"terminationMessagePath": "/sluice/termination-log"}
    command = "echo gone wrong > /sluice/termination-log; echo text; exit 3"
    run_pod(k, "fails", command, restartPolicy="Never", container=container)
    eventually(lambda: phase(k, "fails") == "Failed")
    ended = pod(k, "fails")["status"]["containerStatuses"][0]["state"]["terminated"]
    assert (ended["exitCode"], ended["reason"]) == (3, "Error")
    assert ended["message"] == "gone wrong\n"
    assert k("logs", "fails") == "text\n"
    fallback = {"terminationMessagePolicy": "FallbackToLogsOnError"}
    run_pod(k, "logs", "echo from the log; exit 1", restartPolicy="Never", container=fallback)
    eventually(lambda: phase(k, "logs") == "Failed")
    ended = pod(k, "logs")["status"]["containerStatuses"][0]["state"]["terminated"]
    assert ended["message"] == "from the log"


def test_crash_loop_keeps_the_previous_log(k, eventually) -> None:
    run_pod(k, "loops", "echo run; exit 7")

    def restarted_twice() -> bool:
        return pod(k, "loops")["status"]["containerStatuses"][0]["restartCount"] >= 2

    eventually(restarted_twice)
    status = pod(k, "loops")["status"]["containerStatuses"][0]
    assert status["lastState"]["terminated"]["exitCode"] == 7
    assert k("logs", "loops", "--previous") == "run\n"
    waiting = "{.status.containerStatuses[0].state.waiting.reason}"
    eventually(lambda: k("get", "pod", "loops", "-o", f"jsonpath={waiting}") == "CrashLoopBackOff")


def test_program_that_does_not_exist(k, eventually) -> None:
    container = {"command": ["/no/such/program"]}
    run_pod(k, "missing", "", restartPolicy="Never", container=container)
    eventually(lambda: phase(k, "missing") == "Failed")
    ended = pod(k, "missing")["status"]["containerStatuses"][0]["state"]["terminated"]
    assert ended["reason"] == "StartError"
    assert "No such file" in ended["message"]


def test_memory_limit(k, eventually) -> None:
    greedy = {
        "command": ["python3", "-c", "x = bytearray(300 << 20); import time; time.sleep(60)"],
        "resources": {"limits": {"memory": "100Mi"}},
    }
    run_pod(k, "greedy", "", restartPolicy="Never", container=greedy)
    eventually(lambda: phase(k, "greedy") == "Failed")
    ended = pod(k, "greedy")["status"]["containerStatuses"][0]["state"]["terminated"]
    assert (ended["reason"], ended["exitCode"]) == ("OOMKilled", 137)


def test_probes(k, eventually) -> None:
    often = {"periodSeconds": 1, "timeoutSeconds": 5}
    probes = {
        "startupProbe": {
            "exec": {"command": ["test", "-e", "/tmp/started"]},
            "failureThreshold": 30,
            **often,
        },
        "readinessProbe": {"exec": {"command": ["test", "-e", "/tmp/ready"]}, **often},
        "livenessProbe": {
            "exec": {"command": ["test", "!", "-e", "/tmp/sick"]},
            "failureThreshold": 1,
            **often,
        },
    }
    run_pod(k, "probed", "sleep 600", container=probes)

    def condition() -> str:
        path = '{.status.conditions[?(@.type=="Ready")].status}'
        return k("get", "pod", "probed", "-o", f"jsonpath={path}")

    eventually(lambda: phase(k, "probed") == "Running")
    k("exec", "probed", "--", "touch", "/tmp/ready")
    assert condition() == "False"
    k("exec", "probed", "--", "touch", "/tmp/started")
    eventually(lambda: condition() == "True")
    k("exec", "probed", "--", "rm", "/tmp/ready")
    eventually(lambda: condition() == "False")
    k("exec", "probed", "--", "touch", "/tmp/sick")
    restarts = "{.status.containerStatuses[0].restartCount}"
    eventually(lambda: k("get", "pod", "probed", "-o", f"jsonpath={restarts}") == "1")


def test_tcp_probe_and_port_names(k) -> None:
    server = {
        "command": ["python3", "-m", "http.server", "9000"],
        "ports": [{"name": "web", "containerPort": 9000}],
        "readinessProbe": {"tcpSocket": {"port": "web"}, "periodSeconds": 1},
    }
    run_pod(k, "tcp", "", container=server)
    k("wait", "--for=condition=Ready", "pod/tcp", "--timeout=30s")


def test_readiness_gate(k, eventually) -> None:
    run_pod(k, "gated", "sleep 600", readinessGates=[{"conditionType": "sluice.dev/validated"}])
    k("wait", "--for=condition=ContainersReady", "pod/gated", "--timeout=30s")
    ready = '{.status.conditions[?(@.type=="Ready")].reason}'
    assert k("get", "pod", "gated", "-o", f"jsonpath={ready}") == "ReadinessGatesNotReady"
    gate = {"status": {"conditions": [{"type": "sluice.dev/validated", "status": "True"}]}}
    k("patch", "pod", "gated", "--subresource=status", "-p", json.dumps(gate))
    k("wait", "--for=condition=Ready", "pod/gated", "--timeout=10s")


def test_sidecar_and_pre_stop(k, eventually) -> None:
    sidecar = {
        "name": "side",
        "image": "busybox",
        "restartPolicy": "Always",
        "command": ["sh", "-c", "echo up > /shared/side; exec sleep 600"],
        "startupProbe": {"exec": {"command": ["test", "-e", "/shared/side"]}, "periodSeconds": 1},
        "volumeMounts": [{"name": "shared", "mountPath": "/shared"}],
    }
    main = {"volumeMounts": [{"name": "shared", "mountPath": "/shared"}]}
    run_pod(
        k,
        "with-side",
        "cat /shared/side",
        restartPolicy="Never",
        initContainers=[sidecar],
        volumes=[{"name": "shared", "emptyDir": {}}],
        container=main,
    )
    eventually(lambda: phase(k, "with-side") == "Succeeded")
    assert k("logs", "with-side", "-c", "main") == "up\n"


def test_pre_stop_runs_before_the_end(k, eventually, tmp_path) -> None:
    hook = {
        "lifecycle": {"preStop": {"exec": {"command": ["sh", "-c", "echo bye > /out/last"]}}},
        "volumeMounts": [{"name": "out", "mountPath": "/out"}],
    }
    volumes = [{"name": "out", "hostPath": {"path": str(tmp_path)}}]
    run_pod(k, "leaves", "sleep 600", container=hook, volumes=volumes)
    k("wait", "--for=condition=Ready", "pod/leaves", "--timeout=30s")
    k("delete", "pod", "leaves")
    assert (tmp_path / "last").read_text() == "bye\n"


def test_environment_and_volumes(k, eventually) -> None:
    k("create", "configmap", "settings", "--from-literal=colour=blue")
    k("create", "secret", "generic", "keys", "--from-literal=token=s3cret")
    container = {
        "env": [
            {"name": "NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
            {"name": "HELLO", "value": "I am $(NAME) $$(NAME)"},
            {
                "name": "COLOUR",
                "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "colour"}},
            },
        ],
        "envFrom": [{"prefix": "K_", "secretRef": {"name": "keys"}}],
        "volumeMounts": [
            {"name": "all", "mountPath": "/etc/all"},
            {"name": "config", "mountPath": "/opt/one.txt", "subPath": "colour"},
        ],
    }
    sources = [
        {"configMap": {"name": "settings"}},
        {"secret": {"name": "keys", "items": [{"key": "token", "path": "sub/token"}]}},
        {
            "downwardAPI": {
                "items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]
            }
        },
    ]
    volumes = [
        {"name": "all", "projected": {"sources": sources}},
        {"name": "config", "configMap": {"name": "settings"}},
    ]
    command = (
        "echo $HELLO $COLOUR $K_token; cat /etc/all/colour /etc/all/sub/token /etc/all/labels;"
        " cat /opt/one.txt; touch /etc/all/x || echo read-only; env | grep -c ^SSH_"
    )
    run_pod(k, "env", command, restartPolicy="Never", container=container, volumes=volumes)
    eventually(lambda: phase(k, "env") in ("Succeeded", "Failed"))
    text = k("logs", "env")
    assert "I am env $(NAME) blue s3cret" in text
    assert 'blues3cretapp="env"' in text
    assert "read-only" in text


def test_read_only_root(k, eventually) -> None:
    container = {
        "securityContext": {"readOnlyRootFilesystem": True},
        "volumeMounts": [{"name": "scratch", "mountPath": "/scratch"}],
    }
    command = "touch /scratch/a && echo volume; touch /tmp/a || echo tmp; touch /x || echo root"
    volumes = [{"name": "scratch", "emptyDir": {}}]
    run_pod(k, "ro", command, restartPolicy="Never", container=container, volumes=volumes)
    eventually(lambda: phase(k, "ro") in ("Succeeded", "Failed"))
    said = [line for line in k("logs", "ro").split("\n") if not line.startswith("touch")]
    assert said == ["volume", "tmp", "root", ""]


def test_a_volume_over_tmp_stays_writable_under_a_read_only_root(k, eventually) -> None:
    container = {
        "securityContext": {"readOnlyRootFilesystem": True},
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
    }
    command = "touch /tmp/a && echo tmp; touch /run/a || echo run"
    volumes = [{"name": "tmp", "emptyDir": {}}]
    run_pod(k, "ro-tmp", command, restartPolicy="Never", container=container, volumes=volumes)
    eventually(lambda: phase(k, "ro-tmp") in ("Succeeded", "Failed"))
    said = [line for line in k("logs", "ro-tmp").split("\n") if not line.startswith("touch")]
    assert said == ["tmp", "run", ""]


def test_persistent_volume_claim(k, namespace, eventually, tmp_path) -> None:
    (tmp_path / "model.txt").write_text("weights")
    objects = f"""
apiVersion: v1
kind: PersistentVolume
metadata: {{name: pv-{namespace}}}
spec:
  capacity: {{storage: 1Gi}}
  accessModes: [ReadOnlyMany]
  storageClassName: ""
  claimRef: {{namespace: {namespace}, name: models}}
  hostPath: {{path: {tmp_path}}}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {{name: models}}
spec:
  accessModes: [ReadOnlyMany]
  storageClassName: ""
  resources: {{requests: {{storage: 1Gi}}}}
"""
    k("apply", "-f", "-", stdin=objects)
    volumes = [{"name": "m", "persistentVolumeClaim": {"claimName": "models", "readOnly": True}}]
    container = {"volumeMounts": [{"name": "m", "mountPath": "/models"}]}
    command = "cat /models/model.txt; touch /models/x || echo read-only"
    run_pod(k, "pvc", command, restartPolicy="Never", container=container, volumes=volumes)
    eventually(lambda: phase(k, "pvc") in ("Succeeded", "Failed"))
    text = k("logs", "pvc")
    assert text.startswith("weights")
    assert "read-only" in text
    k("delete", "pv", f"pv-{namespace}", "--wait=false")


def test_service_account_token_and_rbac(k, namespace) -> None:
    reader = f"""
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {{name: read}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: view}}
subjects: [{{kind: ServiceAccount, name: default, namespace: {namespace}}}]
"""
    k("apply", "-f", "-", stdin=reader)
    code = """
import json, os, ssl, urllib.request, urllib.error
base = "/var/run/secrets/kubernetes.io/serviceaccount/"
context = ssl.create_default_context(cafile=base + "ca.crt")
host = f"https://{os.environ['KUBERNETES_SERVICE_HOST']}:{os.environ['KUBERNETES_SERVICE_PORT']}"
def get(path):
    headers = {"Authorization": "Bearer " + open(base + "token").read()}
    try:
        request = urllib.request.Request(host + path, headers=headers)
        return urllib.request.urlopen(request, context=context, timeout=10).status
    except urllib.error.HTTPError as error:
        return error.code
space = open(base + "namespace").read()
print(get(f"/api/v1/namespaces/{space}/pods"), get("/api/v1/nodes"))
"""
    run_pod(k, "client", "sleep 600")
    k("wait", "--for=condition=Ready", "pod/client", "--timeout=30s")
    assert k("exec", "client", "--", "python3", "-c", code).strip() == "200 403"


def test_job_with_indexes_and_cron_job(k) -> None:
    job = """
apiVersion: batch/v1
kind: Job
metadata: {name: indexed}
spec:
  completions: 3
  parallelism: 3
  completionMode: Indexed
  backoffLimitPerIndex: 0
  template:
    spec:
      restartPolicy: Never
      containers:
      - {name: c, image: busybox, command: [sh, -c, "test $JOB_COMPLETION_INDEX != 1"]}
---
apiVersion: batch/v1
kind: CronJob
metadata: {name: nightly}
spec:
  schedule: "0 2 * * *"
  jobTemplate:
    spec:
      template:
        spec:
          restartPolicy: Never
          containers: [{name: c, image: busybox, command: ["true"]}]
"""
    k("apply", "-f", "-", stdin=job)
    k("create", "job", "now", "--from=cronjob/nightly")
    k("wait", "--for=condition=Complete", "job/now", "--timeout=60s")
    k("wait", "--for=condition=Failed", "job/indexed", "--timeout=60s")
    status = json.loads(k("get", "job", "indexed", "-o", "json"))["status"]
    assert (status["completedIndexes"], status["failedIndexes"]) == ("0,2", "1")


def test_eviction_respects_the_budget(k, namespace, eventually) -> None:
    k("apply", "-f", "-", stdin=WEB)
    budget = """
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: web}
spec: {minAvailable: 2, selector: {matchLabels: {app: web}}}
"""
    k("apply", "-f", "-", stdin=budget)
    k("rollout", "status", "deployment/web", "--timeout=60s")
    allowed = "jsonpath={.status.currentHealthy}"
    eventually(lambda: k("get", "pdb", "web", "-o", allowed) == "2")
    name = k("get", "pods", "-l", "app=web", "-o", "jsonpath={.items[0].metadata.name}")
    eviction = {
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"name": name, "namespace": namespace},
    }
    path = f"/api/v1/namespaces/{namespace}/pods/{name}/eviction"
    with pytest.raises(AssertionError, match="disruption budget"):
        k("create", "--raw", path, "-f", "-", stdin=json.dumps(eviction))
    k("delete", "pdb", "web")
    k("create", "--raw", path, "-f", "-", stdin=json.dumps(eviction))
    eventually(lambda: name not in k("get", "pods", "-o", "name"))


def test_owner_references_are_collected(k, eventually) -> None:
    k("create", "configmap", "owner")
    uid = k("get", "configmap", "owner", "-o", "jsonpath={.metadata.uid}")
    owner = {"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": uid}
    child = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "child", "ownerReferences": [owner]},
    }
    k("create", "-f", "-", stdin=json.dumps(child))
    k("delete", "configmap", "owner")
    eventually(lambda: "child" not in k("get", "configmap", "-o", "name"), 60)


def test_deleting_a_pod_is_quick_and_complete(cluster: LocalCluster, k, eventually) -> None:
    run_pod(k, "short", "trap 'exit 0' TERM; while :; do sleep 0.1; done")
    k("wait", "--for=condition=Ready", "pod/short", "--timeout=30s")
    uid = pod(k, "short")["metadata"]["uid"]
    k("delete", "pod", "short", timeout=10)
    eventually(lambda: not (cluster.state / "pods" / uid).exists(), 5)


def test_haproxy_follows_headless_dns(cluster, k, namespace, eventually) -> None:
    """The router's image, its mount path below a directory of the host, and its resolver."""
    k("apply", "-f", "-", stdin=WEB)
    headless = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "pods"},
        "spec": {"clusterIP": "None", "selector": {"app": "web"}, "ports": [{"port": 8080}]},
    }
    k("create", "-f", "-", stdin=json.dumps(headless))
    config = f"""
defaults
    mode http
    timeout connect 1s
    timeout client 5s
    timeout server 5s
    default-server init-addr none
resolvers cluster
    parse-resolv-conf
    hold valid 1s
    hold obsolete 1s
frontend f
    bind :8000
    default_backend b
backend b
    default-server check resolvers cluster resolve-prefer ipv4
    server-template s 4 pods.{namespace}.svc.cluster.local:8080
"""
    k("create", "configmap", "haproxy", f"--from-literal=haproxy.cfg={config}")
    container = {
        "image": "docker.io/library/haproxy:3.2",
        "command": None,
        "args": ["-W", "-db", "-f", "/usr/local/etc/haproxy/haproxy.cfg"],
        "volumeMounts": [{"name": "config", "mountPath": "/usr/local/etc/haproxy"}],
    }
    run_pod(
        k,
        "proxy",
        "",
        container=container,
        volumes=[{"name": "config", "configMap": {"name": "haproxy"}}],
    )
    k("wait", "--for=condition=Ready", "pod/proxy", "--timeout=30s")
    ip = pod(k, "proxy")["status"]["podIP"]
    eventually(lambda: cluster.http(f"http://{ip}:8000/page.txt").text == "one", 20)
    # Leaving is quick: the official image's stop signal is the graceful one.
    k("delete", "pod", "proxy", timeout=15)


def test_sluice_image_is_this_program(k, eventually) -> None:
    container = {"image": "ghcr.io/sluice/sluice:0.1.0", "command": None, "args": ["--version"]}
    run_pod(k, "version", "", restartPolicy="Never", container=container)
    eventually(lambda: phase(k, "version") == "Succeeded")
    assert k("logs", "version").startswith("sluice, version ")


def test_pod_deadline_and_missing_configuration(k, eventually) -> None:
    missing = {"env": [{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "no", "key": "k"}}}]}
    run_pod(k, "waits", "echo never", container=missing)
    reason = "jsonpath={.status.containerStatuses[0].state.waiting.reason}"
    show = ("get", "pod", "waits", "-o", reason)
    eventually(lambda: k(*show) == "CreateContainerConfigError")
    k("create", "configmap", "no", "--from-literal=k=v")
    k("wait", "--for=condition=Ready", "pod/waits", "--timeout=20s", check=False)
    run_pod(k, "late", "sleep 600", activeDeadlineSeconds=1)
    eventually(lambda: phase(k, "late") == "Failed", 10)
    assert pod(k, "late")["status"]["reason"] == "DeadlineExceeded"
