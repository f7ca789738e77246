"""Helm for tests and for `make crds`, with a home of its own."""

from __future__ import annotations

import functools
import os
import subprocess
from pathlib import Path
from typing import Any

import yaml

from sluice.local import binaries

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "sluice"


@functools.cache
def helm_path() -> str:
    """The pinned helm, unpacked on first use."""
    return binaries.ensure(("helm",), lambda _line: None)["helm"]


def helm(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Runs helm with a home of its own."""
    home = ROOT / "build" / "helm"
    places = {f"HELM_{kind}_HOME": str(home) for kind in ("CACHE", "CONFIG", "DATA")}
    done = subprocess.run(
        [helm_path(), *arguments],
        env={**os.environ, **places},
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 or not check, f"helm {' '.join(arguments)}: {done.stderr}"
    return done


def render(*arguments: str, name: str = "sluice", namespace: str = "sluice-system") -> list[Any]:
    """The objects that the chart makes."""
    out = helm("template", name, str(CHART), "--namespace", namespace, *arguments).stdout
    return [document for document in yaml.safe_load_all(out) if document]
