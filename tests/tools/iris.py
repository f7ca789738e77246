"""manifests/examples/iris.yaml: ``python -m tests.tools.iris``.

Trains two small models on scikit-learn's iris data, packages them as `sluice.save` does, and puts
the packages into ConfigMaps behind a plain file server, so that the example needs no storage.
Written by hand when it should change: another scikit-learn makes other bytes.
"""

from __future__ import annotations

import base64
import tempfile
from pathlib import Path
from typing import Any

import yaml
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tests.tools.helm import ROOT

import sluice

EXAMPLE = ROOT / "manifests" / "examples" / "iris.yaml"
REGULARISATION = {"v1": 1.0, "v2": 5.0}

_HEAD = """\
# A first model, with nothing else needed: two versions of an iris classifier in ConfigMaps, a file
# server in front of them, and the ModelDeployment at the end.
#
#   kubectl apply -f manifests/examples/iris.yaml
#   kubectl wait --for=condition=Ready mdep/iris --timeout=5m
#   curl -s http://iris.default.svc/predict -d '{"sepal_length_cm": 5.1, "sepal_width_cm": 3.5,
#     "petal_length_cm": 1.4, "petal_width_cm": 0.2}'
#
# Then the second version, which is gated, stepped, judged and watched:
#
#   kubectl patch mdep iris --type merge -p '{"spec":{"model":{"uri":"http://iris-models/iris/v2"}}}'
#   kubectl get mdep iris -o wide --watch
#
# In production the packages lie in an object store: uri: s3://models/iris/v1
"""


def train(out: Path, regularisation: float) -> None:
    """One version of the model as a package."""
    data = load_iris(as_frame=True)
    names = {c: c.removesuffix(" (cm)").replace(" ", "_") + "_cm" for c in data.data.columns}
    rows = data.data.rename(columns=names)
    species = data.target.map(dict(enumerate(map(str, data.target_names))))
    model = make_pipeline(StandardScaler(), LogisticRegression(C=regularisation))
    sluice.save(model.fit(rows, species), rows, species, out, name="iris", golden=10)


def config_map(name: str, package: Path) -> dict[str, Any]:
    """The package's files; text as text."""
    made: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name},
        "data": {},
        "binaryData": {},
    }
    for file in sorted(package.iterdir()):
        content = file.read_bytes()
        if file.suffix in (".json", ".lock"):
            made["data"][file.name] = content.decode()
        else:
            made["binaryData"][file.name] = base64.b64encode(content).decode()
    return {k: v for k, v in made.items() if v}


def file_server(versions: list[str]) -> list[dict[str, Any]]:
    """Python's own web server over the ConfigMaps."""
    labels = {"app.kubernetes.io/name": "iris-models"}
    container = {
        "name": "files",
        "image": "python:3.13-alpine",
        "command": ["python3", "-m", "http.server", "8000", "--bind", "$(POD_IP)"],
        "args": ["--directory", "/models"],
        "env": [{"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
        "ports": [{"name": "http", "containerPort": 8000}],
        "readinessProbe": {"httpGet": {"path": "/iris/", "port": "http"}, "periodSeconds": 2},
        "resources": {
            "requests": {"cpu": "10m", "memory": "32Mi"},
            "limits": {"memory": "64Mi"},
        },
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [{"name": v, "mountPath": f"/models/iris/{v}"} for v in versions],
    }
    pod = {
        "automountServiceAccountToken": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 65532,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
        "volumes": [{"name": v, "configMap": {"name": f"iris-{v}"}} for v in versions],
    }
    return [
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "iris-models"},
            "spec": {
                "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": pod},
            },
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "iris-models"},
            "spec": {"selector": labels, "ports": [{"port": 80, "targetPort": "http"}]},
        },
    ]


def objects() -> list[dict[str, Any]]:
    """Everything in the example, the ModelDeployment last."""
    with tempfile.TemporaryDirectory() as scratch:
        made = []
        for version, regularisation in REGULARISATION.items():
            package = Path(scratch) / version
            train(package, regularisation)
            made.append(config_map(f"iris-{version}", package))
    return [
        *made,
        *file_server(list(REGULARISATION)),
        {
            "apiVersion": "sluice.dev/v1alpha1",
            "kind": "ModelDeployment",
            "metadata": {"name": "iris"},
            "spec": {"model": {"uri": "http://iris-models/iris/v1"}},
        },
    ]


class _Dumper(yaml.SafeDumper):
    """Files as blocks of text; no anchors."""

    def ignore_aliases(self, data: object) -> bool:
        return True

    def represent_str(self, data: str) -> yaml.ScalarNode:
        style = "|" if "\n" in data else None
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=style)


_Dumper.add_representer(str, _Dumper.represent_str)

if __name__ == "__main__":
    text = yaml.dump_all(objects(), Dumper=_Dumper, sort_keys=False, width=100)
    EXAMPLE.write_text(_HEAD + "---\n" + text)
    print(EXAMPLE.relative_to(ROOT))
