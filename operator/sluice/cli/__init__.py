"""The ``sluice`` command: one file per subcommand, imported only when it is called."""

from __future__ import annotations

import importlib
import pkgutil
import sys

import click

from sluice.errors import SluiceError
from sluice.version import __version__


class _LazyCommands(click.Group):
    """Finds ``sluice NAME`` in ``sluice/cli/NAME.py`` and imports nothing else."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(
            m.name.replace("_", "-")
            for m in pkgutil.iter_modules(__path__)
            if not m.name.startswith("_")
        )

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        module = cmd_name.replace("-", "_")
        if cmd_name not in self.list_commands(ctx):
            return None
        command = importlib.import_module(f"{__name__}.{module}").command
        assert isinstance(command, click.Command)
        return command


@click.group(cls=_LazyCommands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="sluice")
def group() -> None:
    """Roll out models by evidence: gated, stepped, judged, promoted, watched, rolled back."""


def main() -> None:
    """Entry point; errors a person can act on are one line, not a traceback."""
    try:
        group(standalone_mode=True)
    except SluiceError as error:
        click.echo(f"sluice: {error.message}", err=True)
        if error.hint:
            click.echo(f"  {error.hint}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
