"""What an installation decides: every flag of ``sluice operator`` and its environment variable.

Made by ``sluice.cli.operator``, read everywhere in ``controller``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from sluice.api.meta import LABEL_OPERATOR_CLASS
from sluice.errors import InvalidInputError
from sluice.kube.lease import LeaseTimes


@dataclass(frozen=True, slots=True)
class Settings:
    """Seconds and counts have the defaults that the design's targets were measured with."""

    namespaces: tuple[str, ...] = ()
    """Empty: the whole cluster."""
    runtime_image: str = "sluice"
    router_image: str = "haproxy"
    operator_class: str = ""
    """Only ModelDeployments with this ``sluice.dev/operator-class`` label; empty: without one."""
    dns_nameserver: str = ""
    """``address:port`` of the cluster's DNS for routers; empty: what the pod's resolv.conf says."""
    kubeconfig: str | None = None

    host: str = "0.0.0.0"  # noqa: S104  probes and scrapes come from other addresses
    metrics_port: int = 8081
    health_port: int = 8082
    log_format: Literal["text", "json"] = "text"
    verbose: bool = False

    lease: bool = True
    lease_name: str = "sluice-operator"
    lease_namespace: str = ""
    """Empty: the namespace of the connection (in a cluster the pod's, else the context's)."""
    lease_times: LeaseTimes = field(default_factory=LeaseTimes)

    workers: int = 16
    relist_seconds: float = 300.0
    resync_seconds: float = 900.0
    """A key that asks for nothing is looked at again after about this long."""
    stop_seconds: float = 3.0
    """Work in flight at SIGTERM gets this long."""

    def __post_init__(self) -> None:
        for label, port in (("metrics", self.metrics_port), ("health", self.health_port)):
            if not 0 <= port <= 65535:
                raise InvalidInputError(
                    f"The {label} port {port} is not a port.", hint="Use 0 to 65535; 0 picks one."
                )
        if self.metrics_port and self.metrics_port == self.health_port:
            raise InvalidInputError(
                f"Metrics and health cannot share port {self.metrics_port}.",
                hint="Give --metrics-port and --health-port different values.",
            )
        if self.workers < 1:
            raise InvalidInputError("At least one worker is needed.", hint="Set --workers to 1.")

    def scopes(self) -> tuple[str | None, ...]:
        """The namespaces to watch; ``(None,)`` for the whole cluster."""
        return tuple(dict.fromkeys(self.namespaces)) or (None,)

    def deployment_selector(self) -> str:
        """The label selector that keeps two installs apart."""
        if self.operator_class:
            return f"{LABEL_OPERATOR_CLASS}={self.operator_class}"
        return f"!{LABEL_OPERATOR_CLASS}"
