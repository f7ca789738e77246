"""Who may give which command: the shipped policy and roles, tried on the real API server."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.tools.helm import render

pytestmark = pytest.mark.cluster

KUBECTL = shutil.which("kubectl", path=str(Path(sys.executable).parent)) or "kubectl"
DIGEST = "sha256:" + "9f" * 32
PEOPLE = {
    "ed": ("edit", "view"),
    "olga": ("oncall",),
    "ann": ("approver",),
    "adam": ("admin", "edit", "view"),
}
CLUSTER_WIDE = ("ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding", "ClusterRole")

Annotate = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def kubectl_raw(cluster: Any) -> Callable[..., subprocess.CompletedProcess[str]]:
    """kubectl that lets the test look at a refusal."""

    def run(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [KUBECTL, "--kubeconfig", str(cluster.kubeconfig), *arguments],
            input=stdin or None,
            capture_output=True,
            text=True,
        )

    return run


@pytest.fixture(scope="module")
def installed(kubectl_raw: Any) -> Iterator[str]:
    """The chart's CRDs, policy and roles; the prefix of the roles' names."""
    objects = [o for o in render(name="cmd", namespace="cmd") if o["kind"] in CLUSTER_WIDE]
    crds = [o for o in render(name="cmd") if o["kind"] == "CustomResourceDefinition"]
    for group in (crds, objects):
        text = yaml.safe_dump_all(group)
        done = kubectl_raw("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=text)
        assert done.returncode == 0, done.stderr
    names = [f"{o['kind']}/{o['metadata']['name']}" for o in objects]
    kubectl_raw("wait", "--for=condition=Established", "crd/modeldeployments.sluice.dev")
    yield "cmd-cmd-sluice"
    kubectl_raw("delete", "--wait=false", *names)


def _binding(person: str, role: str) -> dict[str, Any]:
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": {"name": f"{person}-{role}"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": person}],
    }


@pytest.fixture
def annotate(
    installed: str, namespace: str, kubectl_raw: Any, eventually: Callable[..., Any]
) -> Annotate:
    """Annotates mdep/iris as a person who has the chart's roles in this namespace, or as root."""
    objects = [_binding(who, f"{installed}-{r}") for who, roles in PEOPLE.items() for r in roles]
    objects.append(
        {
            "apiVersion": "sluice.dev/v1alpha1",
            "kind": "ModelDeployment",
            "metadata": {"name": "iris"},
            "spec": {"model": {"uri": "s3://models/iris"}},
        }
    )
    done = kubectl_raw("apply", "-n", namespace, "-f", "-", stdin=yaml.safe_dump_all(objects))
    assert done.returncode == 0, done.stderr

    def run(person: str, pair: str) -> subprocess.CompletedProcess[str]:
        who = ("--as", person) if person else ()
        result: subprocess.CompletedProcess[str] = kubectl_raw(
            "annotate", "mdep/iris", "-n", namespace, "--overwrite", *who, f"sluice.dev/{pair}"
        )
        return result

    def sees(person: str) -> bool:
        question = ("get", "modeldeployments", "-n", namespace, "--as", person)
        return bool(kubectl_raw("auth", "can-i", *question).returncode == 0)

    # A new policy and new roles take a moment to reach admission; to see is everybody's last role.
    for someone in PEOPLE:
        eventually(lambda person=someone: sees(person))
    deadline = time.monotonic() + 30
    while "you may not" not in (said := run("ed", f"promote={DIGEST}").stderr):
        assert time.monotonic() < deadline, f"the policy is not enforced: {said}"
        run("", "promote-")
    return run


MAY = [
    ("ed", "abort=now"),
    ("ed", "pause=now"),
    ("olga", "abort=now"),
    ("olga", "resume=now"),
    ("ann", f"promote={DIGEST}"),
    ("ann", f"promote-now={DIGEST[:19]}"),
    ("ann", "retry=" + "9f" * 6),
    ("adam", f"promote={DIGEST}"),
    ("adam", "abort=now"),
]
MAY_NOT = [
    ("ed", f"promote={DIGEST}", "modeldeployments/promote"),
    ("ed", "resume=now", "you may not resume"),
    ("ed", f"retry={DIGEST}", "you may not retry"),
    ("olga", f"promote-now={DIGEST}", "you may not promote-now"),
    ("ann", "abort=now", "you may not abort"),
]


def test_who_may_and_who_may_not(annotate: Annotate) -> None:
    for person, pair in MAY:
        done = annotate(person, pair)
        assert done.returncode == 0, f"{person} {pair}: {done.stderr}"
        annotate("", pair.split("=")[0] + "-")
    for person, pair, says in MAY_NOT:
        done = annotate(person, pair)
        assert done.returncode != 0, f"{person} {pair} was accepted"
        assert says in done.stderr


def test_a_command_that_stands_does_not_block_later_edits(annotate: Annotate) -> None:
    assert annotate("ann", f"promote={DIGEST}").returncode == 0
    assert annotate("ed", "abort=now").returncode == 0


def test_a_typing_error_does_not_look_like_a_command(annotate: Annotate) -> None:
    said = annotate("", "aboort=now").stderr
    assert "there is no command sluice.dev/aboort" in said
    assert "commands are abort, pause" in said


def test_what_lets_a_candidate_go_on_must_name_its_digest(annotate: Annotate) -> None:
    assert "must name the package digest" in annotate("", "promote=now").stderr
    assert "must name the package digest" in annotate("", "retry=sha256:9f2c").stderr
