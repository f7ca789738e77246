"""The command line of ``sluice serve``.  Light: it is read before the sandbox begins."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sluice.package.wheels import Unpacked

MAX_CONNECTIONS = 4096


@dataclass(frozen=True, slots=True)
class Options:
    """The command line of ``sluice serve``."""

    package: Path
    host: str = "127.0.0.1"
    port: int = 8080
    admin_port: int = 9090
    grpc_port: int | None = None
    digest: str | None = None
    revision: str | None = None
    deployment: str | None = None
    namespace: str | None = None
    timeout: float = 2.0
    verdict_file: Path | None = None
    mirror_file: Path | None = None
    allow_code: bool = False
    without_sandbox: bool = False
    load_timeout: float = 540.0
    """Seconds that verifying and loading may take; below the startup probe's 600."""
    cors_origin: tuple[str, ...] = ()
    """Origins whose pages may ask; none by default."""
    max_in_flight: int = 256
    max_connections: int = MAX_CONNECTIONS
    read_timeout: float = 10.0
    drain: float = 10.0
    """Longest first part of a drain."""
    quiet: float = 1.5
    """Seconds without a request that end the first part."""
    grace: float = 25.0
    """All of a drain; below Kubernetes' 30 s."""
    unpacked: Unpacked | None = None
    """The package's own wheels.  Not said on the command line: serving unpacks them itself."""
