"""``sluice serve``: a package as an HTTP server, on a laptop and in a pod alike."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sluice.errors import SluiceError

if TYPE_CHECKING:
    from sluice.runtime.options import Options
    from sluice.runtime.sandbox.confine import Sandbox
    from sluice.runtime.server import Loaded
    from sluice.runtime.wheelhouse import Wheelhouse

EXIT_CANNOT_START = 3

_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h)")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


class _Duration(click.ParamType[float]):
    """``2s``, ``500ms``, ``1m30s``; parsed here so that a pod need not import pydantic."""

    name = "duration"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        if isinstance(value, float):
            return value
        text = str(value)
        parts = _DURATION.findall(text)
        if not parts or "".join(n + unit for n, unit in parts) != text:
            self.fail(f"{text!r} is not a duration such as 2s or 500ms", param, ctx)
        seconds = sum(float(n) * _UNITS[unit] for n, unit in parts)
        if seconds <= 0:
            self.fail("must be more than zero", param, ctx)
        return seconds


class _Origin(click.ParamType[str]):
    """``https://app.example.com``, as a browser says it in its Origin header."""

    name = "origin"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> str:
        text = str(value)
        if text != "*" and not _ORIGIN.fullmatch(text):
            self.fail(f"{text!r} is no origin such as https://app.example.com, or *", param, ctx)
        return text


_ORIGIN = re.compile(r"https?://[a-z0-9.-]+(:[0-9]{1,5})?|https?://\[[0-9a-f:.]+\](:[0-9]{1,5})?")

_PORT = click.IntRange(0, 65535)


@click.command()
@click.argument("package", type=click.Path(path_type=Path))
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=_PORT, default=8080, show_default=True, help="Port for clients.")
@click.option(
    "--admin-port", type=_PORT, default=9090, show_default=True, help="/metrics and /counters."
)
@click.option(
    "--grpc-port",
    type=click.IntRange(1, 65535),
    help="Also answer V2 over gRPC here; needs the extra grpc.",
)
@click.option("--digest", help="Refuse any package but this one (sha256:...).")
@click.option("--revision", help="Name of the revision; by default from the digest.")
@click.option("--deployment", help="Name of the model in URLs; by default the package's.")
@click.option("--namespace", help="Namespace of the deployment, for messages.")
@click.option(
    "--timeout", type=_Duration(), default="2s", show_default=True, help="Deadline of a prediction."
)
@click.option(
    "--verdict-file",
    type=click.Path(path_type=Path),
    help="Be ready only when this file says Passed or Validated.",
)
@click.option(
    "--mirror-file",
    type=click.Path(path_type=Path),
    help="Copy requests to where this file says, after they are answered; see docs/runtime.md.",
)
@click.option(
    "--allow-code", is_flag=True, help="Load pickle and joblib: this runs the code inside."
)
@click.option(
    "--dangerously-without-sandbox",
    "without_sandbox",
    is_flag=True,
    help="Run the model's code with all that you may do yourself. Never for a file you got.",
)
@click.option(
    "--load-timeout",
    type=_Duration(),
    default="9m",
    show_default=True,
    help="Give up when the package is not loaded by then.",
)
@click.option(
    "--cors-origin",
    type=_Origin(),
    multiple=True,
    help="Let scripts of pages from here ask (https://app.example.com, or *); may be repeated. "
    "By default none may.",
)
@click.option(
    "--max-in-flight",
    type=click.IntRange(1, 100_000),
    default=256,
    show_default=True,
    help="Answer 503 when more requests than this are being answered.",
)
@click.option(
    "--max-connections",
    type=click.IntRange(1, 100_000),
    default=4096,
    show_default=True,
    help="When more clients connect, those go that have been silent for longest.",
)
@click.option(
    "--read-timeout",
    type=_Duration(),
    default="10s",
    show_default=True,
    help="How long a client may take to send one request.",
)
@click.option(
    "--drain",
    type=_Duration(),
    default="10s",
    show_default=True,
    help="After SIGTERM, how long requests that still come are answered.",
)
def command(**options: object) -> None:
    """Serve the model PACKAGE over HTTP.

    Try it in a browser at /docs.  Exit code 3 means that serving could not start; the reason is the
    last line.
    """
    from sluice.runtime.options import Options

    settings = Options(**options)  # type: ignore[arg-type]
    last_words = _LastWords()
    try:
        _run(settings, last_words)
    except SluiceError as error:
        try:
            last_words.say(error)
        finally:
            os._exit(EXIT_CANNOT_START)  # not sys.exit: threads of a model could hold it for ever


def _run(options: Options, last_words: _LastWords) -> None:
    from sluice.runtime.sandbox.confine import Sandbox

    wheelhouse = _wheelhouse(options)
    if wheelhouse is not None:
        options = replace(options, unpacked=wheelhouse.unpacked)
    if options.without_sandbox:
        sandbox = Sandbox.none()
    else:
        kept = [last_words.descriptor, *([wheelhouse.descriptor] if wheelhouse else [])]
        sandbox = Sandbox.begin(_readable(options), mirror_file=options.mirror_file, kept=kept)
    from sluice.runtime.server import run  # numpy's threads start here, inside

    run(options, sandbox, lambda *started: _greet(options, sandbox, *started))


def _wheelhouse(options: Options) -> Wheelhouse | None:
    """The package's own wheels, unpacked while this process can still start another."""
    if not options.allow_code:
        return None
    from sluice.runtime.wheelhouse import wheelhouse_for

    # The first process of a container has no other way to hear it before there is an event loop.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    return wheelhouse_for(options.package, options.digest, seconds=options.load_timeout)


def _readable(options: Options) -> list[Path]:
    """Mounted files are replaced by moving links in their folder, so that is what must be seen."""
    watched = [options.verdict_file, options.mirror_file]
    folders = [file.absolute().parent for file in watched if file is not None]
    own = [Path(options.unpacked.place)] if options.unpacked else []
    return [options.package, *folders, *own]


def _greet(options: Options, sandbox: Sandbox, loaded: Loaded, port: int, admin_port: int) -> None:
    """Say what is served; a full disk behind standard output is no reason not to serve."""
    with contextlib.suppress(OSError):
        _introduce(options, sandbox, loaded, port, admin_port)


def _introduce(
    options: Options, sandbox: Sandbox, loaded: Loaded, port: int, admin_port: int
) -> None:
    from sluice.runtime.describe import curl_line, example_row

    manifest = loaded.package.manifest
    host = "127.0.0.1" if options.host in ("0.0.0.0", "::") else options.host  # noqa: S104
    url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    speed = f", {loaded.warm.one_row * 1e3:.2g} ms a row" if loaded.warm else ""
    name = options.deployment or manifest.name
    click.echo(f"{name}: {manifest.task} by {loaded.predictor.engine}{speed}")
    click.echo(f"package {loaded.package.digest}")
    click.echo(f"serving {url}   docs {url}/docs   metrics on port {admin_port}")
    if options.grpc_port is not None:
        click.echo(f"V2 over gRPC on {host}:{options.grpc_port}")
    click.echo(curl_line(url, example_row(manifest, loaded.package)))
    if not sandbox.missing:
        reading = "" if sandbox.unseen else ", reads only its package and libraries"
        click.echo(f"sandbox: no connections out, no processes, no writing{reading}")
    sys.stdout.flush()


class _LastWords:
    """One plain line, where a person and where the operator will read it.

    The file is opened at the start: behind the sandbox's walls it could not be any more.
    """

    def __init__(self) -> None:
        self._path = os.environ.get("SLUICE_TERMINATION_LOG")
        self.descriptor = -1
        self._problem = ""
        if self._path:
            try:
                self.descriptor = os.open(
                    self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644
                )
            except OSError as problem:
                self._problem = f"cannot write {self._path}: {problem.strerror}"

    def say(self, error: SluiceError) -> None:
        line = " ".join(f"{error.reason}: {error}".split())
        if self._problem:
            click.echo(self._problem, err=True)
        elif self.descriptor >= 0:
            try:
                os.ftruncate(self.descriptor, 0)
                os.pwrite(self.descriptor, line.encode()[:4096], 0)
            except OSError as problem:
                click.echo(f"cannot write {self._path}: {problem.strerror}", err=True)
        click.echo(line, err=True)
        sys.stdout.flush()
        sys.stderr.flush()
