"""``sluice operator``: the process that a Helm install runs."""

from __future__ import annotations

import click


@click.command(context_settings={"auto_envvar_prefix": "SLUICE_OPERATOR"})
@click.option(
    "--namespace",
    "namespaces",
    multiple=True,
    metavar="NAME",
    help="Work in this namespace only; may be given several times. Default: the whole cluster.",
)
@click.option(
    "--runtime-image",
    default="sluice",
    show_default=True,
    help="Image of the model server and the jobs; pin it by digest.",
)
@click.option(
    "--router-image",
    default="haproxy",
    show_default=True,
    help="Image of the router; pin it by digest.",
)
@click.option(
    "--operator-class",
    default="",
    metavar="NAME",
    help="Only ModelDeployments labelled sluice.dev/operator-class=NAME. Default: those without.",
)
@click.option("--metrics-port", type=int, default=8081, show_default=True, help="Port of /metrics.")
@click.option(
    "--health-port", type=int, default=8082, show_default=True, help="Port of /livez and /readyz."
)
@click.option(
    "--host",
    default="0.0.0.0",  # noqa: S104
    show_default=True,
    help="Address that both ports bind to.",
)
@click.option(
    "--lease-name", default="sluice-operator", show_default=True, help="Lease for leadership."
)
@click.option(
    "--lease-namespace",
    default="",
    metavar="NAME",
    help="Namespace of the lease. Default: the pod's own, or that of the kubeconfig's context.",
)
@click.option("--no-lease", is_flag=True, help="Work without a lease: for a single instance.")
@click.option(
    "--dns-nameserver",
    default="",
    metavar="ADDRESS:PORT",
    help="Cluster DNS that routers ask. Default: what resolv.conf in the router's pod says.",
)
@click.option("--workers", type=int, default=16, show_default=True, help="Keys worked on at once.")
@click.option("--kubeconfig", default=None, metavar="FILE", help="Default: the pod's own account.")
@click.option(
    "--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True
)
@click.option("--verbose", is_flag=True, help="Log what kopf and the feeds do, too.")
def command(
    namespaces: tuple[str, ...],
    runtime_image: str,
    router_image: str,
    operator_class: str,
    metrics_port: int,
    health_port: int,
    host: str,
    lease_name: str,
    lease_namespace: str,
    no_lease: bool,
    dns_nameserver: str,
    workers: int,
    kubeconfig: str | None,
    log_format: str,
    verbose: bool,
) -> None:
    """Run the operator until SIGTERM.

    Every option can also be set by environment: SLUICE_OPERATOR_RUNTIME_IMAGE and so on.
    """
    from sluice.controller.reconcile import Reconciler
    from sluice.controller.settings import Settings
    from sluice.controller.shell import run_operator

    settings = Settings(
        namespaces=namespaces,
        runtime_image=runtime_image,
        router_image=router_image,
        operator_class=operator_class,
        metrics_port=metrics_port,
        health_port=health_port,
        host=host,
        lease=not no_lease,
        lease_name=lease_name,
        lease_namespace=lease_namespace,
        dns_nameserver=dns_nameserver,
        workers=workers,
        kubeconfig=kubeconfig,
        log_format="json" if log_format == "json" else "text",
        verbose=verbose,
    )
    run_operator(settings, Reconciler)
