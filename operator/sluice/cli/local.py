"""``sluice local``: a real control plane and a process node on this machine."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from sluice.local import inspect
from sluice.local.cluster import LocalCluster
from sluice.local.errors import LocalError
from sluice.local.node import images as image_table


def _say(text: str) -> None:
    click.echo(f"  {text}", err=True)


def _instance(function: Callable[..., Any]) -> Callable[..., None]:
    """Every subcommand is told which instance; it gets a ``LocalCluster`` as first argument."""

    def with_cluster(name: str, state: Path | None, **given: Any) -> None:
        function(LocalCluster(state, name), **given)

    with_cluster.__doc__ = function.__doc__
    with_cluster.__name__ = function.__name__
    with_cluster.__click_params__ = getattr(function, "__click_params__", [])  # type: ignore[attr-defined]
    where = "Its directory, instead of the usual place."
    directory = click.Path(path_type=Path)
    named = click.option("--name", default="default", show_default=True, help="Which instance.")
    placed = click.option("--state", type=directory, envvar="SLUICE_LOCAL_STATE", help=where)
    decorated: Callable[..., None] = named(placed(with_cluster))
    return decorated


@click.group(name="local")
def command() -> None:
    """A real Kubernetes API server on this machine, and a node whose pods are local processes.

    No root, no container engine: about 4 s to start, 0.6 GB of memory.
    """


@command.command()
@_instance
@click.option(
    "--mode",
    type=click.Choice(["auto", "net", "rewrite"]),
    default="auto",
    show_default=True,
    help="net: own namespaces, real Services and DNS. rewrite: 127.x addresses, nothing needed.",
)
@click.option("--port", type=int, default=0, help="Loopback port of the API server.")
def up(cluster: LocalCluster, mode: str, port: int) -> None:
    """Start it, or find it running."""
    try:
        line = cluster.up(mode=mode, say=_say, port=port)
    except KeyboardInterrupt:
        raise LocalError(
            "Interrupted; nothing of it is left running.", hint="Go on with: sluice local up"
        ) from None
    click.echo(line)
    click.echo(f"export KUBECONFIG={cluster.kubeconfig}")


@command.command()
@_instance
@click.option("--purge", is_flag=True, help="Forget its data too; nothing of it stays on disk.")
def down(cluster: LocalCluster, purge: bool) -> None:
    """Stop it; its data stay unless --purge."""
    existed = cluster.state.exists()
    stopped = cluster.down(purge=purge)
    if not existed:
        click.echo(f"there is no local cluster {cluster.name!r}")
    elif purge:
        click.echo(f"local cluster {cluster.name!r} is gone")
    else:
        state = "is stopped, its data are kept" if stopped else "was not running"
        click.echo(f"local cluster {cluster.name!r} {state}")


@command.command()
@_instance
def status(cluster: LocalCluster) -> None:
    """Show whether it runs, its components, and what is exposed; exit code 1 if it does not."""
    lines, running = inspect.describe(cluster)
    click.echo("\n".join(lines))
    sys.exit(0 if running else 1)


@command.command()
@_instance
@click.option("--raw", is_flag=True, help="Print the file instead of its path.")
@click.option("--export", is_flag=True, help='As a shell line: eval "$(... --export)".')
def kubeconfig(cluster: LocalCluster, raw: bool, export: bool) -> None:
    """Print its kubeconfig's path: export KUBECONFIG=$(sluice local kubeconfig)."""
    cluster.settings.load(cluster.state)  # says so when there is no such instance
    if raw:
        click.echo(cluster.kubeconfig.read_text(), nl=False)
    else:
        path = shlex.quote(str(cluster.kubeconfig))
        click.echo(f"export KUBECONFIG={path}" if export else cluster.kubeconfig)


@command.command(context_settings={"ignore_unknown_options": True})
@_instance
@click.argument("argv", nargs=-1, type=click.UNPROCESSED)
def enter(cluster: LocalCluster, argv: tuple[str, ...]) -> None:
    """Run a command (default: a shell) where pods' and Services' addresses and names work."""
    line = cluster.enter(argv or (os.environ.get("SHELL", "/bin/sh"),))
    sys.stdout.flush()
    os.execvp(line[0], line)  # noqa: S606 - becoming the command is the point


@command.command()
@_instance
@click.argument("component", required=False)
@click.option("-f", "--follow", is_flag=True, help="Go on with what is written from now on.")
@click.option("-n", "--lines", default=50, show_default=True, help="How many lines.")
def logs(cluster: LocalCluster, component: str | None, follow: bool, lines: int) -> None:
    """Show the log of a component (default: of all)."""
    directory = cluster.settings.log_dir
    files = sorted(f for f in directory.glob("*.log") if component in (None, f.stem))
    if not files:
        have = ", ".join(sorted(f.stem for f in directory.glob("*.log")))
        raise LocalError(f"There is no component {component!r}.", hint=f"There are: {have}")
    argv = ["tail", "-n", str(lines), *(["-F"] if follow else []), *map(str, files)]
    try:
        sys.exit(subprocess.run(argv, check=False).returncode)
    except KeyboardInterrupt:
        sys.exit(130)


@command.command()
@_instance
@click.argument("service", metavar="NAMESPACE/SERVICE[:PORT]")
@click.option("--port", type=int, default=0, help="Loopback port to open (default: a free one).")
@click.option("--close", is_flag=True, help="Close it again.")
def expose(cluster: LocalCluster, service: str, port: int, close: bool) -> None:
    """Open a port on 127.0.0.1 that leads to a Service: for curl and a browser.

    It stays open until it is closed, also across down and up.
    """
    where, _, number = service.partition(":")
    namespace, slash, name = where.rpartition("/")
    if number and not number.isdigit():
        raise LocalError(f"{number!r} is no port.", hint="Write NAMESPACE/SERVICE:80")
    namespace = namespace if slash else "default"
    if close:
        closed = cluster.unexpose(namespace, name, int(number or 0))
        click.echo(f"closed {closed}")
        return
    opened = cluster.expose(namespace, name, int(number or 0), port)
    click.echo(f"http://127.0.0.1:{opened.port} leads to {opened.label}")


@command.group()
def images() -> None:
    """What image names mean: the node has no images, a name stands for a program."""


@images.command()
@_instance
@click.argument("entry", metavar="NAME=COMMAND")
def add(cluster: LocalCluster, entry: str) -> None:
    """Let the image NAME stand for a program (with its first arguments) of this machine."""
    name, equals, line = entry.partition("=")
    if not equals or not name:
        raise LocalError(
            f"{entry!r} is not NAME=COMMAND.", hint="As in: web='python3 -m http.server'"
        )
    cluster.settings.load(cluster.state)
    image_table.add(cluster.state, name, shlex.split(line))
    click.echo(f"{name} is {line}")
