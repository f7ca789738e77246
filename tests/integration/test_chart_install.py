"""The chart on a real API server: installed, upgraded, uninstalled, and what it may do.

No operator pod runs here (no replicas); that it serves is the demo's and the end-to-end test's
business.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.tools.helm import CHART, ROOT, helm, render

pytestmark = pytest.mark.cluster

KUBECTL = shutil.which("kubectl", path=str(Path(sys.executable).parent)) or "kubectl"
CRDS = ("modeldeployments", "modelrevisions", "trustpolicies")
IRIS = {
    "apiVersion": "sluice.dev/v1alpha1",
    "kind": "ModelDeployment",
    "metadata": {"name": "iris"},
    "spec": {"model": {"uri": "s3://models/iris"}},
}

# The control plane is shared by all tests, and some apply the CRDs without Helm.
ADOPT = ("--set", "crds.adopt=true", "--take-ownership", "--force-conflicts")

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def raw(cluster: Any) -> Run:
    """kubectl that lets the test look at a refusal."""

    def run(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [KUBECTL, "--kubeconfig", str(cluster.kubeconfig), *arguments],
            input=stdin or None,
            capture_output=True,
            text=True,
        )

    return run


@pytest.fixture
def release(cluster: Any, namespace: str, raw: Run) -> Iterator[Run]:
    """helm against the cluster, in this namespace; cleans up after a failed test."""

    def run(verb: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        where = ("--kubeconfig", str(cluster.kubeconfig), "--namespace", namespace)
        return helm(verb, "sluice", *arguments, *where)

    yield run
    if (
        "sluice"
        in helm("list", "-q", "--kubeconfig", str(cluster.kubeconfig), "-n", namespace).stdout
    ):
        run("uninstall")


def install(release: Run, *more: str) -> str:
    return release("install", str(CHART), "--set", "replicas=0", *ADOPT, *more).stdout


def test_install_upgrade_and_uninstall_leave_models_and_crds(
    release: Run, raw: Run, namespace: str
) -> None:
    said = install(release)
    assert "kubectl apply -f -" in said
    done = raw("apply", "-n", namespace, "-f", "-", stdin=json.dumps(IRIS))
    assert done.returncode == 0, done.stderr
    uid = raw("get", "mdep/iris", "-n", namespace, "-o", "jsonpath={.metadata.uid}").stdout

    release(
        "upgrade",
        str(CHART),
        "--set",
        "replicas=0",
        "--set",
        "operatorClass=blue",
        "--force-conflicts",
    )
    arguments = raw("get", "deploy/sluice", "-n", namespace, "-o", "yaml").stdout
    assert "--operator-class=blue" in arguments

    release("uninstall")
    assert raw("get", "deploy/sluice", "-n", namespace).returncode != 0
    left = raw("get", "mdep/iris", "-n", namespace, "-o", "jsonpath={.metadata.uid}").stdout
    assert left == uid
    for name in CRDS:
        assert raw("get", "crd", f"{name}.sluice.dev").returncode == 0


def test_an_upgrade_changes_the_crds(release: Run, raw: Run, tmp_path: Path) -> None:
    install(release)
    newer = tmp_path / "sluice"
    shutil.copytree(CHART, newer)
    file = newer / "files" / "crds" / "sluice.dev_trustpolicies.yaml"
    crd = yaml.safe_load(file.read_text())
    spec = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    spec["properties"]["note"] = {"type": "string", "maxLength": 9, "description": "New."}
    file.write_text(yaml.safe_dump(crd, sort_keys=False))

    release("upgrade", str(newer), "--set", "replicas=0", "--force-conflicts")
    field = "{.spec.versions[0].schema.openAPIV3Schema.properties.spec.properties.note.type}"
    seen = raw("get", "crd", "trustpolicies.sluice.dev", "-o", f"jsonpath={field}")
    assert seen.stdout == "string"
    release("upgrade", str(CHART), "--set", "replicas=0", "--force-conflicts")
    seen = raw("get", "crd", "trustpolicies.sluice.dev", "-o", f"jsonpath={field}")
    assert seen.stdout == ""


def review(namespace: str, verb: str, what: str, where: str) -> dict[str, Any]:
    """May the operator's account? ``what`` is resource[/subresource][:name]."""
    resource, _, name = what.partition(":")
    resource, _, subresource = resource.partition("/")
    groups = {"pods": "", "secrets": "", "leases": "coordination.k8s.io", "deployments": "apps",
              "clusterrolebindings": "rbac.authorization.k8s.io"}  # fmt: skip
    return {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {
            "user": f"system:serviceaccount:{namespace}:sluice",
            "resourceAttributes": {
                "verb": verb,
                "group": groups.get(resource, "sluice.dev"),
                "resource": resource,
                "subresource": subresource,
                "name": name,
                "namespace": where,
            },
        },
    }


def allowed(raw: Run, questions: list[dict[str, Any]]) -> list[bool]:
    """The API server's answers, in order."""
    text = "\n---\n".join(json.dumps(question) for question in questions)
    done = raw("create", "-f", "-", "-o", "jsonpath={.status.allowed}{'\\n'}", stdin=text)
    assert done.returncode == 0, done.stderr
    return [line == "true" for line in done.stdout.splitlines()]


def may_what_it_should(raw: Run, namespace: str) -> bool:
    """Whether the operator's account may do MAY and not MAY_NOT in its namespace."""
    asked = MAY + MAY_NOT
    said = allowed(raw, [review(namespace, *question, namespace) for question in asked])
    assert dict(zip(asked, said, strict=True)) == RIGHT
    return True


MAY = [
    ("patch", "modeldeployments"),
    ("patch", "modeldeployments/status"),
    ("create", "modelrevisions"),
    ("delete", "pods"),
    ("patch", "pods/status"),
    ("get", "pods/log"),
    ("get", "secrets:sluice-router-tls"),
    ("get", "secrets:sluice-metrics"),
    ("get", "secrets:sluice-operator-ca"),
    ("patch", "leases:sluice-operator"),
    ("watch", "trustpolicies"),
]
MAY_NOT = [
    ("update", "modeldeployments"),
    ("get", "secrets"),
    ("list", "secrets"),
    ("get", "secrets:other"),
    ("create", "pods"),
    ("create", "pods/exec"),
    ("create", "trustpolicies"),
    ("create", "clusterrolebindings"),
]
RIGHT = dict.fromkeys(MAY, True) | dict.fromkeys(MAY_NOT, False)


@pytest.mark.parametrize("scoped", [False, True], ids=["cluster", "namespaced"])
def test_the_account_may_do_its_work_and_no_more(
    release: Run, raw: Run, namespace: str, scoped: bool, eventually: Callable[..., Any]
) -> None:
    install(release, *(["--set", f"watchNamespaces={{{namespace}}}"] if scoped else []))
    there = [
        review(namespace, "create", "deployments", "default"),
        review(namespace, "get", "secrets:sluice-operator-ca", "default"),
    ]
    # The API server learns of new roles a moment after it has stored them.
    eventually(lambda: may_what_it_should(raw, namespace))
    eventually(lambda: allowed(raw, there) == [not scoped, False])


def test_the_kustomize_base_installs_the_same(
    raw: Run, tmp_path: Path, eventually: Callable[..., Any]
) -> None:
    shutil.copytree(ROOT / "manifests" / "base", tmp_path / "base")
    overlay = tmp_path / "overlay"
    overlay.mkdir()
    (overlay / "kustomization.yaml").write_text(
        "resources: [../base]\nreplicas: [{name: sluice, count: 0}]\n"
    )
    text = raw("kustomize", str(overlay)).stdout
    done = raw("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=text)
    assert done.returncode == 0, done.stderr
    try:
        eventually(lambda: may_what_it_should(raw, "sluice-system"))
    finally:
        ours = [o for o in yaml.safe_load_all(text) if o["kind"] != "CustomResourceDefinition"]
        raw("delete", "--wait=false", "-f", "-", stdin=yaml.safe_dump_all(ours))


def test_its_pod_is_admitted_by_the_restricted_profile(raw: Run, namespace: str) -> None:
    raw("label", "ns", namespace, "pod-security.kubernetes.io/enforce=restricted")
    (deployment,) = [o for o in render(namespace=namespace) if o["kind"] == "Deployment"]
    template = deployment["spec"]["template"]
    template["spec"]["serviceAccountName"] = "default"
    raw("create", "serviceaccount", "default", "-n", namespace)
    template["metadata"]["name"] = "operator"
    pod = {"apiVersion": "v1", "kind": "Pod", **template}
    done = raw("apply", "-n", namespace, "--dry-run=server", "-f", "-", stdin=json.dumps(pod))
    assert done.returncode == 0, done.stderr


def test_the_operator_may_take_a_command_away_but_not_touch_spec(
    release: Run, raw: Run, namespace: str, eventually: Callable[..., Any]
) -> None:
    install(release)
    account = f"system:serviceaccount:{namespace}:sluice"
    mdep = {
        "apiVersion": "sluice.dev/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {
            "name": "guarded",
            "namespace": namespace,
            "annotations": {"sluice.dev/abort": "now", "team": "a"},
        },
        "spec": {"model": {"uri": "s3://models/a"}},
    }
    assert raw("apply", "-f", "-", stdin=json.dumps(mdep)).returncode == 0

    def patch(body: dict[str, Any], *options: str) -> str:
        done = raw(
            "-n", namespace, "patch", "mdep", "guarded", "--type=merge", "-p", json.dumps(body),
            "--as", account, *options,
        )  # fmt: skip
        return "" if done.returncode == 0 else done.stderr

    spec = {"spec": {"replicas": 5}}
    # The API server learns of a new policy a moment after it has stored it.
    eventually(lambda: "may not change spec" in patch(spec, "--dry-run=server"), 30)
    assert "may not change spec" in patch(spec)
    assert "may not change labels" in patch({"metadata": {"labels": {"x": "y"}}})
    assert "may only remove" in patch({"metadata": {"annotations": {"team": None}}})
    assert "may only remove" in patch({"metadata": {"annotations": {"new": "x"}}})
    assert patch({"metadata": {"annotations": {"sluice.dev/abort": None}}}) == ""
