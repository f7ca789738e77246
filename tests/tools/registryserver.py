"""A real OCI registry for the tests: CNCF Distribution over a temporary directory.

with registry_server(home) as registry:
    push(package, f"oci://{registry.host}/team/iris")
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.tools import goserver
from tests.tools.ports import free_port

MODULE = Path(__file__).parent / "registry"
PROGRAM = "github.com/distribution/distribution/v3/cmd/registry"
USER, PASSWORD = "reader", "hush-hush"
# bcrypt of PASSWORD; the registry takes nothing else.
_HTPASSWD = "reader:$2b$05$0g0dxqe3n2KsrLxXFB/JzO5DR1MzzRULkv9YGMPTq11fXc9WvHmJG\n"


@dataclass(frozen=True)
class Registry:
    """A running registry."""

    host: str
    root: Path

    def blob(self, digest: str) -> Path:
        """Where a blob's bytes lie, so that a test can damage them behind the registry's back."""
        name, _, value = digest.partition(":")
        blobs = self.root / "docker/registry/v2/blobs"
        return blobs / name / value[:2] / value / "data"


@contextlib.contextmanager
def registry_server(
    home: Path,
    *,
    login: bool = False,
    token: dict[str, str] | None = None,
    certificate: Path | None = None,
) -> Iterator[Registry]:
    """Run a registry below ``home``; ``token`` is Distribution's own configuration of that name."""
    program = goserver.build(MODULE, PROGRAM)
    port = free_port()
    root = home / f"registry-{port}"
    root.mkdir()
    config: dict[str, Any] = {
        "version": "0.1",
        "log": {"level": "error", "accesslog": {"disabled": True}},
        "storage": {"filesystem": {"rootdirectory": str(root)}},
        "http": {"addr": f"127.0.0.1:{port}", "secret": "of the test"},
    }
    if certificate is not None:
        config["http"]["tls"] = {"certificate": str(certificate), "key": str(certificate)}
    if login:
        (home / "htpasswd").write_text(_HTPASSWD)
        config["auth"] = {"htpasswd": {"realm": "test", "path": str(home / "htpasswd")}}
    if token is not None:
        config["auth"] = {"token": token}
    file = home / f"registry-{port}.json"  # JSON is YAML
    file.write_text(json.dumps(config))
    argv = [str(program), "serve", str(file)]
    with goserver.running(argv, host="127.0.0.1", port=port, home=home):
        yield Registry(f"127.0.0.1:{port}", root)
