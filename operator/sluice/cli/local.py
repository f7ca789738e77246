"""``sluice local``: a real control plane and a process node on this machine."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import click

from sluice.local.cluster import LocalCluster
from sluice.local.errors import LocalError


def _say(text: str) -> None:
    click.echo(f"  {text}", err=True)


_instance = [
    click.option("--name", default="default", show_default=True, help="Which instance."),
    click.option(
        "--state",
        type=click.Path(path_type=Path),
        envvar="SLUICE_LOCAL_STATE",
        help="Its directory, instead of the usual place.",
    ),
]


def _with_instance(function):  # type: ignore[no-untyped-def]
    for option in reversed(_instance):
        function = option(function)
    return function


@click.group(name="local")
def command() -> None:
    """A real Kubernetes API server on this machine, and a node whose pods are local processes.

    No root, no container engine: about 4 s to start, 0.6 GB of memory.
    """


@command.command()
@_with_instance
@click.option(
    "--mode",
    type=click.Choice(["auto", "net", "rewrite"]),
    default="auto",
    show_default=True,
    help="net: own namespaces, real Services and DNS. rewrite: 127.x addresses, nothing needed.",
)
@click.option("--port", type=int, default=0, help="Loopback port of the API server.")
def up(name: str, state: Path | None, mode: str, port: int) -> None:
    """Start it, or find it running."""
    cluster = LocalCluster(state, name)
    try:
        line = cluster.up(mode=mode, say=_say, port=port)
    except KeyboardInterrupt:
        raise LocalError(
            "Interrupted; nothing of it is left running.", hint="Go on with: sluice local up"
        ) from None
    click.echo(line)
    click.echo(f"export KUBECONFIG={cluster.kubeconfig}")


@command.command()
@_with_instance
@click.option("--purge", is_flag=True, help="Forget its data too; nothing of it stays on disk.")
def down(name: str, state: Path | None, purge: bool) -> None:
    """Stop it; its data stay unless --purge."""
    cluster = LocalCluster(state, name)
    existed = cluster.state.exists()
    stopped = cluster.down(purge=purge)
    if not existed:
        click.echo(f"there is no local cluster {name!r}")
    elif purge:
        click.echo(f"local cluster {name!r} is gone")
    else:
        click.echo(f"local cluster {name!r} {'is stopped' if stopped else 'was not running'}")


@command.command()
@_with_instance
def kubeconfig(name: str, state: Path | None) -> None:
    """Print the path of its kubeconfig: export KUBECONFIG=$(sluice local kubeconfig)."""
    cluster = LocalCluster(state, name)
    assert cluster.settings
    click.echo(cluster.kubeconfig)


@command.command(context_settings={"ignore_unknown_options": True})
@_with_instance
@click.argument("argv", nargs=-1, required=True, type=click.UNPROCESSED)
def enter(name: str, state: Path | None, argv: tuple[str, ...]) -> None:
    """Run a command where pods' and Services' addresses and names are reachable."""
    line = LocalCluster(state, name).enter(argv)
    sys.stdout.flush()
    os.execvp(line[0], line)  # noqa: S606 - becoming the command is the point


@command.command()
@_with_instance
@click.argument("component", required=False)
@click.option("-f", "--follow", is_flag=True, help="Go on with what is written from now on.")
@click.option("-n", "--lines", default=50, show_default=True, help="How many lines.")
def logs(name: str, state: Path | None, component: str | None, follow: bool, lines: int) -> None:
    """Show the log of a component (default: of all)."""
    settings = LocalCluster(state, name).settings
    files = sorted(settings.log_dir.glob("*.log"))
    if component is not None:
        files = [f for f in files if f.stem == component]
    if not files:
        have = ", ".join(sorted(f.stem for f in settings.log_dir.glob("*.log")))
        raise LocalError(f"There is no component {component!r}.", hint=f"There are: {have}")
    argv = ["tail", "-n", str(lines), *(["-f"] if follow else []), *map(str, files)]
    sys.exit(subprocess.run(argv, check=False).returncode)


if __name__ == "__main__":
    command()
