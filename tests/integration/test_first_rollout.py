"""README's first rollout, typed as it stands there, on a machine that has nothing yet."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.tools.helm import ROOT, helm_path

from sluice.local.cluster import LocalCluster

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

HEADING = "## The first rollout"
ROW = (
    '{"sepal_length_cm": 6.3, "sepal_width_cm": 3.3, "petal_length_cm": 6.0, "petal_width_cm": 2.5}'
)
WIDE = [
    "READY",
    "STABLE",
    "CANDIDATE",
    "WEIGHT",
    "REASON",
    "URL",
    "STEP",
    "WORST-CHECK",
    "EVIDENCE",
    "AGE",
]


@pytest.fixture
def own(tmp_path: Path) -> Iterator[LocalCluster]:
    """A place for a cluster that the commands start; it ends with the test."""
    cluster = LocalCluster(tmp_path / "cluster", "readme")
    yield cluster
    cluster.down(purge=True)


def commands() -> list[str]:
    """The lines of the first code block under the heading."""
    block = (ROOT / "README.md").read_text().split(HEADING)[1].split("```")[1]
    return block.removeprefix("sh\n").strip().splitlines()


def test_the_first_rollout_works_as_written(
    own: LocalCluster, tmp_path: Path, kubectl_of: Callable[..., Callable[..., str]]
) -> None:
    first, *lines, last = commands()
    assert first == "make binaries && . .venv/bin/activate"
    assert last == "sluice local down --purge"
    # What the first line does: the programs are found by name.
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "helm").symlink_to(helm_path())
    places = f"{tools}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    env = {
        **os.environ,
        "PATH": places,
        "PYTHONPATH": str(ROOT / "operator"),
        "SLUICE_LOCAL_STATE": str(own.state),
    }
    script = "\n".join(["set -euo pipefail", *lines])
    done = subprocess.run(
        ["bash", "-c", script], cwd=ROOT, env=env, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    assert '"setosa"' in done.stdout

    run = kubectl_of(own)
    shown = run("get", "mdep", "-o", "wide").splitlines()
    assert [word for word in WIDE if word not in shown[0]] == []
    assert "iris.default.svc" in shown[1]
    reads_well(run)

    answer = subprocess.run(
        ["curl", "-sS", "--fail", f"http://{own.forward('default', 'iris', 80)}/predict",
         "-H", "Content-Type: application/json", "-d", ROW],
        capture_output=True, text=True, timeout=20,
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr
    assert json.loads(answer.stdout)["predictions"][0]["label"] == "virginica"


def reads_well(run: Callable[..., str]) -> None:
    """`kubectl explain` tells people what a step is, field by field."""
    text = run("explain", "mdep.spec.rollout.steps")
    for word in ("weight", "minRequests", "minDuration", "pause", "Percent of traffic"):
        assert word in text, word
    assert "<no description>" not in run("explain", "mdep.spec", "--recursive=false")
    assert "no description" not in text
