"""oras, a client of registries: it pulls what we pushed, and we fetch what it pushed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tests.sources_peers.expect import same
from tests.tools.packages import linear_package
from tests.tools.peers import environment, run
from tests.tools.registryserver import registry_server

from sluice.jobs.fetch import Limits, fetch
from sluice.jobs.push import push

PINNED = Path(__file__).with_name("oras.txt")
PULL = """
import sys, oras.client
oras.client.OrasClient(insecure=True).pull(target=sys.argv[1], outdir=sys.argv[2])
"""
PUSH = """
import os, sys, oras.client
os.chdir(sys.argv[2])
oras.client.OrasClient(insecure=True).push(
    target=sys.argv[1], files=["model.onnx:application/octet-stream"]
)
"""


def checks(home: Path) -> Iterator[tuple[str, str | None]]:
    """Each check with None, or why it failed."""
    python = str(environment(PINNED))
    package = home / "package"
    linear_package(package)
    with registry_server(home) as registry:
        push(package, f"oci://{registry.host}/iris:v1")
        run([python, "-c", PULL, f"{registry.host}/iris:v1", str(home / "pulled")], 60)
        for name in ("sluice.json", "model.onnx", "golden.json"):
            yield f"oras pulls {name}", same(package / name, home / "pulled" / name)
        run([python, "-c", PUSH, f"{registry.host}/theirs:v1", str(package)], 60)
        fetch(f"oci://{registry.host}/theirs:v1", home / "got", limits=Limits(attempts=2))
        yield "we fetch what oras pushed", same(package / "model.onnx", home / "got/model.onnx")
