"""manifests/base from the chart: ``python -m tests.tools.manifests [--check]``.

The chart is the one source; the kustomize base is what it renders to, without Helm's own labels,
so that both installs are the same objects.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import yaml
from tests.tools.helm import ROOT, render

BASE = ROOT / "manifests" / "base"
NAMESPACE = "sluice-system"
_HEAD = "# Generated from charts/sluice by `make crds`; do not edit. Patch it from an overlay.\n"
_FILES = {
    "crds.yaml": ("CustomResourceDefinition",),
    "rbac.yaml": ("ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding"),
    "operator.yaml": ("Deployment", "Service", "PodDisruptionBudget"),
    "policies.yaml": ("ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"),
}
_HELMS_OWN = ("helm.sh/chart", "app.kubernetes.io/managed-by", "app.kubernetes.io/instance")


def files() -> dict[str, str]:
    """Every file of the base, by name."""
    objects = [_without_helm(o) for o in render("--set", "crds.keep=false", namespace=NAMESPACE)]
    unplaced = {o["kind"] for o in objects} - {k for kinds in _FILES.values() for k in kinds}
    assert not unplaced, f"no file for {unplaced}"
    made = {
        name: _HEAD + "---\n".join(_dump(o) for o in _sorted(objects, kinds))
        for name, kinds in _FILES.items()
    }
    made["namespace.yaml"] = _HEAD + _dump(_namespace())
    made["kustomization.yaml"] = _HEAD + _dump(
        {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "resources": ["namespace.yaml", *_FILES],
        }
    )
    return made


def _namespace() -> dict[str, Any]:
    labels = {"app.kubernetes.io/name": "sluice"} | {
        f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn", "audit")
    }
    return {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": NAMESPACE, "labels": labels},
    }


def _sorted(objects: list[Any], kinds: tuple[str, ...]) -> list[Any]:
    chosen = [o for o in objects if o["kind"] in kinds]
    return sorted(chosen, key=lambda o: (kinds.index(o["kind"]), o["metadata"]["name"]))


def _without_helm(node: Any) -> Any:
    if isinstance(node, dict):
        return {k: _without_helm(v) for k, v in node.items() if k not in _HELMS_OWN}
    return [_without_helm(v) for v in node] if isinstance(node, list) else node


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: object) -> bool:
        return True


def _dump(body: Any) -> str:
    return yaml.dump(body, Dumper=_Dumper, sort_keys=False, width=100, allow_unicode=True)


def stale(directory: Path = BASE) -> list[str]:
    """Files that differ from what the chart renders to."""
    wanted = files()
    found = {p.name: p.read_text() for p in directory.glob("*.yaml")}
    return sorted(n for n in wanted.keys() | found.keys() if wanted.get(n) != found.get(n))


def main(arguments: list[str]) -> int:
    """``[--check]``."""
    if arguments == ["--check"]:
        for name in stale():
            print(f"manifests/base/{name} differs from the chart; run `make crds`")
        return 1 if stale() else 0
    for name, text in files().items():
        (BASE / name).write_text(text)
        print(BASE.relative_to(ROOT) / name)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
