"""manifests/base is what the chart renders to, and `kubectl apply -k` takes it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import yaml
from tests.tools.helm import ROOT
from tests.tools.manifests import BASE, stale

from sluice.api.crd import crd
from sluice.api.kinds import KINDS

KUBECTL = shutil.which("kubectl", path=str(Path(sys.executable).parent)) or "kubectl"


def test_the_committed_base_is_what_the_chart_makes() -> None:
    assert stale() == []


def test_kustomize_builds_it_with_another_image(tmp_path: Path) -> None:
    overlay = tmp_path / "overlay"
    overlay.mkdir()
    shutil.copytree(BASE, tmp_path / "base")
    (overlay / "kustomization.yaml").write_text(
        "resources: [../base]\nimages: [{name: sluice, newName: r.example/sluice, newTag: '1'}]\n"
    )
    out = subprocess.run(
        [KUBECTL, "kustomize", str(overlay)], check=True, capture_output=True, text=True
    ).stdout
    objects = list(yaml.safe_load_all(out))
    (deployment,) = [o for o in objects if o["kind"] == "Deployment"]
    assert deployment["spec"]["template"]["spec"]["containers"][0]["image"] == "r.example/sluice:1"
    found = {o["metadata"]["name"]: o["spec"] for o in objects
             if o["kind"] == "CustomResourceDefinition"}  # fmt: skip
    for kind in KINDS:
        assert found[f"{kind.plural}.sluice.dev"] == crd(kind)["spec"]


def test_examples_name_only_our_kinds_and_plain_ones() -> None:
    for path in sorted((ROOT / "manifests" / "examples").glob("*.yaml")):
        for body in yaml.safe_load_all(path.read_text()):
            assert body["apiVersion"] in ("sluice.dev/v1alpha1", "v1", "apps/v1"), path
            assert body["metadata"]["name"], path
