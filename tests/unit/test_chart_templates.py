"""The chart: what it makes by default, with every value, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.tools.helm import CHART, helm, render

from sluice.api.crd import crd
from sluice.api.kinds import KINDS
from sluice.api.meta import COMMANDS, DIGEST_BOUND_COMMANDS

VALUES = yaml.safe_load((CHART / "values.yaml").read_text())
SCHEMA = json.loads((CHART / "values.schema.json").read_text())


def pick(objects: list[Any], kind: str, name: str = "") -> Any:
    """The one object of ``kind`` (and name)."""
    found = [
        o for o in objects if o["kind"] == kind and (not name or o["metadata"]["name"] == name)
    ]
    assert len(found) == 1, f"{kind} {name}: {[o['metadata']['name'] for o in found]}"
    return found[0]


@pytest.fixture(scope="module")
def default() -> list[Any]:
    """What the chart makes untouched."""
    return render()


@pytest.fixture(scope="module")
def full() -> list[Any]:
    """What the chart makes with every value set."""
    return render("--values", str(Path(__file__).with_name("chart_full_values.yaml")))


def arguments(objects: list[Any]) -> list[str]:
    deployment = pick(objects, "Deployment")
    return list(deployment["spec"]["template"]["spec"]["containers"][0]["args"])


def test_lint_is_strict_and_silent() -> None:
    done = helm("lint", "--strict", str(CHART))
    assert "0 chart(s) failed" in done.stdout
    assert "[WARNING]" not in done.stdout + done.stderr


def test_two_renders_are_equal(default: list[Any]) -> None:
    assert render() == default


def test_what_a_plain_install_makes(default: list[Any]) -> None:
    kinds = sorted(f"{o['kind']}/{o['metadata']['name']}" for o in default)
    assert kinds == sorted(
        [
            "ClusterRole/sluice-system-sluice",
            "ClusterRole/sluice-system-sluice-admin",
            "ClusterRole/sluice-system-sluice-approver",
            "ClusterRole/sluice-system-sluice-edit",
            "ClusterRole/sluice-system-sluice-oncall",
            "ClusterRole/sluice-system-sluice-view",
            "ClusterRoleBinding/sluice-system-sluice",
            *(f"CustomResourceDefinition/{kind.plural}.sluice.dev" for kind in KINDS),
            "Deployment/sluice",
            "PodDisruptionBudget/sluice",
            "Role/sluice-own",
            "RoleBinding/sluice-own",
            "Service/sluice-metrics",
            "ServiceAccount/sluice",
            "ValidatingAdmissionPolicy/sluice-system-sluice-commands",
            "ValidatingAdmissionPolicy/sluice-system-sluice-spec-guard",
            "ValidatingAdmissionPolicyBinding/sluice-system-sluice-spec-guard",
            "ValidatingAdmissionPolicyBinding/sluice-system-sluice-commands",
        ]
    )


def test_the_operator_is_told_what_it_needs(default: list[Any]) -> None:
    assert arguments(default) == [
        "operator",
        "--runtime-image=sluice:0.1.0",
        "--router-image=haproxy:2.8",
        "--metrics-port=8081",
        "--health-port=8082",
        "--lease-name=sluice-operator",
        "--lease-namespace=sluice-system",
    ]
    assert pick(default, "Deployment")["spec"]["replicas"] == 2


def test_every_value_reaches_the_operator(full: list[Any]) -> None:
    mirror = "registry.example:5000/mirror"
    digest = "sha256:" + "0" * 64
    assert arguments(full) == [
        "operator",
        "--namespace=team-a",
        "--namespace=team-b",
        f"--runtime-image={mirror}/sluice-runtime:2",
        "--router-image=other.example/haproxy:3.0",
        "--operator-class=blue",
        "--metrics-port=9081",
        "--health-port=9082",
        "--lease-name=sluice-blue",
        "--lease-namespace=sluice-system",
        "--dns-nameserver=10.96.0.10:53",
        "--log-format=json",
    ]
    pod = pick(full, "Deployment")["spec"]["template"]
    assert pod["spec"]["containers"][0]["image"] == f"{mirror}/team/sluice@{digest}"
    assert pod["spec"]["imagePullSecrets"] == [{"name": "pull"}]
    assert pod["spec"]["priorityClassName"] == "system-cluster-critical"
    assert pod["spec"]["nodeSelector"] == {"kubernetes.io/os": "linux"}
    assert pod["spec"]["tolerations"] == [{"operator": "Exists"}]
    assert "nodeAffinity" in pod["spec"]["affinity"]
    assert pod["metadata"]["labels"]["sidecar"] == "none"
    assert pod["metadata"]["annotations"]["note"] == "hello"
    assert {"name": "TZ", "value": "UTC"} in pod["spec"]["containers"][0]["env"]
    assert pick(full, "ConfigMap")["data"] == {"a": "b"}
    assert pick(full, "ServiceMonitor")["spec"]["endpoints"][0]["interval"] == "10s"
    assert pick(full, "NetworkPolicy")["spec"]["policyTypes"] == ["Ingress", "Egress"]
    assert all(o["metadata"]["labels"]["cost"] == "ml" for o in full if o["kind"] != "ConfigMap")


def test_pods_pass_the_restricted_profile(default: list[Any]) -> None:
    spec = pick(default, "Deployment")["spec"]["template"]["spec"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] > 0
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys()
    assert [list(v) for v in spec["volumes"]] == [["name", "emptyDir"]] or "emptyDir" in spec[
        "volumes"
    ][0]
    for container in spec["containers"]:
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False
        assert context["readOnlyRootFilesystem"] is True
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert container["resources"]["limits"]["memory"]


def test_crds_are_the_generated_ones_and_survive_an_uninstall(default: list[Any]) -> None:
    for kind in KINDS:
        made = pick(default, "CustomResourceDefinition", f"{kind.plural}.sluice.dev")
        assert made["spec"] == json.loads(json.dumps(crd(kind)["spec"]))
        assert made["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}


def test_crds_may_be_left_out_or_removed_with_the_chart() -> None:
    without = render("--set", "crds.install=false")
    assert not [o for o in without if o["kind"] == "CustomResourceDefinition"]
    loose = render("--set", "crds.keep=false")
    made = pick(loose, "CustomResourceDefinition", "modeldeployments.sluice.dev")
    assert "annotations" not in made["metadata"]


def test_named_namespaces_get_a_role_each_and_one_cluster_role_reads_trust(
    full: list[Any],
) -> None:
    cluster = pick(full, "ClusterRole", "sluice-system-sluice")
    assert cluster["rules"] == [
        {"apiGroups": ["sluice.dev"], "resources": ["trustpolicies"],
         "verbs": ["get", "list", "watch"]}
    ]  # fmt: skip
    roles = {
        (o["metadata"]["namespace"], o["metadata"]["name"]) for o in full if o["kind"] == "Role"
    }
    assert roles == {
        ("team-a", "sluice"), ("team-b", "sluice"), ("sluice-system", "sluice-own"),
    }  # fmt: skip
    bindings = [o for o in full if o["kind"] == "RoleBinding"]
    assert len(bindings) == 3
    for binding in bindings:
        assert binding["subjects"] == [
            {"kind": "ServiceAccount", "name": "sluice-blue", "namespace": "sluice-system"}
        ]


def rules(objects: list[Any]) -> list[Any]:
    return [r for o in objects if o["kind"] in ("Role", "ClusterRole") for r in o["rules"]]


def test_no_role_has_a_wildcard_or_a_dangerous_verb(default: list[Any], full: list[Any]) -> None:
    for rule in rules(default) + rules(full):
        words = rule["apiGroups"] + rule["resources"] + rule["verbs"]
        assert "*" not in "".join(words)
        assert not {"escalate", "bind", "impersonate", "deletecollection"} & set(rule["verbs"])
        assert not {"pods/exec", "pods/attach", "nodes", "namespaces"} & set(rule["resources"])


def test_secrets_are_read_by_fixed_name_only(default: list[Any]) -> None:
    about = [r for r in rules(default) if "secrets" in r["resources"]]
    named = {n: r["verbs"] for r in about for n in r.get("resourceNames", [])}
    assert named == {
        "sluice-router-tls": ["get", "patch"],
        "sluice-metrics": ["get"],
        "sluice-operator-ca": ["get", "patch"],
    }
    assert {v for r in about if "resourceNames" not in r for v in r["verbs"]} == {"create"}


def test_the_operator_may_not_write_what_users_own(default: list[Any]) -> None:
    role = pick(default, "ClusterRole", "sluice-system-sluice")
    verbs = [v for r in role["rules"] if "modeldeployments" in r["resources"] for v in r["verbs"]]
    assert verbs == ["get", "list", "watch", "patch"]
    guard = pick(default, "ValidatingAdmissionPolicy", "sluice-system-sluice-spec-guard")
    who = guard["spec"]["matchConditions"][0]["expression"]
    assert who.endswith("'system:serviceaccount:sluice-system:sluice'")
    assert guard["spec"]["validations"][0]["expression"] == "object.spec == oldObject.spec"


def test_every_verb_is_explained_in_the_docs(default: list[Any]) -> None:
    page = (CHART.parents[1] / "docs" / "install.md").read_text()
    operator = [pick(default, "ClusterRole", "sluice-system-sluice"), pick(default, "Role")]
    for rule in rules(operator):
        for resource in rule["resources"]:
            line = next((x for x in page.splitlines() if f"| `{resource}`" in x), None)
            assert line is not None, f"{resource} has no line in docs/install.md"
        for name in rule.get("resourceNames", []):
            assert f"`{name}`" in page


def test_one_replica_has_no_disruption_budget() -> None:
    assert not [o for o in render("--set", "replicas=1") if o["kind"] == "PodDisruptionBudget"]


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("replicaCountt=3", "replicaCountt"),
        ("replicas=two", "replicas"),
        ("image.digest=sha256:12", "/image/digest"),
        ("image.pullPolicy=Sometimes", "/image/pullPolicy"),
        ("ports.metrics=80", "/ports/metrics"),
        ("watchNamespaces[0]=Team_A", "/watchNamespaces/0"),
        ("dnsNameserver=coredns", "/dnsNameserver"),
        ("crds.instal=false", "instal"),
    ],
)
def test_a_wrong_value_is_refused_by_name(setting: str, says: str) -> None:
    done = helm("template", "x", str(CHART), "--set", setting, check=False)
    assert done.returncode != 0
    assert says in done.stderr


def test_schema_and_values_have_the_same_keys() -> None:
    def walk(values: Any, schema: Any, path: str) -> None:
        if not isinstance(values, dict) or "properties" not in schema:
            return
        assert set(values) == set(schema["properties"]) - {"global"}, path
        assert schema["additionalProperties"] is False, path
        for key, value in values.items():
            assert schema["properties"][key]["description"].endswith("."), f"{path}.{key}"
            walk(value, schema["properties"][key], f"{path}.{key}")

    walk(VALUES, SCHEMA, "")


def rows(values: Any, schema: Any, path: str = "") -> list[str]:
    """The README's table: one line a value, from values.yaml and its schema."""
    made = []
    for key, value in values.items():
        here, about = f"{path}.{key}".lstrip("."), schema["properties"][key]
        if isinstance(value, dict) and "properties" in about:
            made += rows(value, about, here)
        else:
            made.append(f"| `{here}` | `{json.dumps(value)}` | {about['description']} |")
    return made


def test_the_readme_describes_every_value() -> None:
    table = [x for x in (CHART / "README.md").read_text().splitlines() if x.startswith("| `")]
    assert table == rows(VALUES, SCHEMA)


def test_notes_give_the_next_command(tmp_path: Path) -> None:
    done = helm(
        "install", "sluice", str(CHART), "-n", "x", "--dry-run=client", "--set", "crds.keep=false"
    )
    for wanted in ("kubectl apply -f -", "kind: ModelDeployment", "kubectl -n default wait",
                   "deletes every ModelDeployment"):  # fmt: skip
        assert wanted in done.stdout


def test_the_command_policy_knows_exactly_our_commands(default: list[Any]) -> None:
    policy = pick(default, "ValidatingAdmissionPolicy", "sluice-system-sluice-commands")
    variables = {v["name"]: v["expression"] for v in policy["spec"]["variables"]}
    assert yaml.safe_load(variables["known"]) == list(COMMANDS)
    bound = yaml.safe_load(variables["unbound"].partition(" in ")[2].partition("]")[0] + "]")
    assert tuple(bound) == DIGEST_BOUND_COMMANDS
    rules = [r for o in default if o["kind"] == "ClusterRole" for r in o["rules"]]
    granted = {r for rule in rules for r in rule["resources"] if r.startswith("modeldeployments/")}
    assert granted - {
        "modeldeployments/status", "modeldeployments/finalizers", "modeldeployments/scale",
    } == {f"modeldeployments/{verb}" for verb in COMMANDS}  # fmt: skip
