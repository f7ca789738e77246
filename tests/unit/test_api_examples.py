"""The first example carries its own models, and they need nobody's trust."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest
import yaml

from sluice.api.modeldeployment import ModelDeploymentSpec
from sluice.api.trustpolicy import TrustPolicySpec
from sluice.package.load import open_package

EXAMPLES = Path(__file__).parents[2] / "manifests" / "examples"
IRIS = list(yaml.safe_load_all((EXAMPLES / "iris.yaml").read_text()))


@pytest.mark.parametrize(
    "files", [body for body in IRIS if body["kind"] == "ConfigMap"],
    ids=lambda body: body["metadata"]["name"],
)  # fmt: skip
def test_the_iris_packages_are_whole_and_are_data(files: Any, tmp_path: Path) -> None:
    for name, text in files["data"].items():
        (tmp_path / name).write_text(text)
    for name, encoded in files["binaryData"].items():
        (tmp_path / name).write_bytes(base64.b64decode(encoded))
    package = open_package(tmp_path, None)
    assert package.manifest.model.trust_class == "Data"
    assert package.manifest.conversion.parity == "Passed"
    assert [i.name for i in package.manifest.inputs] == [
        "sepal_length_cm", "sepal_width_cm", "petal_length_cm", "petal_width_cm",
    ]  # fmt: skip


def test_every_example_is_understood_by_the_models() -> None:
    models = {"ModelDeployment": ModelDeploymentSpec, "TrustPolicy": TrustPolicySpec}
    seen = set()
    for path in EXAMPLES.glob("*.yaml"):
        for body in yaml.safe_load_all(path.read_text()):
            if model := models.get(body["kind"]):
                model.model_validate(body["spec"])
                seen.add(body["kind"])
    assert seen == set(models)
